//! State rows in the order of their key groups.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use buzz_protocol::Result;
use datafusion::common::hash_utils::create_hashes;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;

/// Key groups of a pipeline. The state of a stage is divided by them, so the number of workers can change between epochs.
pub const KEY_GROUPS: usize = 64;

/// Rows that are put in order at once.
const ORDERED_ROWS_MAX: usize = 131_072;

/// State rows in the order of their key groups.
#[derive(Debug, Clone)]
pub struct KeyedRows {
    batch: RecordBatch,
    /// The key groups that have rows, ascending, with their first rows.
    starts: Vec<(u32, usize)>,
}

impl KeyedRows {
    /// Returns the rows.
    pub fn batch(&self) -> &RecordBatch {
        &self.batch
    }

    /// Returns the number of rows.
    pub fn num_rows(&self) -> usize {
        self.batch.num_rows()
    }

    /// Returns the key groups that have rows, ascending, each with its rows.
    pub fn groups(&self) -> impl Iterator<Item = (u32, Range<usize>)> {
        self.starts.iter().enumerate().map(|(index, &(group, start))| {
            let end = self.starts.get(index + 1).map_or(self.num_rows(), |&(_, next)| next);
            (group, start..end)
        })
    }

    /// Returns the rows of `groups`, without a copy; `None` if there are none.
    pub fn of(&self, groups: &Range<u32>) -> Option<RecordBatch> {
        let first = |group: u32| {
            let index = self.starts.partition_point(|&(before, _)| before < group);
            self.starts.get(index).map_or(self.num_rows(), |&(_, start)| start)
        };
        let (from, until) = (first(groups.start), first(groups.end));
        (from < until).then(|| self.batch.slice(from, until - from))
    }
}

/// Puts state rows with `schema` in the order of their key groups. `keys` are the columns of the key. If there are none,
/// `spread` says that the rows may be anywhere; otherwise they are all in the first group.
///
/// # Errors
/// `Internal` if a key has a type without a hash.
pub(crate) fn keyed(
    schema: &SchemaRef,
    keys: &[usize],
    spread: bool,
    batches: &[RecordBatch],
) -> Result<Vec<KeyedRows>> {
    let mut ordered = Vec::new();
    if keys.is_empty() {
        for (index, batch) in batches.iter().filter(|batch| batch.num_rows() > 0).enumerate() {
            // 37 and 64 have no common divisor, so batches come to all groups, and neighbours to distant ones.
            let group = if spread { (index * 37 % KEY_GROUPS) as u32 } else { 0 };
            ordered.push(KeyedRows { batch: batch.clone(), starts: vec![(group, 0)] });
        }
        return Ok(ordered);
    }
    let mut from = 0;
    while from < batches.len() {
        let (mut until, mut rows) = (from, 0);
        while until < batches.len() && (until == from || rows + batches[until].num_rows() <= ORDERED_ROWS_MAX) {
            rows += batches[until].num_rows();
            until += 1;
        }
        if rows > 0 {
            let batch = match &batches[from..until] {
                [batch] => batch.clone(),
                batches => concat_batches(schema, batches)?,
            };
            ordered.push(in_order(&batch, keys)?);
        }
        from = until;
    }
    Ok(ordered)
}

fn in_order(batch: &RecordBatch, keys: &[usize]) -> Result<KeyedRows> {
    let group = |hash: u64| (hash % KEY_GROUPS as u64) as usize;
    let hashes = hashes(batch, keys)?;
    let mut next = [0_usize; KEY_GROUPS];
    for &hash in &hashes {
        next[group(hash)] += 1;
    }
    let (mut starts, mut start) = (Vec::new(), 0);
    for (number, next) in next.iter_mut().enumerate() {
        let rows = std::mem::replace(next, start);
        if rows > 0 {
            starts.push((number as u32, start));
        }
        start += rows;
    }
    let mut indices = vec![0_u32; hashes.len()];
    for (row, &hash) in hashes.iter().enumerate() {
        let place = &mut next[group(hash)];
        indices[*place] = row as u32;
        *place += 1;
    }
    Ok(KeyedRows { batch: take_record_batch(batch, &UInt32Array::from(indices))?, starts })
}

