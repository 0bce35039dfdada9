//! The registry of names: tables and views that statements name without a catalog entry of their own.
//!
//! ```text
//!  a statement ─▶ Named ─▶ names that it reads (`reads`) ─▶ entries (`document`) ─▶ Engine
//!                   │
//!                   └─ CREATE, DROP (`ddl`) ─▶ change ─▶ file or object (`place`)
//! ```
//!
//! A [`Registry`] is a JSON document in one place: a file, or an object of a stack's bucket. [`Named`] is an engine that adds
//! the entries of the names that a statement reads, and changes the registry by statements.

mod ddl;
mod document;
mod named;
mod place;
mod reads;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use buzz_engine::NameChange;
use buzz_protocol::{CatalogEntry, CatalogType, QueryError, Result};
use object_store::ObjectStore;

pub use ddl::may_change_names;
pub use named::Named;

use crate::document::Changed;
use crate::place::Place;

/// The name of the file of names in the working directory.
pub const FILE: &str = "buzz.json";

/// A registry of names in one place.
#[derive(Debug)]
pub struct Registry {
    place: Place,
    /// Folder of relative places.
    base: PathBuf,
    /// True if a file that does not exist cannot be read.
    must_exist: bool,
}

impl Registry {
    /// Makes the registry in `file`, which does not have to exist yet. Relative places are below its folder.
    pub fn of_file(file: impl Into<PathBuf>) -> Self {
        let file = file.into();
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let base = std::path::absolute(folder).unwrap_or_else(|_| folder.to_path_buf());
        Self { place: Place::File(file), base, must_exist: false }
    }

    /// Makes reading an error if the file does not exist. A change creates it.
    #[must_use]
    pub fn that_exists(self) -> Self {
        Self { must_exist: true, ..self }
    }

    /// Makes the registry in the object at `path` of `store`, which does not have to exist yet. Messages name it `shown`.
    pub fn of_object(store: Arc<dyn ObjectStore>, path: object_store::path::Path, shown: impl Into<String>) -> Self {
        Self { place: Place::object(store, path, shown.into()), base: PathBuf::from("/"), must_exist: false }
    }

    /// Returns all entries, sorted by name, as they are written, and warnings. Opens no table. A registry that does not exist
    /// is empty.
    ///
    /// # Errors
    /// `Invalid` if the registry cannot be read or is damaged, `Unavailable` if its store does not respond.
    pub async fn read(&self) -> Result<(Vec<CatalogEntry>, Vec<String>)> {
        if let (true, Place::File(file)) = (self.must_exist, &self.place)
            && !file.exists()
        {
            return Err(QueryError::invalid(format!(
                "file of tables `{}` does not exist; `buzz tables add` creates it",
                file.display()
            )));
        }
        self.read_if_any().await
    }

    /// Returns what [`Registry::read`] does, and nothing if a file that must exist does not exist yet, as before the change that
    /// creates it.
    pub(crate) async fn read_if_any(&self) -> Result<(Vec<CatalogEntry>, Vec<String>)> {
        let document = self.place.read().await?;
        let (mut entries, warnings) = document.entries()?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok((entries, warnings))
    }

    /// Makes one change. Of several changes at the same time, by any number of processes, none is lost.
    ///
    /// # Errors
    /// As [`Registry::read`]; `Invalid` if the name exists already, or does not exist; `Unavailable` if others change the
    /// registry all the time.
    pub(crate) async fn change(&self, change: NameChange) -> Result<Changed> {
        self.place.change(change).await
    }

    /// Returns the folder of relative places.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// Returns `entry`, which is one of the registry, with a place that means the same in the folder `base`.
    pub fn within(&self, entry: CatalogEntry, base: &Path) -> CatalogEntry {
        moved(entry, &self.base, base)
    }

    /// Returns `entry`, whose place is relative to the folder `base`, with a place that means the same in the registry.
    pub fn taken_from(&self, entry: CatalogEntry, base: &Path) -> CatalogEntry {
        moved(entry, base, &self.base)
    }
}

/// Makes a relative place absolute if it does not mean the same in the folders `from` and `to`.
fn moved(entry: CatalogEntry, from: &Path, to: &Path) -> CatalogEntry {
    let uri = &entry.uri;
    let is_built_in = entry.kind == CatalogType::Static && !uri.contains(['/', '.']);
    if from == to || uri.is_empty() || is_built_in || uri.contains("://") || Path::new(uri).is_absolute() {
        return entry;
    }
    CatalogEntry { uri: from.join(uri).display().to_string(), ..entry }
}
