//! The order in which files are read, which files were read, and changes that a stream cannot take in.

use std::collections::{BTreeMap, HashMap, HashSet};

use buzz_protocol::{QueryError, Result};
use object_store::ObjectMeta;
use serde_json::{Map, Value, json};

/// The time of the last change of a file in milliseconds since 1970, and its name. Files are read in this order.
pub(crate) type Key = (i64, String);

/// Maximum number of files that are known by name after they were read. An offset has them all.
const READ_MAX: usize = 200;

/// A file of a followed folder is read when it has not changed for this time.
const SETTLE_MS: i64 = 500;

/// Returns the place of a file in the order.
pub(crate) fn key(file: &ObjectMeta) -> Key {
    (file.last_modified.timestamp_millis(), file.location.to_string())
}

/// A file that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ReadFile {
    /// The time of its last change in milliseconds.
    time: i64,
    /// Its size in bytes; `None` if the offset is of a build that did not keep it.
    size: Option<u64>,
    /// A number made of its tag, if the store has tags.
    tag: Option<u64>,
}

impl ReadFile {
    fn of(file: &ObjectMeta) -> Self {
        let (time, _) = key(file);
        Self { time, size: Some(file.size), tag: tag(file) }
    }
}

/// Makes a number of the tag of a file (FNV-1a). On a local disk, the tag has the inode, which a file keeps when it is renamed.
fn tag(file: &ObjectMeta) -> Option<u64> {
    let tag = file.e_tag.as_ref()?;
    let next = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    Some(tag.bytes().fold(0xcbf2_9ce4_8422_2325, next))
}

/// A file of a listing.
#[derive(Debug, Clone, Copy)]
struct Seen {
    time: i64,
    size: u64,
    /// The time of the first listing in which it was so, in milliseconds.
    since: i64,
}

/// Time, size, tag and name by which a file is recognized that was renamed. Without tags, a file of the same time and size may
/// be another one, so the last part of the name counts.
type Identity = (i64, u64, Option<u64>, Option<String>);

fn identity(time: i64, size: u64, tag: Option<u64>, name: &str) -> Identity {
    (time, size, tag, tag.is_none().then(|| name.rsplit('/').next().unwrap_or(name).to_string()))
}

/// The files of a folder.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// The files that were read last.
    read: BTreeMap<String, ReadFile>,
    /// Files up to this place in the order count as read: those that were read are too many to be known by name.
    floor: Option<Key>,
    /// Files of the last listing of this process.
    before: Option<HashMap<String, Seen>>,
    /// Files that appeared too late to be read.
    missed: HashSet<String>,
}

impl Listing {
    /// Resumes from an offset. `last` is the file that was read last, and `partly` is true if it was read in part. Returns
    /// `None` if the offset is broken.
    pub(crate) fn resume(&mut self, offset: &Value, last: Option<&Key>, partly: bool) -> Option<()> {
        let Some(read) = offset.get("read") else {
            // A build that kept only the last file has read all files before it.
            self.floor = last.cloned();
            if let Some((time, name)) = last.filter(|_| !partly) {
                self.read.insert(name.clone(), ReadFile { time: *time, size: None, tag: None });
            }
            return Some(());
        };
        for (name, file) in read.as_object()? {
            let size = file.get(1).and_then(Value::as_u64);
            let tag = file.get(2).and_then(Value::as_u64);
            self.read.insert(name.clone(), ReadFile { time: file.get(0)?.as_i64()?, size, tag });
        }
        if let Some(floor) = offset.get("floor").filter(|floor| !floor.is_null()) {
            self.floor = Some((floor.get(0)?.as_i64()?, floor.get(1)?.as_str()?.to_string()));
        }
        Some(())
    }

    /// Returns the parts `floor` and `read` of an offset.
    pub(crate) fn offset(&self) -> (Value, Value) {
        let read = self.read.iter().map(|(name, file)| (name.clone(), json!([file.time, file.size, file.tag])));
        let floor = self.floor.as_ref().map(|(time, name)| json!([time, name]));
        (floor.unwrap_or_default(), Value::Object(read.collect::<Map<_, _>>()))
    }

    /// Notes that a file was read to its end.
    pub(crate) fn finish(&mut self, file: &ObjectMeta) {
        self.read.insert(file.location.to_string(), ReadFile::of(file));
        while self.read.len() > READ_MAX {
            let oldest = self.read.iter().map(|(name, file)| (file.time, name)).min();
            let Some((time, name)) = oldest.map(|(time, name)| (time, name.clone())) else { return };
            self.read.remove(&name);
            self.floor = self.floor.take().max(Some((time, name)));
        }
    }