/// Returns the hash of the key of each row; 0 without a key.
pub(super) fn hashes(batch: &RecordBatch, keys: &[usize]) -> Result<Vec<u64>> {
    let mut hashes = vec![0; batch.num_rows()];
    if !keys.is_empty() {
        let arrays: Vec<&dyn Array> = keys.iter().map(|&index| batch.column(index).as_ref()).collect();
        create_hashes(arrays, REPARTITION_RANDOM_STATE.random_state(), &mut hashes)?;
    }
    Ok(hashes)
}

/// Returns the rows of `batches` whose key groups are in each of `ranges`.
pub(super) fn divided(
    schema: &SchemaRef,
    keys: &[usize],
    batches: &[RecordBatch],
    ranges: &[Range<u32>],
) -> Result<Vec<Vec<RecordBatch>>> {
    let rows = keyed(schema, keys, false, batches)?;
    Ok(ranges.iter().map(|range| rows.iter().filter_map(|rows| rows.of(range)).collect()).collect())
}

/// Divides `groups` into at most `count` ranges of about equal length. None is empty.
pub(super) fn ranges(groups: &Range<u32>, count: usize) -> Vec<Range<u32>> {
    let length = u64::from(groups.end - groups.start);
    let count = (count as u64).clamp(1, length.max(1));
    let bound = |index: u64| groups.start + u32::try_from(index * length / count).unwrap_or(u32::MAX);
    (0..count).map(|index| bound(index)..bound(index + 1)).filter(|range| !range.is_empty()).collect()
}

/// Returns the columns of `batch` under `schema`.
///
/// # Errors
/// `Internal` if their types differ.
pub(crate) fn with_schema(schema: &SchemaRef, batch: &RecordBatch) -> Result<RecordBatch> {
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), batch.columns().to_vec(), &options)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn batch(from: i64, until: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..until));
        RecordBatch::try_from_iter([("k", column)]).expect("one column is a batch")
    }

    fn values(batch: &RecordBatch) -> Vec<i64> {
        batch.column(0).as_primitive::<Int64Type>().values().to_vec()
    }

    #[test]
    fn each_row_is_in_the_group_of_its_key_and_in_no_other() {
        let batches = [batch(0, 500), batch(0, 0), batch(300, 1000)];
        let rows = keyed(&batches[0].schema(), &[0], false, &batches).expect("integers have hashes");
        let mut groups_of_value = std::collections::BTreeMap::new();
        let mut found = Vec::new();
        for rows in &rows {
            let mut end = 0;
            for (group, range) in rows.groups() {
                assert_eq!(range.start, end, "groups follow each other");
                end = range.end;
                let of = rows.of(&(group..group + 1)).expect("the group has rows");
                assert_eq!(of.num_rows(), range.len());
                for value in values(&of) {
                    assert_eq!(*groups_of_value.entry(value).or_insert(group), group, "the group of {value}");
                    found.push(value);
                }
            }
            assert_eq!(end, rows.num_rows());
        }
        found.sort_unstable();
        let mut expected: Vec<i64> = (0..500).chain(300..1000).collect();
        expected.sort_unstable();
        assert_eq!(found, expected);
        assert!(groups_of_value.values().collect::<std::collections::BTreeSet<_>>().len() > 32, "keys are spread");
    }

    #[test]
    fn rows_without_a_key_are_in_one_group_or_spread_by_batch() {
        let batches = vec![batch(0, 2); 64];
        let schema = batches[0].schema();
        let groups = |spread| {
            let rows = keyed(&schema, &[], spread, &batches).expect("there is nothing to hash");
            rows.iter().flat_map(|rows| rows.groups().map(|(group, _)| group).collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        assert_eq!(groups(false), vec![0; 64]);
        let mut all = groups(true);
        assert!(all[0] < 32 && all[1] >= 32, "two batches come to two workers: {all:?}");
        all.sort_unstable();
        assert_eq!(all, (0..64).collect::<Vec<_>>());
    }

    #[test]
    fn ranges_cover_the_groups_once() {
        assert_eq!(ranges(&(0..64), 2), [0..32, 32..64]);
        assert_eq!(ranges(&(10..13), 2), [10..11, 11..13]);
        assert_eq!(ranges(&(5..6), 8).as_slice(), std::slice::from_ref(&(5..6)));
        for count in [1, 3, 5, 63, 64, 100] {
            let all: Vec<u32> = ranges(&(0..64), count).into_iter().flatten().collect();
            assert_eq!(all, (0..64).collect::<Vec<_>>(), "{count} ranges");
        }
    }
}
