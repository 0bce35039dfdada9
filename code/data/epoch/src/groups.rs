//! Key groups: the unit in which state is divided among combs, and by which it is rescaled.
//!
//! A row belongs to the key group of its *grouping key*, everywhere: in the exchange, in state files and in timers. A
//! timer whose group came from another value would be lost when the number of combs changes.

use std::ops::Range;

use crate::record::StateFile;

/// Returns the key groups of comb `comb` of `combs`: `comb·groups/combs .. (comb+1)·groups/combs`. The ranges of all
/// combs cover each group once; some are empty if there are more combs than groups.
///
/// # Panics
/// Panics if `comb` is not below `combs`, which is a bug of the caller.
pub fn groups_of(comb: u32, combs: u32, groups: u32) -> Range<u32> {
    assert!(comb < combs, "comb {comb} is one of {combs}");
    let bound = |comb: u32| {
        let bound = u64::from(comb) * u64::from(groups) / u64::from(combs);
        u32::try_from(bound).expect("a bound is at most the number of key groups")
    };
    bound(comb)..bound(comb + 1)
}

/// Returns the files of `stage` with rows of `groups`. A file may also contain rows of other groups, which the reader
/// skips: no file is rewritten when the number of combs changes.
pub fn files_of<'a>(
    state: &'a [StateFile],
    stage: &'a str,
    groups: Range<u32>,
) -> impl Iterator<Item = &'a StateFile> + 'a {
    state.iter().filter(move |file| file.stage == stage && file.groups.0 < groups.end && groups.start < file.groups.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_each_group_once_for_any_number_of_combs() {
        for groups in [1, 2, 7, 64, 1000] {
            for combs in [1, 2, 3, 5, 64, 100] {
                let all: Vec<u32> = (0..combs).flat_map(|comb| groups_of(comb, combs, groups)).collect();
                assert_eq!(all, (0..groups).collect::<Vec<_>>(), "{groups} groups on {combs} combs");
            }
        }
    }

    #[test]
    fn comb_reads_files_that_overlap_its_range() {
        let file = |stage: &str, from, to| StateFile { stage: stage.into(), groups: (from, to), ..Default::default() };
        let state = [file("a", 0, 32), file("a", 32, 64), file("b", 0, 64)];
        let read = |groups| files_of(&state, "a", groups).map(|file| file.groups).collect::<Vec<_>>();
        assert_eq!(read(0..21), [(0, 32)]);
        assert_eq!(read(21..42), [(0, 32), (32, 64)]);
        assert_eq!(read(32..64), [(32, 64)]);
        assert_eq!(read(5..5), [(0, 32)]);
    }
}
