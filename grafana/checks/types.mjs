// Checks boards against the types of @grafana/schema: the dashboard as a whole, and each panel's
// options, field configuration and overrides against those of its own kind.
//
//     node types.mjs BOARD.json...        prints what does not fit; exit code 1 where anything does not
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";

const HERE = dirname(fileURLToPath(import.meta.url));
const COMPOSABLE = "node_modules/@grafana/schema/dist/esm/raw/composable";
const WITHOUT_FIELD_CONFIG = new Set(["stat", "bargauge"]);
const KINDS = {
  stat: "stat/panelcfg/x/StatPanelCfg_types.gen",
  timeseries: "timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen",
  table: "table/panelcfg/x/TablePanelCfg_types.gen",
  bargauge: "bargauge/panelcfg/x/BarGaugePanelCfg_types.gen",
  "state-timeline": "statetimeline/panelcfg/x/StateTimelinePanelCfg_types.gen",
  heatmap: "heatmap/panelcfg/x/HeatmapPanelCfg_types.gen",
};

// JSON holds an enum's value where the types want its member, and leaves out what has a default.
const PRELUDE = `
import type { Dashboard, Panel } from "@grafana/schema";
type FieldConfig = NonNullable<Panel["fieldConfig"]>["defaults"];
type Json<T> = unknown extends T ? T
  : T extends string ? \`\${T}\`
  : T extends number ? number
  : T extends boolean | null | undefined ? T
  : T extends Array<infer U> ? Array<Json<U>>
  : T extends object ? { [K in keyof T]?: Json<T[K]> | null }
  : T;
interface Query {
  datasource: { type: "prometheus"; uid: string };
  refId: string;
  expr: string;
  legendFormat?: string;
  format?: "time_series" | "table" | "heatmap";
  instant?: boolean;
  range?: boolean;
}
`;

function* panelsOf(board) {
  for (const panel of board.panels) yield* panel.type === "row" ? (panel.panels ?? []) : [panel];
}

/** The TypeScript of a board: a constant of the right type for each part of it. */
function source(board) {
  const lines = [PRELUDE];
  const imported = new Map();
  const state = (what, type, value) =>
    lines.push(`// ${what}\n{ const it: ${type} = ${JSON.stringify(value)}; void it; }`);
  for (const panel of panelsOf(board)) {
    const kind = panel.type.replaceAll("-", "_");
    if (!(panel.type in KINDS)) throw new Error(`no types for panels of type ${panel.type}`);
    imported.set(kind, KINDS[panel.type]);
    const where = `panel ${JSON.stringify(panel.title)}`;
    const { targets = [], options = {}, fieldConfig = {} } = panel;
    const { custom = {}, ...standard } = fieldConfig.defaults ?? {};
    state(`${where}: options`, `Json<${kind}.Options>`, options);
    state(`${where}: field configuration`, "Json<FieldConfig>", standard);
    const own = WITHOUT_FIELD_CONFIG.has(panel.type) ? "Record<string, never>" : `Json<${kind}.FieldConfig>`;
    state(`${where}: its own field configuration`, own, custom);
    for (const target of targets) state(`${where}: query ${target.refId}`, "Query", target);
    for (const override of fieldConfig.overrides ?? []) {
      for (const { id, value } of override.properties) {
        const part = id.split(".");
        const [type, name] = part[0] === "custom" ? [`${kind}.FieldConfig`, part[1]] : ["FieldConfig", id];
        state(`${where}: override ${id}`, `Json<Required<${type}>[${JSON.stringify(name)}]>`, value);
      }
    }
  }
  // Prometheus' own part of an annotation, which these types leave to the data source
  const list = (board.annotations.list ?? []).map(({ expr, ...annotation }) => annotation);
  const rest = { ...board, panels: board.panels.map(({ options, fieldConfig, targets, ...p }) => p), annotations: { list } };
  state("dashboard", "Json<Dashboard>", rest);
  const imports = [...imported].map(
    ([kind, path]) => `import type * as ${kind} from "../${COMPOSABLE}/${path}";`,
  );
  return imports.join("\n") + lines.join("\n");
}

/** What does not fit, a line each, of files with these texts. */
function* faults(texts) {
  const options = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    types: [],
  };
  for (const found of ts.getPreEmitDiagnostics(ts.createProgram([...texts.keys()], options))) {
    const message = ts.flattenDiagnosticMessageText(found.messageText, " ");
    const text = texts.get(found.file?.fileName);
    const line = text && found.file.getLineAndCharacterOfPosition(found.start).line;
    const where = text ? `${basename(found.file.fileName, ".ts")}.json ${text.split("\n")[line - 1]}` : "";
    yield `${where.replace("// ", "")}: ${message}`;
  }
}

let nFaults = 0;
const directory = mkdtempSync(join(HERE, ".types-"));
try {
  const texts = new Map();
  for (const name of process.argv.slice(2)) {
    const file = join(directory, `${basename(name, ".json")}.ts`);
    texts.set(file, source(JSON.parse(readFileSync(name, "utf8"))));
    writeFileSync(file, texts.get(file));
  }
  for (const fault of faults(texts)) {
    console.log(fault);
    nFaults += 1;
  }
} finally {
  rmSync(directory, { recursive: true });
}
console.log(`${process.argv.length - 2} boards, ${nFaults} faults`);
process.exit(nFaults ? 1 : 0);
