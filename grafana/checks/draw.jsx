// Draws a board's panels with Grafana's own components, from what Prometheus answered.
//
// `window.SPEC` is {board, answers: {panel id: {ref id: {format, legend, result}}}, from, to}. What
// was drawn is told in the body's data-report, as JSON.
import React from "react";
import { createRoot } from "react-dom/client";
import { firstValueFrom } from "rxjs";
import {
  FieldColorModeId, FieldConfigOptionsRegistry, FieldType, applyFieldOverrides, createTheme, dateTime,
  getDisplayProcessor, getFieldDisplayValues, identityOverrideProcessor, standardTransformers,
  standardTransformersRegistry, toDataFrame, transformDataFrame,
} from "@grafana/data";
import { BarGauge, BigValue, GlobalStyles, PanelChrome, Table, ThemeContext, TimeSeries } from "@grafana/ui";

const CELL = { height: 30, gap: 8 };
const WIDTH = 1600;
const NOT_EXPORTED = new Set(["state-timeline", "heatmap"]); // checked by types and queries alone
const { board, answers, from, to } = window.SPEC;
const theme = createTheme({ colors: { mode: "dark" } });
const report = { drawn: [], errors: [] };
const timeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: "now-1m", to: "now" } };

window.addEventListener("error", (event) => report.errors.push(String(event.message)));
for (const level of ["error", "warn"]) {
  const say = console[level];
  console[level] = (...words) => {
    if (level === "error") report.errors.push(words.map(String).join(" ").slice(0, 400));
    say(...words);
  };
}

const byId = new Map(Object.values(standardTransformers).map((t) => [t.id, t])); // some have two names
standardTransformersRegistry.setInit(() =>
  [...byId.values()].map((t) => ({ id: t.id, name: t.name, transformation: t, editor: null })),
);

/** Options of fields that this board sets, so that Grafana applies overrides of them. */
function fieldOptions(panel) {
  const named = (panel.fieldConfig.overrides ?? []).flatMap((o) => o.properties.map((p) => p.id));
  const registry = new FieldConfigOptionsRegistry();
  for (const id of new Set(["unit", "decimals", "min", "max", "thresholds", "color", "links", "noValue", ...named])) {
    const isCustom = id.startsWith("custom.");
    registry.register({
      id, isCustom, name: id, path: isCustom ? id.slice("custom.".length) : id,
      process: identityOverrideProcessor, shouldApply: () => true,
    });
  }
  return registry;
}

const text = (legend, labels) => legend.replace(/\{\{(\w+)\}\}/g, (_, name) => labels[name] ?? "");
const number = (value) => Number(value === "+Inf" ? Infinity : value);

/** Frames as Grafana's Prometheus data source makes them. */
function frames(panel) {
  const queries = Object.entries(answers[panel.id] ?? {});
  return queries.flatMap(([refId, { format, legend, result }]) => {
    if (format === "table") {
      const names = [...new Set(result.flatMap(({ metric }) => Object.keys(metric)))].sort();
      const value = queries.length > 1 ? `Value #${refId}` : "Value";
      return toDataFrame({
        refId,
        fields: [
          { name: "Time", type: FieldType.time, values: result.map((s) => s.value[0] * 1000) },
          ...names.map((name) => ({ name, type: FieldType.string, values: result.map((s) => s.metric[name] ?? "") })),
          { name: value, type: FieldType.number, values: result.map((s) => number(s.value[1])) },
        ],
      });
    }
    return result.map(({ metric, value, values }) => {
      const points = values ?? [value];
      return toDataFrame({
        refId,
        fields: [
          { name: "Time", type: FieldType.time, values: points.map(([at]) => at * 1000) },
          {
            name: "Value", type: FieldType.number, labels: metric, values: points.map(([, v]) => number(v)),
            config: { displayNameFromDS: text(legend, metric) },
          },
        ],
      });
    });
  });
}

async function prepared(panel) {
  const interpolate = (words) => words;
  const raw = frames(panel);
  const transformed = await firstValueFrom(transformDataFrame(panel.transformations ?? [], raw, { interpolate }));
  return applyFieldOverrides({
    data: transformed, fieldConfig: panel.fieldConfig, replaceVariables: interpolate, theme, timeZone: "utc",
    fieldConfigRegistry: fieldOptions(panel),
  });
}

function values(panel, data) {
  return getFieldDisplayValues({
    fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions, data,
    replaceVariables: (words) => words, theme, timeZone: "utc",
  });
}

