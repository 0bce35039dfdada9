//! Epochs, versions and the outbox.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use buzz_protocol::{ErrorKind, QueryError, Result};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;

use crate::{
    Commit, Continued, EpochLog, Keep, OutputFile, Pending, PipelineSpec, Record, StateFile, Target, publish_pending,
};

fn spec(script: &str) -> PipelineSpec {
    let fingerprints = BTreeMap::from([("count".to_string(), "int64".to_string())]);
    PipelineSpec { script: script.into(), key_groups: 64, build: "b1".into(), fingerprints, ..Default::default() }
}

async fn open(store: &Arc<dyn ObjectStore>, script: &str) -> Result<EpochLog> {
    EpochLog::open(store.clone(), Path::from("root"), "p", &spec(script)).await
}

async fn opened() -> (Arc<dyn ObjectStore>, EpochLog) {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let log = open(&store, "a").await.unwrap();
    (store, log)
}

/// Writes the files of an epoch, one of state and one of output, and returns its record.
async fn written(log: &EpochLog, epoch: u64, by: &str) -> Record {
    let (state, output) = (log.state_path("count", epoch, "json"), log.output_path("out", epoch, "json"));
    for path in [&state, &output] {
        log.put(path, Bytes::from(format!("{epoch} by {by}"))).await.unwrap();
    }
    let file = OutputFile { path: output.to_string(), rows: 1, bytes: 1, ..Default::default() };
    Record {
        epoch,
        by: by.into(),
        at_ms: 1000 * epoch as i64,
        sources: BTreeMap::from([("events".to_string(), epoch.into())]),
        state: vec![StateFile {
            stage: "count".into(),
            path: state.to_string(),
            groups: (0, 64),
            ..Default::default()
        }],
        outputs: BTreeMap::from([("out".to_string(), vec![file])]),
        ..Default::default()
    }
}

async fn run(log: &EpochLog, epochs: std::ops::RangeInclusive<u64>) {
    for epoch in epochs {
        let record = written(log, epoch, "a").await;
        assert_eq!(log.commit(&record).await.unwrap(), Commit::Done);
    }
}

async fn files(store: &Arc<dyn ObjectStore>, folder: &str) -> Vec<u64> {
    let listed: Vec<_> = store.list(Some(&Path::from(folder))).try_collect().await.unwrap();
    let mut epochs: Vec<u64> = listed.iter().filter_map(|meta| crate::epoch_of(&meta.location)).collect();
    epochs.sort();
    epochs
}

#[tokio::test]
async fn second_coordinator_loses_the_epoch_and_gets_the_record_of_the_first() {
    let (store, log) = opened().await;
    let other = open(&store, "a").await.unwrap();
    assert_eq!((log.newest().await.unwrap(), other.newest().await.unwrap()), (None, None));
    let (mine, theirs) = (written(&log, 1, "a").await, written(&other, 1, "b").await);
    assert_eq!(log.commit(&mine).await.unwrap(), Commit::Done);
    assert_eq!(other.commit(&theirs).await.unwrap(), Commit::Lost(Box::new(mine.clone())));
    assert_eq!(other.newest().await.unwrap(), Some(mine));
}

#[tokio::test]
async fn record_that_is_committed_again_after_a_lost_answer_is_done() {
    let (_, log) = opened().await;
    run(&log, 1..=1).await;
    let record = log.newest().await.unwrap().unwrap();
    assert_eq!(log.commit(&record).await.unwrap(), Commit::Done);
    let changed = Record { at_ms: 7, ..record.clone() };
    assert_eq!(log.commit(&changed).await.unwrap(), Commit::Lost(Box::new(record)));
}

#[tokio::test]
async fn newest_is_found_from_no_hint_an_old_one_and_a_wrong_one() {
    let (store, log) = opened().await;
    run(&log, 1..=40).await;
    let hint = Path::from("root/pipelines/p/latest.json");
    for text in ["", r#"{"version":1,"epoch":3}"#, r#"{"version":1,"epoch":99}"#, r#"{"version":9,"epoch":1}"#, "{"] {
        store.put(&hint, text.into()).await.unwrap();
        let newest = open(&store, "a").await.unwrap().newest().await.unwrap().unwrap();
        assert_eq!(newest.epoch, 40, "{text}");
    }
    store.delete(&hint).await.unwrap();
    assert_eq!(open(&store, "a").await.unwrap().newest().await.unwrap().unwrap().epoch, 40);
    let epochs: Vec<u64> = log.list(3).await.unwrap().iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, [40, 39, 38]);
    let epochs: Vec<u64> = log.records(38, 99, 2).await.unwrap().iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, [38, 39]);
}

