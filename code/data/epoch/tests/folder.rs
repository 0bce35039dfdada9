//! The folder store on a real disk: as `object_store` defines it, with threads and processes that race, and with
//! processes that are killed.

#![expect(clippy::print_stdout, reason = "the killed process reports its epochs")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path as FilePath;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use buzz_epoch::{Commit, EpochLog, Keep, OutputFile, PipelineSpec, Record, StateFile};
use buzz_storage::synced_folder;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload};
use tempfile::TempDir;

/// Set in the processes that this test starts of itself: number of the process, last epoch and folder.
const CHILD: &str = "BUZZ_EPOCH_TEST_CHILD";

/// Epochs that racing processes make.
const EPOCHS_RACED: u64 = 60;

/// Epochs that processes make which are killed.
const EPOCHS_KILLED: u64 = 150;

fn folder() -> (TempDir, Arc<dyn ObjectStore>) {
    let folder = tempfile::tempdir().unwrap();
    let store = synced_folder(folder.path()).unwrap();
    (folder, store)
}

async fn create(store: &Arc<dyn ObjectStore>, path: &str, text: &str) -> Result<(), Error> {
    let options = PutOptions { mode: PutMode::Create, ..Default::default() };
    store.put_opts(&Path::from(path), text.to_string().into(), options).await.map(|_| ())
}