    /// Returns the files of `files` that were not read, in their order, and notes on files that are left out: those that
    /// were renamed after they were read, and those that appeared with a time at or before the floor. `now` is in
    /// milliseconds.
    ///
    /// # Errors
    /// `Data` if a file has changed after it was read: its rows would be read again.
    pub(crate) fn unread(
        &mut self,
        files: &[ObjectMeta],
        now: i64,
        root: &str,
    ) -> Result<(Vec<ObjectMeta>, Vec<String>)> {
        let (mut unread, mut notes, mut seen) = (Vec::new(), Vec::new(), HashMap::with_capacity(files.len()));
        let before = self.before.take();
        for file in files {
            let (time, name) = key(file);
            let known = before.as_ref().and_then(|before| before.get(&name)).copied();
            let same = known.filter(|known| (known.time, known.size) == (time, file.size));
            let since = same.map_or(now, |known| known.since);
            seen.insert(name.clone(), Seen { time, size: file.size, since });
            let is_forgotten =
                |time: i64| self.floor.as_ref().is_some_and(|floor| (time, &name) <= (floor.0, &floor.1));
            let changed = match self.read.get(&name) {
                Some(read) if read.time >= time && read.size.is_none_or(|size| size == file.size) => continue,
                Some(_) => true,
                None if is_forgotten(time) => {
                    if before.is_some() && known.is_none() && self.missed.insert(name.clone()) {
                        notes.push(format!(
                            "file `{root}{name}` appeared with an older time than files that were read, so it is not \
                             read; set its time to now"
                        ));
                    }
                    continue;
                }
                None => known.is_some_and(|known| is_forgotten(known.time)) && !self.missed.contains(&name),
            };
            if changed {
                return Err(QueryError::data(format!(
                    "file `{root}{name}` was read and has changed since; put new rows into new files, complete when they \
                     appear"
                )));
            }
            unread.push(file.clone());
        }
        self.leave_out_renamed(&mut unread, &seen, root, &mut notes);
        self.before = Some(seen);
        Ok((unread, notes))
    }

    /// Removes files from `unread` that were read under a name that is no longer in `seen`.
    fn leave_out_renamed(
        &mut self,
        unread: &mut Vec<ObjectMeta>,
        seen: &HashMap<String, Seen>,
        root: &str,
        notes: &mut Vec<String>,
    ) {
        let mut gone: HashMap<Identity, Vec<String>> = HashMap::new();
        for (name, read) in self.read.iter().filter(|(name, _)| !seen.contains_key(*name)) {
            if let Some(size) = read.size {
                gone.entry(identity(read.time, size, read.tag, name)).or_default().push(name.clone());
            }
        }
        unread.retain(|file| {
            let (time, name) = key(file);
            let Some(old) = gone.get_mut(&identity(time, file.size, tag(file), &name)).and_then(Vec::pop) else { return true };
            notes.push(format!(
                "file `{root}{name}` has the time and size of `{root}{old}`, which was read and no longer exists, so it counts as \
                 renamed and is not read; if it has other rows, set its time to now"
            ));
            self.read.remove(&old);
            self.read.insert(name, ReadFile::of(file));
            false
        });
    }

    /// Returns true if a file of the last listing has not changed for [`SETTLE_MS`], by its time or, if that is in the
    /// future, by the listings. `now` is in milliseconds.
    pub(crate) fn is_settled(&self, file: &ObjectMeta, now: i64) -> bool {
        let (time, name) = key(file);
        let seen = self.before.as_ref().and_then(|before| before.get(&name));
        time.min(seen.map_or(time, |seen| seen.since)) <= now - SETTLE_MS
    }
}

#[cfg(test)]
mod tests {
    use object_store::path::Path;

    use super::*;

    fn files(files: &[(&str, u64)]) -> Vec<ObjectMeta> {
        let meta = |(name, milliseconds): &(&str, u64)| ObjectMeta {
            location: Path::from(*name),
            last_modified: (std::time::UNIX_EPOCH + std::time::Duration::from_millis(*milliseconds)).into(),
            size: 1,
            e_tag: None,
            version: None,
        };
        files.iter().map(meta).collect()
    }

    /// Returns the names of the unread files, and reads them.
    fn read(listing: &mut Listing, listed: &[(&str, u64)]) -> Result<(Vec<String>, Vec<String>)> {
        let (unread, notes) = listing.unread(&files(listed), 0, "/")?;
        for file in &unread {
            listing.finish(file);
        }
        Ok((unread.iter().map(|file| file.location.to_string()).collect(), notes))
    }

    /// Returns a listing that resumes from the offset of `listing`.
    fn restarted(listing: &Listing) -> Listing {
        let (floor, read) = listing.offset();
        let mut again = Listing::default();
        again.resume(&json!({"floor": floor, "read": read}), None, false).expect("the offset is complete");
        assert_eq!(again.offset(), listing.offset());
        again
    }

    #[test]
    fn file_that_appears_with_an_older_time_is_read() {
        let mut listing = Listing::default();
        assert_eq!(read(&mut listing, &[("a", 1001), ("b", 5001)]).expect("both are new").0, ["a", "b"]);
        let more = [("c", 901), ("a", 1001), ("d", 3001), ("b", 5001)];
        let unread = read(&mut restarted(&listing), &more).expect("nothing has changed");
        assert_eq!(unread, (vec!["c".to_string(), "d".to_string()], Vec::new()));
        assert_eq!(read(&mut listing, &more).expect("nothing has changed"), unread);
        assert_eq!(read(&mut listing, &more).expect("nothing has changed").0, [""; 0]);
    }

