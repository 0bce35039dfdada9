//! Resolves the paths of files that a log names.

use std::collections::BTreeSet;
use std::path::Path;

use buzz_protocol::{Result, StoreRoot};
use buzz_storage::{Location, path_among_stores, several_stores};
use url::Url;

/// Resolves the paths of a table's files. They are relative to the table's store, or to the combined store of several
/// if a file is in another one, as in a shallow clone.
#[derive(Debug)]
pub(super) struct FilePaths<'a> {
    table: &'a Location,
    among_stores: bool,
    other_stores: BTreeSet<Url>,
}

impl<'a> FilePaths<'a> {
    /// Creates the resolver of the table at `table`.
    pub(super) fn of(table: &'a Location) -> Self {
        Self { table, among_stores: false, other_stores: BTreeSet::new() }
    }

    /// Returns the location of the table.
    pub(super) fn table(&self) -> &Location {
        self.table
    }

    /// Returns the path of a file that the log names, relative to the table or absolute.
    ///
    /// # Errors
    /// `Data` or `Invalid` if the path is invalid, or in a store that Buzz does not support.
    pub(super) fn path(&mut self, named: &str) -> Result<String> {
        let place = self.place_of(named)?;
        if place.store != self.table.store && !self.other_stores.contains(&place.store) {
            self.other_stores.insert(place.store.clone());
        }
        Ok(if self.among_stores { path_among_stores(&place) } else { place.path.into() })
    }

    /// Returns the store and the path in it of a file that the log names.
    ///
    /// # Errors
    /// The errors of [`FilePaths::path`].
    pub(super) fn place(&self, named: &str) -> Result<(Url, String)> {
        let place = self.place_of(named)?;
        Ok((place.store, place.path.into()))
    }

    fn place_of(&self, named: &str) -> Result<Location> {
        if named.contains("://") || named.starts_with('/') {
            return Location::parse(named, Path::new("/"));
        }
        match named.strip_prefix("file:/") {
            // The form in which Java writes a local URI.
            Some(path) => Location::parse(&format!("/{path}"), Path::new("/")),
            None => self.table.join(named),
        }
    }

    /// Returns whether a file was found in another store, so that all paths must be resolved again. Returns true only
    /// once.
    pub(super) fn must_be_made_anew(&mut self) -> bool {
        let anew = !self.among_stores && !self.other_stores.is_empty();
        self.among_stores |= anew;
        anew
    }

    /// Returns the store of the paths and, if it combines several stores, their roots.
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
    fn paths_resolve_within_one_store_and_across_stores() {
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
        assert!(error.contains("scheme `gs://` is not supported"), "{error}");
    }
}
