//! Divides files into splits and packs splits into tasks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use buzz_catalog::DataFile;
use buzz_protocol::Options;
use parquet::file::metadata::ParquetMetaData;

/// A file or a part of one. The SQL of an `HBee` step is evaluated once for each split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSplit {
    /// Position in the table's files after pruning.
    pub file: usize,
    /// First byte (inclusive) and last byte (exclusive); `None` for the whole file.
    pub range: Option<(u64, u64)>,
    /// Size of the split in bytes.
    pub bytes: u64,
}

/// Returns one split for each file.
pub(crate) fn whole_files(files: &[DataFile]) -> Vec<FileSplit> {
    files.iter().enumerate().map(|(file, data)| FileSplit { file, range: None, bytes: data.size }).collect()
}

/// Divides a Parquet file into splits of about `target` bytes, between row groups. Smaller ranges would result in tasks
/// without rows.
pub(crate) fn row_group_splits(file: usize, size: u64, footer: &ParquetMetaData, target: u64) -> Vec<FileSplit> {
    let mut starts: Vec<u64> = footer.row_groups().iter().filter_map(row_group_start).collect();
    starts.sort_unstable();
    ranges_between(file, size, &starts, target)
}

/// Divides a file whose row groups begin at `starts`, in ascending order. Cuts at the row group starts that are nearest
/// to the ends of equal parts.
fn ranges_between(file: usize, size: u64, starts: &[u64], target: u64) -> Vec<FileSplit> {
    let target = target.max(1);
    let parts = u128::from((size.saturating_add(target / 2) / target).max(1));
    let even_end = |part: u128| u64::try_from(u128::from(size) * part / parts).unwrap_or(size);
    let mut cuts = vec![0];
    let mut part = 1;
    // The first row group always belongs to the first split.
    for (index, &start) in starts.iter().enumerate().skip(1) {
        let (next, end) = (starts.get(index + 1).copied().unwrap_or(size), even_end(part));
        if part < parts && start > cuts[cuts.len() - 1] && start.abs_diff(end) <= next.abs_diff(end) {
            cuts.push(start);
            // A large row group may span several equal parts.
            part = part.max(u128::from(start) * parts / u128::from(size.max(1))) + 1;
        }
    }
    if cuts.len() == 1 {
        return vec![FileSplit { file, range: None, bytes: size }];
    }
    let ends = cuts[1..].iter().copied().chain([size]).collect::<Vec<_>>();
    let split = |(start, end): (u64, u64)| FileSplit { file, range: Some((start, end)), bytes: end - start };
    cuts.into_iter().zip(ends).map(split).collect()
}

/// Divides a file of lines into splits of about `target` bytes. A line belongs to the split in which it begins.
pub(crate) fn line_splits(file: usize, size: u64, target: u64) -> Vec<FileSplit> {
    let count = (size / target.max(1)).max(1);
    let cut = |part: u64| u64::try_from(u128::from(size) * u128::from(part) / u128::from(count)).unwrap_or(size);
    let split = |part: u64| {
        let (start, end) = (cut(part), cut(part + 1));
        FileSplit { file, range: (count > 1).then_some((start, end)), bytes: end - start }
    };
    (0..count).map(split).collect()
}

/// Returns the start of a row group as DataFusion defines it: a scan of a range reads the row groups that start in it.
fn row_group_start(row_group: &parquet::file::metadata::RowGroupMetaData) -> Option<u64> {
    let first = row_group.columns().first()?;
    let start = first.dictionary_page_offset().unwrap_or_else(|| first.data_page_offset());
    u64::try_from(start).ok()
}

/// Returns the number of tasks for a stage over `bytes`: the option `tasks` if set, otherwise one per `task_bytes` and
/// at least `tasks_min`.
pub(crate) fn tasks_wanted(bytes: u64, options: &Options, tasks_min: usize) -> usize {
    let by_bytes = usize::try_from(bytes.div_ceil(options.task_bytes.max(1))).unwrap_or(usize::MAX);
    if options.tasks > 0 { options.tasks } else { by_bytes.max(tasks_min).max(1) }
}

/// Returns the target size of a split, in bytes, so that `tasks` share `bytes` evenly: at most the option
/// `split_bytes`, and at least 1 MiB if that option allows it. Splits are larger if there would be more than 1,000,000.
pub(crate) fn split_target(bytes: u64, options: &Options, tasks: usize) -> u64 {
    let share = bytes / (tasks as u64).max(1);
    share.max(SPLIT_BYTES_MIN).min(options.split_bytes).max(bytes / SPLITS_MAX)
}

/// Returns the size of the splits of files whose partial aggregates are kept. It must not change when the table grows.
pub(crate) fn part_target(options: &Options) -> u64 {
    PART_BYTES.min(options.split_bytes)
}

/// Makes a task of each split, or returns `None` if these are more tasks than are worth their start.
pub(crate) fn parts(splits: &[FileSplit], options: &Options) -> Option<Vec<Vec<FileSplit>>> {
    let fit = splits.len() <= PARTS_MAX.min(options.max_tasks);
    fit.then(|| splits.iter().map(|split| vec![split.clone()]).collect())
}

/// Size of the splits whose partial aggregates are kept, in bytes.
const PART_BYTES: u64 = 32 << 20;

/// Maximum number of splits of a stage whose partial aggregates are kept.
const PARTS_MAX: usize = 1024;

/// Minimum size of a split, in bytes: a smaller split costs more as a task than it saves.
const SPLIT_BYTES_MIN: u64 = 1 << 20;

/// Maximum number of splits into which the files of a stage are divided.
const SPLITS_MAX: u64 = 1_000_000;

