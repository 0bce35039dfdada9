//! The queries of each user, running and ended. Ended ones are also those of earlier servers, if a [`HistoryFile`] is kept.

mod file;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use buzz_engine::{Progress, StageSummary, Summary, Timeline};
use buzz_protocol::{QueryError, QueryId, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};

pub use self::file::HistoryFile;
use self::file::{Line, Writer};
use crate::http::rows;

/// Queries of one user that are kept.
const OF_USER_MAX: usize = 200;

/// Queries of all users that are kept.
const ALL_MAX: usize = 2_000;

/// Ended queries of which the attempts are kept, and how many of each.
const WITH_ATTEMPTS_MAX: usize = 64;
pub(crate) const ATTEMPTS_MAX: usize = 5_000;

/// Bytes of a statement, and of the message of an error, that are kept.
const TEXT_BYTES_MAX: usize = 10_000;

/// Warnings of a query that are kept.
const WARNINGS_MAX: usize = 20;

/// The queries, oldest first.
#[derive(Debug, Default)]
pub(crate) struct History {
    records: Mutex<VecDeque<Record>>,
    /// Writes ended queries, if they are kept in a file.
    writer: Mutex<Option<Writer>>,
}

#[derive(Debug)]
struct Record {
    id: QueryId,
    user: String,
    sql: String,
    started_ms: u64,
    started: Instant,
    state: State,
}

#[derive(Debug)]
enum State {
    Waiting,
    Running(Arc<Progress>),
    Ended(Box<Ended>),
}

/// The work of a query that succeeded, or the error of one that failed.
type Outcome = std::result::Result<Value, Value>;

#[derive(Debug)]
struct Ended {
    seconds: f64,
    outcome: Outcome,
    warnings: Vec<String>,
    stages: Vec<Value>,
    timeline: Timeline,
}

impl History {
    /// Makes the history that is kept in `file`, with the queries in it.
    ///
    /// # Errors
    /// `Internal` if the system refuses a thread.
    pub(crate) fn kept_in(file: HistoryFile) -> Result<Self> {
        let (lines, writer) = file.into_parts()?;
        let records = lines.into_iter().map(Record::of_line).collect();
        Ok(Self { records: Mutex::new(records), writer: Mutex::new(Some(writer)) })
    }

