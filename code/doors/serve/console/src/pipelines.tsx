// The list of pipelines: what each does, how many rows it reads and writes, and how far it is behind.
import { useRef } from "preact/hooks";
import { hasState, flows, type Figures } from "./flows";
import { perSecond } from "./flow";
import { counted, seconds } from "./format";
import { useRead } from "./poll";
import { edited } from "./scripts";
import { StartSo } from "./sources";

const PAUSE = 1500;

/** Figures of a pipeline with its rates. */
export type Rated = Figures & { in?: number; out?: number };

/** Looks that are kept, over which rates are the mean. */
const LOOKS = 8;

/** Returns a function that adds rates to the figures of pipelines. `epochs` are the seconds that epochs are apart, by pipeline. */
export function useRates() {
  const looks = useRef<{ at: number; figures: Map<string, Figures> }[]>([]);
  return (figures: Map<string, Figures>, epochs: Map<string, number>): Map<string, Rated> => {
    const now = { at: performance.now(), figures };
    looks.current = [...looks.current, now].slice(-LOOKS);
    const [first] = looks.current;
    return new Map(
      [...figures].map(([id, own]) => {
        const old = first.figures.get(id);
        const since = (name: string) => (own[name] ?? 0) - (old?.[name] ?? 0);
        const seconds = old && since("epochs_total") > 0 ? apart(since, (now.at - first.at) / 1000, epochs.get(id) ?? 1) : undefined;
        const rate = (name: string) => (seconds === undefined || since(name) < 0 ? undefined : since(name) / seconds);
        return [id, { ...own, in: rate("rows_in_total"), out: rate("rows_out_total") }];
      }),
    );
  };
}

/** Returns the seconds that the epochs since `span` seconds stand for. Rows are counted when an epoch ends, so few looks would round `span`. */
function apart(since: (name: string) => number, span: number, epoch: number): number {
  const found = since("epochs_total");
  const each = Math.max(epoch, since("epoch_seconds_total") / found);
  // Without rows, there are fewer epochs.
  return found * each < 0.6 * span - each ? span : found * each;
}

export function Pipelines() {
  const rated = useRates();
  const { found, fault } = useRead(
    async (signal) => {
      const [pipelines, counts] = await Promise.all([flows.pipelines(signal), flows.figures(signal)]);
      return { pipelines, figures: rated(counts, new Map(pipelines.map((one) => [one.id, one.checkpointIntervalMicros / 1e6]))) };
    },
    () => PAUSE,
    [],
  );
  const pipelines = found?.pipelines;
  if (!hasState.value) return <div class="page"><h1>Pipelines</h1><StartSo /></div>;
  return (
    <div class="page">
      <header class="title">
        <h1>Pipelines</h1>
        <a class="button primary" href="#/pipelines/+" onClick={() => (edited.value = "")}>Create pipeline</a>
      </header>
      {fault && <p class="fault big" role="alert">{fault.message}</p>}
      {!pipelines && !fault && <p class="empty" role="status">Reading …</p>}
      {pipelines?.length === 0 && (
        <div class="blank">
          <p>No pipelines yet. A pipeline is a query that does not end: it reads streams, keeps its state, and goes on where it was after a stop or a crash.</p>
          <p class="do"><a class="button" href="#/pipelines/+">Write the first one</a> <a href="#/sources">or look at the sources</a></p>
        </div>
      )}
      <ol class="cards flows">
        {pipelines?.map((pipeline) => {
          const own = found!.figures.get(pipeline.id);
          const runs = pipeline.state === "Running" || pipeline.state === "Rescaling";
          return (
            <li key={pipeline.id} class={pipeline.state}>
              <a class="open" href={`#/pipelines/${encodeURIComponent(pipeline.id)}`}>
                <b>{pipeline.name}</b> <span class={`chip ${chipOf(pipeline.state)}`}>{pipeline.state.toLowerCase()}</span>
              </a>
              <div class="under">
                {runs && own && <><span>{perSecond(own.in)} in</span><span>{perSecond(own.out)} out</span></>}
                {runs && own?.watermark_lag_seconds !== undefined && <span>{seconds(Math.max(own.watermark_lag_seconds, 0))} behind</span>}
                {pipeline.parallelism > 0 && <span>{counted(pipeline.parallelism, "worker")}</span>}
                {Boolean(own?.bad_rows_total) && <span class="warn">{counted(own!.bad_rows_total!, "bad row")}</span>}
                {Boolean(own?.late_rows_total) && <span class="warn">{counted(own!.late_rows_total!, "late row")}</span>}
                {pipeline.error && <span class="why">{pipeline.error}</span>}
              </div>
            </li>
          );
        })}
      </ol>
    </div>
  );
}

/** Returns the look of a state. */
export function chipOf(state: string): string {
  if (state === "Running") return "succeeded";
  if (state === "Failed") return "failed";
  return state === "Stopped" || state === "Finished" ? "" : "running";
}
