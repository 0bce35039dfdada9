//! The place of the files of a script: the folder of relative paths, the stores, and the inbox of its pipeline.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use buzz_epoch::inbox_folder;
use buzz_protocol::Result;
use buzz_storage::{Location, QueryStores};
use object_store::ObjectStore;
use object_store::path::Path;

/// The place of the files of a script.
#[derive(Clone)]
pub struct Place {
    /// The folder that relative paths are below.
    pub base: PathBuf,
    /// The stores of files and buckets, with their regions and credentials.
    pub stores: Arc<QueryStores>,
    /// Folders are read once, even if a table follows them.
    pub until_end: bool,
    /// The place of messages that sources receive; `None` if the pipeline has no state.
    pub inbox: Option<Inbox>,
}

/// The place of messages that the sources of a pipeline receive from where nothing can be read again.
#[derive(Clone)]
pub struct Inbox {
    /// The store of the state.
    pub store: Arc<dyn ObjectStore>,
    /// The folder of the state.
    pub root: Path,
    /// The name of the pipeline in the state.
    pub pipeline: String,
    /// The store is a bucket, where a write is a request.
    pub remote: bool,
}

impl Inbox {
    /// Returns the folder of the messages of `table`.
    pub(crate) fn folder(&self, table: &str) -> Path {
        inbox_folder(&self.root, &self.pipeline, table)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("base", &self.base).field("until_end", &self.until_end).finish_non_exhaustive()
    }
}

impl Place {
    /// Returns the location of a path or an s3:// uri, and its store.
    ///
    /// # Errors
    /// `Invalid` if the uri is not understood, or the settings of its bucket are incomplete.
    pub async fn open(&self, uri: &str) -> Result<(Location, Arc<dyn ObjectStore>)> {
        let location = Location::parse(uri, &self.base)?;
        // Finds the region of a bucket if no setting names it.
        self.stores.bucket_options(&location.store).await;
        let store = self.stores.store(&location.store)?;
        Ok((location, store))
    }
}