    /// Waits until all ended queries are written. Those that end later are not.
    pub(crate) fn close(&self) {
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            writer.close();
        }
    }

    /// Adds the query `id`, which waits for a slot.
    pub(crate) fn asked(&self, id: QueryId, user: &str, sql: &str) {
        let record = Record {
            id,
            user: user.to_string(),
            sql: cut(sql),
            started_ms: buzz_protocol::now_ms(),
            started: Instant::now(),
            state: State::Waiting,
        };
        let mut records = self.records.lock();
        let is_full = records.iter().filter(|record| record.user == user).count() >= OF_USER_MAX;
        let remove = |records: &mut VecDeque<Record>, of: &dyn Fn(&Record) -> bool| {
            // Queries that run are bounded by the queue.
            let ended = records.iter().position(|record| of(record) && matches!(record.state, State::Ended(_)));
            ended.and_then(|at| records.remove(at));
        };
        if is_full {
            remove(&mut records, &|record| record.user == user);
        } else if records.len() >= ALL_MAX {
            remove(&mut records, &|_| true);
        }
        records.push_back(record);
    }

    /// Notes that query `id` runs.
    pub(crate) fn runs(&self, id: QueryId, progress: &Arc<Progress>) {
        self.change(id, |record| record.state = State::Running(Arc::clone(progress)));
    }

    /// Notes the end of query `id` with the work done for it.
    pub(crate) fn succeeded(&self, id: QueryId, summary: &Summary, warnings: &[String]) {
        self.change(id, |record| {
            let stages = summary.stages.iter().map(stage).collect();
            record.end(Ok(work(summary)), warnings, stages, summary.timeline.clone());
        });
    }

    /// Notes the end of query `id` with `error`, unless its end was noted before.
    pub(crate) fn failed(&self, id: QueryId, error: &QueryError) {
        self.change(id, |record| {
            let error = json!({"kind": error.kind, "message": cut(&error.to_string())});
            match &record.state {
                State::Ended(_) => {}
                State::Waiting => record.end(Err(error), &[], Vec::new(), Timeline::default()),
                State::Running(progress) => {
                    let progress = Arc::clone(progress);
                    let stages = progress.stages().iter().map(stage).collect();
                    record.end(Err(error), &progress.warnings(), stages, progress.timeline());
                }
            }
        });
    }

    /// Returns true if the end of query `id` was noted.
    pub(crate) fn has_ended(&self, id: QueryId) -> bool {
        self.records.lock().iter().rev().any(|record| record.id == id && matches!(record.state, State::Ended(_)))
    }

    fn change(&self, id: QueryId, change: impl FnOnce(&mut Record)) {
        let mut records = self.records.lock();
        let Some(record) = records.iter_mut().rev().find(|record| record.id == id) else { return };
        let had_ended = matches!(record.state, State::Ended(_));
        change(record);
        if let (false, Some(line), Some(writer)) = (had_ended, record.line(), self.writer.lock().as_ref()) {
            writer.add(line);
        }
        let with_attempts = records.iter_mut().filter_map(|record| match &mut record.state {
            State::Ended(ended) if !ended.timeline.is_empty() => Some(&mut ended.timeline),
            _ => None,
        });
        let mut with_attempts: Vec<&mut Timeline> = with_attempts.collect();
        let oldest = with_attempts.len().saturating_sub(WITH_ATTEMPTS_MAX);
        for timeline in with_attempts.drain(..oldest) {
            *timeline = Timeline::default();
        }
    }

    /// Returns the queries of `user`, of all users if it is None, as JSON: the last first, without stages and attempts.
    pub(crate) fn list(&self, user: Option<&str>) -> Vec<Value> {
        let records = self.records.lock();
        records.iter().rev().filter(|record| record.is_of(user)).take(OF_USER_MAX).map(Record::listed).collect()
    }

    /// Returns query `id` as JSON with its stages and up to `attempts_max` attempts, if it is one of `user`, or of any user if
    /// that is None.
    pub(crate) fn detailed(&self, id: QueryId, user: Option<&str>, attempts_max: usize) -> Option<Value> {
        let records = self.records.lock();
        let found = records.iter().find(|record| record.id == id && record.is_of(user));
        found.map(|record| record.detailed(attempts_max.min(ATTEMPTS_MAX)))
    }
}

impl Record {
    fn is_of(&self, user: Option<&str>) -> bool {
        user.is_none_or(|user| self.user == user)
    }

    /// Returns the query of a line, which has ended.
    fn of_line(line: Line) -> Self {
        let Line { id, user, sql, started_ms, seconds, summary, error, warnings, stages } = line;
        let outcome = match error {
            Some(error) => Err(error),
            None => Ok(summary.unwrap_or_default()),
        };
        let ended = Ended { seconds, outcome, warnings, stages, timeline: Timeline::default() };
        Self { id, user, sql, started_ms, started: Instant::now(), state: State::Ended(Box::new(ended)) }
    }

    /// Returns the line of a query that has ended.
    fn line(&self) -> Option<Line> {
        let State::Ended(ended) = &self.state else { return None };
        Some(Line {
            id: self.id,
            user: self.user.clone(),
            sql: self.sql.clone(),
            started_ms: self.started_ms,
            seconds: ended.seconds,
            summary: ended.outcome.as_ref().ok().cloned(),
            error: ended.outcome.as_ref().err().cloned(),
            warnings: ended.warnings.clone(),
            stages: ended.stages.clone(),
        })
    }

    fn end(&mut self, outcome: Outcome, warnings: &[String], stages: Vec<Value>, timeline: Timeline) {
        self.state = State::Ended(Box::new(Ended {
            seconds: self.started.elapsed().as_secs_f64(),
            outcome,
            warnings: warnings.iter().take(WARNINGS_MAX).map(|warning| cut(warning)).collect(),
            stages,
            timeline: timeline.at_most(ATTEMPTS_MAX),
        }));
    }

