//! The page of `--timeline`: the phases of a query, and its tasks as bars, in one HTML file that loads nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use buzz_engine::{Attempt, Fate, Summary};
use buzz_protocol::{QueryError, QueryId, TaskIndex, human_bytes, milliseconds};

/// Attempts that a page describes. A stack returns fewer.
pub(crate) const ATTEMPTS_MAX: usize = 20_000;

/// Tasks of a stage that have a row of their own: the slowest.
const ROWS_MAX: usize = 300;

/// Style of the page, for light and dark screens.
const STYLE: &str = include_str!("timeline.css");

/// Makes the page about `query`. `failure` is the error with which it ended.
pub(crate) fn page(query: QueryId, summary: &Summary, failure: Option<&QueryError>) -> String {
    let attempts = &summary.timeline.attempts;
    let last = attempts.iter().map(|attempt| attempt.end_ms).max().unwrap_or_default();
    let scale = Scale { total_ms: last.max(milliseconds(summary.total)).max(1) };
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"><title>Buzz query {query}</title>\n<style>{STYLE}</style></head>\n\
         <body><main><h1>Query <code>{query}</code></h1>\n"
    );
    if let Some(error) = failure {
        let _ = writeln!(page, "<p class=\"failed\" role=\"alert\">{}</p>", escaped(&error.to_string()));
    }
    page += &totals(summary);
    page += &phases(summary, &scale);
    if summary.timeline.left_out > 0 {
        let left_out = summary.timeline.left_out;
        let _ = writeln!(page, "<p class=\"note\">{left_out} later attempts are not drawn.</p>");
    }
    let mut stages: BTreeMap<_, Vec<&Attempt>> = BTreeMap::new();
    for attempt in attempts {
        stages.entry(attempt.stage).or_default().push(attempt);
    }
    for attempts in stages.values() {
        page += &stage(attempts, &scale);
    }
    if attempts.is_empty() {
        page += "<p class=\"note\">No task ran.</p>\n";
    }
    page += "<p class=\"legend\"><span class=\"bar done\"></span> delivered, darker while the worker computed \
             <span class=\"bar failed\"></span> failed <span class=\"bar abandoned\"></span> given up</p>\n";
    page += "</main></body></html>\n";
    page
}

fn totals(summary: &Summary) -> String {
    let cost = summary.cost_usd.map(|usd| format!("${usd:.6}"));
    let by = match summary.combs {
        0 if summary.objects > 0 => format!("Fuse, through {} objects", summary.objects),
        0 => "Fuse".to_string(),
        1 => "1 comb".to_string(),
        combs => format!("{combs} combs"),
    };
    let facts = [
        ("time", Some(seconds(milliseconds(summary.total)))),
        ("rows", Some(summary.rows.to_string())),
        ("tasks", Some(summary.tasks.to_string())),
        ("files", Some(format!("{} of {}", summary.files_read, summary.files_found))),
        ("read", Some(human_bytes(summary.bytes_read))),
        ("delivered", Some(format!("{} rows", summary.rows_delivered))),
        ("reduced by", Some(by)),
        ("retries", Some(summary.retries.to_string()).filter(|_| summary.retries > 0)),
        ("stragglers", Some(summary.stragglers.to_string()).filter(|_| summary.stragglers > 0)),
        ("reruns", Some(summary.reruns.to_string()).filter(|_| summary.reruns > 0)),
        ("requests", summary.requests_note()),
        ("cost", cost),
        ("started", summary.started_note()),
    ];
    let facts = facts.into_iter().filter_map(|(name, value)| value.map(|value| (name, value)));
    let facts: String = facts.map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>")).collect();
    format!("<dl>{facts}</dl>\n")
}

