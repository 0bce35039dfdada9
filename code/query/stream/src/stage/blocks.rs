//! Hopping windows of many slices: state that is reduced over runs of slices.
//!
//! A window of an hour that slides by a second has 3,600 slices, and all but one of them were in the window before. So
//! slices are reduced to blocks: of two slices that begin at an even one, of four that begin at a multiple of four, and so
//! on. A window of n slices has at most 2 log₂ n blocks, and a block is made once, when a window needs it first, from the
//! blocks that exist within it. A block that would hardly have fewer rows than its parts is not reduced. Blocks are kept in
//! memory only: state files have slices.

use std::sync::Arc;

use arrow::array::RecordBatch;
use buzz_protocol::Result;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::aggregates::AggregateMode;
use datafusion::physical_plan::collect;

use super::Stage;
use super::fold::{Fold, with_slice};
use super::state::StatePart;

/// Slices of a window from which it is read by blocks. A window of fewer slices reads them as fast.
const BLOCKED_SLICES_MIN: i64 = 16;

/// Maximum level of a block. Windows have at most 10,000 slices.
const LEVEL_MAX: u32 = 14;

/// A run of `2^level` slices. Blocks of one level are numbered by time, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Block {
    level: u32,
    number: i64,
}

impl Block {
    /// Returns the number of its first slice.
    fn first(self) -> i64 {
        self.number << self.level
    }

    /// Returns its two halves. The block is larger than a slice.
    fn halves(self) -> [Self; 2] {
        let level = self.level - 1;
        [Self { level, number: self.number << 1 }, Self { level, number: (self.number << 1) + 1 }]
    }

    /// Divides the slices with numbers in `from..until` into as few blocks as possible, by time.
    fn cover(from: i64, until: i64) -> Vec<Self> {
        let (mut blocks, mut at) = (Vec::new(), from);
        while at < until {
            // A block begins at a multiple of its length.
            let mut level = at.trailing_zeros().min(LEVEL_MAX);
            while level > 0 && at.checked_add(1 << level).is_none_or(|end| end > until) {
                level -= 1;
            }
            blocks.push(Self { level, number: at >> level });
            at += 1 << level;
        }
        blocks
    }
}

impl StatePart {
    /// Drops the blocks that have the slice with `number`, to which rows are added.
    pub(super) fn drop_blocks_with(&mut self, number: i64) {
        if self.blocks.is_empty() {
            return;
        }
        for level in 1..=LEVEL_MAX {
            self.blocks.remove(&Block { level, number: number >> level });
        }
    }

    /// Drops the blocks that begin before the slice with `number`: no open window has all of them.
    pub(super) fn drop_blocks_before(&mut self, number: i64) {
        self.blocks.retain(|block, _| block.first() >= number);
    }

    /// Collects the state rows of `block`, by time: those of the largest blocks within it that exist, and of slices.
    fn parts(&self, block: Block, slice_width: i64, found: &mut Vec<RecordBatch>) {
        if let Some(batches) = self.blocks.get(&block) {
            found.extend(batches.iter().cloned());
            return;
        }
        let start = block.first().saturating_mul(slice_width);
        let until = start.saturating_add(slice_width.saturating_mul(1 << block.level));
        let mut slices = self.slices.range(start..until).peekable();
        if block.level == 0 {
            found.extend(slices.flat_map(|(_, kept)| kept.batches.iter().cloned()));
        } else if slices.peek().is_some() {
            for half in block.halves() {
                self.parts(half, slice_width, found);
            }
        }
    }
}

impl Stage {
    /// Returns the state rows of the slices of the window `start..start + width`. Those of a block have its first slice.
    pub(super) async fn window_rows(
        &self,
        state: &mut StatePart,
        fold: &Fold,
        (start, width): (i64, i64),
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let slice_width = self.spec.slice();
        let until = start.saturating_add(width);
        if width / slice_width < BLOCKED_SLICES_MIN {
            let slices = state.slices.range(start..until);
            return Ok(slices.flat_map(|(_, kept)| kept.batches.iter().cloned()).collect());
        }
        let mut rows = Vec::new();
        for block in Block::cover(start.div_euclid(slice_width), until.div_euclid(slice_width)) {
            rows.extend(self.block(state, fold, block, context).await?);
        }
        Ok(rows)
    }