    fn listed(&self) -> Value {
        let mut listed = json!({"id": self.id, "user": self.user, "sql": self.sql, "started_ms": self.started_ms});
        match &self.state {
            State::Waiting => listed["state"] = json!("waiting"),
            State::Running(progress) => {
                listed["state"] = json!("running");
                listed["progress"] = json!(progress.report(self.id));
            }
            State::Ended(ended) => {
                listed["seconds"] = json!(ended.seconds);
                match &ended.outcome {
                    Ok(work) => {
                        listed["state"] = json!("succeeded");
                        listed["summary"] = work.clone();
                    }
                    Err(error) => {
                        listed["state"] = json!("failed");
                        listed["error"] = error.clone();
                    }
                }
            }
        }
        listed
    }

    fn detailed(&self, attempts_max: usize) -> Value {
        let mut detailed = self.listed();
        let (warnings, stages, timeline) = match &self.state {
            State::Waiting => (Vec::new(), Vec::new(), Timeline::default()),
            State::Running(progress) => {
                let stages = progress.stages().iter().map(stage).collect();
                (progress.warnings(), stages, progress.timeline())
            }
            State::Ended(ended) => (ended.warnings.clone(), ended.stages.clone(), ended.timeline.clone()),
        };
        let timeline = timeline.at_most(attempts_max);
        detailed["warnings"] = json!(warnings);
        detailed["stages"] = json!(stages);
        detailed["attempts"] = json!(timeline.attempts);
        detailed["attempts_left_out"] = json!(timeline.left_out);
        detailed
    }
}

/// Returns the start of `text`, up to [`TEXT_BYTES_MAX`].
fn cut(text: &str) -> String {
    if text.len() <= TEXT_BYTES_MAX {
        return text.to_string();
    }
    format!("{}…", text.get(..text.floor_char_boundary(TEXT_BYTES_MAX)).unwrap_or_default())
}

/// Returns the JSON of the work done for an answer: that of its header, and its parts.
fn work(summary: &Summary) -> Value {
    let mut work = rows::summary(summary);
    work["stragglers"] = json!(summary.stragglers);
    work["reruns"] = json!(summary.reruns);
    work["combs"] = json!(summary.combs);
    work["rows_delivered"] = json!(summary.rows_delivered);
    work["bytes_delivered"] = json!(summary.bytes_delivered);
    work["open_seconds"] = json!(summary.opened_in.as_secs_f64());
    work["plan_seconds"] = json!(summary.planned_in.as_secs_f64());
    work["run_seconds"] = json!(summary.ran_in.as_secs_f64());
    work
}

/// Returns the JSON of the accepted tasks of a stage.
fn stage(summary: &StageSummary) -> Value {
    let mut stage = json!({
        "stage": summary.stage, "step": summary.step, "tasks": summary.tasks.len(), "attempts": summary.attempts,
        "rows_scanned": summary.rows_scanned, "bytes_scanned": summary.bytes_scanned,
        "rows_delivered": summary.rows_by_partition.iter().sum::<u64>(),
        "bytes_delivered": summary.bytes_delivered,
    });
    if let Some((median, slowest, task)) = summary.median_and_slowest() {
        stage["median_ms"] = json!(median);
        stage["slowest_ms"] = json!(slowest);
        stage["slowest_task"] = json!(task);
    }
    stage
}

#[cfg(test)]
mod tests {
    use buzz_engine::{Attempt, Fate};
    use buzz_protocol::{StageId, TaskIndex};

    use super::*;

    fn timeline(attempts: usize) -> Timeline {
        let attempt = |number| Attempt {
            reruns: 0,
            stage: StageId(0),
            step: "map_0".to_string(),
            task: TaskIndex(u32::try_from(number).unwrap()),
            attempt: 1,
            start_ms: 0,
            end_ms: 5,
            worked_ms: Some(4),
            rows: 1,
            bytes_read: 2,
            fate: Fate::Done,
        };
        Timeline { attempts: (0..attempts).map(attempt).collect(), left_out: 0 }
    }

    fn succeeded(history: &History, user: &str, sql: &str, attempts: usize) -> QueryId {
        let id = QueryId::fresh();
        history.asked(id, user, sql);
        let summary = Summary { rows: 7, timeline: timeline(attempts), ..Summary::default() };
        history.succeeded(id, &summary, &["slow".to_string()]);
        id
    }

