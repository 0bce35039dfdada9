// A pipeline as a graph from sources to sinks. A click on a node shows its figures.
import { useMemo, useState } from "preact/hooks";
import { Drawing } from "./drawing";
import type { Flow, Node, Point, Rates, StageState } from "./flows";
import { bytes, count, counted } from "./format";

/** Shares of the time in which epochs compute, from which on a pipeline is close to its limit, or behind. */
const BUSY = 0.7;
const BEHIND = 0.95;

type Step = { name: string; reads: string[]; node: Node };

const TITLES: Record<string, string> = {
  messages_recv: "Rows in",
  messages_sent: "Rows out",
  backpressure: "Back-pressure: share of the time in which epochs compute",
};

export function FlowGraph({ flow, rates, states }: { flow: Flow; rates?: Rates[]; states?: StageState[] }) {
  const steps = useMemo(() => stepsOf(flow), [JSON.stringify(flow)]);
  const [at, setAt] = useState("");
  if (steps.length === 0) return <p class="empty">The graph is drawn when the pipeline has started.</p>;
  const shown = steps.find((step) => step.name === at) ?? steps.find(({ node }) => !/^(source|sink):/.test(node.operator)) ?? steps[0];
  const points = (node: string, metric: string) => pointsOf(rates, node, metric);
  return (
    <div class="plan flow">
      <Drawing
        label="Graph of the pipeline"
        steps={steps}
        shown={shown}
        choose={setAt}
        rows={(name) => {
          const rate = mean(points(name, "messages_sent"));
          return { text: rate === undefined ? undefined : perSecond(rate), moves: Boolean(rate) };
        }}
        box={({ name, node }) => {
          const pressure = mean(points(name, "backpressure"));
          return { kind: `${kindOf(node)} ${level(pressure)}`, lines: [titleOf(node), subtitleOf(node), pressure === undefined ? brief(node) : busy(pressure)] };
        }}
      />
      <div class="about">
        <h3>{titleOf(shown.node)} <span class="muted">{subtitleOf(shown.node)}</span></h3>
        {rates && (
          <div class="sparks">
            {Object.keys(TITLES).map((metric) => {
              const values = points(shown.name, metric);
              return values.length > 0 && <Spark key={metric} title={TITLES[metric]} points={values} share={metric === "backpressure"} />;
            })}
          </div>
        )}
        {rates && rates.length === 0 && <p class="empty">No epoch has ended yet.</p>}
        <StateOf node={shown.node} states={states} />
      </div>
    </div>
  );
}

/** The state of the stages of a statement, at the last epoch. */
function StateOf({ node, states }: { node: Node; states?: StageState[] }) {
  const stages = /stages? (.+)$/.exec(node.description)?.[1].split(", ");
  if (!stages || !states) return null;
  return (
    <ul>
      {stages.map((stage) => {
        const found = states.find(({ operatorId }) => operatorId === stage);
        return <li>Stage <code>{stage}</code>: {found ? `${counted(found.rows, "row")} of state, ${bytes(found.bytes)}` : "no state at the last epoch"}</li>;
      })}
    </ul>
  );
}

const CHART = { width: 300, height: 56 };

/** Values over the last epochs. */
function Spark({ title, points, share }: { title: string; points: Point[]; share: boolean }) {
  const most = share ? 1 : Math.max(...points.map(({ value }) => value), 1);
  const first = points[0].time;
  const span = Math.max(points[points.length - 1].time - first, 1);
  const place = ({ time, value }: Point) => `${(((time - first) / span) * CHART.width).toFixed(1)},${(CHART.height - (Math.min(value / most, 1)) * (CHART.height - 4) - 2).toFixed(1)}`;
  const line = points.map(place).join(" ");
  const write = share ? (value: number) => `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %` : perSecond;
  const last = mean(points) ?? 0;
  return (
    <figure class={`spark ${share ? level(last) : ""}`}>
      <figcaption>{title} <b>{write(last)}</b></figcaption>
      <svg viewBox={`0 0 ${CHART.width} ${CHART.height}`} preserveAspectRatio="none" role="img" aria-label={`${title} over ${counted(Math.round(span / 1e6), "second")}: now ${write(last)}, at most ${write(Math.max(...points.map(({ value }) => value)))}`}>
        <polygon points={`0,${CHART.height} ${line} ${CHART.width},${CHART.height}`} />
        <polyline points={line} />
      </svg>
      <small>{share ? "of 100 %" : `at most ${perSecond(most)}`} in {counted(Math.round(span / 1e6), "second")}</small>
    </figure>
  );
}

/** Writes a rate. */
export function perSecond(value: number | undefined): string {
  if (value === undefined) return "–";
  return `${value > 0 && value < 9.95 ? value.toFixed(1) : count(value)} rows/s`;
}

function stepsOf(flow: Flow): Step[] {
  return flow.nodes.map((node) => ({
    name: String(node.nodeId),
    reads: flow.edges.filter(({ destId }) => destId === node.nodeId).map(({ srcId }) => String(srcId)),
    node,
  }));
}

function pointsOf(rates: Rates[] | undefined, node: string, metric: string): Point[] {
  const group = rates?.find(({ nodeId }) => String(nodeId) === node)?.metricGroups.find(({ name }) => name === metric);
  return (group?.subtasks[0]?.metrics ?? []).filter(Boolean);
}

/** Returns the mean of the last epochs, since windows show their rows in some of them only. */
function mean(points: Point[]): number | undefined {
  const last = points.slice(-5);
  return last.length === 0 ? undefined : last.reduce((sum, { value }) => sum + value, 0) / last.length;
}

function level(pressure: number | undefined): string {
  return pressure === undefined || pressure < BUSY ? "" : pressure < BEHIND ? "busy" : "behind";
}

function busy(pressure: number): string {
  return `${Math.round(pressure * 100)} % busy${level(pressure) === "behind" ? ": it cannot keep up" : ""}`;
}

function kindOf({ operator }: Node): string {
  return operator.startsWith("source:") ? "map" : operator.startsWith("sink:") ? "sink" : "reduce";
}

const WEB = /^(stdout|web|preview|log)$/;

function titleOf({ operator, description }: Node): string {
  const [kind, connector] = operator.split(":");
  if (kind === "sink" && WEB.test(connector)) return "Outputs";
  if (kind === "source" || kind === "sink") return description;
  return operator === "map" ? "Map" : "Stateful";
}

function subtitleOf({ operator, description }: Node): string {
  const [kind, connector] = operator.split(":");
  if (kind === "sink" && WEB.test(connector)) return "sink · web";
  if (kind === "source" || kind === "sink") return `${kind} · ${connector}`;
  return description.split(",")[0];
}

function brief({ operator, parallelism }: Node): string {
  if (/^(source|sink):/.test(operator)) return "";
  return operator === "map" ? "keeps no state" : `keeps state · ${counted(parallelism, "worker")}`;
}