/// Draws the phases, which follow each other.
fn phases(summary: &Summary, scale: &Scale) -> String {
    let (open, plan, run) =
        (milliseconds(summary.opened_in), milliseconds(summary.planned_in), milliseconds(summary.ran_in));
    let mut bars = String::new();
    let mut start = 0;
    for (name, time) in [("open tables", open), ("plan", plan), ("run", run)] {
        // The rest of the time is before the run: combs that start, and runs that were repeated.
        let from = if name == "run" { scale.total_ms.saturating_sub(time).max(start) } else { start };
        let style = scale.style(from, from + time);
        let _ = write!(
            bars,
            "<span class=\"bar phase\" style=\"{style}\" title=\"{name}: {0}\">{name} {0}</span>",
            seconds(time)
        );
        start = from + time;
    }
    format!("<section><h2>Phases</h2>{}<div class=\"row phases\">{bars}</div></section>\n", scale.axis())
}

/// Draws the tasks of one stage.
fn stage(attempts: &[&Attempt], scale: &Scale) -> String {
    let mut tasks: BTreeMap<TaskIndex, Vec<&Attempt>> = BTreeMap::new();
    for attempt in attempts {
        tasks.entry(attempt.task).or_default().push(attempt);
    }
    let time_of = |attempts: &[&Attempt]| attempts.iter().map(|attempt| attempt.end_ms - attempt.start_ms).max();
    let mut times: Vec<u64> = tasks.values().filter_map(|attempts| time_of(attempts)).collect();
    times.sort_unstable();
    let (median, slowest) = (times[(times.len() - 1) / 2], times[times.len() - 1]);
    let sum = |of: fn(&Attempt) -> u64| attempts.iter().map(|attempt| of(attempt)).sum::<u64>();
    let name = attempts.first().map(|attempt| escaped(&attempt.step)).unwrap_or_default();
    let mut section = format!(
        "<section><h2>{name}</h2><p>{} tasks, {} attempts; median {}, slowest {}; {} read, {} rows delivered</p>{}",
        tasks.len(),
        attempts.len(),
        seconds(median),
        seconds(slowest),
        human_bytes(sum(|attempt| attempt.bytes_read)),
        sum(|attempt| attempt.rows),
        scale.axis()
    );
    let mut shown: Vec<(TaskIndex, Vec<&Attempt>)> = tasks.into_iter().collect();
    let left_out = shown.len().saturating_sub(ROWS_MAX);
    shown.sort_by_key(|(_, attempts)| std::cmp::Reverse(time_of(attempts)));
    shown.truncate(ROWS_MAX);
    shown.sort_by_key(|(task, attempts)| (attempts.iter().map(|attempt| attempt.start_ms).min(), *task));
    let reruns: BTreeSet<u64> = attempts.iter().map(|attempt| attempt.reruns).filter(|reruns| *reruns > 0).collect();
    for (task, attempts) in &shown {
        let bars: String = attempts.iter().map(|attempt| bar(attempt, scale)).collect();
        let _ = write!(section, "<div class=\"row\"><span class=\"task\">{task}</span>{bars}</div>");
    }
    for rerun in reruns {
        let starts = attempts.iter().filter(|attempt| attempt.reruns == rerun).map(|attempt| attempt.start_ms);
        let start = seconds(starts.min().unwrap_or_default());
        let _ = write!(section, "<p class=\"note\">The query began again after {start} (run {}).</p>", rerun + 1);
    }
    if left_out > 0 {
        let _ = write!(section, "<p class=\"note\">{left_out} faster tasks are not drawn.</p>");
    }
    section + "</section>\n"
}

fn bar(attempt: &Attempt, scale: &Scale) -> String {
    let (class, end) = match &attempt.fate {
        Fate::Done => ("done", "delivered".to_string()),
        Fate::Failed(kind) => ("failed", format!("failed ({kind})")),
        Fate::Abandoned => ("abandoned", "given up".to_string()),
    };
    let time = attempt.end_ms - attempt.start_ms;
    let worked = attempt.worked_ms.map(|worked| format!(", {} in the worker", seconds(worked))).unwrap_or_default();
    let title = format!(
        "task {}, attempt {}, run {}: {} after {}{worked}; {} read, {} rows",
        attempt.task,
        attempt.attempt,
        attempt.reruns + 1,
        end,
        seconds(time),
        human_bytes(attempt.bytes_read),
        attempt.rows
    );
    // The way there and back is not known separately; the work is drawn at the end.
    let share = attempt.worked_ms.map_or(0.0, |worked| worked.min(time) as f64 * 100.0 / time.max(1) as f64);
    format!(
        "<span class=\"bar {class}\" style=\"{}\" title=\"{title}\"><span style=\"width:{share:.1}%\"></span></span>",
        scale.style(attempt.start_ms, attempt.end_ms)
    )
}

