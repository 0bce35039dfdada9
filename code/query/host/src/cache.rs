//! Objects that are kept from one query to the next, in a folder or below a prefix of a store. Any of them may be missing or
//! damaged: then it counts as missing.

use std::fmt;
use std::io::Write;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use buzz_protocol::{QueryError, Result};
use bytes::{BufMut, Bytes, BytesMut};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};

/// First bytes of an object. The hash of the rest follows.
const MAGIC: &[u8; 8] = b"BuzzKept";

/// Bytes of a hash.
const HASH_BYTES: usize = blake3::OUT_LEN;

/// A hash of named values, under which an object is kept. Equal keys stand for equal values: it has 256 bits.
#[derive(Default)]
pub struct KeyHash(blake3::Hasher);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash")
    }
}

impl KeyHash {
    /// Adds a value. Each value needs a name, so that no two lists of values are alike.
    pub fn add(&mut self, name: &str, value: impl AsRef<[u8]>) {
        for part in [name.as_bytes(), value.as_ref()] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
    }

    /// Returns the key: hexadecimal digits.
    pub fn key(&self) -> String {
        self.0.finalize().to_hex().to_string()
    }
}

/// Objects that are kept under keys. They are whole or missing, also while several processes write them.
pub struct ResultCache {
    root: Root,
    /// True if an object was kept since the last trim.
    written: AtomicBool,
}

enum Root {
    /// A folder, which is made when the first object is kept.
    Folder(PathBuf),
    /// A prefix of a store, whose objects the store removes by itself.
    Store(Arc<dyn ObjectStore>, Path),
}

impl fmt::Debug for ResultCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.root {
            Root::Folder(folder) => folder.display().to_string(),
            Root::Store(_, prefix) => prefix.to_string(),
        };
        f.debug_tuple("ResultCache").field(&place).finish()
    }
}

impl ResultCache {
    /// Keeps objects in `folder`, which only its owner can read. It is made when it is needed.
    pub fn in_folder(folder: impl Into<PathBuf>) -> Self {
        Self { root: Root::Folder(folder.into()), written: AtomicBool::new(false) }
    }

    /// Keeps objects below `prefix` of `store`.
    pub fn in_store(store: Arc<dyn ObjectStore>, prefix: Path) -> Self {
        Self { root: Root::Store(store, prefix), written: AtomicBool::new(false) }
    }

    /// Returns the object of `key`, or `None` if it is missing, damaged or cannot be read.
    pub async fn get(&self, key: &str) -> Option<Bytes> {
        let object = match &self.root {
            Root::Folder(folder) => Bytes::from(tokio::fs::read(folder.join(key)).await.ok()?),
            Root::Store(store, prefix) => {
                let found = store.get(&prefix.clone().join(key)).await.ok()?;
                found.bytes().await.ok()?
            }
        };
        let opened = opened(&object);
        if opened.is_none() {
            tracing::warn!(key, "a kept object is damaged and is ignored");
        }
        opened
    }

    /// Returns true if there is an object of `key`. It may be damaged.
    pub async fn has(&self, key: &str) -> bool {
        match &self.root {
            Root::Folder(folder) => tokio::fs::try_exists(folder.join(key)).await.unwrap_or(false),
            Root::Store(store, prefix) => store.head(&prefix.clone().join(key)).await.is_ok(),
        }
    }

    /// Keeps `bytes` under `key`. An earlier object of the key is replaced.
    ///
    /// # Errors
    /// `Unavailable` if the place is not writable.
    pub async fn put(&self, key: &str, bytes: &[u8]) -> Result<()> {
        let object = sealed(bytes);
        match &self.root {
            Root::Folder(folder) => {
                let (folder, key) = (folder.clone(), key.to_string());
                in_background(move || write(&folder, &key, &object)).await?;
            }
            Root::Store(store, prefix) => {
                let put = store.put(&prefix.clone().join(key), PutPayload::from(object)).await;
                put.map_err(|error| not_kept(&error))?;
            }
        }
        self.written.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Removes the oldest objects of a folder until the others have at most `bytes_max`, if an object was kept since the last
    /// time. A store removes its objects itself.
    ///
    /// # Errors
    /// `Unavailable` if the folder cannot be listed.
    pub async fn trim(&self, bytes_max: u64) -> Result<()> {
        match &self.root {
            Root::Folder(folder) if self.written.swap(false, Ordering::Relaxed) => {
                let folder = folder.clone();
                in_background(move || remove_oldest(&folder, bytes_max)).await
            }
            _ => Ok(()),
        }
    }
}

/// Does `work`, which waits for a disk, on a thread of its own.
async fn in_background(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> Result<()> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(|error| not_kept(&error)),
        Err(stopped) => Err(not_kept(&stopped)),
    }
}

fn not_kept(error: &dyn fmt::Display) -> QueryError {
    QueryError::unavailable(format!("the place of kept answers does not work: {error}"))
}

/// Writes a file of `folder` as a whole.
fn write(folder: &FilePath, name: &str, bytes: &[u8]) -> std::io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(bytes)?;
    file.persist(folder.join(name)).map_err(|error| error.error)?;
    Ok(())
}

