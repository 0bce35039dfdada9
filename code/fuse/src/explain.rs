//! A plan, for people.

use std::fmt::Write;

use buzz_protocol::Result;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::plan::{Evaluate, MapStage, QueryPlan};
use crate::{Fuse, reduce};

impl Fuse {
    /// What would run: each step with its files, tasks, partitions and plan.
    ///
    /// # Errors
    /// `Invalid` when a reduce step cannot be planned.
    pub fn explain<'a>(&'a self, plan: &'a QueryPlan) -> BoxFuture<'a, Result<String>> {
        self.explain_steps(plan).boxed()
    }

    async fn explain_steps(&self, plan: &QueryPlan) -> Result<String> {
        let mut text = String::new();
        for stage in &plan.stages {
            text.push_str(&explain_stage(stage, plan));
        }
        for step in &plan.reduces {
            let combs = if plan.comb_count == 1 { "1 comb".to_string() } else { format!("{} combs", plan.comb_count) };
            let target = match step.target {
                Some(stage) => format!("its rows become stage {stage}, for the steps that read it"),
                None => "its rows are the answer".to_string(),
            };
            let shown = reduce::display(step, plan, &self.network).await?;
            _ = writeln!(text, "step {} (HComb): {combs}, {} partitions each", step.step, plan.partitions_per_comb);
            _ = writeln!(text, "  {target}");
            text.push_str(&indented(&shown));
        }
        Ok(text)
    }
}

fn explain_stage(stage: &MapStage, plan: &QueryPlan) -> String {
    let mut text = String::new();
    let table = &stage.table;
    let version = table.version.map(|version| format!(", version {version}")).unwrap_or_default();
    _ = writeln!(text, "step {} (HBee): stage {}", stage.step, stage.id);
    _ = writeln!(text, "  table {}: {}{version}", table.name, table.uri);
    _ = writeln!(
        text,
        "  files: {} found, {} kept by partition_filter, {} kept by WHERE; {} of {}",
        table.files.len(),
        stage.files_by_filter,
        stage.files.len(),
        bytes(stage.bytes()),
        bytes(table.bytes()),
    );
    let splits: usize = stage.tasks.iter().map(Vec::len).sum();
    let evaluations = match stage.evaluate {
        Evaluate::EachSplit => format!("which evaluate the SQL {splits} times"),
        Evaluate::Together => format!("for {splits} splits"),
    };
    _ = writeln!(text, "  tasks: {}, {evaluations}", stage.tasks.len());
    let partitions = plan.comb_count * plan.partitions_per_comb;
    let key = |&key: &usize| stage.schema.field(key).name().as_str();
    let how = match stage.keys.as_slice() {
        [] => "in turn".to_string(),
        keys => format!("by hash of {}", keys.iter().map(key).collect::<Vec<_>>().join(", ")),
    };
    _ = writeln!(text, "  delivers to: {partitions} partitions, {how}");
    text.push_str(&indented(&stage.display));
    text
}

fn indented(plan: &str) -> String {
    plan.lines().map(|line| format!("    {line}\n")).collect()
}

/// `count` bytes in the unit that suits it, as `12.3 MB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_have_a_unit() {
        assert_eq!(
            [0, 999, 1_000, 999_400, 12_345_678, 7_000_000_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "999.4 kB", "12.3 MB", "7.0 GB"]
        );
    }
}
