//! The places of registries: a file, or an object. A change reads the document, changes it, and writes it only if no
//! other process wrote it in the meantime.

use std::fs::{File, TryLockError};
use std::io::{ErrorKind as IoErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use buzz_engine::NameChange;
use buzz_protocol::{QueryError, Result, human_bytes};
use bytes::Bytes;
use object_store::path::Path as ObjectPath;
use object_store::{
    Error as StoreError, GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion,
};
use parking_lot::Mutex;

use crate::document::{BYTES_MAX, Changed, Document};

/// Maximum time to wait for a lock, or to repeat a change that others overtook.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Pause between attempts to lock a file.
const LOCK_EVERY: Duration = Duration::from_millis(10);

/// Maximum pause before a change is repeated, in milliseconds. The pause is random, so that writers do not meet again.
const PAUSE_MAX_MS: u64 = 500;

/// The place of a registry.
#[derive(Debug)]
pub(crate) enum Place {
    /// A file.
    File(PathBuf),
    /// An object.
    Object {
        store: Arc<dyn ObjectStore>,
        path: ObjectPath,
        /// Name in messages.
        shown: String,
        /// The document that was read last, and its tag.
        last: Mutex<Option<(String, Document)>>,
    },
}

impl Place {
    pub(crate) fn object(store: Arc<dyn ObjectStore>, path: ObjectPath, shown: String) -> Self {
        Self::Object { store, path, shown, last: Mutex::default() }
    }

    /// Reads the document. It is empty if it does not exist.
    pub(crate) async fn read(&self) -> Result<Document> {
        match self {
            Place::File(file) => read_file(file),
            Place::Object { store, path, shown, last } => {
                let last_tag = last.lock().as_ref().map(|(tag, _)| tag.clone());
                let options = GetOptions { if_none_match: last_tag, ..GetOptions::default() };
                let found = match store.get_opts(path, options).await {
                    Ok(found) => found,
                    Err(StoreError::NotModified { .. }) => {
                        let document = last.lock().as_ref().map(|(_, document)| document.clone());
                        return document.ok_or_else(|| QueryError::internal("a registry was not read yet"));
                    }
                    Err(StoreError::NotFound { .. }) => return Document::parse(None, shown),
                    Err(error) => return Err(QueryError::from(error).at(shown.as_str())),
                };
                check_size(found.meta.size, shown)?;
                let tag = found.meta.e_tag.clone();
                let document = Document::parse(Some(&found.bytes().await?), shown)?;
                *last.lock() = tag.map(|tag| (tag, document.clone()));
                Ok(document)
            }
        }
    }

    /// Makes `change`.
    pub(crate) async fn change(&self, change: NameChange) -> Result<Changed> {
        match self {
            Place::File(file) => {
                let file = file.clone();
                let changed = tokio::task::spawn_blocking(move || change_file(&file, &change)).await;
                changed.unwrap_or_else(|error| Err(QueryError::internal(format!("a change of names ended: {error}"))))
            }
            Place::Object { store, path, shown, .. } => change_object(store.as_ref(), path, shown, &change).await,
        }
    }
}

fn check_size(bytes: u64, shown: &str) -> Result<()> {
    if bytes > BYTES_MAX {
        return Err(QueryError::limit(format!(
            "{shown} has {}; a registry of names has at most {}",
            human_bytes(bytes),
            human_bytes(BYTES_MAX)
        )));
    }
    Ok(())
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

fn read_file(file: &Path) -> Result<Document> {
    let unreadable =
        |error: std::io::Error| QueryError::invalid(format!("file of tables `{}`: {error}", file.display()));
    let open = match File::open(file) {
        Ok(open) => open,
        Err(error) if error.kind() == IoErrorKind::NotFound => return Document::parse(None, &shown(file)),
        Err(error) => return Err(unreadable(error)),
    };
    let mut bytes = Vec::new();
    open.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    check_size(bytes.len() as u64, &shown(file))?;
    Document::parse(Some(&bytes), &shown(file))
}

/// Changes the document in `file` while its folder is locked, and puts the new file in place of the old one at once.
fn change_file(file: &Path, change: &NameChange) -> Result<Changed> {
    // The target of a link is replaced, not the link.
    let target = std::fs::canonicalize(file).unwrap_or_else(|_| file.to_path_buf());
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let unwritable = |error: std::io::Error| {
        QueryError::invalid(format!("file of tables `{}` cannot be written: {error}", file.display()))
    };
    if std::fs::metadata(&target).is_ok_and(|found| !found.is_file()) {
        let error = format!("file of tables `{}` is not a file; name one, such as buzz.json", file.display());
        return Err(QueryError::invalid(error));
    }
    // Ends with the process, also if it is killed.
    let _lock = locked(folder, file)?;
    let mut document = read_file(&target)?;
    // A wrong entry is reported before anything is written.
    document.entries()?;
    let changed = document.apply(change, false)?;
    if changed == Changed::Nothing {
        return Ok(changed);
    }
    let mut written = temporary(folder, &target).map_err(unwritable)?;
    written.write_all(document.text()?.as_bytes()).map_err(unwritable)?;
    written.as_file().sync_all().map_err(unwritable)?;
    written.persist(&target).map_err(|error| unwritable(error.error))?;
    Ok(changed)
}

/// Makes a file in `folder` with the permissions of `target`, or of a new file.
fn temporary(folder: &Path, target: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".buzz-names-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let made = builder.tempfile_in(folder)?;
    if let Ok(found) = std::fs::metadata(target) {
        made.as_file().set_permissions(found.permissions())?;
    }
    Ok(made)
}

/// Locks `folder`, in which `file` is changed. The lock is released when the returned file is dropped.
fn locked(folder: &Path, file: &Path) -> Result<File> {
    let failed = |error: std::io::Error| {
        QueryError::invalid(format!(
            "file of tables `{}`: folder `{}` cannot be locked: {error}",
            file.display(),
            folder.display()
        ))
    };
    let lock = File::open(folder).map_err(failed)?;
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_EVERY),
            Err(TryLockError::WouldBlock) => return Err(overtaken(&shown(file))),
        }
    }
}

