//! Sources: their columns and event time, and the rows of an epoch with both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, StringArray, TimestampNanosecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, Schema, SchemaRef, TimestampNanosecondType};
use arrow::util::display::array_value_to_string;
use buzz_protocol::{CHANGES, QueryError, Result};
use datafusion::physical_expr::PhysicalExpr;

use super::SourceTime;
use crate::feed::Rows;
use crate::lower::TIME;
use crate::stage::END_OF_TIME;
use crate::window::unfit_reason;

/// The columns and the event time of a source, from its connector.
#[derive(Debug, Clone)]
pub struct SourceInput {
    /// The columns that it reads.
    pub schema: SchemaRef,
    /// The column of event time, if the connector has one and the script names none.
    pub time_column: Option<String>,
    /// The delay of the watermark behind that column, in nanoseconds.
    pub delay: i64,
    /// Late rows can be read as table `<name>__late`.
    pub late_side: bool,
    /// Rows that could not be decoded can be read as table `<name>__bad`.
    pub bad_side: bool,
    /// The table is looked up: its rows come from [`Pipeline::look_up`](super::Pipeline::look_up), and are the same for all rows
    /// of an epoch.
    pub is_lookup: bool,
}

/// Suffix of the table of late rows.
pub(super) const LATE: &str = "__late";

/// Suffix of the table of rows that could not be decoded.
pub(super) const BAD: &str = "__bad";

/// A source with its event time.
pub(super) struct Source {
    /// Computes the visible columns, and then the event time.
    pub(super) columns: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) schema: SchemaRef,
    /// The positions in `columns` of those that are declared as NOT NULL.
    pub(super) required: Vec<usize>,
    /// Computes the watermark of a row; `None` if rows have the time of their arrival.
    pub(super) mark: Option<Arc<dyn PhysicalExpr>>,
    pub(super) mark_text: String,
    /// The column of event time, for messages.
    pub(super) time_name: String,
    /// Distance between the time of a row and the farthest start or end of its windows, in nanoseconds.
    pub(super) reach: i64,
    /// The place of its first change among those of an epoch, if its rows change. The last one of `columns` then computes the place
    /// of a row in its batch.
    pub(super) first_place: Option<i64>,
}

/// The rows that a source read for an epoch.
#[derive(Debug, Default, Clone)]
pub struct SourceRows {
    /// Batches by partition. A partition without rows is named too, since it holds back the watermark.
    pub partitions: Vec<(String, Vec<RecordBatch>)>,
    /// No rows follow.
    pub ended: bool,
    /// Partitions that do not hold back the watermark, because they were silent for too long.
    pub idle: BTreeSet<String>,
}

impl SourceRows {
    /// Returns the same without rows: with the partitions, the end, and what is idle.
    pub(super) fn without_rows(&self) -> Self {
        let partitions = self.partitions.iter().map(|(name, _)| (name.clone(), Vec::new()));
        Self { partitions: partitions.collect(), ended: self.ended, idle: self.idle.clone() }
    }
}

/// Rows of a source with all columns and the event time.
pub(super) struct Prepared {
    pub(super) batches: Vec<RecordBatch>,
    /// Rows that are left out because they have no event time, windows that do not fit into time, or NULL in a column that
    /// is NOT NULL: the text and the reason.
    pub(super) unfit: Vec<(String, String)>,
}

impl Source {
    /// Returns the columns that a statement can name.
    pub(super) fn visible(&self) -> Schema {
        let fields = &self.schema.fields()[..self.schema.fields().len() - 1];
        Schema::new(fields.to_vec())
    }

    fn evaluate(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let mut columns = Vec::with_capacity(self.columns.len() + 1);
        for expr in &self.columns {
            columns.push(expr.evaluate(batch)?.into_array(batch.num_rows())?);
        }
        Ok(columns)
    }

