//! Where the files are that a log names.

use std::collections::BTreeSet;
use std::path::Path;

use buzz_protocol::{Result, StoreRoot};
use buzz_storage::{Location, several_stores};
use url::Url;

/// The paths of a table's files: within its own store, or among several if one of them is elsewhere, as those of a shallow
/// clone are.
#[derive(Debug)]
pub(super) struct FilePaths<'a> {
    table: &'a Location,
    among_stores: bool,
    other_stores: BTreeSet<Url>,
}

impl<'a> FilePaths<'a> {
    /// Of the table at `table`.
    pub(super) fn of(table: &'a Location) -> Self {
        Self { table, among_stores: false, other_stores: BTreeSet::new() }
    }

    /// Where the table is.
    pub(super) fn table(&self) -> &Location {
        self.table
    }

    /// The path of a file that the log names, relative to the table or absolute.
    ///
    /// # Errors
    /// `Data` or `Invalid` when it is not a path, or in a store that Buzz does not have.
    pub(super) fn path(&mut self, named: &str) -> Result<String> {
        let place = if named.contains("://") || named.starts_with('/') {
            Location::parse(named, Path::new("/"))?
        } else if let Some(path) = named.strip_prefix("file:/") {
            // As Java writes a local URI.
            Location::parse(&format!("/{path}"), Path::new("/"))?
        } else {
            self.table.join(named)?
        };
        if place.store != self.table.store && !self.other_stores.contains(&place.store) {
            self.other_stores.insert(place.store.clone());
        }
        Ok(if self.among_stores { place.path_among_stores() } else { place.path.into() })
    }

    /// Whether a file turned out to be in another store, so that all paths must be asked for once more.
    pub(super) fn must_be_made_anew(&mut self) -> bool {
        let anew = !self.among_stores && !self.other_stores.is_empty();
        self.among_stores |= anew;
        anew
    }

    /// The store within which the paths are, and of which stores it is made if they are several.
    pub(super) fn stores(self) -> (Url, Vec<StoreRoot>) {
        if !self.among_stores {
            return (self.table.store.clone(), Vec::new());
        }
        let own = self.table.store.clone();
        let roots = std::iter::once(own).chain(self.other_stores);
        (several_stores(), roots.map(StoreRoot::new).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_names_files_of_its_own_store_and_of_others() {
        let table = Location::parse("/lake/t", Path::new("/")).unwrap();
        let mut paths = FilePaths::of(&table);
        for (named, path) in [
            ("a%20b.parquet", "lake/t/a%20b.parquet"),
            ("/lake/s/x", "lake/s/x"),
            ("file:///lake/s/x", "lake/s/x"),
            ("file:/lake/s/x", "lake/s/x"),
        ] {
            assert_eq!(paths.path(named).unwrap(), path);
        }
        assert!(!paths.must_be_made_anew());
        paths.path("s3a://b/k").unwrap();
        assert!(paths.must_be_made_anew());
        assert_eq!(paths.path("s3a://b/k").unwrap(), "s3/b/k");
        assert_eq!(paths.path("x").unwrap(), "file/lake/t/x");
        assert!(!paths.must_be_made_anew());
        let (store, roots) = paths.stores();
        let roots: Vec<_> = roots.iter().map(|root| root.url.as_str()).collect();
        assert_eq!((store.as_str(), roots), ("several:///", vec!["file:///", "s3://b/"]));
        let error = FilePaths::of(&table).path("gs://b/k").unwrap_err().to_string();
        assert!(error.contains("no storage for `gs://`"), "{error}");
    }
}
