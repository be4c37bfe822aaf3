"""Fuzzes each decoder with coverage to guide it: `decoders.py DOOR SECONDS`, one door a process.

What a decoder may raise is ours; anything else ends the process with the input that did it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import atheris

with atheris.instrument_imports(include=["service.ingest"]):
    from service.errors import SlicewatchError
    from service.ingest.arrow_bodies import decode_arrow
    from service.ingest.captures import documents_of_line, reader_of
    from service.ingest.cloudevents import STRUCTURED, decode_cloudevents
    from service.ingest.documents import documents_to_batch
    from service.ingest.inflate import inflate
    from service.ingest.json_rows import decode_json
    from service.ingest.otlp import decode_otlp

NOW: Final = 1_795_341_700_000_000
MAX_ROWS: Final = 1_000
MAX_BYTES: Final = 1 << 20


def _capture(body: bytes) -> Any:
    read = reader_of(Path("a.jsonl"), b'{"captureData": {}}', "m")
    return read and documents_to_batch(documents_of_line(read, body), NOW, MAX_ROWS)


DOORS: Final[dict[str, Callable[[bytes], Any]]] = {
    "json": lambda body: decode_json(body, NOW, MAX_ROWS),
    "arrow": lambda body: decode_arrow(body, NOW, MAX_ROWS, MAX_BYTES),
    "otlp": lambda body: documents_to_batch(decode_otlp(body, False, {}), NOW, MAX_ROWS),
    "otlp-json": lambda body: documents_to_batch(decode_otlp(body, True, {}), NOW, MAX_ROWS),
    "cloudevents": lambda body: documents_to_batch(
        decode_cloudevents(body, STRUCTURED, {}), NOW, MAX_ROWS
    ),
    "capture": _capture,
    "gzip": lambda body: inflate(body, "gzip", MAX_BYTES),
    "zstd": lambda body: inflate(body, "zstd", MAX_BYTES),
}


def main(door: str, seconds: str) -> None:
    """Fuzz one door for so long."""
    decode = DOORS[door]

    def once(body: bytes) -> None:
        try:
            decode(body)
        except SlicewatchError:
            pass

    atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-max_len=4096"], once)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