/// The scale of all bars.
struct Scale {
    total_ms: u64,
}

impl Scale {
    fn percent(&self, ms: u64) -> f64 {
        ms as f64 * 100.0 / self.total_ms as f64
    }

    fn style(&self, start: u64, end: u64) -> String {
        format!("left:{:.3}%;width:{:.3}%", self.percent(start), self.percent(end.saturating_sub(start)))
    }

    /// Draws the axis, with a mark at every fifth of the time.
    fn axis(&self) -> String {
        let marks = (0..=5).map(|fifth| {
            let at = self.total_ms * fifth / 5;
            format!("<span style=\"left:{:.3}%\">{}</span>", self.percent(at), seconds(at))
        });
        format!("<div class=\"axis\" aria-hidden=\"true\">{}</div>", marks.collect::<String>())
    }
}

fn seconds(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{:.2} s", ms as f64 / 1e3),
        _ => format!("{:.0} s", ms as f64 / 1e3),
    }
}

/// Replaces the characters that HTML gives a meaning.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use buzz_engine::Timeline;
    use buzz_protocol::{ErrorKind, StageId};

    use super::*;

    fn attempt(task: u32, fate: Fate, times: (u64, u64)) -> Attempt {
        Attempt {
            reruns: u64::from(task > 1),
            stage: StageId(0),
            step: "a<b".into(),
            task: TaskIndex(task),
            attempt: 1,
            start_ms: times.0,
            end_ms: times.1,
            worked_ms: (fate == Fate::Done).then_some(times.1 - times.0),
            rows: 7,
            bytes_read: 1000,
            fate,
        }
    }

    fn summary(attempts: Vec<Attempt>, left_out: u64) -> Summary {
        let timeline = Timeline { attempts, left_out };
        Summary { total: Duration::from_secs(2), ran_in: Duration::from_secs(1), timeline, ..Summary::default() }
    }

    #[test]
    fn page_shows_each_attempt_and_escapes_names() {
        let attempts = vec![
            attempt(0, Fate::Failed(ErrorKind::Unavailable), (100, 300)),
            attempt(1, Fate::Done, (0, 1000)),
            attempt(2, Fate::Abandoned, (1000, 2000)),
        ];
        let error = QueryError::limit("a <script> & more");
        let page = page(QueryId::fresh(), &summary(attempts, 4), Some(&error));
        for part in [
            "<h2>a&lt;b</h2>",
            "3 tasks, 3 attempts; median 1.00 s, slowest 1.00 s",
            "failed (Unavailable) after 200 ms",
            "left:5.000%;width:10.000%",
            "given up after 1.00 s",
            "began again after 1.00 s (run 2)",
            "4 later attempts are not drawn",
            "a &lt;script&gt; &amp; more",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(!page.contains("http"), "nothing is loaded from elsewhere");
    }

    #[test]
    fn stage_of_many_tasks_shows_the_slowest() {
        let tasks = u32::try_from(ROWS_MAX).unwrap() + 5;
        let attempts = (0..tasks).map(|task| attempt(task, Fate::Done, (0, u64::from(task) + 1))).collect();
        let page = page(QueryId::fresh(), &summary(attempts, 0), None);
        assert!(page.contains("5 faster tasks are not drawn") && !page.contains("title=\"task 4,"), "{page}");
        assert!(page.contains("title=\"task 5,"));
    }

    #[test]
    fn query_without_tasks_has_a_page() {
        assert!(page(QueryId::fresh(), &Summary::default(), None).contains("No task ran."));
    }
}
