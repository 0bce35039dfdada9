//! The log of a source.

use std::sync::Arc;

use buzz_protocol::ErrorKind;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::clock::Ids;
use crate::rules::Rules;
use crate::{Part, Segment, SourceLog, SourceSpec, Times, Totals, VirtualClock, source_names};

const TIMES: Times = Times { dedup_horizon_ms: 1000, append_ms_max: 50, clock_skew_ms_max: 50 };

async fn source(store: &Arc<dyn ObjectStore>) -> SourceLog {
    let (ddl, format) = ("create table events".into(), "json".into());
    let spec = SourceSpec { ddl, format, times: TIMES, ..Default::default() };
    SourceLog::open(store.clone(), Path::from("root"), "events", &spec).await.unwrap()
}

fn segment(keys: &[&str]) -> Segment {
    let part = |key: &&str| Part { key: Some(key.to_string()), rows: 1, ..Default::default() };
    Segment { parts: keys.iter().map(part).collect(), payload: keys.join("\n").into() }
}

#[tokio::test]
async fn repeated_request_is_sealed_once_by_any_process() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (a, b) = (source(&store).await, source(&store).await);
    let clock = VirtualClock::new(1_000_000);
    assert_eq!(a.seal(&clock).await.unwrap(), None);
    a.append(&segment(&["1", "2"]), &clock).await.unwrap();
    clock.advance(10);
    let first = a.seal(&clock).await.unwrap().unwrap();
    assert_eq!((first.n, first.repeated, first.segments[0].rows.len()), (1, 0, 2));
    assert_eq!(b.seal(&clock).await.unwrap(), None);
    clock.advance(10);
    b.append(&segment(&["2", "3"]), &clock).await.unwrap();
    let second = b.seal(&clock).await.unwrap().unwrap();
    let rows: Vec<_> = second.segments[0].rows.iter().map(|rows| (rows.from, rows.part.key.as_deref())).collect();
    assert_eq!((second.n, second.repeated, rows), (2, 1, vec![(1, Some("3"))]));
    // A process that starts later reads the log.
    let c = source(&store).await;
    c.append(&segment(&["3", "1", "4"]), &clock).await.unwrap();
    let third = c.seal(&clock).await.unwrap().unwrap();
    assert_eq!((third.n, third.repeated, third.segments[0].rows[0].from), (3, 2, 2));
    assert_eq!(a.head(0).await.unwrap(), 3);
    let after: Vec<u64> = a.entries_after(1, 9).await.unwrap().iter().map(|entry| entry.n).collect();
    assert_eq!(after, [2, 3]);
    assert_eq!(a.segment(&third.segments[0]).await.unwrap(), segment(&["3", "1", "4"]));
}

#[tokio::test]
async fn long_log_is_read_back_as_far_as_the_horizon() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (log, clock) = (source(&store).await, VirtualClock::new(1_000_000));
    for n in 1..=60 {
        log.append(&segment(&[&n.to_string()]), &clock).await.unwrap();
        assert_eq!(log.seal(&clock).await.unwrap().unwrap().n, n);
        clock.advance(40);
    }
    // Entries of the last 1,000 ms are 36 to 60, so older ones are not needed.
    store.delete(&Path::from("root/sources/events/log/00000000000000000002.json")).await.unwrap();
    let later = source(&store).await;
    for n in [60, 40, 36] {
        later.append(&segment(&[&n.to_string()]), &clock).await.unwrap();
    }
    assert_eq!(later.seal(&clock).await.unwrap().unwrap().repeated, 3);
    later.append(&segment(&["20"]), &clock).await.unwrap();
    assert_eq!(later.seal(&clock).await.unwrap().unwrap().repeated, 0);
}

#[tokio::test]
async fn damaged_segment_and_changed_declaration_are_named() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (log, clock) = (source(&store).await, VirtualClock::new(1_000_000));
    let name = log.append(&segment(&["1"]), &clock).await.unwrap();
    store.put(&Path::from(format!("root/sources/events/inbox/{}/{name}", &name[..7])), "buzz".into()).await.unwrap();
    let error = log.seal(&clock).await.unwrap_err();
    assert!(error.kind == ErrorKind::Data && error.message.contains(&name), "{error}");
    let other = SourceSpec { ddl: "create table other".into(), ..log.spec().clone() };
    let error = SourceLog::open(store, Path::from("root"), "events", &other).await.unwrap_err();
    assert!(error.message.contains("exists with another declaration: `create table events`"), "{error}");
}

