//! The place of the history of `buzz serve`.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use buzz_protocol::Result;
use buzz_serve::HistoryFile;

use crate::terminal::warn;

/// Opens the history at `named`, or that of servers which start in the folder `base`. `None` if nothing is to be kept; also with a
/// warning if the history of the folder cannot be.
///
/// # Errors
/// As [`HistoryFile::open`] for `named`.
pub(crate) fn history(named: Option<&Path>, base: &Path) -> Result<Option<HistoryFile>> {
    if let Some(place) = named {
        return HistoryFile::open(place).map(Some);
    }
    let Some(place) = place(base, |name| std::env::var_os(name)) else { return Ok(None) };
    let opened = HistoryFile::open(&place);
    Ok(opened.inspect_err(|error| warn(&format!("{error}; this server forgets its history when it stops"))).ok())
}

/// Returns `buzz/servers/HASH.ndjson` in the folder for the state of programs. `None` if `BUZZ_HISTORY` is empty or there is no
/// home.
fn place(base: &Path, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    if variable("BUZZ_HISTORY").is_some_and(|set| set.is_empty()) {
        return None;
    }
    let set = |name: &str| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    // A relative path is ignored, as the XDG base directory specification requires.
    let state = set("XDG_STATE_HOME").filter(|folder| folder.is_absolute());
    let state = state.or_else(|| Some(set("HOME")?.join(".local/state")))?;
    let hash = blake3::hash(base.as_os_str().as_bytes()).to_hex();
    Some(state.join(format!("buzz/servers/{}.ndjson", hash.get(..16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_folder_has_a_file() {
        let of = |base: &str, set: &[(&str, &str)]| {
            let found = place(Path::new(base), |name| {
                set.iter().find(|(other, _)| *other == name).map(|(_, value)| OsString::from(value))
            });
            found.map(|place| place.display().to_string())
        };
        let home = ("HOME", "/h");
        let place = of("/a", &[home]).unwrap();
        let name = place.strip_prefix("/h/.local/state/buzz/servers/").unwrap();
        assert_eq!(name.len(), "0123456789abcdef.ndjson".len());
        assert_ne!(of("/b", &[home]), Some(place.clone()));
        assert_eq!(of("/a", &[home, ("BUZZ_HISTORY", "/x"), ("XDG_STATE_HOME", "x")]), Some(place));
        assert!(of("/a", &[home, ("XDG_STATE_HOME", "/s")]).unwrap().starts_with("/s/buzz/servers/"));
        assert_eq!(of("/a", &[home, ("BUZZ_HISTORY", "")]), None);
        assert_eq!(of("/a", &[]), None);
    }
}
