//! The description of a pipeline for `buzz stream check`.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::Schema;
use datafusion::physical_plan::{ExecutionPlan, displayable};

use super::Pipeline;
use crate::window::WindowSpec;

impl Pipeline {
    /// Describes the plan for `buzz stream check`.
    pub fn describe(&self, plans: bool) -> String {
        let mut text = String::new();
        for (name, source) in &self.sources {
            let columns = columns(&source.visible());
            text.push_str(&format!("source {name} ({columns})\n  watermark: {}\n", source.mark_text));
        }
        for (name, table) in &self.lookups {
            text.push_str(&format!("lookup table {name} ({})\n", columns(&table.visible())));
        }
        for statement in &self.statements {
            let into = statement.into.as_deref().unwrap_or("standard output");
            text.push_str(&format!("statement into {into}, reads {}\n", list(&statement.sources)));
            for stage in &statement.stages {
                let (slot, clause, kept) = (&stage.slot, &stage.clause, stage.kept());
                let reads = list(feeds_of(&stage.input()));
                let kind = match (stage.is_keyed(), stage.keeps_rows()) {
                    (true, _) => format!("  compute (HComb, {slot}): {clause}, reads {reads}"),
                    (false, true) => format!("  map (HBee, no state): reads {reads}\n  keep (HComb, {slot}): {clause}"),
                    (false, false) => format!(
                        "  map (HBee, no state): reads {reads}, computes partial rows\n  keep (HComb, {slot}): {clause}"
                    ),
                };
                text.push_str(&format!("{kind}\n    state: {kept}\n"));
            }
            let kind = match (statement.stages.is_empty(), statement.changes) {
                (true, _) => "map (HBee, no state)",
                (false, true) => "changes (HComb, no state)",
                (false, false) if statement.stages.iter().all(|stage| stage.spec == WindowSpec::Never) => {
                    "new rows (HComb, no state)"
                }
                (false, false) => "closed windows (HComb, no state)",
            };
            text.push_str(&format!("  {kind}: reads {}, emits rows\n", list(feeds_of(&statement.above))));
            if plans {
                for line in displayable(statement.above.as_ref()).indent(false).to_string().lines() {
                    text.push_str(&format!("    {line}\n"));
                }
            }
        }
        text
    }
}

/// Returns the names and types of columns.
fn columns(schema: &Schema) -> String {
    list(schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type())))
}

fn list<T: AsRef<str>>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| name.as_ref().to_string()).collect::<Vec<_>>().join(", ")
}

fn feeds_of(plan: &Arc<dyn ExecutionPlan>) -> BTreeSet<String> {
    let text = displayable(plan.as_ref()).indent(false).to_string();
    text.lines().filter_map(|line| line.trim().strip_prefix("FeedExec: ").map(str::to_string)).collect()
}