#[tokio::test]
async fn segment_and_entry_under_the_names_of_others_are_errors() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (log, clock) = (source(&store).await, VirtualClock::new(1_000_000));
    for n in 1..=2 {
        log.append(&segment(&[&n.to_string()]), &clock).await.unwrap();
        assert_eq!(log.seal(&clock).await.unwrap().unwrap().n, n);
        clock.advance(10);
    }
    let names =
        [log.append(&segment(&["3"]), &clock).await.unwrap(), log.append(&segment(&["4"]), &clock).await.unwrap()];
    let [one, other] = names.each_ref().map(|name| log.segment_path(name));
    store.copy(&one, &other).await.unwrap();
    let error = log.seal(&clock).await.unwrap_err();
    assert!(error.kind == ErrorKind::Data && error.message.contains(other.as_ref()), "{error}");
    store.copy(&log.entry_path(1), &log.entry_path(2)).await.unwrap();
    let error = source(&store).await.entries().await.unwrap_err();
    assert!(error.kind == ErrorKind::Data && error.message.contains(log.entry_path(2).as_ref()), "{error}");
}

#[tokio::test]
async fn entries_have_sums_of_the_rows_that_count() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (log, clock) = (source(&store).await, VirtualClock::new(1_000_000));
    assert_eq!(log.newest().await.unwrap(), None);
    for keys in [["1", "2"], ["2", "3"]] {
        let mut segment = segment(&keys);
        for part in &mut segment.parts {
            part.bytes = 1;
        }
        log.append(&segment, &clock).await.unwrap();
        clock.advance(10);
        log.seal(&clock).await.unwrap();
    }
    let expected = Totals { rows: 3, bytes: 3, segments: 2 };
    assert_eq!(log.newest().await.unwrap().unwrap().totals, expected);
    let later = SourceLog::existing(store.clone(), Path::from("root"), "events").await.unwrap().unwrap();
    assert_eq!((later.newest().await.unwrap().unwrap().totals, later.spec()), (expected, log.spec()));
    assert!(SourceLog::existing(store.clone(), Path::from("root"), "other").await.unwrap().is_none());
    assert_eq!(source_names(&store, &Path::from("root")).await.unwrap(), ["events"]);
}

#[tokio::test]
async fn segments_of_long_ago_and_of_a_clock_that_is_ahead_are_sealed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (log, clock) = (source(&store).await, VirtualClock::new(1_000_000));
    let hours = 60 * 60 * 1000;
    log.append(&segment(&["1"]), &clock).await.unwrap();
    log.seal(&clock).await.unwrap().unwrap();
    for advance in [3 * hours, 1, 5 * hours] {
        let ahead = VirtualClock::new(clock.advance(advance) + TIMES.clock_skew_ms_max);
        log.append(&segment(&[&advance.to_string()]), &ahead).await.unwrap();
        let sealed = log.seal(&clock).await.unwrap().expect("the segment is found");
        assert_eq!(sealed.segments.len(), 1);
    }
    let later = source(&store).await;
    assert_eq!(later.seal(&clock).await.unwrap(), None);
    assert_eq!(later.newest().await.unwrap().unwrap().totals.rows, 4);
}

#[tokio::test]
async fn segments_after_a_clock_was_set_back_are_sealed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (log, clock) = (source(&store).await, VirtualClock::new(10_000_000));
    log.append(&segment(&["1"]), &clock).await.unwrap();
    log.seal(&clock).await.unwrap().unwrap();
    clock.set(5_000_000);
    log.append(&segment(&["2"]), &clock).await.unwrap();
    assert_eq!(log.seal(&clock).await.unwrap().unwrap().segments.len(), 1);
    // A process that has just started knows the time of the newest entry once it has read it.
    let later = source(&store).await;
    later.newest().await.unwrap();
    later.append(&segment(&["3"]), &clock).await.unwrap();
    assert_eq!(later.seal(&clock).await.unwrap().unwrap().segments.len(), 1);
    assert_eq!(later.newest().await.unwrap().unwrap().totals.rows, 3);
}

#[tokio::test]
async fn all_segments_are_sealed_in_as_many_entries_as_they_need() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (spec, clock) = (source(&store).await.spec().clone(), VirtualClock::new(1_000_000));
    let (root, ids) = (Path::from("root"), Ids::random());
    let log = SourceLog::open_with(store, root, "events", &spec, ids, Rules::default(), 2).await.unwrap();
    for n in 0..5 {
        log.append(&segment(&[&n.to_string()]), &clock).await.unwrap();
    }
    log.seal_all(&clock).await.unwrap();
    let newest = log.newest().await.unwrap().unwrap();
    assert_eq!((newest.n, newest.totals.segments), (3, 5));
    log.seal_all(&clock).await.unwrap();
    assert_eq!(log.newest().await.unwrap().unwrap(), newest);
}

#[tokio::test]
async fn header_that_exceeds_the_first_read_is_sealed() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let (log, clock) = (source(&store).await, VirtualClock::new(1_000_000));
    let keys: Vec<String> = (0..crate::PARTS_MAX).map(|n| format!("a key of a usual length, {n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    log.append(&segment(&keys), &clock).await.unwrap();
    assert_eq!(log.seal(&clock).await.unwrap().unwrap().segments[0].rows.len(), keys.len());
}