fn overtaken(shown: &str) -> QueryError {
    QueryError::unavailable(format!(
        "{shown} was changed by others for {} seconds; try again later",
        WAIT_MAX.as_secs()
    ))
}

async fn change_object(
    store: &dyn ObjectStore,
    path: &ObjectPath,
    shown: &str,
    change: &NameChange,
) -> Result<Changed> {
    let failed = |error: StoreError| QueryError::from(error).at(shown);
    let (deadline, mut pause_ms, mut is_repeated) = (Instant::now() + WAIT_MAX, 10, false);
    loop {
        let (bytes, mode) = match store.get(path).await {
            Ok(found) => {
                check_size(found.meta.size, shown)?;
                let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                (Some(found.bytes().await.map_err(failed)?), PutMode::Update(version))
            }
            Err(StoreError::NotFound { .. }) => (None, PutMode::Create),
            Err(error) => return Err(failed(error)),
        };
        let mut document = Document::parse(bytes.as_deref(), shown)?;
        document.entries()?;
        let changed = document.apply(change, is_repeated)?;
        if changed == Changed::Nothing {
            return Ok(changed);
        }
        let text = Bytes::from(document.text()?);
        if bytes.as_ref() == Some(&text) {
            return Ok(changed);
        }
        let options = PutOptions { mode, ..PutOptions::default() };
        match store.put_opts(path, PutPayload::from(text), options).await {
            Ok(_) => return Ok(changed),
            // Another writer came first, or this one did and lost the answer, and the store's client repeated the request.
            Err(StoreError::Precondition { .. } | StoreError::AlreadyExists { .. } | StoreError::NotFound { .. })
                if Instant::now() < deadline =>
            {
                is_repeated = true;
                tokio::time::sleep(Duration::from_millis(rand::random_range(1..=pause_ms))).await;
                pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
            }
            Err(StoreError::Precondition { .. } | StoreError::AlreadyExists { .. }) => return Err(overtaken(shown)),
            Err(StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. }) => {
                return Err(QueryError::data(format!("no permission to write {shown}")));
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use buzz_engine::Existing;
    use buzz_protocol::{CatalogEntry, CatalogType, ErrorKind};
    use object_store::memory::InMemory;

    use super::*;

    fn add(name: String) -> NameChange {
        let entry = Box::new(CatalogEntry::new(name.clone(), CatalogType::Parquet, format!("s3://lake/{name}")));
        NameChange::Add { entry, existing: Existing::Fail }
    }

    fn names(document: &Document) -> Vec<String> {
        let mut names: Vec<String> = document.entries().unwrap().0.into_iter().map(|entry| entry.name).collect();
        names.sort();
        names
    }

    /// Adds 100 names at the same time, each through a place of its own, and drops every second one.
    async fn hundred_changes(place: impl Fn() -> Place) {
        let places: Vec<Arc<Place>> = (0..100).map(|_| Arc::new(place())).collect();
        let adding = places.iter().enumerate().map(|(number, place)| {
            let place = Arc::clone(place);
            tokio::spawn(async move { place.change(add(format!("t{number:02}"))).await })
        });
        for added in futures::future::join_all(adding.collect::<Vec<_>>()).await {
            assert_eq!(added.unwrap().unwrap(), Changed::Added);
        }
        let all: Vec<String> = (0..100).map(|number| format!("t{number:02}")).collect();
        assert_eq!(names(&place().read().await.unwrap()), all);
        let dropping = (0..100).step_by(2).map(|number| {
            let place = place();
            async move {
                let drop = NameChange::Drop { name: format!("t{number:02}"), kind: None, if_exists: false };
                place.change(drop).await.unwrap()
            }
        });
        futures::future::join_all(dropping).await;
        let odd: Vec<String> = all.into_iter().skip(1).step_by(2).collect();
        assert_eq!(names(&place().read().await.unwrap()), odd);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_of_a_file_at_the_same_time_are_all_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("buzz.json");
        hundred_changes(|| Place::File(file.clone())).await;
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["buzz.json"], "no temporary file is left");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_of_an_object_at_the_same_time_are_all_kept() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        hundred_changes(|| Place::object(Arc::clone(&store), "names.json".into(), "s3://b/names.json".to_string()))
            .await;
    }

    #[tokio::test]
    async fn unchanged_object_is_not_read_again_and_a_changed_one_is() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let place = |shown: &str| Place::object(Arc::clone(&store), "names.json".into(), shown.to_string());
        let (reader, writer) = (place("reader"), place("writer"));
        assert!(names(&reader.read().await.unwrap()).is_empty());
        for name in ["a", "b"] {
            writer.change(add(name.to_string())).await.unwrap();
            let first = names(&reader.read().await.unwrap());
            assert_eq!(first.last().unwrap(), name);
            assert_eq!(names(&reader.read().await.unwrap()), first);
        }
        let Place::Object { last, .. } = &reader else { panic!("not an object") };
        assert!(last.lock().is_some());
    }

    #[tokio::test]
    async fn damaged_document_is_neither_read_nor_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("buzz.json");
        for damage in ["{\"catalogs\": [{\"name\": \"t\"", "{\"catalogs\": [{\"name\": \"t\"}]}"] {
            std::fs::write(&file, damage).unwrap();
            let error = Place::File(file.clone()).change(add("x".to_string())).await.unwrap_err().to_string();
            assert!(error.starts_with(&file.display().to_string()), "{error}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), damage);
        }
        let store = InMemory::new();
        store.put(&"names.json".into(), PutPayload::from_static(b"\xff{}")).await.unwrap();
        let place = Place::object(Arc::new(store), "names.json".into(), "s3://b/names.json".to_string());
        for error in [place.read().await.map(|_| ()), place.change(add("x".to_string())).await.map(|_| ())] {
            let error = error.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Invalid);
            assert!(error.to_string().starts_with("s3://b/names.json: ") && error.to_string().contains("; correct it"));
        }
    }

    #[tokio::test]
    async fn device_is_not_replaced() {
        let error = Place::File("/dev/null".into()).change(add("t".to_string())).await.unwrap_err();
        assert!(error.message.contains("`/dev/null` is not a file"), "{error}");
        assert!(!std::fs::metadata("/dev/null").unwrap().is_file());
    }

    #[tokio::test]
    async fn folder_that_does_not_exist_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::File(dir.path().join("missing/buzz.json"));
        let error = place.change(add("x".to_string())).await.unwrap_err().to_string();
        assert!(error.contains("missing` cannot be locked: "), "{error}");
        let folder = Place::File(dir.path().to_path_buf());
        assert!(folder.read().await.unwrap_err().to_string().contains("Is a directory"));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn link_and_permissions_of_a_file_are_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target.json"), dir.path().join("buzz.json"));
        std::fs::write(&target, "{\"catalogs\": []}").unwrap();
        std::fs::set_permissions(&target, PermissionsExt::from_mode(0o640)).unwrap();
        symlink(&target, &link).unwrap();
        Place::File(link.clone()).change(add("t".to_string())).await.unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(names(&Place::File(target.clone()).read().await.unwrap()), ["t"]);
        assert_eq!(target.metadata().unwrap().permissions().mode() & 0o777, 0o640);
    }
}