async fn text(store: &Arc<dyn ObjectStore>, path: &str) -> String {
    let bytes = store.get(&Path::from(path)).await.unwrap().bytes().await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

async fn listed(store: &Arc<dyn ObjectStore>, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(Path::from);
    let all: Vec<_> = store.list(prefix.as_ref()).try_collect().await.unwrap();
    let mut names: Vec<String> = all.into_iter().map(|meta| meta.location.to_string()).collect();
    names.sort();
    names
}

fn staged(folder: &FilePath) -> usize {
    std::fs::read_dir(folder.join(".staged")).unwrap().count()
}

#[tokio::test]
async fn create_keeps_the_first_object_and_put_replaces_it() {
    let (folder, store) = folder();
    create(&store, "a/b/c", "1").await.unwrap();
    assert!(matches!(create(&store, "a/b/c", "2").await, Err(Error::AlreadyExists { .. })));
    assert_eq!(text(&store, "a/b/c").await, "1");
    store.put(&Path::from("a/b/c"), "3".into()).await.unwrap();
    assert_eq!(text(&store, "a/b/c").await, "3");
    store.put(&Path::from("a/d"), PutPayload::from_iter(["4".as_bytes(), b"5"].map(Bytes::from_static))).await.unwrap();
    assert_eq!(text(&store, "a/d").await, "45");
    assert_eq!(listed(&store, None).await, ["a/b/c", "a/d"]);
    assert_eq!(staged(folder.path()), 0);
    let top = store.list_with_delimiter(None).await.unwrap();
    assert_eq!(top.common_prefixes, [Path::from("a")]);
    store.delete(&Path::from("a/d")).await.unwrap();
    assert!(matches!(store.get(&Path::from("a/d")).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn copies_renames_and_uploads_in_parts_are_whole_objects() {
    let (folder, store) = folder();
    let (a, b, c) = (Path::from("a"), Path::from("x/b"), Path::from("x/c"));
    store.put(&a, "1".into()).await.unwrap();
    store.copy(&a, &b).await.unwrap();
    assert!(matches!(store.copy_if_not_exists(&a, &b).await, Err(Error::AlreadyExists { .. })));
    assert!(matches!(store.copy(&Path::from("none"), &b).await, Err(Error::NotFound { .. })));
    // The copy is not a link: replacing or changing one leaves the other.
    store.put(&a, "2".into()).await.unwrap();
    assert_eq!(text(&store, "x/b").await, "1");
    store.rename(&a, &c).await.unwrap();
    assert_eq!((text(&store, "x/c").await.as_str(), listed(&store, None).await.len()), ("2", 2));

    let mut upload = store.put_multipart_opts(&a, PutMultipartOptions::default()).await.unwrap();
    let parts = [upload.put_part("abc".into()), upload.put_part("de".into()), upload.put_part("f".into())];
    // The parts may be written in any order.
    for part in parts.into_iter().rev() {
        part.await.unwrap();
    }
    assert!(matches!(store.head(&a).await, Err(Error::NotFound { .. })));
    upload.complete().await.unwrap();
    assert!(upload.complete().await.is_err());
    assert_eq!(text(&store, "a").await, "abcdef");
    let mut upload = store.put_multipart(&Path::from("never")).await.unwrap();
    upload.put_part("abc".into()).await.unwrap();
    upload.abort().await.unwrap();
    drop(upload);
    assert_eq!((listed(&store, None).await.len(), staged(folder.path())), (3, 0));
}

#[tokio::test]
async fn file_that_cannot_be_written_is_an_error_of_its_path() {
    let (folder, store) = folder();
    store.put(&Path::from("a"), "1".into()).await.unwrap();
    let error = store.put(&Path::from("a/b"), "1".into()).await.unwrap_err();
    assert!(error.to_string().contains("cannot create"), "{error}");
    assert_eq!(staged(folder.path()), 0);
    let file = folder.path().join("a");
    assert!(synced_folder(&file).unwrap_err().message.contains("cannot be used"));
}

#[test]
fn store_works_without_tokio_and_forgets_old_temporary_files() {
    let (folder, store) = folder();
    futures::executor::block_on(async {
        create(&store, "a", "1").await.unwrap();
        assert_eq!(text(&store, "a").await, "1");
    });
    let old = folder.path().join(".staged/1#1");
    let file = std::fs::File::create(&old).unwrap();
    std::fs::write(folder.path().join(".staged/1#2"), "new").unwrap();
    file.set_modified(buzz_protocol::now() - Duration::from_secs(7200)).unwrap();
    synced_folder(folder.path()).unwrap();
    assert_eq!((old.exists(), staged(folder.path())), (false, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 8)]
async fn one_of_many_threads_creates_an_object_and_readers_see_it_whole() {
    let (_folder, store) = folder();
    for n in 0..40 {
        let path = format!("race/{n}/object");
        let tries = (0..8).map(|id| {
            let (store, path) = (store.clone(), path.clone());
            let body = format!("{id}").repeat(50_000);
            tokio::spawn(async move {
                let mine = create(&store, &path, &body).await.is_ok();
                let seen = text(&store, &path).await;
                assert!(seen.len() == 50_000 && seen.bytes().all(|byte| byte == seen.as_bytes()[0]));
                if mine {
                    assert_eq!(seen, body);
                }
                mine
            })
        });
        let mut created = 0;
        for attempt in tries.collect::<Vec<_>>() {
            created += usize::from(attempt.await.unwrap());
        }
        assert_eq!(created, 1);
    }
}

#[tokio::test]
async fn pipeline_without_files_is_collected_and_moved() {
    let (_folder, store) = folder();
    let spec = PipelineSpec { script: "none".into(), key_groups: 1, ..Default::default() };
    let log = EpochLog::open(store.clone(), Path::from(""), "p", &spec).await.unwrap();
    assert_eq!(log.collect_garbage(1).await.unwrap(), 0);
    log.commit(&Record { epoch: 1, ..Default::default() }).await.unwrap();
    assert_eq!(log.collect_garbage(1).await.unwrap(), 0);
    assert_eq!(log.rewind(1).await.unwrap().newest().await.unwrap().unwrap().epoch, 2);
    let log = EpochLog::open(store, Path::from(""), "p", &spec).await.unwrap();
    assert_eq!((log.manifest().version, log.newest().await.unwrap().unwrap().epoch), (2, 2));
}

/// Runs epochs until `until` are recorded: adds the epoch to the sum in the state, and writes it as output.
async fn coordinate(store: Arc<dyn ObjectStore>, id: &str, until: u64) {
    let spec = PipelineSpec { script: "sum".into(), key_groups: 1, ..Default::default() };
    let log = EpochLog::open(store, Path::from(""), "p", &spec).await.unwrap();
    loop {
        let before = log.newest().await.unwrap().unwrap_or_default();
        if before.epoch >= until {
            return;
        }
        let mut sum = 0;
        if let Some(file) = before.state.first() {
            let Some(bytes) = log.read(before.epoch, &file.path, &file.sum).await.unwrap() else { continue };
            sum = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
        }
        let epoch = before.epoch + 1;
        let (state, output) = (log.state_path("sum", epoch, "txt"), log.output_path("out", epoch, "txt"));
        log.put(&state, (sum + epoch).to_string().into()).await.unwrap();
        log.put(&output, epoch.to_string().into()).await.unwrap();
        let record = Record {
            epoch,
            by: format!("{id}-{epoch}-{}", rand::random::<u64>()),
            state: vec![StateFile {
                stage: "sum".into(),
                path: state.to_string(),
                groups: (0, 1),
                ..Default::default()
            }],
            outputs: BTreeMap::from([(
                "out".to_string(),
                vec![OutputFile { path: output.to_string(), rows: 1, bytes: 1, ..Default::default() }],
            )]),
            ..Default::default()
        };
        if let Commit::Done = log.commit(&record).await.unwrap() {
            println!("{epoch}");
        }
        if epoch.is_multiple_of(5) {
            log.collect_garbage(2).await.unwrap();
        }
    }
}

/// Checks that the store has the records, state and output of `epochs` epochs, each once.
async fn check(store: &Arc<dyn ObjectStore>, epochs: u64) {
    let log = EpochLog::existing(store.clone(), Path::from(""), "p").await.unwrap().unwrap();
    let newest = log.newest().await.unwrap().unwrap();
    assert_eq!(newest.epoch, epochs);
    let sum = log.read(epochs, &newest.state[0].path, "").await.unwrap().unwrap();
    assert_eq!(sum, (epochs * (epochs + 1) / 2).to_string());
    let mut output = BTreeSet::new();
    for record in log.records(1, epochs, usize::MAX).await.unwrap() {
        let path = Path::from(record.outputs["out"][0].path.as_str());
        let bytes = log.get(&path).await.unwrap().expect("named output is never deleted");
        assert_eq!(bytes, record.epoch.to_string());
        output.insert(path.to_string());
    }
    assert_eq!(output.len() as u64, epochs);
    log.collect_garbage_except(&Keep::newest(1)).await.unwrap();
    assert_eq!(listed(store, Some("pipelines/p/v1/state")).await, [newest.state[0].path.clone()]);
    assert_eq!(listed(store, Some("pipelines/p/v1/output")).await, output.into_iter().collect::<Vec<_>>());
}

/// Starts this test as a process of its own that runs [`child_process_runs_epochs`].
fn start(folder: &FilePath, id: u32, until: u64) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_process_runs_epochs", "--nocapture"])
        .env(CHILD, format!("{id}:{until}:{}", folder.display()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Does nothing unless another test started this process.
#[test]
fn child_process_runs_epochs() {
    let Ok(setting) = std::env::var(CHILD) else { return };
    let [id, until, folder] = setting.splitn(3, ':').collect::<Vec<_>>()[..] else { panic!("{CHILD}: {setting}") };
    let store = synced_folder(FilePath::new(folder)).unwrap();
    tokio::runtime::Runtime::new().unwrap().block_on(coordinate(store, id, until.parse().unwrap()));
}

/// Returns the epochs that a process printed as its own.
fn won(output: &[u8]) -> Vec<u64> {
    String::from_utf8_lossy(output).lines().filter_map(|line| line.parse().ok()).collect()
}

#[tokio::test]
async fn racing_processes_make_each_epoch_once() {
    let (folder, store) = folder();
    let children: Vec<Child> = (0..4).map(|id| start(folder.path(), id, EPOCHS_RACED)).collect();
    let mut epochs = Vec::new();
    let mut winners = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        let won = won(&output.stdout);
        winners += usize::from(!won.is_empty());
        epochs.extend(won);
    }
    epochs.sort();
    assert_eq!(epochs, (1..=EPOCHS_RACED).collect::<Vec<_>>());
    println!("{winners} of 4 processes won epochs");
    check(&store, EPOCHS_RACED).await;
    assert_eq!(staged(folder.path()), 0);
}

#[tokio::test]
async fn racing_threads_make_each_epoch_once() {
    let (folder, store) = folder();
    let threads: Vec<_> = (0..3)
        .map(|id| {
            let folder = folder.path().to_path_buf();
            std::thread::spawn(move || {
                // A store of its own, as in a process of its own.
                let store = synced_folder(&folder).unwrap();
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                runtime.block_on(coordinate(store, &id.to_string(), 30));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    check(&store, 30).await;
}

#[tokio::test]
async fn killed_processes_leave_whole_objects_and_the_next_ones_continue() {
    let (folder, store) = folder();
    let started = Instant::now();
    let mut kills = 0;
    // Two processes at a time, of which one is killed after 10 to 60 ms.
    let mut running = start(folder.path(), 0, EPOCHS_KILLED);
    while running.try_wait().unwrap().is_none() && started.elapsed() < Duration::from_secs(60) {
        let other = start(folder.path(), kills + 1, EPOCHS_KILLED);
        std::thread::sleep(Duration::from_millis(10 + rand::random::<u64>() % 50));
        let mut victim = std::mem::replace(&mut running, other);
        victim.kill().unwrap();
        victim.wait().unwrap();
        kills += 1;
        for path in listed(&store, Some("pipelines/p/v1/epochs")).await {
            let bytes = text(&store, &path).await;
            serde_json::from_str::<Record>(&bytes).unwrap_or_else(|error| panic!("{path}: {error}: {bytes}"));
        }
    }
    assert!(running.wait().unwrap().success());
    println!("{kills} processes were killed in {:.1} s", started.elapsed().as_secs_f64());
    check(&store, EPOCHS_KILLED).await;
}

/// Prints the time of an epoch: state, output and record. Run it with `--ignored --nocapture`.
#[tokio::test]
#[ignore = "a measurement"]
async fn cost_of_an_epoch() {
    let (synced, unsynced) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let plain: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new_with_prefix(unsynced.path()).unwrap());
    for (name, store) in [("synced", synced_folder(synced.path()).unwrap()), ("not synced", plain)] {
        for state_bytes in [1_000, 100_000, 5_000_000] {
            let spec = PipelineSpec { key_groups: 1, ..Default::default() };
            let log = EpochLog::open(store.clone(), Path::from(""), &format!("p{state_bytes}"), &spec).await.unwrap();
            let mut times: Vec<Duration> = Vec::new();
            for epoch in 1..=60 {
                let started = Instant::now();
                log.newest().await.unwrap();
                log.put(&log.state_path("s", epoch, "x"), vec![7; state_bytes].into()).await.unwrap();
                log.put(&log.output_path("o", epoch, "x"), vec![7; 4000].into()).await.unwrap();
                let record = Record { epoch, by: "a".into(), ..Default::default() };
                log.commit(&record).await.unwrap();
                times.push(started.elapsed());
            }
            times.sort();
            println!("{name}, {state_bytes} bytes of state: median {:?}, longest {:?}", times[30], times[59]);
        }
    }
}
