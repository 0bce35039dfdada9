//! Jobs in this process: handed from one server to the next, and previews. Servers that are killed are in the tests of the
//! command.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use buzz_protocol::ErrorKind;
use buzz_storage::Stores;
use buzz_streamd::jobs::{Change, JobState, New, Pipeline, Stop};
use buzz_streamd::{Jobs, Notes, Process};

/// Events of a counter.
const EVENTS: u64 = 600;

/// Time after which a wait has failed.
const WAIT_MAX: Duration = Duration::from_secs(120);

#[derive(Debug)]
struct Ignored;

impl Notes for Ignored {
    fn note(&self, _: &str) {}

    fn warn(&self, _: &str) {}
}

async fn jobs(folder: &Path) -> Jobs {
    let stores = Arc::new(Stores::default()).for_query();
    let process = Process::of_terminal(&stores, false, 1, Arc::new(Ignored)).unwrap();
    Jobs::start(&folder.join("state").display().to_string(), process).await.unwrap()
}

fn counter(folder: &Path) -> String {
    format!(
        "CREATE TABLE impulse WITH (connector='impulse', events='{EVENTS}', real_time='false');\nSET epoch_rows = 5;\n\
         CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\n\
         INSERT INTO out SELECT counter FROM impulse;",
        folder.join("out.json").display()
    )
}

async fn until(jobs: &Jobs, id: &str, is_right: impl Fn(&Pipeline) -> bool) -> Pipeline {
    let started = Instant::now();
    loop {
        let pipeline = jobs.get(id).await.unwrap().unwrap();
        if is_right(&pipeline) {
            return pipeline;
        }
        assert!(started.elapsed() < WAIT_MAX, "{:?}", pipeline.status);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn job_goes_on_in_the_next_server_without_losing_or_repeating_rows() {
    let folder = tempfile::tempdir().unwrap();
    let first = jobs(folder.path()).await;
    let new = New { name: "c".into(), script: counter(folder.path()), parallelism: Some(2), epoch_micros: None };
    let created = first.create(new.clone()).await.unwrap();
    assert_eq!((created.id.as_str(), created.status.state), ("c", JobState::Scheduling));
    assert!(first.create(new).await.unwrap_err().message.contains("pipeline `c` exists"));
    until(&first, "c", |pipeline| pipeline.status.state == JobState::Running).await;
    let stop = Change { stop: Some(Stop::Immediate), ..Change::default() };
    first.change("c", stop).await.unwrap().unwrap();
    until(&first, "c", |pipeline| pipeline.status.state == JobState::Stopped).await;
    let start = Change { stop: Some(Stop::None), parallelism: Some(3), ..Change::default() };
    first.change("c", start).await.unwrap().unwrap();
    until(&first, "c", |pipeline| pipeline.status.state == JobState::Running).await;
    first.stop(Duration::from_secs(20)).await;
    let second = jobs(folder.path()).await;
    let finished = until(&second, "c", |pipeline| pipeline.status.state == JobState::Finished).await;
    assert_eq!((finished.status.workers, finished.n, finished.status.error.clone()), (3, 3, None));
    let text = std::fs::read_to_string(folder.path().join("out.json")).unwrap();
    let expected: Vec<String> = (0..EVENTS).map(|counter| format!("{{\"counter\":{counter}}}")).collect();
    assert_eq!(text.lines().collect::<Vec<_>>(), expected);
    assert!(second.records(&finished, 100).await.unwrap()[0].stop, "the last record is that of the end");
    assert!(second.remove("c").await.unwrap());
    assert!(second.get("c").await.unwrap().is_none());
    second.stop(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_returns_rows_and_keeps_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let jobs = jobs(folder.path()).await;
    let preview = jobs.preview(counter(folder.path()), false).await.unwrap();
    let mut rows = Vec::new();
    while let Some(row) = preview.row(rows.len()).await.unwrap() {
        rows.push((row.sink, row.row));
    }
    let expected: Vec<_> =
        (0..EVENTS).map(|counter| ("out".to_string(), format!("{{\"counter\":{counter}}}"))).collect();
    assert_eq!(rows, expected);
    assert!(preview.has_ended() && jobs.previewed(&preview.id).is_some());
    assert!(!folder.path().join("out.json").exists() && jobs.list().await.unwrap().is_empty());
    let error = jobs.preview("SELECT a FROM t".to_string(), false).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert!(error.message.contains("`t`"), "{error}");
    let failing = "CREATE TABLE impulse WITH (connector='impulse', events='9', real_time='false');\n\
                   SELECT 1 / (counter - 5) AS a FROM impulse;";
    let failed = jobs.preview(failing.to_string(), false).await.unwrap();
    assert!(failed.row(0).await.unwrap_err().message.contains("division by zero"));
    jobs.stop(Duration::from_secs(20)).await;
}
