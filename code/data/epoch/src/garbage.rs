//! Decides which files no one can need any more.
//!
//! The rule, which the simulator tests: names carry the epoch that a file was written for. Once that epoch has a
//! record, a file that neither this record nor one of the newest names is never named again. Files of an epoch without
//! a record may belong to a coordinator that is about to create it, so they stay.

use std::collections::{BTreeMap, BTreeSet};

use object_store::path::Path;

use crate::names::epoch_of;
use crate::rules::Rules;

/// Files that garbage collection keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keep {
    /// Number of newest records whose files stay, at least 1. It is possible to go back to these epochs.
    pub records: usize,
    /// For sinks with a target of their own, the epoch up to which the target is complete. Their older output is
    /// deleted; output of all other sinks stays as long as a record names it.
    pub published: BTreeMap<String, u64>,
}

impl Keep {
    /// Keeps the files of the newest `records` records, and all output.
    pub fn newest(records: usize) -> Self {
        Self { records, published: BTreeMap::new() }
    }
}

/// Returns the state files to delete. `newest` is the newest epoch with a record, `kept` has the paths that the newest
/// records name.
pub(crate) fn of_state(files: Vec<Path>, newest: u64, kept: &BTreeSet<String>, rules: Rules) -> Vec<Path> {
    let recorded = |path: &Path| epoch_of(path).is_some_and(|epoch| epoch <= newest || !rules.spares_unrecorded());
    files.into_iter().filter(|path| recorded(path) && !kept.contains(path.as_ref())).collect()
}

/// Returns the output files of one sink to delete. `kept` has the paths that the newest records name, `own` those that
/// the record of each file's epoch names, and `published` is the epoch up to which the target is complete. A file
/// stays if its epoch is not in `own`.
pub(crate) fn of_output(
    files: Vec<Path>,
    newest: u64,
    kept: &BTreeSet<String>,
    own: &BTreeMap<u64, BTreeSet<String>>,
    published: u64,
) -> Vec<Path> {
    let garbage = |path: &Path| {
        let Some(epoch) = epoch_of(path).filter(|epoch| *epoch <= newest) else { return false };
        let needed = || own.get(&epoch).is_none_or(|named| named.contains(path.as_ref()));
        !kept.contains(path.as_ref()) && (epoch <= published || !needed())
    };
    files.into_iter().filter(|path| garbage(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(epoch: u64, id: u128) -> Path {
        Path::from("v1/state/s").join(crate::names::file(epoch, uuid::Uuid::from_u128(id), "x"))
    }

    fn names(paths: &[Path]) -> BTreeSet<String> {
        paths.iter().map(Path::to_string).collect()
    }

    #[test]
    fn state_that_no_kept_record_names_is_garbage_once_its_epoch_is_recorded() {
        let foreign = Path::from("v1/state/s/notes.txt");
        let files = vec![file(3, 1), file(4, 1), file(4, 2), file(5, 1), file(6, 1), foreign];
        let kept = names(&[file(3, 1), file(4, 2)]);
        assert_eq!(of_state(files, 5, &kept, Rules::default()), [file(4, 1), file(5, 1)]);
    }

    #[test]
    fn output_stays_while_its_record_names_it_unless_the_target_has_it() {
        let files = || vec![file(1, 1), file(2, 1), file(2, 9), file(3, 1), file(4, 1), file(5, 1), file(6, 1)];
        let kept = names(&[file(5, 1)]);
        let own = BTreeMap::from([(1, names(&[file(1, 1)])), (2, names(&[file(2, 1)])), (4, names(&[]))]);
        // Epoch 3 has no entry: nothing is known about its file.
        assert_eq!(of_output(files(), 5, &kept, &own, 0), [file(2, 9), file(4, 1)]);
        assert_eq!(of_output(files(), 5, &kept, &own, 2), [file(1, 1), file(2, 1), file(2, 9), file(4, 1)]);
    }
}
