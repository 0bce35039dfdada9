// The attempts of a query's tasks as bars over time, one lane for each task of a stage.
import { useMemo, useState } from "preact/hooks";
import type { Attempt, Stage } from "./api";
import { bytes, count, counted, milliseconds } from "./format";

/** Lanes of a stage: those of its slowest tasks. */
const LANES_MAX = 200;

type Lane = { task: number; attempts: Attempt[]; time: number };

export function Timeline({ attempts, stages, totalMs }: { attempts: Attempt[]; stages: Stage[]; totalMs: number }) {
  const total = Math.max(totalMs, ...attempts.map((attempt) => attempt.end_ms), 1);
  const groups = useMemo(() => {
    const numbers = [...new Set([...stages.map((stage) => stage.stage), ...attempts.map((attempt) => attempt.stage)])];
    return numbers.sort((one, other) => one - other).map((number) => ({
      number,
      stage: stages.find((stage) => stage.stage === number),
      attempts: attempts.filter((attempt) => attempt.stage === number),
    }));
  }, [attempts, stages]);
  return (
    <div class="timeline">
      {groups.map((group) => <StageOf key={group.number} {...group} total={total} />)}
      {attempts.length > 0 && (
        <p class="legend">
          <span><i class="key done" />delivered</span>
          <span><i class="key work" />of it in the worker</span>
          <span><i class="key failed" />failed</span>
          <span><i class="key abandoned" />given up</span>
        </p>
      )}
    </div>
  );
}

function StageOf({ number, stage, attempts, total }: { number: number; stage?: Stage; attempts: Attempt[]; total: number }) {
  const [at, setAt] = useState<Attempt | null>(null);
  const { lanes, left } = useMemo(() => lanesOf(attempts), [attempts]);
  const times = lanes.map((lane) => lane.time).sort((one, other) => one - other);
  const median = stage?.median_ms ?? times[(times.length - 1) >> 1];
  const slowest = stage?.slowest_ms ?? times[times.length - 1];
  const retries = (stage ? stage.attempts - stage.tasks : attempts.filter((attempt) => attempt.attempt > 1).length) || 0;
  const name = stage?.step ?? attempts[0]?.step ?? `stage ${number}`;
  const height = lanes.length > 60 ? 5 : lanes.length > 20 ? 9 : 16;
  return (
    <section class="stage" aria-label={`Stage ${name}`}>
      <header>
        <h3>{name}</h3>
        <dl>
          <Fact name="tasks" value={count(stage?.tasks ?? lanes.length + left)} />
          <Fact name="median" value={milliseconds(median)} />
          <Fact name="slowest" value={`${milliseconds(slowest)}${stage?.slowest_task === undefined ? "" : ` (task ${stage.slowest_task})`}`} warn={Boolean(median && slowest && slowest > 3 * median && slowest > 500)} />
          <Fact name="retries" value={count(retries)} warn={retries > 0} />
          <Fact name="read" value={bytes(stage?.bytes_scanned)} />
          <Fact name="delivered" value={stage ? `${counted(stage.rows_delivered, "row")}, ${bytes(stage.bytes_delivered)}` : "–"} />
        </dl>
      </header>
      {lanes.length > 0 && (
        <>
          <div class="axis" aria-hidden="true">
            {[0, 1, 2, 3, 4].map((quarter) => <span style={{ left: `${quarter * 25}%` }}>{milliseconds((total * quarter) / 4)}</span>)}
          </div>
          <svg class="lanes" role="img" aria-label={`${counted(lanes.length, "task")} of ${name} over ${milliseconds(total)}. The table below has the values.`} width="100%" height={lanes.length * (height + 2)} onMouseLeave={() => setAt(null)}>
            {[1, 2, 3].map((quarter) => <line x1={`${quarter * 25}%`} x2={`${quarter * 25}%`} y1="0" y2="100%" />)}
            {lanes.map((lane, row) =>
              lane.attempts.map((attempt) => {
                const x = (attempt.start_ms / total) * 100;
                const width = Math.max(((attempt.end_ms - attempt.start_ms) / total) * 100, 0.15);
                const time = Math.max(attempt.end_ms - attempt.start_ms, 1);
                const share = Math.min(attempt.worked_ms ?? 0, time) / time;
                return (
                  <g onMouseEnter={() => setAt(attempt)}>
                    <rect class={fate(attempt)} x={`${x}%`} width={`${width}%`} y={row * (height + 2)} height={height} rx="2" />
                    {share > 0 && <rect class="work" x={`${x + width * (1 - share)}%`} width={`${width * share}%`} y={row * (height + 2)} height={height} rx="2" />}
                  </g>
                );
              }),
            )}
          </svg>
          <p class="hover">{at ? `Task ${at.task}, attempt ${at.attempt}: ${ending(at)} after ${milliseconds(at.end_ms - at.start_ms)}${at.worked_ms === null ? "" : `, ${milliseconds(at.worked_ms)} in the worker`}; ${bytes(at.bytes_read)} read, ${counted(at.rows, "row")}` : left > 0 ? `The ${LANES_MAX} slowest of ${count(lanes.length + left)} tasks` : " "}</p>
          <details class="values">
            <summary>Attempts as a table</summary>
            <div class="scroll" tabIndex={0} role="group" aria-label={`Attempts of ${name}`}>
              <table>
                <thead>
                  <tr><th>task</th><th>attempt</th><th>start</th><th>time</th><th>in the worker</th><th>read</th><th>rows</th><th>end</th></tr>
                </thead>
                <tbody>
                  {lanes.flatMap((lane) => lane.attempts).slice(0, 500).map((attempt) => (
                    <tr>
                      <td>{attempt.task}</td>
                      <td>{attempt.attempt}</td>
                      <td>{milliseconds(attempt.start_ms)}</td>
                      <td>{milliseconds(attempt.end_ms - attempt.start_ms)}</td>
                      <td>{attempt.worked_ms === null ? "–" : milliseconds(attempt.worked_ms)}</td>
                      <td>{bytes(attempt.bytes_read)}</td>
                      <td>{count(attempt.rows)}</td>
                      <td>{ending(attempt)}</td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </div>
          </details>
        </>
      )}
    </section>
  );
}

export function Fact({ name, value, warn }: { name: string; value: string; warn?: boolean }) {
  return (
    <div class={warn ? "warn" : ""}>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

function fate(attempt: Attempt): string {
  return typeof attempt.fate === "string" ? attempt.fate : "failed";
}

function ending(attempt: Attempt): string {
  if (typeof attempt.fate !== "string") return `failed (${attempt.fate.failed})`;
  return attempt.fate === "done" ? "delivered" : "given up";
}

/** Returns a lane for each of the slowest tasks, in the order of their starts. */
function lanesOf(attempts: Attempt[]): { lanes: Lane[]; left: number } {
  const tasks = new Map<number, Attempt[]>();
  for (const attempt of attempts) {
    const own = tasks.get(attempt.task);
    if (own) own.push(attempt);
    else tasks.set(attempt.task, [attempt]);
  }
  let lanes = [...tasks].map(([task, own]) => ({
    task,
    attempts: own,
    time: Math.max(...own.map((attempt) => attempt.end_ms - attempt.start_ms)),
  }));
  const left = Math.max(lanes.length - LANES_MAX, 0);
  lanes.sort((one, other) => other.time - one.time);
  lanes = lanes.slice(0, LANES_MAX);
  lanes.sort((one, other) => one.attempts[0].start_ms - other.attempts[0].start_ms || one.task - other.task);
  return { lanes, left };
}