    /// Returns the rows that have an event time and of which all windows fit into time, and the others as text with a
    /// reason. Returns `None` if all rows fit. A row with NULL in a column that is NOT NULL is one of the others.
    ///
    /// A row without event time is bad whatever the statements are: with a window it belongs nowhere, and a row that some
    /// statements see and others do not would make their results differ.
    fn fitting(&self, batch: &RecordBatch, times: Option<&ArrayRef>) -> Result<Option<Fitting>> {
        let mut required = Vec::new();
        for &index in &self.required {
            let column = self.columns[index].evaluate(batch)?.into_array(batch.num_rows())?;
            if column.logical_null_count() > 0 {
                required.push((index, column.logical_nulls()));
            }
        }
        let times = times.filter(|_| self.mark.is_some()).map(|times| times.as_primitive::<TimestampNanosecondType>());
        // The end of a session must be before the end of time, or it would never close.
        let range = i64::MIN.saturating_add(self.reach)..i64::MAX.saturating_sub(self.reach);
        let in_range = |time: i64| self.reach == 0 || range.contains(&time);
        let reason = |row: usize| {
            let is_null = |nulls: &Option<NullBuffer>| nulls.as_ref().is_some_and(|nulls| nulls.is_null(row));
            if let Some(times) = times {
                if times.is_null(row) {
                    return Some(format!("its event time `{}` is NULL", self.time_name));
                }
                if !in_range(times.value(row)) {
                    return Some(unfit_reason(times.value(row)));
                }
            }
            let missing = required.iter().find(|(_, nulls)| is_null(nulls));
            missing.map(|(index, _)| {
                format!("column `{}` is NULL, but declared as NOT NULL", self.schema.field(*index).name())
            })
        };
        let all_timed = times.is_none_or(|times| times.iter().all(|time| time.is_some_and(in_range)));
        if required.is_empty() && all_timed {
            return Ok(None);
        }
        let (mut kept, mut unfit) = (Vec::with_capacity(batch.num_rows()), Vec::new());
        for row in 0..batch.num_rows() {
            let reason = reason(row);
            kept.push(reason.is_none());
            if let Some(reason) = reason {
                unfit.push((row_text(batch, row)?, reason));
            }
        }
        Ok(Some((filter_record_batch(batch, &BooleanArray::from(kept))?, unfit)))
    }

    /// Moves the event time of each partition by rows that are left out, as far as their watermark can be computed.
    pub(super) fn move_time(&self, rows: &SourceRows, time: &mut SourceTime) {
        let Some(mark) = &self.mark else { return };
        for (partition, batches) in &rows.partitions {
            let seen = time.partitions.entry(partition.clone()).or_insert(i64::MIN);
            for batch in batches {
                let times = self.columns.last().map(|time| time.evaluate(batch)?.into_array(batch.num_rows()));
                let Some(Ok(times)) = times else { continue };
                let Ok(fitting) = self.fitting(batch, Some(&times)) else { continue };
                let batch = fitting.as_ref().map_or(batch, |(kept, _)| kept);
                let Ok(marks) = mark.evaluate(batch).and_then(|marks| marks.into_array(batch.num_rows())) else {
                    continue;
                };
                let newest = arrow::compute::max(marks.as_primitive::<TimestampNanosecondType>());
                *seen = newest.map_or(*seen, |newest| (*seen).max(newest));
            }
        }
    }

    /// Returns true if rows have an event time of their own.
    pub(super) fn has_time(&self) -> bool {
        self.mark.is_some()
    }

    /// Computes the columns and event times of the rows of an epoch, and moves the watermark.
    pub(super) fn prepare(&self, rows: Option<&SourceRows>, time: &mut SourceTime, now: i64) -> Result<Prepared> {
        let mut prepared = Prepared { batches: Vec::new(), unfit: Vec::new() };
        let no_rows = SourceRows::default();
        let rows = rows.unwrap_or(&no_rows);
        let mut next_place = self.first_place;
        for (partition, batches) in &rows.partitions {
            let seen = time.partitions.entry(partition.clone()).or_insert(i64::MIN);
            for batch in batches {
                if batch.num_rows() == 0 {
                    continue;
                }
                let mut columns = self.evaluate(batch)?;
                let fitting = self.fitting(batch, columns.last())?;
                let batch = fitting.as_ref().map_or(batch, |(kept, _)| kept);
                if let Some((kept, unfit)) = &fitting {
                    columns = self.evaluate(kept)?;
                    prepared.unfit.extend_from_slice(unfit);
                }
                let times: ArrayRef = match (&self.mark, &mut next_place) {
                    (_, Some(next)) => {
                        let places = columns.pop().ok_or_else(|| QueryError::internal("a source has no columns"))?;
                        moved(&places, next)
                    }
                    (None, None) => Arc::new(TimestampNanosecondArray::from_value(now, batch.num_rows())),
                    (Some(mark), None) => {
                        let marks = mark.evaluate(batch)?.into_array(batch.num_rows())?;
                        let marks = marks.as_primitive::<TimestampNanosecondType>();
                        let times = columns.pop().ok_or_else(|| QueryError::internal("a source has no columns"))?;
                        let typed = times.as_primitive::<TimestampNanosecondType>();
                        if let Some(mark) = arrow::compute::max(marks) {
                            *seen = (*seen).max(mark);
                            if let Some(last) = arrow::compute::max(typed) {
                                time.delay = time.delay.max(last.saturating_sub(mark));
                            }
                        }
                        times
                    }
                };
                columns.push(times);
                let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
                prepared.batches.push(RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)?);
            }
        }
        let watermark = if rows.ended {
            Some(END_OF_TIME)
        } else if self.mark.is_none() {
            Some(now)
        } else {
            let mut live = time.partitions.iter().filter(|(name, _)| !rows.idle.contains(*name)).peekable();
            match live.peek() {
                Some(_) => live.map(|(_, &mark)| mark).min().filter(|&mark| mark != i64::MIN),
                // All partitions are idle: time goes on without them.
                None if !time.partitions.is_empty() => Some(now.saturating_sub(time.delay)),
                None => None,
            }
        };
        time.watermark = time.watermark.max(watermark);
        Ok(prepared)
    }
}