/// Removes the oldest files of `folder` until the others have at most `bytes_max`. These include temporary ones that a
/// process left when it was killed.
fn remove_oldest(folder: &FilePath, bytes_max: u64) -> std::io::Result<()> {
    let mut files: Vec<(SystemTime, PathBuf, u64)> = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Another process may remove it meanwhile.
        if let Ok(found) = entry.metadata()
            && found.is_file()
        {
            files.push((found.modified()?, entry.path(), found.len()));
        }
    }
    files.sort();
    let mut bytes: u64 = files.iter().map(|(_, _, bytes)| bytes).sum();
    for (_, path, size) in files {
        if bytes <= bytes_max {
            break;
        }
        bytes -= size;
        _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// Puts the hash of `bytes` before them.
fn sealed(bytes: &[u8]) -> Bytes {
    let mut object = BytesMut::with_capacity(MAGIC.len() + HASH_BYTES + bytes.len());
    object.put_slice(MAGIC);
    object.put_slice(blake3::hash(bytes).as_bytes());
    object.put_slice(bytes);
    object.freeze()
}

/// Returns the bytes of an object, if they are those that were kept.
fn opened(object: &Bytes) -> Option<Bytes> {
    let rest = object.strip_prefix(MAGIC)?;
    let (hash, bytes) = rest.split_at_checked(HASH_BYTES)?;
    (blake3::hash(bytes).as_bytes() == hash).then(|| object.slice_ref(bytes))
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use tempfile::tempdir;

    use super::*;

    #[tokio::test]
    async fn objects_are_kept_in_a_folder_and_in_a_store() {
        let dir = tempdir().unwrap();
        let folder = dir.path().join("a/b");
        let store = ResultCache::in_store(Arc::new(InMemory::new()), Path::from("stack/answers"));
        for kept in [ResultCache::in_folder(&folder), store] {
            assert_eq!((kept.get("k").await, kept.has("k").await), (None, false));
            kept.put("k", b"first").await.unwrap();
            kept.put("k", b"second").await.unwrap();
            kept.put("empty", b"").await.unwrap();
            assert_eq!(kept.get("k").await.as_deref(), Some(&b"second"[..]));
            assert_eq!(kept.get("empty").await.as_deref(), Some(&b""[..]));
            assert!(kept.has("k").await && kept.get("other").await.is_none());
        }
        #[cfg(unix)]
        {
            let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&folder).unwrap().permissions());
            assert_eq!(mode & 0o777, 0o700);
        }
    }

    #[tokio::test]
    async fn damaged_objects_are_missing() {
        let dir = tempdir().unwrap();
        let kept = ResultCache::in_folder(dir.path());
        kept.put("k", b"some bytes").await.unwrap();
        let whole = std::fs::read(dir.path().join("k")).unwrap();
        for length in 0..whole.len() {
            std::fs::write(dir.path().join("k"), &whole[..length]).unwrap();
            assert_eq!(kept.get("k").await, None, "{length} bytes");
        }
        for position in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[position] ^= 1;
            std::fs::write(dir.path().join("k"), damaged).unwrap();
            assert_eq!(kept.get("k").await, None, "byte {position}");
        }
        std::fs::write(dir.path().join("k"), &whole).unwrap();
        assert_eq!(kept.get("k").await.as_deref(), Some(&b"some bytes"[..]));
    }

    #[tokio::test]
    async fn oldest_objects_are_removed_first() {
        let dir = tempdir().unwrap();
        let kept = ResultCache::in_folder(dir.path());
        let now = std::time::Duration::from_secs(1_700_000_000);
        for (number, key) in ["c", "a", "b"].into_iter().enumerate() {
            kept.put(key, &[0; 60]).await.unwrap();
            let file = std::fs::File::options().write(true).open(dir.path().join(key)).unwrap();
            file.set_modified(std::time::UNIX_EPOCH + now + std::time::Duration::from_secs(number as u64)).unwrap();
        }
        kept.trim(300).await.unwrap();
        assert!(kept.has("c").await, "all objects have 300 bytes");
        kept.trim(0).await.unwrap();
        assert!(kept.has("c").await, "no object was kept since the last trim");
        kept.put("b", &[0; 60]).await.unwrap();
        kept.trim(299).await.unwrap();
        assert!(!kept.has("c").await && kept.has("a").await && kept.has("b").await);
        kept.put("b", &[0; 60]).await.unwrap();
        kept.trim(0).await.unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        ResultCache::in_folder(dir.path().join("missing")).trim(0).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn objects_are_whole_while_several_write_them() {
        let dir = tempdir().unwrap();
        let kept = Arc::new(ResultCache::in_folder(dir.path()));
        let write = |value: u8| {
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                for _ in 0..50 {
                    kept.put("k", &vec![value; 10_000]).await.unwrap();
                }
            })
        };
        let writers = [write(1), write(2), write(3)];
        for _ in 0..100 {
            if let Some(bytes) = kept.get("k").await {
                assert!(bytes.len() == 10_000 && bytes.iter().all(|byte| *byte == bytes[0]));
            } else {
                assert!(!kept.has("k").await || kept.get("k").await.is_some());
            }
        }
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(kept.get("k").await.is_some());
    }

    #[test]
    fn key_depends_on_names_and_values() {
        let key = |values: &[(&str, &str)]| {
            let mut hash = KeyHash::default();
            values.iter().for_each(|(name, value)| hash.add(name, value));
            hash.key()
        };
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
        let all = [key(&[]), key(&[("a", "b")]), key(&[("ab", "")]), key(&[("a", ""), ("b", "")]), key(&[("", "ab")])];
        for (number, one) in all.iter().enumerate() {
            assert!(one.len() == 64 && !all[number + 1..].contains(one), "{number}");
        }
    }
}
