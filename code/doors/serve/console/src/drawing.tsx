// Steps as a graph: rows flow downwards. A click chooses a step.
import { Graph as Dagre, layout } from "@dagrejs/dagre";
import type { ComponentChildren } from "preact";
import { useMemo } from "preact/hooks";
import { px } from "./format";

const WIDTH = 216;
const HEIGHT = 78;

/** A step, which reads the rows of others. */
export type Drawn = { name: string; reads: string[] };

type Props<T extends Drawn> = {
  label: string;
  steps: T[];
  shown: T;
  choose: (name: string) => void;
  /** The class of a step's box, and its lines: a title, a subtitle and figures. */
  box: (step: T) => { kind: string; lines: [ComponentChildren, ComponentChildren, ComponentChildren] };
  /** The text beside the rows that leave a step, and true if they move now. */
  rows: (name: string) => { text?: string; moves?: boolean };
};

export function Drawing<T extends Drawn>({ label, steps, shown, choose, box, rows }: Props<T>) {
  const drawn = useMemo(() => placed(steps), [steps]);
  return (
    <div class="scroll" tabIndex={0} role="group" aria-label={label}>
      <div class="canvas" style={{ width: px(drawn.width), height: px(drawn.height) }}>
        <svg width={drawn.width} height={drawn.height} aria-hidden="true">
          <defs>
            <marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto">
              <path d="M0 0.5 L7 4 L0 7.5 z" />
            </marker>
          </defs>
          {drawn.edges.map(({ path, from, x, y }) => {
            const { text, moves } = rows(from);
            return (
              <g>
                <path class={`edge${moves ? " moves" : ""}`} d={path} marker-end="url(#head)" />
                {text && <text class="edge-rows" x={x + 8} y={y + 4}>{text}</text>}
              </g>
            );
          })}
        </svg>
        {drawn.nodes.map(({ step, x, y }) => {
          const { kind, lines } = box(step);
          return (
            <button
              class={`step ${kind}`}
              style={{ left: px(x), top: px(y), width: px(WIDTH), height: px(HEIGHT) }}
              aria-pressed={step === shown}
              onClick={() => choose(step.name)}
            >
              <b>{lines[0]}</b>
              <span>{lines[1]}</span>
              <small>{lines[2]}</small>
            </button>
          );
        })}
      </div>
    </div>
  );
}

/** Lays out steps from top to bottom, each below those whose rows it reads. */
function placed<T extends Drawn>(found: T[]) {
  const graph = new Dagre();
  graph.setGraph({ rankdir: "TB", nodesep: 28, ranksep: 44, marginx: 12, marginy: 12 });
  graph.setDefaultEdgeLabel(() => ({}));
  for (const step of found) graph.setNode(step.name, { width: WIDTH, height: HEIGHT });
  for (const step of found) {
    for (const from of step.reads) if (graph.hasNode(from)) graph.setEdge(from, step.name);
  }
  layout(graph);
  const nodes = found.map((step) => {
    const { x, y } = graph.node(step.name) as { x: number; y: number };
    return { step, x: x - WIDTH / 2, y: y - HEIGHT / 2 };
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
