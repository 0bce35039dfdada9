//! The place of the objects through which tasks may deliver rows.

use buzz_protocol::{QueryError, QueryId, Result, exchange_of};
use buzz_storage::Location;
use parking_lot::Mutex;
use tempfile::TempDir;

/// The place of the objects through which tasks may deliver rows.
#[derive(Debug)]
pub struct ObjectRoot {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// Storage that all workers reach.
    At(Location),
    /// A folder of this process, made with its first object.
    Temporary(Mutex<Option<TempDir>>),
}

impl ObjectRoot {
    /// Creates the place below `root`, which all workers must reach.
    pub fn at(root: Location) -> Self {
        Self { kind: Kind::At(root) }
    }

    /// Creates a place in a temporary folder, which is removed with this value. For workers in this process.
    pub fn temporary() -> Self {
        Self { kind: Kind::Temporary(Mutex::new(None)) }
    }

    /// Returns true if objects are better than combs that must be started first. In one process, combs start at once.
    pub fn is_for_all(&self) -> bool {
        matches!(self.kind, Kind::At(_))
    }

    /// Returns the place of the objects of the run `query`.
    ///
    /// # Errors
    /// `Unavailable` if the temporary folder cannot be made.
    pub fn of_query(&self, query: QueryId) -> Result<Location> {
        match &self.kind {
            Kind::At(root) => root.join(&exchange_of(query)),
            Kind::Temporary(folder) => {
                let mut folder = folder.lock();
                let made = match folder.take() {
                    Some(made) => made,
                    None => tempfile::Builder::new().prefix("buzz-exchange-").tempdir().map_err(|error| {
                        QueryError::unavailable(format!("a folder for exchanged objects cannot be made: {error}"))
                    })?,
                };
                let root = made.path().to_str().map(|path| Location::parse(path, made.path()));
                let root = root.ok_or_else(|| QueryError::internal("the folder of temporary files is not UTF-8"))??;
                *folder = Some(made);
                root.join(&exchange_of(query))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_of_a_run_are_below_the_stack_or_in_a_folder_that_is_removed() {
        let query = QueryId::fresh();
        let root = Location::parse("s3://stack/results/", std::path::Path::new("/")).unwrap();
        let place = ObjectRoot::at(root).of_query(query).unwrap();
        assert_eq!(place.to_string(), format!("s3://stack/results/exchange/{query}"));

        let temporary = ObjectRoot::temporary();
        let (one, other) = (temporary.of_query(query).unwrap(), temporary.of_query(QueryId::fresh()).unwrap());
        assert_eq!(one.parent(), other.parent());
        let folder = one.parent().parent().to_string();
        assert!(std::path::Path::new(&folder).is_dir());
        drop(temporary);
        assert!(!std::path::Path::new(&folder).exists());
    }
}
