// The page of the queries that the user ran.
import { useState } from "preact/hooks";
import { api } from "./api";
import { bytes, count, dollars, moment, seconds } from "./format";
import { useRead } from "./poll";
import { setSql } from "./state";

export function History() {
  const [word, setWord] = useState("");
  const { found: answer, fault } = useRead(api.history, (answer) => (answer?.queries.some(({ state }) => state === "running" || state === "waiting") ? 700 : 4000), []);
  const queries = answer?.queries;

  const found = (queries ?? []).filter((query) => query.sql.toLowerCase().includes(word.toLowerCase()));
  const priced = found.some((query) => query.summary && query.summary.cost_usd !== null);
  return (
    <div class="page history">
      <header class="title">
        <h1>History</h1>
        {queries && queries.length > 0 && (
          <input type="search" placeholder="Find in statements" aria-label="Find in statements" value={word} onInput={(event) => setWord(event.currentTarget.value)} />
        )}
      </header>
      {fault && <p class="fault big" role="alert">{fault.message}</p>}
      {!queries && !fault && <p class="empty" role="status">Reading …</p>}
      {queries?.length === 0 && <p class="empty">No queries yet. <a href="#/ask">Ask something</a>.</p>}
      {queries && queries.length > 0 && found.length === 0 && <p class="empty">No statement has “{word}”.</p>}
      <ol class="cards">
        {found.map((query) => (
          <li key={query.id} class={query.state}>
            <a class="open" href={`#/query/${query.id}`}>
              <code>{firstLines(query.sql)}</code>
            </a>
            <div class="under">
              <span class={`chip ${query.state}`}>{query.error?.kind === "Cancelled" ? "cancelled" : query.state}</span>
              <time>{moment(query.started_ms)}</time>
              {query.user && query.user !== "key" && <span>{query.user}</span>}
              {query.summary && (
                <>
                  <span>{seconds(query.summary.seconds)}</span>
                  <span>{count(query.summary.rows)} {query.summary.rows === 1 ? "row" : "rows"}</span>
                  <span>{bytes(query.summary.bytes_read)}</span>
                  {priced && <span>{dollars(query.summary.cost_usd)}</span>}
                  {query.summary.retries > 0 && <span class="warn">{query.summary.retries} retries</span>}
                </>
              )}
              {query.progress && <span>{count(query.progress.tasks_done)} of {count(query.progress.tasks)} tasks</span>}
              {query.error && query.error.kind !== "Cancelled" && <span class="why">{query.error.message}</span>}
              <button class="plain" onClick={() => { setSql(query.sql); location.hash = "#/ask"; }}>
                Edit<span class="unseen"> {firstLines(query.sql).slice(0, 60)}</span>
              </button>
            </div>
          </li>
        ))}
      </ol>
    </div>
  );
}

/** Returns a statement on one line, shortened. */
function firstLines(sql: string): string {
  const line = sql.replace(/^\s*--.*$/gm, "").replace(/\s+/g, " ").trim() || sql.trim();
  return line.length > 220 ? `${line.slice(0, 220)}…` : line;
}
