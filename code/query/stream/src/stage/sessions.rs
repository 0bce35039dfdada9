//! Open sessions of a part: state rows that are found by their key.
//!
//! Sessions change one key at a time, so an epoch must not touch those of all keys. They are in runs, each in the order of
//! the hashes of its keys. An epoch takes out the rows of the keys that it changes or closes, and adds those that stay
//! open as a new run; small runs are brought together. All sessions of a key are in one run.

use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, take_record_batch};
use buzz_protocol::Result;

use super::keyed::hashes;

/// Open sessions.
#[derive(Debug, Default, Clone)]
pub(super) struct Sessions {
    /// From the largest to the smallest, if none has lost rows since.
    runs: Vec<Run>,
}

/// Rows in the order of the hashes of their keys.
#[derive(Debug, Clone)]
struct Run {
    rows: RecordBatch,
    hashes: Arc<Vec<u64>>,
    /// Rows that were not taken out.
    kept: Arc<Vec<bool>>,
    count: usize,
}

impl Run {
    fn new(rows: &RecordBatch, hashes: &[u64]) -> Result<Self> {
        let mut order: Vec<u32> = (0..hashes.len() as u32).collect();
        order.sort_unstable_by_key(|&row| hashes[row as usize]);
        let sorted = order.iter().map(|&row| hashes[row as usize]).collect();
        Ok(Self {
            rows: take_record_batch(rows, &UInt32Array::from(order))?,
            hashes: Arc::new(sorted),
            kept: Arc::new(vec![true; rows.num_rows()]),
            count: rows.num_rows(),
        })
    }

    /// Returns the rows that were not taken out.
    fn batch(&self) -> Result<RecordBatch> {
        match self.count == self.rows.num_rows() {
            true => Ok(self.rows.clone()),
            false => Ok(filter_record_batch(&self.rows, &BooleanArray::from(self.kept.as_ref().clone()))?),
        }
    }

    /// Takes out the rows whose hash is among `hashes`, which are in order.
    fn take(&mut self, hashes: &[u64]) -> Result<Option<RecordBatch>> {
        let (mut from, mut taken) = (0, Vec::new());
        for &hash in hashes {
            from += self.hashes[from..].partition_point(|&other| other < hash);
            while self.hashes.get(from) == Some(&hash) {
                if self.kept[from] {
                    taken.push(from as u32);
                }
                from += 1;
            }
        }
        if taken.is_empty() {
            return Ok(None);
        }
        let kept = Arc::make_mut(&mut self.kept);
        for &row in &taken {
            kept[row as usize] = false;
        }
        self.count -= taken.len();
        Ok(Some(take_record_batch(&self.rows, &UInt32Array::from(taken))?))
    }
}

impl Sessions {
    /// Returns the number of rows.
    pub(super) fn rows(&self) -> usize {
        self.runs.iter().map(|run| run.count).sum()
    }

    /// Returns all rows.
    pub(super) fn batches(&self) -> Result<Vec<RecordBatch>> {
        self.runs.iter().map(Run::batch).collect()
    }

    /// Adds the hashes of the rows for which `wanted` returns true, given a batch and a row in it.
    pub(super) fn find(&self, wanted: impl Fn(&RecordBatch) -> Vec<bool>, found: &mut Vec<u64>) {
        for run in &self.runs {
            let wanted = wanted(&run.rows).into_iter().zip(run.kept.iter()).zip(run.hashes.iter());
            found.extend(wanted.filter(|((wanted, kept), _)| *wanted && **kept).map(|(_, hash)| *hash));
        }
    }

    /// Takes out all rows of the keys whose hash is among `hashes`, which are in order. Keys with equal hashes are taken
    /// together.
    pub(super) fn take(&mut self, hashes: &[u64]) -> Result<Vec<RecordBatch>> {
        let mut taken = Vec::new();
        for run in &mut self.runs {
            taken.extend(run.take(hashes)?);
        }
        self.compact()?;
        Ok(taken)
    }

