//! A folder on a local disk as a store whose objects survive power loss.
//!
//! `LocalFileSystem` never calls `fsync`: after a power loss the newest record may be empty, or name files that are.
//! Here an object is written to a temporary file, synced, put under its name by `link` or `rename`, and its folder is
//! synced before the call returns. A reader sees the whole object or none, also after a crash.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use buzz_protocol::QueryError;
use futures::FutureExt;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use parking_lot::Mutex;

/// The folder of temporary files. Their names end with `#` and digits, which `LocalFileSystem` does not list.
const STAGED: &str = ".staged";

/// Age after which the temporary file of a lost process is deleted.
const STAGED_AGE_MAX: Duration = Duration::from_secs(3600);

/// Number of folders that a store remembers as synced. Beyond it, it forgets them all and syncs them again.
const SYNCED_FOLDERS_MAX: usize = 4096;

/// Name of the store in errors, by which they count as errors of files.
const STORE: &str = "LocalFileSystem";

/// Opens `path` as a store that syncs each object and its folder before a put, a copy or a rename returns, and creates
/// the folder if it is missing. Several processes may use it at once. Conditional updates (`PutMode::Update`) and
/// attributes are not supported, as in `LocalFileSystem`. The folder must be on one file system.
///
/// A process that reads an object right after another process has linked it may do so before the folder is synced.
///
/// # Errors
/// `Data` if the folder cannot be created or read.
pub fn synced_folder(path: &FilePath) -> buzz_protocol::Result<Arc<dyn ObjectStore>> {
    let failed = |error: io::Error| {
        let text = format!("folder `{}` cannot be used: {error}", path.display());
        if is_disk_full(&error) { QueryError::unavailable(text) } else { QueryError::data(text) }
    };
    let staged = path.join(STAGED);
    fs::create_dir_all(&staged).map_err(failed)?;
    let path = path.canonicalize().map_err(failed)?;
    let staged = path.join(STAGED);
    for folder in [Some(staged.as_path()), Some(&path), path.parent()].into_iter().flatten() {
        sync_folder(folder).map_err(failed)?;
    }
    delete_old(&staged).map_err(failed)?;
    let files = LocalFileSystem::new_with_prefix(&path)?;
    let disk = Disk { root: path, synced: Mutex::default() };
    Ok(Arc::new(SyncedFolder { files, disk: Arc::new(disk) }))
}

/// Deletes temporary files of processes that were killed.
fn delete_old(staged: &FilePath) -> io::Result<()> {
    for entry in fs::read_dir(staged)? {
        let entry = entry?;
        // Another process may delete it at the same time.
        let Ok(modified) = entry.metadata().and_then(|meta| meta.modified()) else { continue };
        if buzz_protocol::now().duration_since(modified).is_ok_and(|age| age > STAGED_AGE_MAX) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

/// A `LocalFileSystem` that syncs what it writes.
#[derive(Debug)]
struct SyncedFolder {
    /// Reads, lists and deletes.
    files: LocalFileSystem,
    /// Writes.
    disk: Arc<Disk>,
}

impl fmt::Display for SyncedFolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SyncedFolder({})", self.disk.root.display())
    }
}

#[derive(Debug)]
struct Disk {
    root: PathBuf,
    /// Folders whose entry in their parent is known to be on the disk.
    synced: Mutex<HashSet<PathBuf>>,
}

/// A temporary file, deleted when dropped.
#[derive(Debug)]
struct Staged {
    file: File,
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        // It has been renamed, or it is not needed any more; one that stays is deleted by age.
        let _ = fs::remove_file(&self.path);
    }
}

/// The way in which an object gets its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Create,
    Overwrite,
}

impl Disk {
    fn stage(&self) -> Result<Staged> {
        loop {
            let path = self.root.join(STAGED).join(format!("{}#{}", std::process::id(), rand::random::<u64>()));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok(Staged { file, path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("create", &path, error)),
            }
        }
    }

    /// Syncs `staged`, and then puts it under the name `path`.
    fn place(&self, staged: &Staged, path: &FilePath, mode: Mode) -> Result<()> {
        staged.file.sync_all().map_err(|error| failed("sync", &staged.path, error))?;
        let folder = path.parent().unwrap_or(&self.root);
        self.create_folder(folder).map_err(|error| failed("create", folder, error))?;
        let placed = match mode {
            Mode::Create => fs::hard_link(&staged.path, path),
            Mode::Overwrite => fs::rename(&staged.path, path),
        };
        let exists = match placed {
            Ok(()) => None,
            Err(error) if mode == Mode::Create && error.kind() == io::ErrorKind::AlreadyExists => Some(error),
            Err(error) => return Err(failed("write", path, error)),
        };
        // Also if another process created the object: a caller that learns that it exists may rely on it.
        sync_folder(folder).map_err(|error| failed("sync", folder, error))?;
        match exists {
            None => Ok(()),
            Some(error) => Err(Error::AlreadyExists { path: path.display().to_string(), source: error.into() }),
        }
    }

