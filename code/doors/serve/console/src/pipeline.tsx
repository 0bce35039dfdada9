// The page of one pipeline: its figures, its graph, its rows, epochs and messages, and what can be done with it.
import { useState } from "preact/hooks";
import { Failure } from "./api";
import { Actions } from "./actions";
import { FlowGraph, perSecond } from "./flow";
import { flows, type Checkpoint, type Message, type Pipeline, type Rates, type StageState } from "./flows";
import { bytes, count, counted, moment, seconds } from "./format";
import { chipOf, useRates } from "./pipelines";
import { useRead } from "./poll";
import { Crumbs, Tabs } from "./tabs";
import { Tail } from "./tail";
import { Fact } from "./timeline";

const PAUSE = 1500;
type Tab = "graph" | "rows" | "epochs" | "messages" | "script";
const TABS: [Tab, string][] = [["graph", "Graph"], ["rows", "Outputs"], ["epochs", "Checkpoints"], ["messages", "Messages"], ["script", "Script"]];

export function PipelinePage({ id }: { id: string }) {
  const [tab, setTab] = useState<Tab>("graph");
  const rated = useRates();
  const { found, fault, again } = useRead(
    async (signal) => {
      const [pipeline, job, counts] = await Promise.all([flows.pipeline(id, signal), flows.job(id, signal), flows.figures(signal)]);
      return { pipeline, job, figures: rated(counts, new Map([[id, pipeline.checkpointIntervalMicros / 1e6]])).get(id) };
    },
    () => PAUSE,
    [id],
  );
  const pipeline = found?.pipeline;
  const crumbs = <Crumbs list="Pipelines" name={pipeline?.name ?? id} />;
  if (!pipeline || (fault instanceof Failure && fault.status === 404)) {
    return (
      <div class="page">
        {crumbs}
        <h1>{pipeline?.name ?? id}</h1>
        {fault ? <p class="fault big" role="alert">{fault.message}</p> : <p class="empty" role="status">Reading …</p>}
      </div>
    );
  }
  const { job, figures } = found;
  const runs = pipeline.state === "Running";
  return (
    <div class="page flow-page">
      {crumbs}
      <header class="title">
        <h1>{pipeline.name} <span class={`chip ${chipOf(pipeline.state)}`} role="status">{pipeline.state.toLowerCase()}</span></h1>
        <Actions pipeline={pipeline} changed={again} />
      </header>
      {fault && <p class="fault big" role="alert">{fault.message}</p>}
      {pipeline.error && (
        <div class="fault big" role="alert">
          <strong>{pipeline.state === "Failed" ? "It has failed" : "It waits, and tries again"}</strong>
          <p>{pipeline.error}</p>
        </div>
      )}
      <dl class="numbers">
        <Fact name="rows in" value={runs ? perSecond(figures?.in) : "–"} />
        <Fact name="rows out" value={runs ? perSecond(figures?.out) : "–"} />
        <Fact name="behind the clock" value={runs && figures?.watermark_lag_seconds !== undefined ? seconds(Math.max(figures.watermark_lag_seconds, 0)) : "–"} />
        <Fact name="last epoch took" value={seconds(figures?.epoch_seconds)} />
        <Fact name="state" value={figures?.state_rows === undefined ? "–" : counted(figures.state_rows, "row")} />
        <Fact name="workers" value={pipeline.parallelism ? count(pipeline.parallelism) : "–"} />
        {Boolean(figures?.late_rows_total) && <Fact name="late rows" value={count(figures!.late_rows_total)} warn />}
        {Boolean(figures?.bad_rows_total) && <Fact name="bad rows" value={count(figures!.bad_rows_total)} warn />}
        {Boolean(figures?.skipped_epochs_total) && <Fact name="skipped epochs" value={count(figures!.skipped_epochs_total)} warn />}
      </dl>
      <p class="facts">
        <span>an epoch every {seconds(pipeline.checkpointIntervalMicros / 1e6)}</span>
        {job && job.runId > 0 && <span>run {job.runId}</span>}
        {job?.startTime && <span>{runs ? "since" : "began"} {moment(job.startTime / 1000)}</span>}
        {runs && !figures?.running && <span>run by another server</span>}
      </p>
      <Tabs label="Parts of the pipeline" panel="part" names={TABS} now={tab} choose={setTab} />
      <div id="part" role="tabpanel" aria-labelledby={`tab-${tab}`} class="part" tabIndex={tab === "rows" ? undefined : 0}>
        {tab === "graph" && <GraphPart pipeline={pipeline} />}
        {tab === "rows" && <Tail id={id} key={`${id} ${job?.runId}`} />}
        {tab === "epochs" && <Epochs id={id} runs={!/^(Stopped|Finished|Failed)$/.test(pipeline.state)} />}
        {tab === "messages" && <Messages id={id} />}
        {tab === "script" && <pre class="sql script" tabIndex={0} aria-label="Script">{pipeline.query}</pre>}
      </div>
    </div>
  );
}

