// The plan as a graph of stages.
import { useMemo, useState } from "preact/hooks";
import type { Stage } from "./api";
import { Drawing } from "./drawing";
import { bytes, counted, milliseconds } from "./format";
import { steps, type Step } from "./plan";

export function PlanGraph({ plan, stages }: { plan: string; stages: Stage[] }) {
  const found = useMemo(() => steps(plan), [plan]);
  const [at, setAt] = useState("");
  if (found.length === 0) return <pre class="text" tabIndex={0} aria-label="Plan">{plan}</pre>;
  const shown = found.find((step) => step.name === at) ?? found[found.length - 1];
  const of = (name: string) => stages.find((stage) => stage.step === name);
  return (
    <div class="plan">
      <Drawing
        label="Stages of the plan"
        steps={found}
        shown={shown}
        choose={setAt}
        rows={(name) => {
          const stage = of(name);
          return { text: stage && counted(stage.rows_delivered, "row") };
        }}
        box={(step) => ({
          kind: step.role === "HBee" ? "map" : "reduce",
          lines: [step.table || (step.role === "HBee" ? "rows" : "reduce"), `${step.name} · ${step.role}`, brief(step, of(step.name))],
        })}
      />
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
