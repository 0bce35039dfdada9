// The plan as a graph of stages: rows flow downwards.
import { Graph as Dagre, layout } from "@dagrejs/dagre";
import { useMemo, useState } from "preact/hooks";
import type { Stage } from "./api";
import { bytes, counted, milliseconds, px } from "./format";
import { steps, type Step } from "./plan";

const WIDTH = 216;
const HEIGHT = 78;

export function PlanGraph({ plan, stages }: { plan: string; stages: Stage[] }) {
  const found = useMemo(() => steps(plan), [plan]);
  const [at, setAt] = useState("");
  const drawn = useMemo(() => placed(found, WIDTH, HEIGHT), [found]);
  if (found.length === 0) return <pre class="text" tabIndex={0} aria-label="Plan">{plan}</pre>;
  const shown = found.find((step) => step.name === at) ?? found[found.length - 1];
  return (
    <div class="plan">
      <div class="scroll" tabIndex={0} role="group" aria-label="Stages of the plan">
        <div class="canvas" style={{ width: px(drawn.width), height: px(drawn.height) }}>
          <svg width={drawn.width} height={drawn.height} aria-hidden="true">
            <defs>
              <marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">
                <path d="M0 0.5 L7 4 L0 7.5 z" />
              </marker>
            </defs>
            {drawn.edges.map(({ path, from, x, y }) => {
              const stage = stages.find((stage) => stage.step === from);
              return (
                <g>
                  <path class="edge" d={path} marker-end="url(#head)" />
                  {stage && <text class="edge-rows" x={x + 8} y={y + 4}>{counted(stage.rows_delivered, "row")}</text>}
                </g>
              );
            })}
          </svg>
          {drawn.nodes.map(({ step, x, y }) => {
            const stage = stages.find((stage) => stage.step === step.name);
            return (
              <button
                class={`step ${step.role === "HBee" ? "map" : "reduce"}`}
                style={{ left: px(x), top: px(y), width: px(WIDTH), height: px(HEIGHT) }}
                aria-pressed={step === shown}
                onClick={() => setAt(step.name)}
              >
                <b>{step.table || (step.role === "HBee" ? "rows" : "reduce")}</b>
                <span>{step.name} · {step.role}</span>
                <small>{brief(step, stage)}</small>
              </button>
            );
          })}
        </div>
      </div>
      <div class="about" aria-live="polite">
        <h3>{shown.name}</h3>
        <ul>{shown.facts.map((fact) => <li>{fact}</li>)}</ul>
        <pre tabIndex={0} aria-label={`Operators of ${shown.name}`}>{shown.operators.join("\n")}</pre>
      </div>
    </div>
  );
}

/** What a stage did or, before it ran, what it will do. */
function brief(step: Step, stage?: Stage): string {
  if (stage) return `${counted(stage.tasks, "task")}, ${milliseconds(stage.median_ms)} · ${bytes(stage.bytes_scanned)}`;
  const tasks = step.facts.map((fact) => /^tasks: (\d+)/.exec(fact)?.[1]).find(Boolean);
  const size = step.facts.map((fact) => /; ([\d.]+ \w+) of/.exec(fact)?.[1]).find(Boolean);
  if (tasks) return [counted(Number(tasks), "task"), size].filter(Boolean).join(" · ");
  return step.facts[0] ?? "";
}

/** Lays out steps from top to bottom, each below those whose rows it reads. */
export function placed<T extends { name: string; reads: string[] }>(found: T[], width: number, height: number) {
  const graph = new Dagre();
  graph.setGraph({ rankdir: "TB", nodesep: 28, ranksep: 44, marginx: 12, marginy: 12 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const step of found) graph.setNode(step.name, { width, height });
  for (const step of found) {
    for (const from of step.reads) if (graph.hasNode(from)) graph.setEdge(from, step.name);
  }
  layout(graph);
  const nodes = found.map((step) => {
    const { x, y } = graph.node(step.name) as { x: number; y: number };
    return { step, x: x - width / 2, y: y - height / 2 };
  });
  const edges = graph.edges().map((edge) => {
    const { points } = graph.edge(edge) as { points: { x: number; y: number }[] };
    const [first, ...rest] = points;
    let path = `M${first.x},${first.y}`;
    rest.forEach((point, at) => {
      const before = at === 0 ? first : rest[at - 1];
      const middle = (before.y + point.y) / 2;
      path += ` C${before.x},${middle} ${point.x},${middle} ${point.x},${point.y}`;
    });
    const middle = points[points.length >> 1];
    return { path, from: edge.v, x: middle.x, y: middle.y };
  });
  const size = graph.graph() as { width?: number; height?: number };
  return { nodes, edges, width: Math.ceil(size.width ?? 0), height: Math.ceil(size.height ?? 0) };
}