/// Packs splits into `count` tasks of about equal bytes, or one task per split if there are fewer splits. Assigns the
/// largest split first, always to the smallest task.
pub(crate) fn pack(mut splits: Vec<FileSplit>, count: usize) -> Vec<Vec<FileSplit>> {
    let count = count.min(splits.len());
    splits.sort_by_key(|split| Reverse(split.bytes));
    let mut tasks: Vec<Vec<FileSplit>> = (0..count).map(|_| Vec::new()).collect();
    let mut least: BinaryHeap<Reverse<(u64, usize)>> = (0..count).map(|task| Reverse((0, task))).collect();
    for split in splits {
        let Some(Reverse((bytes, task))) = least.pop() else {
            break;
        };
        // Even a very small file costs one or two requests.
        least.push(Reverse((bytes + split.bytes.max(FILE_COST_BYTES), task)));
        tasks[task].push(split);
    }
    for task in &mut tasks {
        task.sort_by_key(|split| (split.file, split.range));
    }
    tasks
}

/// The cost of opening a file, in bytes that could be read in the same time: 30 ms at 50 MiB/s, usual for a store.
const FILE_COST_BYTES: u64 = 3 << 19;

#[cfg(test)]
mod tests {
    use super::*;

    fn splits(sizes: &[u64]) -> Vec<FileSplit> {
        sizes.iter().enumerate().map(|(file, &bytes)| FileSplit { file, range: None, bytes }).collect()
    }

    #[test]
    fn task_count_follows_bytes_within_bounds() {
        let options = |tasks, task_bytes| Options { tasks, task_bytes, ..Options::default() };
        assert_eq!(tasks_wanted(500 << 20, &options(0, 64 << 20), 1), 8);
        assert_eq!(tasks_wanted(500 << 20, &options(0, 250 << 20), 1), 2);
        assert_eq!(tasks_wanted(500 << 20, &options(0, 1 << 40), 4), 4);
        assert_eq!(tasks_wanted(500 << 20, &options(1, 1), 4), 1);
        assert_eq!(tasks_wanted(0, &options(0, 64), 0), 1);
    }

    #[test]
    fn splits_fill_all_tasks_but_have_a_minimum_size() {
        let options = Options { split_bytes: 128 << 20, ..Options::default() };
        assert_eq!(split_target(64 << 20, &options, 4), 16 << 20);
        assert_eq!(split_target(1 << 30, &options, 4), 128 << 20);
        assert_eq!(split_target(1 << 20, &options, 4), SPLIT_BYTES_MIN);
        let small = Options { split_bytes: 1, ..options };
        assert_eq!((split_target(1 << 20, &small, 4), split_target(1 << 40, &small, 4)), (1, 1_099_511));
    }

    #[test]
    fn parts_are_tasks_of_one_split_each() {
        let options = |split_bytes, max_tasks| Options { split_bytes, max_tasks, ..Options::default() };
        assert_eq!((part_target(&options(1 << 30, 1)), part_target(&options(7, 1))), (PART_BYTES, 7));
        let three = splits(&[5, 1, 3]);
        let expected: Vec<Vec<FileSplit>> = three.iter().map(|split| vec![split.clone()]).collect();
        assert_eq!(parts(&three, &options(1, 3)), Some(expected));
        assert_eq!(parts(&three, &options(1, 2)), None);
        assert_eq!(parts(&splits(&[1; PARTS_MAX + 1]), &Options::default()), None);
    }

    #[test]
    fn row_groups_are_cut_nearest_to_equal_parts() {
        let lengths = |size, starts: &[u64], target| {
            let splits = ranges_between(0, size, starts, target);
            splits.into_iter().map(|split| split.bytes).collect::<Vec<_>>()
        };
        let starts = [4, 10, 20, 30, 40, 50, 60, 70, 80, 90];
        assert_eq!(lengths(105, &starts, 26), [30, 20, 30, 25]);
        assert_eq!(lengths(105, &starts, 50), [50, 55]);
        assert_eq!(lengths(105, &starts, 80), [105]);
        assert_eq!(lengths(105, &starts, 1).len(), 10);
        assert_eq!(lengths(105, &starts, 105), [105]);
        assert_eq!(lengths(105, &[4], 1), [105]);
        assert_eq!(lengths(105, &[], 1), [105]);
        // Row groups without bytes, and starts beyond the end of a file.
        assert_eq!(lengths(20, &[4, 4, 10, 10], 1), [4, 6, 10]);
        assert_eq!(lengths(5, &[4, 8], 1).iter().sum::<u64>(), 5);
    }

    #[test]
    fn lines_are_divided_evenly() {
        let ranges: Vec<_> = line_splits(0, 10, 3).into_iter().map(|split| split.range.unwrap()).collect();
        assert_eq!(ranges, [(0, 3), (3, 6), (6, 10)]);
        assert_eq!(line_splits(0, 5, 3), [FileSplit { file: 0, range: None, bytes: 5 }]);
        assert_eq!(line_splits(0, 0, 3).len(), 1);
    }

    #[test]
    fn packing_is_balanced_and_keeps_all_splits() {
        let sizes = [90 << 20, 10 << 20, 50 << 20, 40 << 20, 60 << 20, 30 << 20];
        let tasks = pack(splits(&sizes), 3);
        let mut files: Vec<usize> = tasks.iter().flatten().map(|split| split.file).collect();
        files.sort_unstable();
        assert_eq!(files, [0, 1, 2, 3, 4, 5]);
        let bytes: Vec<u64> = tasks.iter().map(|task| task.iter().map(|split| split.bytes >> 20).sum()).collect();
        assert!(bytes.iter().all(|bytes| (80..=110).contains(bytes)), "{bytes:?}");
    }
}
