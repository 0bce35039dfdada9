//! Operators over rows that are kept by key: rows of keys that change are computed again, and an inner join computes the
//! pairs that are new.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, RecordBatchOptions};
use arrow::compute::kernels::cmp::gt;
use arrow::compute::kernels::zip::zip;
use arrow::compute::take_record_batch;
use arrow::datatypes::{Field, Int64Type, Schema, TimestampNanosecondType};
use arrow::row::{RowConverter, SortField};
use buzz_protocol::{QueryError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;

use super::counted::{Merged, added_up, columns, counted, counted_schema, repeated, taken_away};
use super::keyed::hashes;
use super::state::StageState;
use super::{Advance, Stage, Work};
use crate::feed::{Rows, run, with_rows};
use crate::lower::{Keyed, StageDraft, StageKind};
use crate::window::WindowSpec;

/// The result of an operator in an epoch.
pub(crate) struct Recomputed {
    /// The rows of its slot.
    pub(crate) rows: Vec<RecordBatch>,
    /// Changes of the state, by stage.
    pub(crate) stored: Vec<(usize, RecordBatch)>,
}

/// Plans a stage that keeps rows by key; `None` if `draft` is another one. `number` is its place in the statement.
///
/// # Errors
/// `Invalid` if a column has values that cannot be compared.
pub(super) fn keyed_stage(
    draft: &StageDraft,
    physical: &Arc<dyn ExecutionPlan>,
    number: usize,
) -> Result<Option<Stage>> {
    let StageKind::Keyed(keyed) = &draft.kind else {
        return Ok(None);
    };
    let fields = draft.schema.fields();
    let visible: Vec<&Field> = fields[..fields.len() - 1].iter().map(AsRef::as_ref).collect();
    let planned = physical.schema();
    // Of rows that are kept, the time follows; pairs have hidden columns in between.
    let same = |(slot, planned): (&&Field, &Arc<Field>)| slot.data_type() == planned.data_type();
    if !matches!(keyed, Keyed::Pairs { .. }) && !visible.iter().zip(planned.fields()).all(same) {
        return Err(QueryError::internal(format!("{}: the plan of a stage has other types", draft.clause)));
    }
    for field in &visible {
        if !RowConverter::supports_fields(&[SortField::new(field.data_type().clone())]) {
            return Err(QueryError::invalid(format!(
                "{} cannot run over a stream: a column has type {}, whose values cannot be compared; select its parts \
                 instead, or leave it out",
                draft.clause,
                field.data_type()
            )));
        }
    }
    Ok(Some(Stage {
        slot: draft.slot.clone(),
        spec: WindowSpec::Never,
        clause: draft.clause.clone(),
        schema: Arc::clone(&draft.schema),
        state_schema: counted_schema(&visible),
        below: Arc::clone(physical),
        work: Work::Keyed(keyed.clone()),
        top: None,
        number,
        ttl: None,
    }))
}

impl Stage {
    /// Returns true if the stage keeps rows that another stage computes with.
    pub(crate) fn keeps_rows(&self) -> bool {
        matches!(self.work, Work::Keyed(Keyed::Rows { .. }))
    }

    /// Returns true if the stage computes rows from what others keep.
    pub(crate) fn is_keyed(&self) -> bool {
        matches!(self.work, Work::Keyed(Keyed::Pairs { .. } | Keyed::Recompute { .. }))
    }

    /// Returns the changes that the rows of an epoch are.
    ///
    /// # Errors
    /// `Internal` if the stage keeps no rows.
    pub(crate) fn changes_of(&self, rows: &[RecordBatch], advance: Advance) -> Result<RecordBatch> {
        match &self.work {
            Work::Keyed(Keyed::Rows { changing, timed, .. }) => self.counted_rows(rows, (*changing, *timed), advance),
            _ => Err(QueryError::internal("a stage keeps no rows by key")),
        }
    }
}

/// Runs stage `number` of `stages` over the changes of its inputs. Each input has an entry in `changes`, if it has some.
///
/// # Errors
/// As the expressions of the operator.
pub(crate) async fn recompute(
    stages: &[Arc<Stage>],
    number: usize,
    state: &mut [StageState],
    changes: &mut BTreeMap<usize, RecordBatch>,
    advance: Advance,
    context: &Arc<TaskContext>,
) -> Result<Recomputed> {
    let stage = &stages[number];
    let mut done = Recomputed { rows: Vec::new(), stored: Vec::new() };
    let inputs: &[usize] = match &stage.work {
        Work::Keyed(Keyed::Pairs { inputs, .. }) => inputs,
        Work::Keyed(Keyed::Recompute { inputs, .. }) => inputs,
        _ => return Err(QueryError::internal("a stage computes nothing from others")),
    };
    let (mut deltas, mut touched) = (Vec::new(), Vec::new());
    for &input in inputs {
        let delta = changes.remove(&input);
        let delta = delta.unwrap_or_else(|| RecordBatch::new_empty(Arc::clone(&stages[input].state_schema)));
        touched.extend(hashes(&delta, &stages[input].keys())?);
        deltas.push(delta);
    }
    touched.sort_unstable();
    touched.dedup();
    if touched.is_empty() || !advance.emits {
        return Ok(done);
    }
    let mut merged = Vec::new();
    for (&input, delta) in inputs.iter().zip(&deltas) {
        let kept = stages[input].merge(&mut state[input], delta, &touched, advance)?;
        done.stored.push((input, kept.stored.clone()));
        merged.push(kept);
    }
    match &stage.work {
        Work::Keyed(Keyed::Pairs { inputs, left, changing, .. }) => {
            let names = inputs.map(|input| stages[input].slot.as_str());
            done.rows = stage.new_pairs(names, (*left, *changing), &merged, &deltas, context).await?;
        }
        _ => {
            let names: Vec<&str> = inputs.iter().map(|&input| stages[input].slot.as_str()).collect();
            let new = stage.computed(&names, &merged, advance, context).await?;
            if hashes(&new, &stage.keys())?.iter().any(|hash| touched.binary_search(hash).is_err()) {
                return Err(QueryError::internal(format!("{}: a row has another key than its input", stage.clause)));
            }
            let kept = stage.replace(&mut state[number], new, &touched, advance)?;
            done.rows = stage.emitted(&kept.0)?;
            done.stored.push((number, kept.1));
        }
    }
    done.stored.retain(|(_, rows)| rows.num_rows() > 0);
    Ok(done)
}

impl Stage {
    /// Runs the plan over all rows of the keys that an epoch touches.
    async fn computed(
        &self,
        names: &[&str],
        merged: &[Merged],
        advance: Advance,
        context: &Arc<TaskContext>,
    ) -> Result<RecordBatch> {
        let mut feeds = BTreeMap::new();
        for (name, kept) in names.iter().zip(merged) {
            let rows = take_record_batch(&kept.after, &repeated(&kept.after))?;
            feeds.insert((*name).to_string(), one_partition(with_columns(columns(&rows), rows.num_rows())?));
        }
        let touched = self.ttl.map_or(0, |_| advance.now);
        let rows = run(with_rows(&self.below, &feeds)?, context).await?;
        let rows = rows.iter().flatten().map(|batch| {
            let counts = Int64Array::from_value(1, batch.num_rows());
            counted(&self.state_schema, batch.columns(), None, touched, counts)
        });
        added_up(&self.state_schema, &rows.collect::<Result<Vec<_>>>()?)
    }

    /// Returns the pairs of which at least one row is new.
    async fn new_pairs(
        &self,
        names: [&str; 2],
        (left, changing): (usize, bool),
        merged: &[Merged],
        deltas: &[RecordBatch],
        context: &Arc<TaskContext>,
    ) -> Result<Vec<RecordBatch>> {
        let ([l, r], [new_l, new_r]) = (merged, deltas) else {
            return Err(QueryError::internal("a join has two inputs"));
        };
        let mut rows = Vec::new();
        for (a, b) in [(new_l, &r.after), (&l.before, new_r)] {
            if a.num_rows() == 0 || b.num_rows() == 0 {
                continue;
            }
            let feeds = [(names[0], a), (names[1], b)];
            let feeds = feeds
                .map(|(name, rows)| Ok::<_, QueryError>((name.to_string(), one_partition(without_touched(rows)?))));
            let feeds = feeds.into_iter().collect::<Result<BTreeMap<String, Rows>>>()?;
            rows.extend(run(with_rows(&self.below, &feeds)?, context).await?.into_iter().flatten());
        }
        let mut pairs = Vec::new();
        for batch in &rows {
            pairs.push(self.pairs_of(batch, left, changing)?);
        }
        if changing {
            return self.emitted(&added_up(&self.state_schema, &pairs)?);
        }
        let mut output = Vec::new();
        for pairs in pairs.iter().filter(|pairs| pairs.num_rows() > 0) {
            let rows = take_record_batch(pairs, &repeated(pairs))?;
            let mut columns = columns(&rows).to_vec();
            columns.push(Arc::clone(rows.column(columns.len())));
            output.push(self.slot_batch(columns, rows.num_rows())?);
        }
        Ok(output)
    }

    /// Brings joined rows to the columns of pairs, with the later time and the product of the numbers.
    fn pairs_of(&self, batch: &RecordBatch, left: usize, changing: bool) -> Result<RecordBatch> {
        let width = batch.num_columns();
        let hidden = [left - 2, left - 1, width - 2, width - 1];
        let visible: Vec<ArrayRef> =
            (0..width).filter(|index| !hidden.contains(index)).map(|index| Arc::clone(batch.column(index))).collect();
        let time = |index: usize| batch.column(index).as_primitive::<TimestampNanosecondType>();
        let (l, r) = (time(left - 2), time(width - 2));
        let times = zip(&gt(l, r)?, l, r)?;
        let number = |index: usize| batch.column(index).as_primitive::<Int64Type>().values();
        let products = number(left - 1)
            .iter()
            .zip(number(width - 1).iter())
            .map(|(a, b)| a.checked_mul(*b).ok_or_else(|| QueryError::data("a row occurs more than 2^63 times")));
        let products = Int64Array::from(products.collect::<Result<Vec<i64>>>()?);
        counted(&self.state_schema, &visible, Some(times).filter(|_| !changing), 0, products)
    }

    /// Puts `new` in place of the rows of touched keys. Returns the changes, and what is to be stored.
    fn replace(
        &self,
        state: &mut StageState,
        new: RecordBatch,
        touched: &[u64],
        advance: Advance,
    ) -> Result<(RecordBatch, RecordBatch)> {
        let old = self.taken(state, touched, advance)?;
        let changes = added_up(&self.state_schema, &[new, taken_away(&old)?])?;
        let merged = self.settle(state, old, &changes, advance.now)?;
        Ok((changes, merged.stored))
    }
}

fn one_partition(rows: RecordBatch) -> Rows {
    vec![vec![rows]]
}

fn with_columns(columns: &[ArrayRef], rows: usize) -> Result<RecordBatch> {
    let fields: Vec<Field> = columns
        .iter()
        .enumerate()
        .map(|(index, column)| Field::new(format!("c{index}"), column.data_type().clone(), true))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns.to_vec(), &options)?)
}

/// Returns rows with their time and their number, without the time of the last change of their key.
fn without_touched(rows: &RecordBatch) -> Result<RecordBatch> {
    let count = rows.num_columns();
    let kept: Vec<usize> = (0..count).filter(|index| *index != count - 2).collect();
    Ok(rows.project(&kept)?)
}
