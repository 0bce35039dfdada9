//! Changes, take-overs and deletions by two servers.

use buzz_storage::Stores;

use super::*;
use crate::jobs::wanted::Stop;

async fn open(folder: &std::path::Path) -> Registry {
    let stores = Arc::new(Stores::default()).for_query();
    let place = Place { base: folder.to_path_buf(), stores: Arc::clone(&stores), until_end: false, inbox: None };
    Registry::open(&folder.display().to_string(), &place).await.unwrap()
}

fn new(name: &str) -> New {
    New { name: name.into(), script: "SELECT 1".into(), ..Default::default() }
}

fn parallelism(number: u64) -> Change {
    Change { parallelism: Some(number), ..Default::default() }
}

#[tokio::test]
async fn changes_of_two_servers_are_both_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(folder.path()).await, open(folder.path()).await);
    assert!(one.list().await.unwrap().is_empty());
    one.create(&new("a b")).await.unwrap();
    let error = two.create(&new("a-b")).await.unwrap_err();
    assert!(error.message.contains("pipeline `a-b` exists"), "{error}");
    let stop = Change { stop: Some(Stop::Checkpoint), ..Default::default() };
    let workers = parallelism(3);
    let (stopped, rescaled) = tokio::join!(one.change("a-b", &stop), two.change("a-b", &workers));
    stopped.unwrap().unwrap();
    rescaled.unwrap().unwrap();
    let both = open(folder.path()).await.get("a-b").await.unwrap().unwrap();
    assert_eq!((both.n, both.wanted.stop, both.wanted.parallelism.map(usize::from)), (3, Stop::Checkpoint, Some(3)));
    assert_eq!(both.status.state, JobState::Stopped, "no server has run it");
    assert!(one.change("b", &workers).await.unwrap().is_none());
}

#[tokio::test]
async fn one_server_takes_a_pipeline() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(folder.path()).await, open(folder.path()).await);
    one.create(&new("a")).await.unwrap();
    let (mine, theirs) = (one.entry("a"), two.entry("a"));
    assert_eq!(one.lease(&mine).await.unwrap(), None);
    let taken = tokio::join!(one.take(&mine, 1, Some("one")), two.take(&theirs, 1, Some("two")));
    assert_ne!(taken.0.unwrap(), taken.1.unwrap(), "one of both has it");
    let (n, lease) = two.lease(&theirs).await.unwrap().unwrap();
    assert_eq!((n, lease.server.is_some()), (1, true));
    assert!(two.take(&theirs, 2, None).await.unwrap());
    assert_eq!(one.lease(&mine).await.unwrap().unwrap().1.server, None);
    assert!(mine.owner.is_replaced(1).await.unwrap());
}

#[tokio::test]
async fn name_of_a_deleted_pipeline_is_free_when_nothing_is_left_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    assert_eq!(registry.create(&new("a")).await.unwrap().wanted.log, "a");
    assert!(registry.remove("a").await.unwrap());
    assert!(!registry.remove("a").await.unwrap());
    assert!(registry.get("a").await.unwrap().is_none());
    assert!(!registry.is_removed("a").await.unwrap(), "its owner has not deleted its files");
    let error = registry.create(&new("a")).await.unwrap_err();
    assert!(error.message.contains("is being deleted"), "{error}");
    let deleted = Status { wanted: 2, state: JobState::Deleted, ..Default::default() };
    registry.put_status(&registry.entry("a"), &deleted).await.unwrap();
    assert!(registry.is_removed("a").await.unwrap());
    assert_eq!(registry.create(&new("a")).await.unwrap().wanted.log, "a.3", "epochs of the old one are not in its way");
}

#[test]
fn state_follows_what_is_wanted_until_the_owner_has_seen_it() {
    let state = |stop, was| {
        let status = Status { wanted: 1, state: was, ..Default::default() };
        seen(2, &Wanted { stop, ..Default::default() }, status).state
    };
    assert_eq!(state(Stop::None, JobState::Running), JobState::Rescaling);
    assert_eq!(state(Stop::None, JobState::Failed), JobState::Scheduling);
    assert_eq!(state(Stop::Checkpoint, JobState::Running), JobState::Stopping);
    assert_eq!(state(Stop::Immediate, JobState::Finished), JobState::Stopped);
}

#[tokio::test]
async fn signs_of_servers_are_listed_until_they_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    assert!(registry.servers().await.unwrap().is_empty());
    registry.beat("one").await.unwrap();
    let first = registry.sign_of("one").await.unwrap().unwrap();
    registry.beat("one").await.unwrap();
    assert_ne!(registry.sign_of("one").await.unwrap().unwrap(), first, "each sign is another one");
    assert_eq!(registry.servers().await.unwrap(), ["one"]);
    registry.forget("one").await.unwrap();
    registry.forget("one").await.unwrap();
    assert_eq!(registry.sign_of("one").await.unwrap(), None);
    assert!(registry.servers().await.unwrap().is_empty());
}

#[tokio::test]
async fn pipeline_with_an_unreadable_document_is_listed_beside_others() {
    let folder = tempfile::tempdir().unwrap();
    let registry = open(folder.path()).await;
    registry.create(&new("a")).await.unwrap();
    registry.create(&new("b")).await.unwrap();
    std::fs::write(folder.path().join("jobs/a/wanted/00000000000000000001.json"), "{").unwrap();
    let listed = registry.list().await.unwrap();
    let states: Vec<_> = listed.iter().map(|pipeline| (pipeline.id.as_str(), pipeline.status.state)).collect();
    assert_eq!(states, [("a", JobState::Failed), ("b", JobState::Scheduling)]);
    let error = listed[0].status.error.clone().unwrap();
    assert!(error.contains("document 1 of pipeline `a` is not readable"), "{error}");
    assert!(registry.get("a").await.is_err());
}