function GraphPart({ pipeline }: { pipeline: Pipeline }) {
  const { found, fault } = useRead<{ rates: Rates[]; states: StageState[] }>(
    async (signal) => {
      const [rates, [newest]] = await Promise.all([flows.rates(pipeline.id, signal), flows.checkpoints(pipeline.id, signal)]);
      return { rates, states: newest ? await flows.states(pipeline.id, newest.epoch, signal).catch(() => []) : [] };
    },
    () => 2000,
    [pipeline.id],
  );
  return (
    <>
      {fault && <p class="fault" role="alert">{fault.message}</p>}
      <FlowGraph flow={pipeline.graph} rates={found?.rates} states={found?.states} />
    </>
  );
}

function Epochs({ id, runs }: { id: string; runs: boolean }) {
  const { found, fault } = useRead<Checkpoint[]>((signal) => flows.checkpoints(id, signal), () => (runs ? 2000 : 10_000), [id, runs]);
  if (fault) return <p class="fault" role="alert">{fault.message}</p>;
  if (!found) return <p class="empty" role="status">Reading …</p>;
  if (found.length === 0) return <p class="empty">No epoch has ended yet.</p>;
  return (
    <>
      <p class="note">Each epoch is a checkpoint: offsets, state and rows become visible together. The last {count(found.length)}, the newest first.</p>
      <div class="scroll tall" tabIndex={0} role="group" aria-label="Checkpoints">
        <table class="list epochs">
          <thead>
            <tr>
              <th scope="col" class="right">epoch</th><th scope="col">time</th><th scope="col" class="right">took</th><th scope="col" class="right">rows in</th><th scope="col" class="right">rows out</th>
              <th scope="col" class="right">state</th><th scope="col" class="right">late</th><th scope="col" class="right">bad</th><th scope="col">watermark</th>
            </tr>
          </thead>
          <tbody>
            {found.map((epoch) => (
              <tr key={epoch.epoch}>
                <td class="right">{count(epoch.epoch)}{epoch.checkpointType === "stopping" && <span class="chip">stop</span>}{epoch.skipped ? <span class="chip bad">rows left out</span> : ""}</td>
                <td>{moment(epoch.startTime / 1000)}</td>
                <td class="right">{seconds((epoch.finishTime - epoch.startTime) / 1e6)}</td>
                <td class="right">{count(epoch.rowsIn)}</td>
                <td class="right">{count(epoch.rowsOut)}</td>
                <td class="right">{epoch.stateRows > 0 ? `${counted(epoch.stateRows, "row")}, ${bytes(epoch.bytes)}` : "–"}</td>
                <td class={`right${epoch.late ? " warn" : ""}`}>{count(epoch.late)}</td>
                <td class={`right${epoch.bad ? " warn" : ""}`}>{count(epoch.bad)}</td>
                <td class="muted">{watermark(epoch.watermark)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

/** Writes a watermark, nanoseconds or microseconds since 1970, in UTC. */
function watermark(value: number | null): string {
  if (value === null) return "–";
  const date = new Date(value / (Math.abs(value) > 1e17 ? 1e6 : 1e3));
  return Number.isNaN(date.getTime()) ? "–" : date.toISOString().replace("T", " ").replace(/\.?0*Z$/, "");
}

function Messages({ id }: { id: string }) {
  const { found, fault } = useRead<Message[]>((signal) => flows.messages(id, signal), () => 3000, [id]);
  if (fault) return <p class="fault" role="alert">{fault.message}</p>;
  if (!found) return <p class="empty" role="status">Reading …</p>;
  if (found.length === 0) return <p class="empty">No messages.</p>;
  return (
    <ol class="messages">
      {found.map(({ id, createdAt, level, message }) => (
        <li key={id} class={level}>
          <time>{moment(createdAt / 1000)}</time>
          <span class={`chip ${level === "error" ? "bad" : level === "warn" ? "waiting" : ""}`}>{level === "warn" ? "warning" : level}</span>
          <span class="text">{message}</span>
        </li>
      ))}
    </ol>
  );
}