/// Returns the places of the rows of a batch behind `next`, the place of the next change of the epoch, and moves that.
fn moved(places: &ArrayRef, next: &mut i64) -> ArrayRef {
    let places = places.as_primitive::<Int64Type>();
    let moved =
        TimestampNanosecondArray::from_iter_values(places.values().iter().map(|place| next.saturating_add(*place)));
    if let Some(last) = arrow::compute::max(places) {
        // Two changes have places of their own, also if the last row is one before a change.
        *next = next.saturating_add((last | 1).saturating_add(1));
    }
    Arc::new(moved)
}

/// Rows that are kept, and others as text with a reason.
type Fitting = (RecordBatch, Vec<(String, String)>);

/// Returns true for the columns of a source whose rows change: each row has a place among the changes of its batch in the last
/// column, twice the number of the change, and one more for the row after it.
pub(super) fn is_changing(columns: &Schema) -> bool {
    columns.metadata().contains_key(CHANGES)
}

/// Returns the columns of a row as text.
fn row_text(batch: &RecordBatch, row: usize) -> Result<String> {
    let mut columns = Vec::with_capacity(batch.num_columns());
    let schema = batch.schema();
    let shown = schema.fields().len() - usize::from(is_changing(&schema));
    for (field, column) in schema.fields().iter().zip(batch.columns()).take(shown) {
        columns.push(format!("{}: {}", field.name(), array_value_to_string(column, row)?));
    }
    Ok(columns.join(", "))
}

/// Divides batches evenly among partitions.
pub(super) fn spread(batches: Vec<RecordBatch>, partitions: usize) -> Rows {
    let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let size = total.div_ceil(partitions).max(1);
    let mut rows: Rows = vec![Vec::new(); partitions];
    let (mut partition, mut room) = (0, size);
    for batch in batches {
        let mut from = 0;
        while from < batch.num_rows() {
            let count = room.min(batch.num_rows() - from);
            rows[partition].push(batch.slice(from, count));
            (from, room) = (from + count, room - count);
            if room == 0 {
                (partition, room) = ((partition + 1).min(partitions - 1), size);
            }
        }
    }
    rows
}

/// Returns the source of a side table, or the name itself.
pub(super) fn source_of<'a>(name: &'a str, sources: &BTreeMap<String, SourceInput>) -> &'a str {
    let base = name.strip_suffix(LATE).or_else(|| name.strip_suffix(BAD));
    base.filter(|base| !sources.contains_key(name) && sources.contains_key(*base)).unwrap_or(name)
}

/// Rows that are bad, as a batch of `(text, reason, time)`.
pub(super) fn bad_rows(rows: &[&(String, String)], now: i64) -> Result<Vec<RecordBatch>> {
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let texts: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(text, _)| text)));
    let reasons: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, reason)| reason)));
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_value(now, rows.len()));
    Ok(vec![RecordBatch::try_from_iter_with_nullable([
        ("text", texts, true),
        ("reason", reasons, true),
        (TIME, times, true),
    ])?])
}
