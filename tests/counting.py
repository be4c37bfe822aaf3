"""A server that stores rows by id as the service does: a retried batch counts once."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@contextmanager
def counting_server(port: int) -> Iterator[tuple[str, dict[str, dict[str, Any]]]]:
    """Listens at the port, 0 for any; gives its URL, and the rows that it was sent by id."""
    stored: dict[str, dict[str, Any]] = {}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = gzip.decompress(self.rfile.read(int(self.headers["Content-Length"])))
            rows = {row["id"]: row for row in map(json.loads, body.splitlines())}
            n_new = len(rows.keys() - stored.keys())
            stored.update(rows)
            answer = {"accepted": n_new, "duplicates": len(rows) - n_new, "rejected": 0}
            encoded = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", stored
        finally:
            server.shutdown()
            thread.join()
