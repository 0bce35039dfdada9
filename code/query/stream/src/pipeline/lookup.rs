//! Tables that are looked up: their rows are read before epochs, and joins find all of them in each epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use buzz_protocol::{QueryError, Result};
use datafusion::prelude::SessionContext;

use super::declaration::{Prepared, prepare};
use super::source::{Source, SourceInput, SourceRows, spread};
use super::views::quoted;
use super::{Pipeline, SourceTime, State};
use crate::feed::{FeedTable, names};
use crate::lower::{SourceScan, lookup_feed};
use crate::script::Script;

impl Pipeline {
    /// Returns the tables that statements look up.
    pub fn lookups(&self) -> BTreeSet<&str> {
        let mut read = BTreeSet::new();
        for statement in &self.statements {
            read.extend(names(&statement.above));
            read.extend(statement.stages.iter().flat_map(|stage| names(&stage.input())));
        }
        self.lookups.keys().map(String::as_str).filter(|name| read.contains(&lookup_feed(name))).collect()
    }

    /// Puts `batches`, all rows of table `name` with the columns of its connector, in place of those that `state` has of it.
    /// `now` is the time in nanoseconds since 1970. Returns the rows that are left out because a column that is NOT NULL is NULL:
    /// the text and the reason. All tables of [`Self::lookups`] must have been looked up before the first epoch.
    ///
    /// # Errors
    /// `Invalid` if `name` is not looked up; the kind of a generated column that fails.
    pub fn look_up(
        &self,
        state: &mut State,
        name: &str,
        batches: Vec<RecordBatch>,
        now: i64,
    ) -> Result<Vec<(String, String)>> {
        let table = self.lookups.get(name);
        let table = table.ok_or_else(|| QueryError::invalid(format!("table `{name}` is not looked up")))?;
        let rows = SourceRows { partitions: vec![(String::new(), batches)], ..SourceRows::default() };
        let prepared = table.prepare(Some(&rows), &mut SourceTime::default(), now)?;
        // The last column is the time, which looked-up rows do not have.
        let columns: Vec<usize> = (0..table.schema.fields().len() - 1).collect();
        let batches = prepared.batches.iter().map(|batch| batch.project(&columns)).collect::<Result<Vec<_>, _>>()?;
        state.lookups.insert(lookup_feed(name), spread(batches, self.parallelism.max(2)));
        Ok(prepared.unfit)
    }
}

/// Prepares the tables of `inputs` that are looked up, and makes them known to `context` and in `scans`.
///
/// # Errors
/// `Invalid` if a declaration is wrong, or has an event time.
pub(super) async fn lookups(
    context: &SessionContext,
    script: &Script,
    inputs: &BTreeMap<String, SourceInput>,
    scans: &mut BTreeMap<String, SourceScan>,
) -> Result<BTreeMap<String, Source>> {
    let mut lookups = BTreeMap::new();
    for (name, input) in inputs.iter().filter(|(_, input)| input.is_lookup) {
        let prepared = prepare(context, name, script.table(name), input).await;
        let Prepared { source, visible, .. } = prepared.map_err(|error| error.at(format!("table {name}")))?;
        if source.has_time() {
            return Err(QueryError::invalid(format!(
                "table `{name}` is looked up, so its rows have no event time; remove WATERMARK FOR and options such as \
                 event_time_field"
            )));
        }
        let feed = FeedTable { name: lookup_feed(name), schema: Arc::clone(&visible) };
        context.register_table(quoted(name), Arc::new(feed))?;
        scans.insert(name.clone(), SourceScan { schema: visible, time_column: None, is_lookup: true });
        lookups.insert(name.clone(), source);
    }
    Ok(lookups)
}
