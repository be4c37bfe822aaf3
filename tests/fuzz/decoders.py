"""Fuzzes each decoder with coverage to guide it: `decoders.py DOOR SECONDS`, one door a process.

What a decoder may raise is ours; anything else ends the process with the input that did it.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import atheris
import pyarrow as pa
import zstandard
from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

with atheris.instrument_imports(include=["service.ingest"]):
    from service.errors import SlicewatchError
    from service.ingest.arrow_bodies import decode_arrow
    from service.ingest.captures import documents_of_line, reader_of
    from service.ingest.cloudevents import STRUCTURED, decode_cloudevents
    from service.ingest.documents import documents_to_batch
    from service.ingest.inflate import inflate
    from service.ingest.json_rows import decode_json
    from service.ingest.otlp import decode_otlp

OTLP: Final = """{"resourceLogs": [{"scopeLogs": [{"logRecords": [{"timeUnixNano": "1",
    "eventName": "slicewatch.prediction", "attributes": [
    {"key": "id", "value": {"stringValue": "a"}},
    {"key": "features", "value": {"kvlistValue": {"values": [{"key": "e", "value":
    {"arrayValue": {"values": [{"doubleValue": 1.5}]}}}]}}}]}]}]}]}"""
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


def seeds() -> list[bytes]:
    """Whole bodies of every door to begin with: what real senders send, and the like of it."""
    sent = (Path(__file__).parents[1] / "data" / "senders").iterdir()
    whole = [path.read_bytes().rpartition(b"\r\n\r\n")[2] for path in sorted(sent)]
    table = pa.table({"id": ["a"], "model": ["m"], "output": ["x"], "features.e": [[1.5, 2.0]]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    logs = ExportLogsServiceRequest()
    json_format.Parse(OTLP, logs)
    capture = b'{"captureData": {"endpointInput": {"data": "1,2", "encoding": "CSV"}},'
    capture += b' "eventMetadata": {"eventId": "a"}}'
    event = b'{"specversion": "1.0", "id": "a", "type": "%s", "data": %s}'
    kinds = (b"org.kubeflow.serving.inference.request", b"io.seldon.serving.inference.response")
    events = [event % (kind, body) for kind in kinds for body in whole if body.startswith(b"{")]
    bodies = [*whole, *events, capture, sink.getvalue().to_pybytes(), logs.SerializeToString()]
    return [*bodies, gzip.compress(whole[0]), zstandard.ZstdCompressor().compress(whole[0])]


def main(door: str, seconds: str) -> None:
    """Fuzz one door for so long."""
    decode = DOORS[door]

    def once(body: bytes) -> None:
        try:
            decode(body)
        except SlicewatchError:
            pass

    with tempfile.TemporaryDirectory() as corpus:
        for place, body in enumerate(seeds()):
            (Path(corpus) / str(place)).write_bytes(body)
        options = [f"-max_total_time={seconds}", "-max_len=8192", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options, corpus], once)
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