    /// Returns the state rows of `block`. A block of several slices is kept: with one row for each key if that at least halves the
    /// rows of its parts, else with those, whose columns it shares.
    async fn block(
        &self,
        state: &mut StatePart,
        fold: &Fold,
        block: Block,
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let slice_width = self.spec.slice();
        let mut parts = Vec::new();
        state.parts(block, slice_width, &mut parts);
        if block.level == 0 || parts.is_empty() || state.blocks.contains_key(&block) {
            return Ok(parts);
        }
        let first = block.first().saturating_mul(slice_width);
        let parts =
            parts.iter().map(|batch| with_slice(batch, fold.window_index, first)).collect::<Result<Vec<_>>>()?;
        let rows = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        let reduced = match parts.len() {
            1 => parts,
            _ => {
                let plan = self.aggregate(fold, AggregateMode::PartialReduce, &parts)?;
                let reduced = collect(plan, Arc::clone(context)).await?;
                // Keys that hardly repeat would be copied for each level; the parts share the memory of the slices, apart from
                // the column of the time.
                if 2 * rows(&reduced) > rows(&parts) { parts } else { reduced }
            }
        };
        state.blocks.insert(block, reduced.clone());
        Ok(reduced)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};

    use super::super::state::SliceState;
    use super::*;

    fn ranges(blocks: &[Block]) -> Vec<(i64, i64)> {
        blocks.iter().map(|block| (block.first(), block.first() + (1 << block.level))).collect()
    }

    #[test]
    fn blocks_cover_the_slices_of_a_window_once_and_in_order() {
        assert_eq!(ranges(&Block::cover(3, 17)), [(3, 4), (4, 8), (8, 16), (16, 17)]);
        assert_eq!(ranges(&Block::cover(-5, 4)), [(-5, -4), (-4, 0), (0, 4)]);
        for (from, slices) in
            [(0, 3600), (1, 3600), (-1801, 3600), (7, 10_000), (i64::MAX - 9, 9), (i64::MIN, 9), (5, 0)]
        {
            let covered = ranges(&Block::cover(from, from + slices));
            let mut at = from;
            for (begin, end) in &covered {
                assert_eq!(*begin, at);
                at = *end;
            }
            assert_eq!(at, from + slices);
            assert!(covered.len() <= 26, "{} blocks", covered.len());
        }
    }

    fn batch(value: i64) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![value]));
        RecordBatch::try_from_iter([("v", column)]).expect("one column is a batch")
    }

    /// A state whose slices 0, 1, … of 10 ns have the values 0, 1, …
    fn state(slices: i64) -> StatePart {
        let mut state = StatePart::new(0..64, 1);
        for number in 0..slices {
            let kept = SliceState { batches: vec![batch(number)], rows: 1, compacted: 0 };
            state.slices.insert(number * 10, kept);
        }
        state
    }

    fn values(state: &StatePart, block: Block) -> Vec<i64> {
        let mut parts = Vec::new();
        state.parts(block, 10, &mut parts);
        let value = |batch: &RecordBatch| {
            let column = batch.column(0).as_any().downcast_ref::<Int64Array>().expect("a column of integers");
            column.value(0)
        };
        parts.iter().map(value).collect()
    }

    #[test]
    fn parts_are_the_largest_blocks_that_exist() {
        let mut state = state(8);
        let all = Block { level: 3, number: 0 };
        assert_eq!(values(&state, all), [0, 1, 2, 3, 4, 5, 6, 7]);
        state.blocks.insert(Block { level: 1, number: 1 }, vec![batch(23)]);
        state.blocks.insert(Block { level: 2, number: 1 }, vec![batch(4567)]);
        assert_eq!(values(&state, all), [0, 1, 23, 4567]);
        // A row is added to slice 6.
        state.drop_blocks_with(6);
        assert_eq!(values(&state, all), [0, 1, 23, 4, 5, 6, 7]);
        state.drop_blocks_before(3);
        assert_eq!(values(&state, all), [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}