#[tokio::test]
async fn lost_record_is_an_error_and_not_an_epoch_without_output() {
    let (store, log) = opened().await;
    run(&log, 1..=5).await;
    store.delete(&Path::from("root/pipelines/p/v1/epochs/00000000000000000004.json")).await.unwrap();
    let table = Arc::new(Table::default());
    for error in [publish(&log, &table).await.unwrap_err(), log.collect_garbage(3).await.unwrap_err()] {
        assert!(error.kind == ErrorKind::Data && error.message.contains("record of epoch 4"), "{error}");
    }
    assert_eq!(files(&store, "root/pipelines/p/v1/state").await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn record_under_the_number_of_another_and_changed_file_are_errors() {
    let (store, log) = opened().await;
    run(&log, 1..=3).await;
    let path = log.newest().await.unwrap().unwrap().state[0].path.clone();
    let sum = crate::sum(b"3 by a");
    assert!(log.read(3, &path, &sum).await.unwrap().is_some());
    store.put(&Path::from(path.as_str()), "2 by a".into()).await.unwrap();
    let error = log.read(3, &path, &sum).await.unwrap_err();
    assert!(error.kind == ErrorKind::Data && error.message.contains(&path), "{error}");
    let record = |epoch: u64| Path::from(format!("root/pipelines/p/v1/epochs/{epoch:020}.json"));
    store.copy(&record(1), &record(3)).await.unwrap();
    let error = match open(&store, "a").await {
        Ok(log) => log.newest().await.unwrap_err(),
        Err(error) => error,
    };
    assert!(error.kind == ErrorKind::Data && error.message.contains(record(3).as_ref()), "{error}");
}

#[tokio::test]
async fn lost_manifest_is_an_error_and_not_a_new_pipeline() {
    let (store, log) = opened().await;
    run(&log, 1..=2).await;
    store.delete(&Path::from("root/pipelines/p/v1/pipeline.json")).await.unwrap();
    let error = open(&store, "a").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data);
    assert!(error.message.contains("`root/pipelines/p/v1/pipeline.json` was deleted"), "{error}");
}

#[tokio::test]
async fn epoch_after_a_gap_and_foreign_file_are_rejected() {
    let (_, log) = opened().await;
    let error = log.commit(&written(&log, 2, "a").await).await.unwrap_err();
    assert!(error.message.contains("before epoch 1"), "{error}");
    assert_eq!(log.commit(&Record::default()).await.unwrap_err().kind, ErrorKind::Internal);
    let mut record = written(&log, 1, "a").await;
    record.state[0].path = "elsewhere/x".into();
    assert_eq!(log.commit(&record).await.unwrap_err().kind, ErrorKind::Internal);
}

#[tokio::test]
async fn missing_file_means_superseded_if_a_newer_record_exists_and_corrupt_otherwise() {
    let (store, log) = opened().await;
    run(&log, 1..=1).await;
    let path = log.newest().await.unwrap().unwrap().state[0].path.clone();
    assert!(log.read(1, &path, "").await.unwrap().is_some());
    store.delete(&Path::from(path.as_str())).await.unwrap();
    let error = log.read(1, &path, "").await.unwrap_err();
    assert!(error.kind == ErrorKind::Data && error.message.contains(&path), "{error}");
    let other = open(&store, "a").await.unwrap();
    run(&other, 2..=2).await;
    assert_eq!(log.read(1, &path, "").await.unwrap(), None);
    assert!(log.superseded(1).await.unwrap() && !log.superseded(2).await.unwrap());
}

#[tokio::test]
async fn garbage_is_state_of_old_epochs_and_files_of_losers() {
    let (store, log) = opened().await;
    run(&log, 1..=5).await;
    let loser = open(&store, "a").await.unwrap();
    written(&loser, 5, "loser").await;
    written(&loser, 6, "running").await;
    // State 1 to 3 and both files of the loser; the running one may still create epoch 6.
    assert_eq!(log.collect_garbage(2).await.unwrap(), 5);
    assert_eq!(files(&store, "root/pipelines/p/v1/state").await, [4, 5, 6]);
    assert_eq!(files(&store, "root/pipelines/p/v1/output").await, [1, 2, 3, 4, 5, 6]);
    let keep = Keep { records: 1, published: BTreeMap::from([("out".to_string(), 3)]) };
    assert_eq!(log.collect_garbage_except(&keep).await.unwrap(), 4);
    assert_eq!(files(&store, "root/pipelines/p/v1/state").await, [5, 6]);
    assert_eq!(files(&store, "root/pipelines/p/v1/output").await, [4, 5, 6]);
    assert_eq!(log.collect_garbage(0).await.unwrap(), 0);
}

#[tokio::test]
async fn same_script_continues_and_another_starts_the_next_version() {
    let (store, log) = opened().await;
    run(&log, 1..=3).await;
    let next = open(&store, "b").await.unwrap();
    assert_eq!((next.manifest().version, next.manifest().first), (2, 4));
    let start = next.newest().await.unwrap().unwrap();
    assert_eq!((start.epoch, start.sources.len(), start.state.len()), (4, 0, 0));
    run(&next, 5..=5).await;
    assert_eq!(next.record(3).await.unwrap(), None);
    assert_eq!(open(&store, "b").await.unwrap().newest().await.unwrap().unwrap().epoch, 5);

    // The owner of the first version loses its next epoch, and must stop.
    let record = written(&log, 4, "a").await;
    assert!(matches!(log.commit(&record).await.unwrap(), Commit::Lost(closing) if closing.moved.is_some()));
    let error = log.newest().await.unwrap_err();
    assert!(error.kind == ErrorKind::Cancelled && error.message.contains("replaced by version 2"), "{error}");
    let existing = EpochLog::existing(store.clone(), Path::from("root"), "p").await.unwrap().unwrap();
    assert_eq!(existing.manifest().version, 2);
    assert!(EpochLog::existing(store, Path::from("root"), "q").await.unwrap().is_none());
}

#[tokio::test]
async fn build_that_cannot_read_the_state_is_refused() {
    let (store, log) = opened().await;
    run(&log, 1..=1).await;
    let mut changed = spec("a");
    changed.build = "b2".into();
    changed.fingerprints.insert("count".into(), "int32".into());
    let root = Path::from("root");
    let error = EpochLog::open(store.clone(), root.clone(), "p", &changed).await.unwrap_err();
    assert!(error.message.contains("written by build b1 and does not fit: `count` is `int32`"), "{error}");
    assert_eq!(log.next_version(&changed, None).await.unwrap_err().kind, ErrorKind::Invalid);
    // Without the state it may start.
    let next = log.next_version(&changed, Some(0)).await.unwrap();
    assert_eq!(next.newest().await.unwrap().unwrap().sources.len(), 0);
    EpochLog::open(store, root, "p", &changed).await.unwrap();
}

#[tokio::test]
async fn rewound_pipeline_continues_from_the_state_of_its_epoch() {
    let (store, log) = opened().await;
    run(&log, 1..=5).await;
    let next = log.rewind(3).await.unwrap();
    let start = next.newest().await.unwrap().unwrap();
    assert_eq!((start.epoch, start.sources["events"].as_u64(), start.outputs.len()), (6, Some(3), 0));
    // The state is a copy that the first version cannot delete.
    log.collect_garbage(1).await.unwrap();
    assert_eq!(files(&store, "root/pipelines/p/v1/state").await, [5]);
    assert_eq!(next.read(3, "root/pipelines/p/v1/state/deleted", "").await.unwrap(), None);
    assert_eq!(next.read(6, &start.state[0].path, "").await.unwrap().unwrap(), "3 by a");
    run(&next, 7..=8).await;
    let epochs: Vec<u64> = next.list(10).await.unwrap().iter().map(|record| record.epoch).collect();
    assert_eq!(epochs, [8, 7, 6, 3, 2, 1]);
    assert_eq!(next.record(4).await.unwrap(), None);

    let error = next.rewind(4).await.unwrap_err();
    assert!(error.message.contains("epoch 4 does not exist"), "{error}");
    let error = next.rewind(2).await.unwrap_err();
    assert!(error.message.contains("epoch 2 cannot be restored"), "{error}");
    assert_eq!(log.rewind(3).await.unwrap_err().kind, ErrorKind::Cancelled);
    // A refused rewind changes nothing.
    assert_eq!(next.newest().await.unwrap().unwrap().epoch, 8);
    let third = next.rewind(0).await.unwrap();
    assert_eq!(third.list(10).await.unwrap().len(), 1);
    assert_eq!(open(&store, "a").await.unwrap().manifest().version, 3);
}

#[tokio::test]
async fn other_script_continues_the_offsets_and_the_state_that_are_named() {
    let (store, log) = opened().await;
    run(&log, 1..=3).await;
    let named = |sources: &[&str], stages: &[&str]| Continued {
        sources: sources.iter().map(ToString::to_string).collect(),
        stages: stages.iter().map(ToString::to_string).collect(),
    };
    let second = log.continue_with(&spec("b"), &named(&["events", "other"], &["count"])).await.unwrap();
    let start = second.newest().await.unwrap().unwrap();
    assert_eq!((start.epoch, &start.sources["events"]), (4, &3.into()));
    let bytes = second.read(4, &start.state[0].path, "").await.unwrap().unwrap();
    assert_eq!(&bytes[..], b"3 by a");
    assert!(start.state[0].path.contains("/v2/") && start.outputs.is_empty());
    // The state of another script is not an epoch to go back to.
    assert!(second.rewind(3).await.unwrap_err().message.contains("does not exist"));
    run(&second, 5..=6).await;
    // Of state with other fields, nothing is kept.
    let mut other = spec("c");
    other.fingerprints.insert("count".into(), "float64".into());
    let third = second.continue_with(&other, &named(&["events"], &["count"])).await.unwrap();
    let start = third.newest().await.unwrap().unwrap();
    assert_eq!((start.epoch, &start.sources["events"], start.state.len()), (7, &6.into(), 0));
    let fourth = third.continue_with(&spec("d"), &named(&[], &[])).await.unwrap();
    assert!(fourth.newest().await.unwrap().unwrap().sources.is_empty());
    assert_eq!(log.newest().await.unwrap_err().kind, ErrorKind::Cancelled);
    assert_eq!(open(&store, "d").await.unwrap().manifest().version, 4);
}

#[tokio::test]
async fn move_that_was_interrupted_is_finished_by_the_next_start() {
    let (store, log) = opened().await;
    run(&log, 1..=2).await;
    log.rewind(1).await.unwrap();
    // As if the process had died right after the closing record.
    for path in ["v2/pipeline.json", "v2/epochs/00000000000000000003.json", "latest.json"] {
        store.delete(&Path::from(format!("root/pipelines/p/{path}"))).await.unwrap();
    }
    let next = open(&store, "a").await.unwrap();
    assert_eq!(next.manifest().version, 2);
    let start = next.newest().await.unwrap().unwrap();
    assert_eq!(next.read(3, &start.state[0].path, "").await.unwrap().unwrap(), "1 by a");
}

/// A target that fails before or after it has published an epoch.
#[derive(Debug, Default)]
struct Table {
    rows: Mutex<Vec<String>>,
    marker: Mutex<Option<u64>>,
    fail_before: Option<u64>,
    fail_after: Option<u64>,
}

#[async_trait]
impl Target for Table {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(*self.marker.lock())
    }

    async fn publish(&self, epoch: u64, files: &[OutputFile], log: &EpochLog) -> Result<()> {
        let failed = || Err(QueryError::unavailable("the table does not answer"));
        if self.fail_before == Some(epoch) {
            return failed();
        }
        if self.marker.lock().is_none_or(|marker| marker < epoch) {
            for file in files {
                let bytes = log.get(&Path::from(file.path.as_str())).await?.unwrap();
                self.rows.lock().push(String::from_utf8(bytes.to_vec()).unwrap());
            }
            *self.marker.lock() = Some(epoch);
        }
        if self.fail_after == Some(epoch) { failed() } else { Ok(()) }
    }
}