    #[test]
    fn user_sees_own_queries_with_their_end() {
        let history = History::default();
        let done = succeeded(&history, "ann", "SELECT 1", 2);
        let lost = QueryId::fresh();
        history.asked(lost, "ann", "SELECT 2");
        let progress = Arc::new(Progress::of(lost));
        history.runs(lost, &progress);
        assert_eq!(history.list(Some("ann"))[0]["state"], "running");
        assert!(!history.has_ended(lost));
        history.failed(lost, &QueryError::data("file `a` is broken"));
        assert!(history.has_ended(lost) && history.has_ended(done) && !history.has_ended(QueryId::fresh()));
        history.failed(lost, &QueryError::cancelled("the client went away"));
        succeeded(&history, "bob", "SELECT 3", 0);
        let listed = history.list(Some("ann"));
        assert_eq!(listed.len(), 2);
        assert_eq!((&listed[0]["id"], &listed[0]["error"]["kind"]), (&json!(lost), &json!("Data")));
        assert_eq!((&listed[1]["sql"], &listed[1]["summary"]["rows"]), (&json!("SELECT 1"), &json!(7)));
        let detailed = history.detailed(done, Some("ann"), ATTEMPTS_MAX).unwrap();
        assert_eq!(detailed["attempts"].as_array().unwrap().len(), 2);
        assert_eq!(detailed["warnings"], json!(["slow"]));
        assert!(history.detailed(done, Some("bob"), 1).is_none());
        let first = history.detailed(done, None, 1).unwrap();
        assert_eq!((first["attempts"].as_array().unwrap().len(), &first["attempts_left_out"]), (1, &json!(1)));
        assert_eq!(history.list(None).len(), 3);
    }

    #[test]
    fn next_history_of_a_file_has_the_ended_queries() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("history");
        let first = History::kept_in(HistoryFile::open(&place).unwrap()).unwrap();
        let done = succeeded(&first, "ann", "SELECT 1", 2);
        let lost = QueryId::fresh();
        first.asked(lost, "ann", "SELECT 2");
        first.failed(lost, &QueryError::data("file `a` is broken"));
        first.failed(lost, &QueryError::cancelled("the client went away"));
        first.asked(QueryId::fresh(), "ann", "SELECT 3");
        first.close();
        let left = QueryId::fresh();
        first.asked(left, "ann", "SELECT 4");
        first.failed(left, &QueryError::data("too late"));
        drop(first);
        let next = History::kept_in(HistoryFile::open(&place).unwrap()).unwrap();
        let listed = next.list(Some("ann"));
        let ids: Vec<&Value> = listed.iter().map(|query| &query["id"]).collect();
        assert_eq!(ids, [&json!(lost), &json!(done)], "those that ended before the close, each once");
        assert_eq!(listed[0]["error"]["message"], "file `a` is broken");
        let detailed = next.detailed(done, Some("ann"), ATTEMPTS_MAX).unwrap();
        assert_eq!((&detailed["summary"]["rows"], &detailed["warnings"]), (&json!(7), &json!(["slow"])));
        assert_eq!((&detailed["state"], &detailed["attempts"]), (&json!("succeeded"), &json!([])));
        assert!(next.detailed(done, Some("bob"), 1).is_none());
        next.close();
    }

    #[test]
    fn texts_attempts_and_queries_are_bounded() {
        let history = History::default();
        let long = "é".repeat(TEXT_BYTES_MAX);
        let first = succeeded(&history, "ann", &long, ATTEMPTS_MAX + 3);
        let kept = history.detailed(first, Some("ann"), usize::MAX).unwrap();
        assert_eq!(kept["sql"].as_str().unwrap().len(), TEXT_BYTES_MAX + "…".len());
        assert_eq!((kept["attempts"].as_array().unwrap().len(), &kept["attempts_left_out"]), (ATTEMPTS_MAX, &json!(3)));
        for _ in 0..WITH_ATTEMPTS_MAX {
            succeeded(&history, "ann", "SELECT 1", 1);
        }
        assert_eq!(history.detailed(first, Some("ann"), usize::MAX).unwrap()["attempts"], json!([]));
        let waiting = QueryId::fresh();
        history.asked(waiting, "bob", "SELECT 1");
        for _ in 0..OF_USER_MAX + 5 {
            succeeded(&history, "bob", "SELECT 1", 0);
        }
        assert_eq!(history.list(Some("bob")).len(), OF_USER_MAX);
        assert!(history.detailed(waiting, Some("bob"), 0).is_some(), "a query that has not ended is kept");
    }
}