function Lines({ panel, data, width, height }) {
  for (const frame of data) {
    for (const field of frame.fields) {
      field.config.custom = { drawStyle: "line", ...field.config.custom };
      field.state = { ...field.state, displayName: undefined };
      field.display = getDisplayProcessor({ field, theme, timeZone: "utc" });
    }
  }
  let place = 0;
  for (const frame of data) for (const field of frame.fields) {
    if (field.type === FieldType.number) field.state = { ...field.state, seriesIndex: place++ };
  }
  return (
    <TimeSeries frames={data} timeRange={timeRange} timeZone="utc" width={width} height={height}
      legend={panel.options.legend} options={panel.options} />
  );
}

function Body({ panel, data, width, height }) {
  switch (panel.type) {
    case "timeseries":
      return <Lines {...{ panel, data, width, height }} />;
    case "table":
      return data.length && data[0].length ? (
        <Table data={data[0]} width={width} height={height} timeRange={timeRange}
          cellHeight={panel.options.cellHeight} initialSortBy={panel.options.sortBy} />
      ) : <div>{panel.fieldConfig.defaults.noValue}</div>;
    case "stat": {
      const [first] = values(panel, data);
      return (
        <BigValue value={first.display} width={width} height={height} theme={theme}
          colorMode={panel.options.colorMode} graphMode={panel.options.graphMode} textMode={panel.options.textMode} justifyMode="auto" />
      );
    }
    case "bargauge": {
      const bars = values(panel, data);
      const each = height / Math.max(bars.length, 1) - 4;
      return bars.map(({ display, field }, i) => (
        <div key={i} style={{ marginBottom: 4 }}>
          <BarGauge value={display} field={field} width={width} height={each} theme={theme} display={display => display}
            orientation={panel.options.orientation} displayMode={panel.options.displayMode}
            showUnfilled={panel.options.showUnfilled} text={{ titleSize: 13, valueSize: 14 }} itemSpacing={4} lcdCellWidth={8} />
        </div>
      ));
    }
    default:
      return null;
  }
}

class Guard extends React.Component {
  state = {};
  static getDerivedStateFromError = (error) => ({ error });
  componentDidCatch(error) { report.errors.push(`${this.props.name}: ${error}`); }
  render() { return this.state.error ? <pre>{String(this.state.error)}</pre> : this.props.children; }
}

function place({ x, y, w, h }) {
  const column = (WIDTH - CELL.gap) / 24;
  return {
    position: "absolute", left: CELL.gap + x * column, top: y * (CELL.height + CELL.gap),
    width: w * column - CELL.gap, height: h * (CELL.height + CELL.gap) - CELL.gap,
  };
}

function Board({ panels, rows, top }) {
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div style={{ font: "500 20px Inter, Helvetica, Arial, sans-serif", padding: "14px 16px 12px" }}>
        {board.title}<span style={{ color: theme.colors.text.secondary, fontSize: 14, marginLeft: 16 }}>{board.description}</span>
      </div>
      <div style={{ position: "relative" }}>
        {rows.map((row) => (
          <div key={row.id} style={{ ...place(row.gridPos), font: "500 16px Inter, Helvetica, Arial, sans-serif" }}>{row.title}</div>
        ))}
        {panels.map(({ panel, data }) => {
          const style = place(panel.gridPos);
          return (
            <div key={panel.id} data-panel={panel.id} style={style}>
              <PanelChrome title={panel.title} width={style.width} height={style.height}>
                {(width, height) => <Guard name={panel.title}><Body {...{ panel, data, width, height }} /></Guard>}
              </PanelChrome>
            </div>
          );
        })}
      </div>
    </ThemeContext.Provider>
  );
}

/** Pixels of a panel's canvases that are not empty. */
function painted(element) {
  let n = 0;
  for (const canvas of element.querySelectorAll("canvas")) {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    for (let i = 3; i < data.length; i += 4) n += data[i] > 0;
  }
  return n;
}

async function main() {
  const every = board.panels.filter((panel) => panel.type !== "row");
  const shown = every.filter((panel) => !NOT_EXPORTED.has(panel.type));
  const panels = await Promise.all(shown.map(async (panel) => ({ panel, data: await prepared(panel) })));
  const rows = board.panels.filter((panel) => panel.type === "row");
  document.body.style.background = theme.colors.background.canvas;
  document.body.style.color = theme.colors.text.primary;
  createRoot(document.getElementById("root")).render(<Board {...{ panels, rows }} />);
  await new Promise((done) => setTimeout(done, 1500));
  for (const { panel } of panels) {
    const element = document.querySelector(`[data-panel="${panel.id}"]`);
    report.drawn.push({ title: panel.title, type: panel.type, text: element.innerText, painted: painted(element) });
  }
  document.body.dataset.report = JSON.stringify(report);
}

main().catch((error) => {
  report.errors.push(String(error.stack ?? error));
  document.body.dataset.report = JSON.stringify(report);
});
