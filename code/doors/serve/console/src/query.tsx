// The page of one query: its numbers, its phases, its plan and its tasks over time.
import { useEffect, useState } from "preact/hooks";
import { api, type Summary, type Work } from "./api";
import { Bar } from "./ask";
import { bytes, count, counted, dollars, moment, seconds } from "./format";
import { PlanGraph } from "./graph";
import { useRead } from "./poll";
import { setSql } from "./state";
import { Fact, Timeline } from "./timeline";

export function Query({ id }: { id: string }) {
  const [failed, setFailed] = useState("");
  const [plan, setPlan] = useState<{ text: string; fault: string } | null>(null);
  const isOpen = (work?: Work) => work?.state === "running" || work?.state === "waiting";
  const { found: work, fault, again } = useRead((signal) => api.work(id, 5000, signal), (work) => (isOpen(work) ? 400 : null), [id]);

  const sql = work?.sql;
  useEffect(() => {
    if (sql === undefined || !planned(sql)) return;
    setPlan(null);
    api
      .plan(sql)
      .then((answer) => setPlan({ text: answer.plan, fault: "" }))
      .catch((error) => setPlan({ text: "", fault: error.message }));
  }, [sql]);

  if (fault || failed) {
    return (
      <div class="page">
        <h1>Query</h1>
        <p class="fault big" role="alert">{failed || fault?.message}</p>
        <p><button onClick={() => { setFailed(""); again(); }}>Try again</button> <a href="#/history">History</a></p>
      </div>
    );
  }
  if (!work) return <div class="page"><h1>Query</h1><p class="empty" role="status">Reading …</p></div>;
  const { summary, progress } = work;
  return (
    <div class="page query">
      <header class="title">
        <h1>Query <span class={`chip ${work.state}`}>{work.state}</span></h1>
        <p class="facts">
          <span>{moment(work.started_ms)}</span>
          {work.user && work.user !== "key" && <span>by {work.user}</span>}
          <code>{work.id}</code>
        </p>
        <div class="do">
          <button onClick={() => { setSql(work.sql); location.hash = "#/ask"; }}>Open in the editor</button>
          {isOpen(work) && (
            <button class="stop" onClick={() => void api.remove(work.id).then(again).catch((error) => setFailed(error.message))}>Cancel</button>
          )}
        </div>
      </header>
      <pre class="sql" tabIndex={0} aria-label="Statement">{work.sql}</pre>
      {work.error && <p class="fault big" role="alert"><strong>{work.error.kind}</strong> {work.error.message}</p>}
      {work.warnings.map((warning) => <p class="warning">{warning}</p>)}
      {summary && <Numbers summary={summary} />}
      {progress && (
        <>
          <Bar done={progress.tasks_done} all={progress.tasks} label="Tasks" />
          <p class="facts"><span>{count(progress.tasks_done)} of {counted(progress.tasks, "task")}</span><span>{bytes(progress.bytes_scanned)}</span></p>
        </>
      )}
      {summary?.run_seconds !== undefined && <Phases summary={summary} />}
      <h2>Tasks over time</h2>
      {work.attempts.length === 0 && work.stages.length === 0 ? (
        <p class="empty">{summary || work.error ? "No task ran, or its times are no longer kept." : "No task has ended yet."}</p>
      ) : (
        <Timeline attempts={work.attempts} stages={work.stages} totalMs={(summary?.seconds ?? 0) * 1000} />
      )}
      {work.attempts_left_out > 0 && <p class="note">{counted(work.attempts_left_out, "later attempt")} left out.</p>}
      {planned(work.sql) && <h2>Plan</h2>}
      {!plan && planned(work.sql) && <p class="empty" role="status">Planning …</p>}
      {plan?.fault && <p class="fault" role="alert">{plan.fault}</p>}
      {plan && !plan.fault && <PlanGraph plan={plan.text} stages={work.stages} />}
    </div>
  );
}

/** True for statements that have a plan. */
function planned(sql: string): boolean {
  return !/^\s*(create|drop|explain|show|describe|desc)\b/i.test(sql);
}

function Numbers({ summary }: { summary: Summary }) {
  const reduced = summary.combs === undefined ? "–" : summary.combs === 0 ? "Fuse" : counted(summary.combs, "comb");
  return (
    <dl class="numbers">
      <Fact name="time" value={seconds(summary.seconds)} />
      <Fact name="rows" value={count(summary.rows)} />
      <Fact name="read" value={bytes(summary.bytes_read)} />
      <Fact name="files" value={`${count(summary.files_read)} of ${count(summary.files_found)}`} />
      <Fact name="tasks" value={count(summary.tasks)} />
      <Fact name="retries" value={count(summary.retries)} warn={summary.retries > 0} />
      {Boolean(summary.reruns) && <Fact name="reruns" value={count(summary.reruns)} warn />}
      <Fact name="reduced by" value={reduced} />
      {Boolean(summary.get_requests || summary.put_requests) && (
        <Fact name="requests" value={`${count(summary.get_requests)} GET, ${count(summary.put_requests)} PUT`} />
      )}
      {Boolean(summary.started_usd) && <Fact name="combs it started" value={dollars(summary.started_usd)} />}
      {summary.cost_usd !== null && <Fact name="cost" value={dollars(summary.cost_usd)} />}
    </dl>
  );
}

/** The phases, which follow each other. */
function Phases({ summary }: { summary: Summary }) {
  const [open, plan, run] = [summary.open_seconds ?? 0, summary.plan_seconds ?? 0, summary.run_seconds ?? 0];
  const rest = Math.max(summary.seconds - open - plan - run, 0);
  const total = Math.max(open + plan + rest + run, 0.000001);
  const parts = [
    { name: "open tables", time: open, kind: "phase-open" },
    { name: "plan", time: plan, kind: "phase-plan" },
    { name: "start", time: rest, kind: "phase-start" },
    { name: "run", time: run, kind: "phase-run" },
  ].filter((part) => part.time / total > 0.001);
  return (
    <section aria-label="Phases" class="phases">
      <div class="track" aria-hidden="true">
        {parts.map((part) => <span class={part.kind} style={{ width: `${(part.time / total) * 100}%` }} />)}
      </div>
      <ul>{parts.map((part) => <li><i class={`key ${part.kind}`} aria-hidden="true" />{part.name} <b>{seconds(part.time)}</b></li>)}</ul>
    </section>
  );
}