    /// Adds rows of keys that have no others here. `keys` are the columns of the key.
    pub(super) fn add(&mut self, rows: RecordBatch, keys: &[usize]) -> Result<()> {
        if rows.num_rows() == 0 {
            return Ok(());
        }
        self.runs.push(Run::new(&rows, &hashes(&rows, keys)?)?);
        self.compact()?;
        // Each run has at least twice as many rows as the next one, so there are few, and a row is copied as rarely.
        while let Some(small) = (1..self.runs.len()).rev().find(|&i| self.runs[i - 1].count < 2 * self.runs[i].count) {
            let parts = [self.runs[small - 1].batch()?, self.runs[small].batch()?];
            let both = concat_batches(&parts[1].schema(), &parts)?;
            self.runs[small - 1] = Run::new(&both, &hashes(&both, keys)?)?;
            self.runs.remove(small);
        }
        Ok(())
    }

    /// Copies runs of which most rows were taken out.
    fn compact(&mut self) -> Result<()> {
        self.runs.retain(|run| run.count > 0);
        for run in self.runs.iter_mut().filter(|run| 2 * run.count < run.rows.num_rows()) {
            let rows = run.batch()?;
            let left = run.hashes.iter().zip(run.kept.iter()).filter(|(_, kept)| **kept).map(|(hash, _)| *hash);
            *run = Run {
                hashes: Arc::new(left.collect()),
                kept: Arc::new(vec![true; rows.num_rows()]),
                count: rows.num_rows(),
                rows,
            };
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::Int64Type;

    use super::*;

    fn batch(keys: &[i64]) -> RecordBatch {
        let keys: ArrayRef = Arc::new(Int64Array::from(keys.to_vec()));
        RecordBatch::try_from_iter([("k", keys)]).expect("one column is a batch")
    }

    fn keys(batches: &[RecordBatch]) -> Vec<i64> {
        let mut keys: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        keys.sort_unstable();
        keys
    }

    fn hashes_of(keys: &[i64]) -> Vec<u64> {
        let mut hashes = hashes(&batch(keys), &[0]).expect("integers have hashes");
        hashes.sort_unstable();
        hashes
    }

    #[test]
    fn only_the_rows_of_the_keys_that_change_are_taken_out() {
        let mut sessions = Sessions::default();
        sessions.add(batch(&(0..1000).collect::<Vec<_>>()), &[0]).expect("integers have hashes");
        sessions.add(batch(&[2000, 2000, 2001]), &[0]).expect("integers have hashes");
        let taken = sessions.take(&hashes_of(&[7, 2000, 5000])).expect("rows can be taken");
        assert_eq!(keys(&taken), [7, 2000, 2000]);
        assert_eq!(sessions.rows(), 1000);
        assert!(sessions.take(&hashes_of(&[7, 2000])).expect("rows can be taken").is_empty(), "they were taken out");
        let left: Vec<i64> = (0..7).chain(8..1000).chain([2001]).collect();
        assert_eq!(keys(&sessions.batches().expect("rows can be filtered")), left);
    }

    #[test]
    fn rows_are_found_until_they_are_taken_out() {
        let mut sessions = Sessions::default();
        sessions.add(batch(&[1, 2, 3]), &[0]).expect("integers have hashes");
        let large = |batch: &RecordBatch| {
            batch.column(0).as_primitive::<Int64Type>().values().iter().map(|&key| key > 1).collect()
        };
        let mut found = Vec::new();
        sessions.find(large, &mut found);
        found.sort_unstable();
        assert_eq!(found, hashes_of(&[2, 3]));
        sessions.take(&hashes_of(&[2])).expect("rows can be taken");
        found.clear();
        sessions.find(large, &mut found);
        assert_eq!(found, hashes_of(&[3]));
    }

    #[test]
    fn runs_are_few_after_many_epochs() {
        let mut sessions = Sessions::default();
        for epoch in 0..1000_i64 {
            let changed: Vec<i64> = (0..10).map(|key| epoch + key).collect();
            let mut rows = keys(&sessions.take(&hashes_of(&changed)).expect("rows can be taken"));
            rows.extend(&changed);
            rows.sort_unstable();
            rows.dedup();
            assert_eq!(rows, changed, "no other row is touched");
            sessions.add(batch(&rows), &[0]).expect("integers have hashes");
            assert!(sessions.runs.len() <= 12, "{} runs", sessions.runs.len());
            let stored: usize = sessions.runs.iter().map(|run| run.rows.num_rows()).sum();
            assert!(stored <= 2 * sessions.rows() + 32, "{stored} rows are in memory for {}", sessions.rows());
        }
        assert_eq!(keys(&sessions.batches().expect("rows can be filtered")), (0..1009).collect::<Vec<_>>());
    }
}
