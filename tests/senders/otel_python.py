"""Sends predictions with OpenTelemetry's SDK for Python: otel_python.py URL KEY HOW_MANY."""

from __future__ import annotations

import sys

from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor
from opentelemetry.sdk.resources import Resource


def main(url: str, key: str, how_many: int) -> None:
    """Emit them all, and wait until the exporter has done with them."""
    provider = LoggerProvider(Resource({"service.name": "otel-python", "service.version": "1"}))
    exporter = OTLPLogExporter(url, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    provider.add_log_record_processor(
        BatchLogRecordProcessor(exporter, schedule_delay_millis=50, max_export_batch_size=50)
    )
    logger = provider.get_logger("test")
    for i in range(how_many):
        attributes = {"id": f"py-{i}", "output": "x", "attributes.floor": str(i % 8)}
        logger.emit(LogRecord(event_name="slicewatch.prediction", attributes=attributes))
    provider.shutdown()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
