//! Plans as text, for `EXPLAIN` and `EXPLAIN ANALYZE`.

use std::fmt::Write;
use std::time::Duration;

use buzz_protocol::Result;
use futures::FutureExt;
use futures::future::BoxFuture;

use crate::plan::{Evaluate, MapStage, QueryPlan, Reducer};
use crate::{Fuse, Summary, reduce};

impl Fuse {
    /// Describes the plan: each step with its files, tasks, partitions and operators.
    ///
    /// # Errors
    /// `Invalid` when a reduce step cannot be planned.
    pub fn explain<'a>(&'a self, plan: &'a QueryPlan) -> BoxFuture<'a, Result<String>> {
        self.explain_steps(plan, None).boxed()
    }

    /// Describes a run: [`Fuse::explain`] plus the rows, bytes and times of each stage and each comb's share of the
    /// rows.
    ///
    /// # Errors
    /// As [`Fuse::explain`].
    pub fn explain_analyzed<'a>(&'a self, plan: &'a QueryPlan, summary: &'a Summary) -> BoxFuture<'a, Result<String>> {
        self.explain_steps(plan, Some(summary)).boxed()
    }

    async fn explain_steps(&self, plan: &QueryPlan, summary: Option<&Summary>) -> Result<String> {
        let mut text = String::new();
        for stage in &plan.stages {
            text.push_str(&explain_stage(stage, plan));
            if let Some(summary) = summary {
                text.push_str(&analyzed_stage(stage, plan, summary));
            }
            text.push_str(&indented(&stage.display));
        }
        for step in &plan.reduces {
            let combs = match &plan.reducer {
                Reducer::Fuse { because } => format!("Fuse ({because})"),
                Reducer::Combs if plan.comb_count == 1 => "1 comb".to_string(),
                Reducer::Combs => format!("{} combs", plan.comb_count),
            };
            let target = match step.target {
                Some(stage) => format!("its rows become stage {stage}, which later steps read"),
                None => "its rows are the answer".to_string(),
            };
            let shown = reduce::display(step, plan, &self.network).await?;
            _ = writeln!(text, "step {} (HComb): {combs}, {} partitions each", step.step, plan.partitions_per_comb);
            _ = writeln!(text, "  {target}");
            if let (Some(summary), None) = (summary, step.target) {
                _ = writeln!(text, "  answered: {} rows in {}", summary.rows, seconds(summary.ran_in));
            }
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
        "  files: {} found, {} kept by partition_filter, {} by partition, {} by statistics; {} of {}",
        table.extent.files,
        stage.files_by_filter,
        stage.files_by_partition,
        stage.files.len(),
        bytes(stage.bytes()),
        bytes(table.extent.bytes),
    );
    for build in &stage.builds {
        let (files, size) = (build.files.len(), bytes(build.bytes()));
        _ = writeln!(text, "  every task also reads table {}: {files} files, {size}", build.table.name);
    }
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
    text
}

fn analyzed_stage(stage: &MapStage, plan: &QueryPlan, summary: &Summary) -> String {
    let mut text = String::new();
    let Some(done) = summary.stages.iter().find(|done| done.stage == stage.id) else {
        _ = writeln!(text, "  ran: no tasks; the answer was complete without them");
        return text;
    };
    let delivered: u64 = done.rows_by_partition.iter().sum();
    _ = writeln!(
        text,
        "  ran: {} of {} tasks in {} attempts; {} rows, {} read; {delivered} rows, {} delivered",
        done.tasks.len(),
        stage.task_count(),
        done.attempts,
        done.rows_scanned,
        bytes(done.bytes_scanned),
        bytes(done.bytes_delivered),
    );
    if let Some((median, slowest, task)) = done.median_and_slowest() {
        _ = writeln!(text, "  time of a task: median {median} ms, slowest {slowest} ms (task {task})");
    }
    if plan.comb_count > 1 {
        let share = |(comb, rows): (usize, u64)| {
            let percent = 100.0 * rows as f64 / delivered.max(1) as f64;
            format!("comb {comb} {rows} ({percent:.0} %)")
        };
        let shares: Vec<String> = done.rows_by_comb(plan.comb_count).into_iter().enumerate().map(share).collect();
        _ = writeln!(text, "  rows delivered to: {}", shares.join(", "));
    }
    text
}

fn seconds(time: Duration) -> String {
    format!("{:.3} s", time.as_secs_f64())
}

fn indented(plan: &str) -> String {
    plan.lines().map(|line| format!("    {line}\n")).collect()
}

/// Formats `count` bytes with a decimal unit, for example `12.3 MB`.
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
    fn bytes_are_formatted_with_a_decimal_unit() {
        assert_eq!(
            [0, 999, 1_000, 999_400, 12_345_678, 7_000_000_000].map(bytes),
            ["0 B", "999 B", "1.0 kB", "999.4 kB", "12.3 MB", "7.0 GB"]
        );
    }
}