    /// Creates `folder` and its parents up to the root, and syncs each in its parent. Also those that exist, once: the
    /// process that created them may not have synced them yet.
    fn create_folder(&self, folder: &FilePath) -> io::Result<()> {
        if folder == self.root || self.synced.lock().contains(folder) {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(&self.root);
        self.create_folder(parent)?;
        match fs::create_dir(folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !folder.is_dir() => return Err(error),
            _ => sync_folder(parent)?,
        }
        let mut synced = self.synced.lock();
        if synced.len() >= SYNCED_FOLDERS_MAX {
            synced.clear();
        }
        synced.insert(folder.to_path_buf());
        Ok(())
    }
}

fn sync_folder(folder: &FilePath) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

fn failed(action: &str, path: &FilePath, error: io::Error) -> Error {
    let text = format!("cannot {action} `{}`: {error}", path.display());
    let source = match is_disk_full(&error) {
        // Callers that try again go on when there is space.
        true => QueryError::unavailable(format!("{text}; free some space")).into(),
        false => io::Error::new(error.kind(), text).into(),
    };
    Error::Generic { store: STORE, source }
}

/// Returns true if nothing was written because the disk or the quota of its user is full: another try succeeds when there is
/// space.
pub fn is_disk_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Runs `work` on a thread that may wait for the disk; on this one outside of Tokio.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::runtime::Handle::try_current() {
        Ok(runtime) => runtime.spawn_blocking(work).await?,
        Err(_) => work(),
    }
}

fn unsupported(operation: &str) -> Error {
    Error::NotImplemented { operation: operation.into(), implementer: "SyncedFolder".into() }
}

#[async_trait]
impl ObjectStore for SyncedFolder {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let mode = match options.mode {
            PutMode::Create => Mode::Create,
            PutMode::Overwrite => Mode::Overwrite,
            PutMode::Update(_) => return Err(unsupported("`put_opts` with mode `PutMode::Update`")),
        };
        if !options.attributes.is_empty() {
            return Err(unsupported("`put_opts` with attributes"));
        }
        let (disk, path) = (self.disk.clone(), self.files.path_to_filesystem(location)?);
        blocking(move || {
            let mut staged = disk.stage()?;
            for chunk in &payload {
                staged.file.write_all(chunk).map_err(|error| failed("write", &staged.path, error))?;
            }
            disk.place(&staged, &path, mode)?;
            Ok(PutResult { e_tag: None, version: None })
        })
        .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if !options.attributes.is_empty() {
            return Err(unsupported("`put_multipart_opts` with attributes"));
        }
        let (disk, path) = (self.disk.clone(), self.files.path_to_filesystem(location)?);
        let opened = self.disk.clone();
        let staged = blocking(move || opened.stage()).await?;
        Ok(Box::new(Upload { disk, path, staged: Some(Arc::new(staged)), bytes: 0 }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.files.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.files.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let mut listed = self.files.list_with_delimiter(prefix).await?;
        listed.common_prefixes.retain(|folder| folder.as_ref() != STAGED);
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let mode = match options.mode {
            CopyMode::Create => Mode::Create,
            CopyMode::Overwrite => Mode::Overwrite,
        };
        let (source, path) = (self.files.path_to_filesystem(from)?, self.files.path_to_filesystem(to)?);
        let disk = self.disk.clone();
        blocking(move || {
            let mut original = File::open(&source).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => Error::NotFound { path: source.display().to_string(), source: error.into() },
                _ => failed("read", &source, error),
            })?;
            let mut staged = disk.stage()?;
            io::copy(&mut original, &mut staged.file).map_err(|error| failed("copy", &source, error))?;
            disk.place(&staged, &path, mode)
        })
        .await
    }
}

/// An object that is written in parts.
#[derive(Debug)]
struct Upload {
    disk: Arc<Disk>,
    path: PathBuf,
    /// `None` after the end.
    staged: Option<Arc<Staged>>,
    /// Bytes of the parts so far: where the next one begins.
    bytes: u64,
}

impl Upload {
    fn ended() -> Error {
        Error::Generic { store: STORE, source: "the upload has ended".into() }
    }
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let mut at = self.bytes;
        self.bytes += data.content_length() as u64;
        let Some(staged) = self.staged.clone() else { return async { Err(Upload::ended()) }.boxed() };
        blocking(move || {
            for chunk in &data {
                staged.file.write_all_at(chunk, at).map_err(|error| failed("write", &staged.path, error))?;
                at += chunk.len() as u64;
            }
            Ok(())
        })
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(Upload::ended)?;
        let (disk, path) = (self.disk.clone(), self.path.clone());
        blocking(move || disk.place(&staged, &path, Mode::Overwrite)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.staged = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use buzz_protocol::ErrorKind;

    use super::*;

    #[test]
    fn full_disk_is_unavailable_and_other_faults_are_not() {
        let error =
            |kind: io::ErrorKind| QueryError::from(failed("write", FilePath::new("/state/1.json"), kind.into()));
        for kind in [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded] {
            let error = error(kind);
            assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
            assert!(
                error.message.contains("cannot write `/state/1.json`") && error.message.contains("free"),
                "{error}"
            );
        }
        assert_eq!(error(io::ErrorKind::ReadOnlyFilesystem).kind, ErrorKind::Data);
    }
}
