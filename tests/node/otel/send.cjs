// Sends predictions with OpenTelemetry's SDK for JavaScript: node send.cjs URL KEY HOW_MANY
const { OTLPLogExporter } = require("@opentelemetry/exporter-logs-otlp-proto");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { BatchLogRecordProcessor, LoggerProvider } = require("@opentelemetry/sdk-logs");

const [url, key, howMany] = process.argv.slice(2);
const exporter = new OTLPLogExporter({
  url,
  headers: { Authorization: `Bearer ${key}` },
  timeoutMillis: 60_000,
});
const processor = {
  exporter,
  maxExportBatchSize: 50,
  scheduledDelayMillis: 50,
  exportTimeoutMillis: 60_000,
};
const provider = new LoggerProvider({
  resource: resourceFromAttributes({ "service.name": "otel-js", "service.version": "1" }),
  processors: [new BatchLogRecordProcessor(processor)],
});
const logger = provider.getLogger("test");
for (let i = 0; i < Number(howMany); i++) {
  const attributes = { id: `js-${i}`, output: "x", "attributes.floor": String(i % 8) };
  logger.emit({ eventName: "slicewatch.prediction", attributes });
}
provider.shutdown().then(() => process.exit(0));
