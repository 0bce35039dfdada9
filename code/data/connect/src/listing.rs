//! The order in which files are read, and changes of files that this order cannot take in.

use std::collections::{HashMap, HashSet};

use buzz_protocol::{QueryError, Result};
use object_store::ObjectMeta;

/// The time of the last change of a file in milliseconds since 1970, and its name. Files are read in this order.
pub(crate) type Key = (i64, String);

/// Returns the place of a file in the order.
pub(crate) fn key(file: &ObjectMeta) -> Key {
    (file.last_modified.timestamp_millis(), file.location.to_string())
}

/// The files of a folder that this process has seen.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Files of the last listing with their times.
    before: Option<HashMap<String, i64>>,
    /// Files that appeared too late to be read.
    missed: HashSet<String>,
}

impl Listing {
    /// Compares `files` with the listing before. `last` is the file that was read last, `partly` if it was read in part.
    /// Returns notes on files that appeared with an older time than `last`, so that they are left out.
    ///
    /// # Errors
    /// `Data` if a file has changed after it was read: its rows would be read again.
    pub(crate) fn check(
        &mut self,
        files: &[ObjectMeta],
        last: Option<&Key>,
        partly: bool,
        root: &str,
    ) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        let before = self.before.take();
        let now: HashMap<String, i64> = files.iter().map(key).map(|(time, name)| (name, time)).collect();
        for (name, &time) in now.iter().filter(|_| last.is_some()) {
            let (last_time, last_name) = last.map(|(time, name)| (*time, name)).unwrap_or((i64::MIN, name));
            let known = before.as_ref().map(|before| before.get(name).copied());
            let changed = match known {
                Some(Some(known)) => known < time && (known, name) <= (last_time, last_name),
                _ => name == last_name && time > last_time && !partly,
            };
            if changed && !self.missed.contains(name) {
                return Err(QueryError::data(format!(
                    "file `{root}{name}` was read and has changed since; put new rows into new files, complete when they \
                     appear"
                )));
            }
            if known == Some(None) && (time, name) < (last_time, last_name) {
                self.missed.insert(name.clone());
                notes.push(format!(
                    "file `{root}{name}` appeared with an older time than files that were read, so it is not read; set \
                     its time to now"
                ));
            }
        }
        self.before = Some(now);
        Ok(notes)
    }
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::*;

    fn files(files: &[(&str, u64)]) -> Vec<ObjectMeta> {
        let meta = |(name, seconds): &(&str, u64)| ObjectMeta {
            location: Path::from(*name),
            last_modified: (std::time::UNIX_EPOCH + std::time::Duration::from_secs(*seconds)).into(),
            size: 1,
            e_tag: None,
            version: None,
        };
        files.iter().map(meta).collect()
    }

    #[test]
    fn file_that_appears_with_an_older_time_is_noted_and_may_be_touched() {
        let mut listing = Listing::default();
        let last = (5_000, "b".to_string());
        let mut check = |listed: &[(&str, u64)]| listing.check(&files(listed), Some(&last), false, "/");
        assert_eq!(check(&[("a", 1), ("b", 5)]).expect("the first listing"), [""; 0]);
        let notes = check(&[("a", 1), ("b", 5), ("c", 3), ("d", 6)]).expect("nothing has changed");
        assert!(notes.len() == 1 && notes[0].contains("`/c` appeared with an older time"), "{notes:?}");
        assert_eq!(check(&[("a", 1), ("b", 5), ("c", 7)]).expect("it was not read"), [""; 0]);
    }

    #[test]
    fn file_that_changes_after_it_was_read_is_an_error() {
        let last = (5_000, "b".to_string());
        for changed in [("a", 6), ("b", 6)] {
            let mut listing = Listing::default();
            listing.check(&files(&[("a", 1), ("b", 5)]), Some(&last), false, "/").expect("the first listing");
            let error = listing.check(&files(&[("a", 1), ("b", 5), changed][1..]), Some(&last), false, "/");
            let error = error.expect_err("it was read before");
            assert!(error.message.contains("was read and has changed since"), "{error}");
        }
        // After a restart, the last file is known.
        let error = Listing::default().check(&files(&[("b", 9)]), Some(&last), false, "/");
        assert!(error.is_err());
    }
}
