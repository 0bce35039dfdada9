//! The SELECTs that do not agree, each with a reason: `known.txt`, beside this file.
//!
//! An entry begins with `FILE:LINE reason`, or `FILE:LINE zones=N reason` where only that number of zones is concerned;
//! the statement follows, indented. Lines that begin with `#` are for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

/// Where a statement stands: file and line; and with how many zones it was tried.
pub(crate) type Place = (String, u32, usize);

/// Why a statement does not agree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub reason: String,
    pub sql: String,
}

/// Characters of a reason that are written when nobody gave one.
const REASON_MAX: usize = 300;

/// Entries, by place. The zones of a place are 0 where the entry is for all.
#[derive(Debug, Default, Clone)]
pub(crate) struct Known(BTreeMap<Place, Entry>);

impl Known {
    /// Reads the list.
    pub(crate) fn read() -> Result<Known, String> {
        let text = std::fs::read_to_string(path()).map_err(|error| format!("{}: {error}", path().display()))?;
        Known::parse(&text)
    }

    fn parse(text: &str) -> Result<Known, String> {
        let mut known = Known::default();
        let mut last: Option<Place> = None;
        for (number, line) in text.lines().enumerate() {
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            if let Some(sql) = line.strip_prefix("    ") {
                let entry = last.as_ref().and_then(|place| known.0.get_mut(place));
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
            known.0.insert(place.clone(), Entry { reason: reason.to_string(), sql: String::new() });
            last = Some(place);
        }
        Ok(known)
    }

    /// The entry for a statement.
    pub(crate) fn of(&self, file: &str, line: u32, zones: usize) -> Option<&Entry> {
        let for_all = self.0.get(&(file.to_string(), line, 0));
        for_all.or_else(|| self.0.get(&(file.to_string(), line, zones)))
    }

    /// Places in `file` that are not among `tried` statements at all.
    pub(crate) fn strangers(&self, file: &str, tried: &[(u32, String)]) -> Vec<String> {
        let same = |(line, sql): &(u32, String), at: u32, entry: &Entry| {
            *line == at && sql.split_whitespace().eq(entry.sql.split_whitespace())
        };
        let here = self.0.iter().filter(|((name, ..), _)| name == file);
        let stranger = here.filter(|((_, at, _), entry)| !tried.iter().any(|one| same(one, *at, entry)));
        stranger.map(|((name, at, _), _)| format!("{name}:{at} is not there, or is another statement")).collect()
    }

    /// Writes a list in which `failed` statements stand with `(reason, SQL)`; reasons that were there before stay.
    pub(crate) fn write(&self, failed: BTreeMap<Place, Entry>) -> std::io::Result<()> {
        let mut text = String::from(
            "# SELECTs of the shared sqllogictest files on which Buzz does not agree with plain DataFusion, and why. Every\n\
             # entry is checked: one that agrees fails the test. `make slt-known` writes the list anew and keeps reasons.\n",
        );
        for ((file, line, zones), entry) in failed {
            let reason = self.of(&file, line, zones).map_or(&entry.reason, |known| &known.reason);
            let reason: String = reason.chars().take(REASON_MAX).collect();
            let zones = if zones == 0 { String::new() } else { format!(" zones={zones}") };
            let _ = writeln!(text, "\n{file}:{line}{zones} {reason}");
            entry.sql.trim().lines().for_each(|sql| {
                let _ = writeln!(text, "    {sql}");
            });
        }
        std::fs::write(path(), text)
    }
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/against_datafusion/known.txt"))
}