    #[test]
    fn file_that_changes_after_it_was_read_is_an_error() {
        let mut listing = Listing::default();
        read(&mut listing, &[("a", 1001), ("b", 5001)]).expect("both are new");
        for changed in [("a", 6001), ("b", 6001)] {
            for again in [&mut restarted(&listing), &mut listing] {
                let error = read(again, &[changed]).expect_err("it was read before");
                assert!(error.message.contains("was read and has changed since"), "{error}");
            }
        }
        let mut larger = files(&[("a", 1001)]);
        larger[0].size = 2;
        assert!(restarted(&listing).unread(&larger, 0, "/").is_err());
    }

    #[test]
    fn renamed_file_is_noted_and_not_read_again() {
        let mut listing = Listing::default();
        read(&mut listing, &[("in/a", 1001), ("in/b", 2000), ("in/c", 3000)]).expect("all are new");
        let mut listing = restarted(&listing);
        let moved = [("in/done/a2", 1001), ("in/done/b", 2000), ("in/other", 3000)];
        let (unread, notes) = read(&mut listing, &moved).expect("nothing has changed");
        assert_eq!(unread, ["in/done/a2", "in/other"]);
        assert!(notes.len() == 1 && notes[0].contains("`/in/done/b` has the time and size of `/in/b`"), "{notes:?}");
        assert_eq!(read(&mut restarted(&listing), &moved).expect("nothing has changed"), (Vec::new(), Vec::new()));

        // With tags, the name does not count.
        let tagged =
            |name: &str, tag: &str| ObjectMeta { e_tag: Some(tag.to_string()), ..files(&[(name, 1001)])[0].clone() };
        let mut listing = Listing::default();
        listing.unread(&[tagged("a", "1"), tagged("b", "2")], 0, "/").expect("both are new");
        listing.finish(&tagged("a", "1"));
        listing.finish(&tagged("b", "2"));
        let moved = [tagged("c", "1"), tagged("d", "3")];
        let (unread, notes) = restarted(&listing).unread(&moved, 0, "/").expect("nothing has changed");
        assert_eq!((unread, notes.len()), (vec![tagged("d", "3")], 1));
    }

    #[test]
    fn known_files_are_bounded() {
        let mut listing = Listing::default();
        let names: Vec<String> = (0..READ_MAX + 2).map(|number| format!("f{number:05}")).collect();
        let mut listed: Vec<(&str, u64)> = names.iter().zip(1001..).map(|(name, time)| (name.as_str(), time)).collect();
        assert_eq!(read(&mut listing, &listed).expect("all are new").0.len(), READ_MAX + 2);
        let mut again = restarted(&listing);
        assert_eq!(again.read.len(), READ_MAX);
        assert_eq!(read(&mut again, &listed).expect("nothing has changed"), (Vec::new(), Vec::new()));
        // A file that appears among those that are not known by name is noted.
        listed.push(("late", 1));
        let (unread, notes) = read(&mut again, &listed).expect("nothing has changed");
        assert!(unread.is_empty() && notes.len() == 1 && notes[0].contains("`/late` appeared with an older time"));
        listed[READ_MAX + 2].1 = 9_001;
        assert_eq!(read(&mut again, &listed).expect("it was not read").0, ["late"]);
        listed[0].1 = 9_002;
        assert!(read(&mut again, &listed).is_err());
    }

    #[test]
    fn offset_of_an_earlier_build_is_understood() {
        let last = (5001, "b".to_string());
        let resumed = |partly| {
            let mut listing = Listing::default();
            listing
                .resume(&json!({"time": 5001, "file": "b", "position": 0}), Some(&last), partly)
                .expect("it is complete");
            listing
        };
        let listed = [("a", 1001), ("b", 5001), ("c", 6001)];
        assert_eq!(read(&mut resumed(false), &listed).expect("nothing has changed").0, ["c"]);
        assert!(read(&mut resumed(false), &[("b", 9001)]).is_err());
        assert!(read(&mut resumed(true), &[("b", 5001)]).is_ok());
    }

    #[test]
    fn file_with_a_time_in_the_future_is_read_when_it_rests() {
        let mut listing = Listing::default();
        let listed = files(&[("a", 3_600_001)]);
        for (now, settled) in [(1_000, false), (1_400, false), (1_500, true)] {
            assert_eq!(listing.unread(&listed, now, "/").expect("nothing has changed").0.len(), 1);
            assert_eq!(listing.is_settled(&listed[0], now), settled, "{now}");
        }
        let changed = files(&[("a", 3_600_002)]);
        listing.unread(&changed, 2_000, "/").expect("it was not read");
        assert!(!listing.is_settled(&changed[0], 2_000));
    }
}
