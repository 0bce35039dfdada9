//! Messages that a process receives from outside, which has no offsets: kept in numbered batches before they count.
//!
//! ```text
//! header: one line of JSON | the messages, one behind the other
//! ```

use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use bytes::{BufMut, Bytes, BytesMut};
use futures::TryStreamExt;
use object_store::ObjectStore;
use object_store::path::Path;
use serde::{Deserialize, Serialize};

use crate::names;
use crate::object::{self, Created};
use crate::rules::Rules;

/// Maximum number of batches that one call deletes.
const DELETED_MAX: usize = 100_000;

/// A batch of messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    /// The place of the messages outside, such as an address.
    pub of: String,
    /// The receiver, unique in each process.
    pub by: String,
    /// The position behind the last message, if the place outside has positions.
    pub position: Option<String>,
    /// The messages, in the order in which they came.
    pub messages: Vec<Bytes>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    of: String,
    by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    position: Option<String>,
    /// The length of each message in bytes.
    lengths: Vec<u64>,
}

impl Received {
    fn encode(&self) -> Result<Bytes> {
        let lengths = self.messages.iter().map(|message| message.len() as u64).collect();
        let header = Header { of: self.of.clone(), by: self.by.clone(), position: self.position.clone(), lengths };
        let header = serde_json::to_vec(&header)
            .map_err(|error| QueryError::internal(format!("the header of messages cannot be encoded: {error}")))?;
        let size = self.messages.iter().map(Bytes::len).sum::<usize>();
        let mut bytes = BytesMut::with_capacity(header.len() + 1 + size);
        bytes.put_slice(&header);
        bytes.put_u8(b'\n');
        self.messages.iter().for_each(|message| bytes.put_slice(message));
        Ok(bytes.freeze())
    }

    /// Decodes the batch in `path`.
    ///
    /// # Errors
    /// `Data` if the object is not one.
    fn decode(path: &Path, bytes: &Bytes) -> Result<Self> {
        let damaged = || QueryError::data(format!("`{path}` has no messages, or only a part of them; restore it"));
        let end = bytes.iter().position(|&byte| byte == b'\n').ok_or_else(damaged)?;
        let header: Header = serde_json::from_slice(&bytes[..end]).map_err(|_| damaged())?;
        let mut rest = bytes.slice(end + 1..);
        let mut messages = Vec::with_capacity(header.lengths.len().min(rest.len() + 1));
        for length in header.lengths {
            let length = usize::try_from(length).ok().filter(|length| *length <= rest.len()).ok_or_else(damaged)?;
            messages.push(rest.split_to(length));
        }
        if !rest.is_empty() {
            return Err(damaged());
        }
        Ok(Self { of: header.of, by: header.by, position: header.position, messages })
    }
}

/// Batches of messages in a folder, numbered without gaps, each created once. Of several processes that receive the same
/// messages one wins each number, and the others see that they have not.
#[derive(Debug, Clone)]
pub struct Feed {
    store: Arc<dyn ObjectStore>,
    folder: Path,
}

impl Feed {
    /// Opens the feed in `folder`, which need not exist.
    pub fn new(store: Arc<dyn ObjectStore>, folder: Path) -> Self {
        Self { store, folder }
    }

    /// Returns the numbers of the first and the last batch; `None` if there is none.
    ///
    /// # Errors
    /// The error of the store.
    pub async fn ends(&self) -> Result<Option<(u64, u64)>> {
        let mut listed = self.store.list(Some(&self.folder));
        let mut ends: Option<(u64, u64)> = None;
        while let Some(found) = listed.try_next().await? {
            if let Some(n) = number_of(&found.location) {
                ends = Some(ends.map_or((n, n), |(first, last)| (first.min(n), last.max(n))));
            }
        }
        Ok(ends)
    }

    /// Creates batch `n`, which follows `n` - 1. Returns false if another process has created it.
    ///
    /// # Errors
    /// The error of the store. The batch may exist nevertheless: repeat the call.
    pub async fn append(&self, n: u64, received: &Received) -> Result<bool> {
        let created = object::create(&self.store, &self.path(n), received.encode()?, Rules::default()).await?;
        Ok(matches!(created, Created::Mine))
    }

    /// Reads batch `n`; `None` if it does not exist.
    ///
    /// # Errors
    /// `Data` if it is damaged.
    pub async fn read(&self, n: u64) -> Result<Option<Received>> {
        let path = self.path(n);
        let bytes = object::read(&self.store, &path).await?;
        bytes.map(|bytes| Received::decode(&path, &bytes)).transpose()
    }

    /// Deletes the batches before `n`, but never the newest one, which has the position and the number of those to come.
    ///
    /// # Errors
    /// The error of the store.
    pub async fn delete_before(&self, n: u64) -> Result<()> {
        let Some((first, newest)) = self.ends().await? else { return Ok(()) };
        // A later call deletes the rest.
        let old = (first..n.min(newest)).take(DELETED_MAX).map(|n| self.path(n)).collect();
        object::delete(&self.store, old).await?;
        Ok(())
    }

    fn path(&self, n: u64) -> Path {
        self.folder.clone().join(names::numbered(n))
    }
}

/// Returns the number of the batch in `path`; `None` if it is another file.
fn number_of(path: &Path) -> Option<u64> {
    path.filename()?.strip_suffix(".json")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    fn received(by: &str, messages: &[&'static str]) -> Received {
        let messages = messages.iter().map(|message| Bytes::from_static(message.as_bytes())).collect();
        Received { of: "sse".to_string(), by: by.to_string(), position: Some("7".to_string()), messages }
    }

    #[test]
    fn messages_survive_encoding_and_damage_is_an_error() {
        let batch = received("a", &["{\n}", "", "x"]);
        let bytes = batch.encode().unwrap();
        let path = Path::from("inbox/1");
        assert_eq!(Received::decode(&path, &bytes).unwrap(), batch);
        for length in 0..bytes.len() {
            let error = Received::decode(&path, &bytes.slice(..length)).unwrap_err();
            assert!(error.message.contains("inbox/1"), "{error}");
        }
        let longer = [&bytes[..], b"y"].concat();
        assert!(Received::decode(&path, &longer.into()).is_err());
    }

    #[tokio::test]
    async fn of_two_receivers_one_keeps_a_batch() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let open = || Feed::new(Arc::clone(&store), Path::from("p/inbox/t"));
        let (one, two) = (open(), open());
        assert_eq!(one.ends().await.unwrap(), None);
        assert!(one.append(1, &received("one", &["a"])).await.unwrap());
        assert!(!two.append(1, &received("two", &["a"])).await.unwrap());
        assert!(one.append(1, &received("one", &["a"])).await.unwrap(), "the answer was lost");
        assert!(two.append(2, &received("two", &["b"])).await.unwrap());
        assert_eq!((one.ends().await.unwrap(), one.read(2).await.unwrap().unwrap().by), (Some((1, 2)), "two".into()));
        one.delete_before(9).await.unwrap();
        assert_eq!((two.ends().await.unwrap(), two.read(1).await.unwrap()), (Some((2, 2)), None));
        assert_eq!(two.read(3).await.unwrap(), None);
    }
}