async fn publish(log: &EpochLog, table: &Arc<Table>) -> Result<u64> {
    let upto = log.newest().await?.unwrap();
    let target: Arc<dyn Target> = table.clone();
    let targets = BTreeMap::from([("out".to_string(), target)]);
    Ok(publish_pending(log, &upto, &targets, Pending::Complete).await?["out"])
}

/// A target that takes the epochs of a second together, and replaces what it has of them.
#[derive(Debug, Default)]
struct Seconds(Mutex<BTreeMap<u64, Vec<String>>>);

#[async_trait]
impl Target for Seconds {
    async fn marker(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn publish(&self, epoch: u64, files: &[OutputFile], log: &EpochLog) -> Result<()> {
        let mut rows = Vec::new();
        for file in files {
            let bytes = log.get(&Path::from(file.path.as_str())).await?.unwrap();
            rows.push(String::from_utf8(bytes.to_vec()).unwrap());
        }
        self.0.lock().insert(epoch, rows);
        Ok(())
    }

    fn span_ms(&self) -> u64 {
        1000
    }
}

#[tokio::test]
async fn epochs_of_one_span_are_published_together_when_it_is_over() {
    let (_, log) = opened().await;
    let seconds = Arc::new(Seconds::default());
    let publish = async |pending| {
        let target: Arc<dyn Target> = seconds.clone();
        let upto = log.newest().await.unwrap().unwrap();
        let complete = publish_pending(&log, &upto, &BTreeMap::from([("out".to_string(), target)]), pending).await;
        (complete.unwrap()["out"], seconds.0.lock().clone())
    };
    let rows = |epochs: &[u64]| epochs.iter().map(|epoch| format!("{epoch} by a")).collect::<Vec<_>>();
    for (epoch, at_ms) in [(1, 100), (2, 999), (3, 1000), (4, 1001)] {
        log.commit(&Record { at_ms, ..written(&log, epoch, "a").await }).await.unwrap();
    }
    let first = BTreeMap::from([(1, rows(&[1, 2]))]);
    assert_eq!(publish(Pending::Complete).await, (2, first.clone()));
    let all = BTreeMap::from([(1, rows(&[1, 2])), (3, rows(&[3, 4]))]);
    assert_eq!(publish(Pending::All).await, (4, all));
    // Another epoch of the same span replaces what was published of it.
    log.commit(&Record { at_ms: 1002, ..written(&log, 5, "a").await }).await.unwrap();
    log.commit(&Record { epoch: 6, at_ms: 1003, stop: true, ..Default::default() }).await.unwrap();
    let all = BTreeMap::from([(1, rows(&[1, 2])), (3, rows(&[3, 4, 5]))]);
    assert_eq!(publish(Pending::Complete).await, (6, all.clone()));
    // A stop ends a span early.
    let published = BTreeMap::from([("out".to_string(), 6)]);
    log.commit(&Record { at_ms: 1004, published, ..written(&log, 7, "a").await }).await.unwrap();
    assert_eq!(publish(Pending::Complete).await, (6, all));
}

#[tokio::test]
async fn target_gets_each_epoch_once_although_answers_are_lost() {
    let (_, log) = opened().await;
    run(&log, 1..=3).await;
    let table = Arc::new(Table { fail_after: Some(2), ..Default::default() });
    assert_eq!(publish(&log, &table).await.unwrap(), 3);
    assert_eq!(publish(&log, &table).await.unwrap(), 3);
    assert_eq!(*table.rows.lock(), ["1 by a", "2 by a", "3 by a"]);
    run(&log, 4..=4).await;
    let table = Arc::new(Table { fail_before: Some(3), ..Default::default() });
    assert_eq!(publish(&log, &table).await.unwrap_err().kind, ErrorKind::Unavailable);
    assert_eq!(*table.rows.lock(), ["1 by a", "2 by a"]);
}

#[tokio::test]
async fn epochs_without_output_are_skipped_and_known_progress_shortens_the_search() {
    let (_, log) = opened().await;
    run(&log, 1..=1).await;
    for epoch in 2..=200 {
        let record = Record { epoch, by: "a".into(), ..Default::default() };
        log.commit(&record).await.unwrap();
    }
    let table = Arc::new(Table::default());
    assert_eq!(publish(&log, &table).await.unwrap(), 200);
    assert_eq!(*table.marker.lock(), Some(1));
    let published = BTreeMap::from([("out".to_string(), 200)]);
    log.commit(&Record { published, ..written(&log, 201, "a").await }).await.unwrap();
    assert_eq!(publish(&log, &table).await.unwrap(), 201);
    assert_eq!(*table.rows.lock(), ["1 by a", "201 by a"]);
}

#[tokio::test]
async fn upgraded_pipeline_publishes_what_the_version_before_left_and_a_rewound_one_does_not() {
    let (_, log) = opened().await;
    run(&log, 1..=4).await;
    let upgraded = log.next_version(&spec("b"), None).await.unwrap();
    run(&upgraded, 6..=6).await;
    let table = Arc::new(Table::default());
    publish(&upgraded, &table).await.unwrap();
    assert_eq!(*table.rows.lock(), ["1 by a", "2 by a", "3 by a", "4 by a", "6 by a"]);

    let rewound = upgraded.rewind(2).await.unwrap();
    run(&rewound, 8..=8).await;
    let behind = Arc::new(Table::default());
    publish(&rewound, &behind).await.unwrap();
    assert_eq!(*behind.rows.lock(), ["1 by a", "2 by a", "8 by a"]);
}
