//! The statements that do not agree, each with a reason, in two lists beside this file:
//! - `known.txt`: Buzz returns other rows, or fails and plain DataFusion answers, or fails without a clear error;
//! - `known_answers.txt`: Buzz answers and plain DataFusion fails.
//!
//! An entry begins with `FILE:LINE reason`, or `FILE:LINE zones=N reason` if it is about that number of zones only;
//! the statement follows, indented. Lines that begin with `#` are for people. A reason that begins with `sometimes` is of a
//! statement that agrees in some runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use buzz_testkit::workspace_root;

use crate::verdict::Verdict;

/// The place of a statement, as file and line, and the number of zones that it was tried with.
pub(crate) type Place = (String, u32, usize);

/// The reason why a statement does not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub reason: String,
    pub sql: String,
}

impl Entry {
    /// Returns whether the statement agrees in some runs.
    pub(crate) fn is_sometimes(&self) -> bool {
        self.reason.starts_with("sometimes ")
    }
}

/// Maximum number of characters of a reason that is written.
const REASON_MAX: usize = 300;

/// The two lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum List {
    Differs,
    Answers,
}

impl List {
    /// Returns the list in which a statement with `verdict` must stand; none if it agrees.
    pub(crate) fn of(verdict: &Verdict) -> Option<List> {
        match verdict {
            Verdict::Answered(_) => Some(List::Answers),
            verdict if verdict.is_good() => None,
            _ => Some(List::Differs),
        }
    }

    /// Returns the file's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            List::Differs => "known.txt",
            List::Answers => "known_answers.txt",
        }
    }

    fn path(self) -> PathBuf {
        workspace_root().join("code/doors/cli/tests/against_datafusion").join(self.name())
    }

    fn heading(self) -> &'static str {
        match self {
            List::Differs => {
                "# Statements of DataFusion's sqllogictest files on which Buzz does not agree with plain DataFusion, and why. An\n\
                 # entry that agrees fails the test. `make slt-known` writes the list again and keeps reasons.\n"
            }
            List::Answers => {
                "# Statements of DataFusion's sqllogictest files that fail in plain DataFusion and that Buzz answers, and why. An\n\
                 # entry that fails in Buzz too fails the test. `make slt-known` writes the list again and keeps reasons.\n"
            }
        }
    }
}

/// The entries of a list, by place. An entry for any number of zones has 0 zones in its place.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    list: List,
    entries: BTreeMap<Place, Entry>,
}

impl Known {
    /// Reads the list.
    ///
    /// # Errors
    /// If the file cannot be read or has a line of another form.
    pub(crate) fn read(list: List) -> Result<Known, String> {
        let failed = |reason: String| format!("{}: {reason}", list.name());
        let text = std::fs::read_to_string(list.path()).map_err(|error| failed(error.to_string()))?;
        Known::parse(list, &text).map_err(failed)
    }

    fn parse(list: List, text: &str) -> Result<Known, String> {
        let mut known = Known { list, entries: BTreeMap::new() };
        let mut last: Option<Place> = None;
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            if let Some(sql) = line.strip_prefix("    ") {
                let entry = last.as_ref().and_then(|place| known.entries.get_mut(place));
                let entry = entry.ok_or_else(|| format!("line {}: a statement without a place", number + 1))?;
                entry.sql.push_str(sql);
                entry.sql.push('\n');
                continue;
            }
            let wrong = || format!("line {}: not of the form FILE:LINE [zones=N] reason", number + 1);
            let (place, reason) = line.split_once(' ').ok_or_else(wrong)?;
            let (file, at) = place.rsplit_once(':').ok_or_else(wrong)?;
            let (zones, reason) = match reason.strip_prefix("zones=").and_then(|rest| rest.split_once(' ')) {
                Some((zones, reason)) => (zones.parse().map_err(|_| wrong())?, reason),
                None => (0, reason),
            };
            let place = (file.to_string(), at.parse().map_err(|_| wrong())?, zones);
            known.entries.insert(place.clone(), Entry { reason: reason.to_string(), sql: String::new() });
            last = Some(place);
        }
        Ok(known)
    }

    /// Returns the list.
    pub(crate) fn list(&self) -> List {
        self.list
    }

    /// Returns the entry for a statement.
    pub(crate) fn of(&self, file: &str, line: u32, zones: usize) -> Option<&Entry> {
        let for_all = self.entries.get(&(file.to_string(), line, 0));
        for_all.or_else(|| self.entries.get(&(file.to_string(), line, zones)))
    }

    /// Returns a text for each entry of `file` that is not among its statements.
    pub(crate) fn strangers(&self, file: &str, statements: &[(u32, String)]) -> Vec<String> {
        let same = |(line, sql): &(u32, String), at: u32, entry: &Entry| {
            *line == at && sql.split_whitespace().eq(entry.sql.split_whitespace())
        };
        let here = self.entries.iter().filter(|((name, ..), _)| name == file);
        let stranger = here.filter(|((_, at, _), entry)| !statements.iter().any(|one| same(one, *at, entry)));
        stranger
            .map(|((name, at, _), _)| {
                format!("{name}:{at} in {} does not exist, or is another statement", self.list.name())
            })
            .collect()
    }

    /// Writes the list with the `failed` statements. An entry that is in the list already keeps its reason.
    pub(crate) fn write(&self, mut failed: BTreeMap<Place, Entry>) -> std::io::Result<()> {
        for (place, entry) in self.entries.iter().filter(|(_, entry)| entry.is_sometimes()) {
            failed.entry(place.clone()).or_insert_with(|| entry.clone());
        }
        let mut text = String::from(self.list.heading());
        for ((file, line, zones), entry) in failed {
            let reason = self.of(&file, line, zones).map_or(&entry.reason, |known| &known.reason);
            let reason: String = reason.chars().take(REASON_MAX).collect();
            let zones = if zones == 0 { String::new() } else { format!(" zones={zones}") };
            let _ = writeln!(text, "\n{file}:{line}{zones} {reason}");
            entry.sql.trim().lines().for_each(|sql| {
                let _ = writeln!(text, "    {sql}");
            });
        }
        std::fs::write(self.list.path(), text)
    }
}
