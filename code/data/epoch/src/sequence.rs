//! Documents that replace each other, although a store can only create objects.

use std::sync::Arc;

use buzz_protocol::Result;
use bytes::Bytes;
use object_store::ObjectStore;
use object_store::path::Path;
use parking_lot::Mutex;

use crate::names::numbered;
use crate::object::{self, Created};
use crate::rules::Rules;
use crate::search::Search;

/// Numbered documents in a folder, from 1 and without gaps, each created once. The newest one counts. Of several processes
/// that replace it at once, one wins, and the others see that they have not.
#[derive(Debug)]
pub struct Sequence {
    store: Arc<dyn ObjectStore>,
    folder: Path,
    /// A document that exists; 0 for none. The search for the newest one starts there.
    known: Mutex<u64>,
}

impl Sequence {
    /// Opens the sequence in `folder`, which need not exist.
    pub fn new(store: Arc<dyn ObjectStore>, folder: Path) -> Self {
        Self { store, folder, known: Mutex::new(0) }
    }

    /// Returns the number and the bytes of the newest document; `None` if there is none.
    ///
    /// # Errors
    /// The error of the store.
    pub async fn newest(&self) -> Result<Option<(u64, Bytes)>> {
        loop {
            let mut search = Search::above(*self.known.lock());
            while let Some(n) = search.probe() {
                search.answer(n, object::exists(&self.store, &self.path(n)).await?);
            }
            let newest = search.newest();
            if newest == 0 {
                return Ok(None);
            }
            if let Some(bytes) = object::read(&self.store, &self.path(newest)).await? {
                self.remember(newest);
                return Ok(Some((newest, bytes)));
            }
            // The folder was emptied: search from its start.
            *self.known.lock() = 0;
            if !object::exists(&self.store, &self.path(1)).await? {
                return Ok(None);
            }
        }
    }

    /// Returns true if a newer document than `n` exists.
    ///
    /// # Errors
    /// The error of the store.
    pub async fn is_replaced(&self, n: u64) -> Result<bool> {
        Ok(*self.known.lock() > n || object::exists(&self.store, &self.path(n + 1)).await?)
    }

    /// Creates document `n`, which replaces `n` - 1. Returns false if another process has created it. `bytes` must have
    /// something unique, since a document with equal bytes is taken for one's own, of which the answer was lost.
    ///
    /// # Errors
    /// The error of the store. The document may exist nevertheless.
    pub async fn create(&self, n: u64, bytes: Bytes) -> Result<bool> {
        let created = object::create(&self.store, &self.path(n), bytes, Rules::default()).await?;
        self.remember(n);
        Ok(matches!(created, Created::Mine))
    }

    fn remember(&self, n: u64) {
        let mut known = self.known.lock();
        *known = n.max(*known);
    }

    fn path(&self, n: u64) -> Path {
        self.folder.clone().join(numbered(n))
    }
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;

    use super::*;

    #[tokio::test]
    async fn of_two_processes_one_replaces_a_document() {
        let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let open = || Sequence::new(Arc::clone(&store), Path::from("jobs/a"));
        let (one, two) = (open(), open());
        assert_eq!(one.newest().await.unwrap(), None);
        assert!(one.create(1, "one".into()).await.unwrap());
        assert!(!two.create(1, "two".into()).await.unwrap());
        assert!(one.create(1, "one".into()).await.unwrap(), "the same document again is one's own");
        assert_eq!(two.newest().await.unwrap(), Some((1, "one".into())));
        for n in 2..=9 {
            assert!(!two.is_replaced(n - 1).await.unwrap());
            assert!(one.create(n, n.to_string().into()).await.unwrap());
            assert!(two.is_replaced(n - 1).await.unwrap());
        }
        assert_eq!(two.newest().await.unwrap(), Some((9, "9".into())));
        assert_eq!(open().newest().await.unwrap(), Some((9, "9".into())));
    }
}
