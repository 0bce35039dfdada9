//! Plans as text, for `EXPLAIN` and `EXPLAIN ANALYZE`.

use std::fmt::Write;
use std::time::Duration;

use buzz_engine::Summary;
use buzz_protocol::{QueryId, Result, human_bytes};
use datafusion::physical_plan::displayable;
use datafusion_distributed::display_plan_ascii;

use crate::query_plan::{Evaluate, MapStage, QueryPlan, ReduceStep};
use crate::reduce::{divide, reduce_plan, stand_ins};

/// Describes `plan`: each step with its files, tasks, partitions and operators.
///
/// # Errors
/// `Invalid` if a reduce step cannot be planned.
pub async fn explain(plan: &QueryPlan) -> Result<String> {
    explain_steps(plan, None).await
}

/// Describes a run of `plan`: [`explain`] plus the rows, bytes and times of each stage and each comb's share of the rows.
///
/// # Errors
/// As [`explain`].
pub async fn explain_analyzed(plan: &QueryPlan, summary: &Summary) -> Result<String> {
    explain_steps(plan, Some(summary)).await
}

async fn explain_steps(plan: &QueryPlan, summary: Option<&Summary>) -> Result<String> {
    let mut text = String::new();
    for stage in &plan.stages {
        text.push_str(&explain_stage(stage, plan));
        if let Some(summary) = summary {
            text.push_str(&analyzed_stage(stage, plan, summary));
        }
        text.push_str(&indented(&stage.display));
    }
    for step in &plan.reduces {
        let combs = match &plan.fuse_only {
            Some(because) => format!("Fuse ({because})"),
            None if plan.comb_count == 1 => "1 comb".to_string(),
            None => format!("{} combs", plan.comb_count),
        };
        let target = match step.target {
            Some(stage) => format!("its rows become stage {stage}, which later steps read"),
            None => "its rows are the answer".to_string(),
        };
        let shown = display_reduce(step, plan).await?;
        _ = writeln!(text, "step {} (HComb): {combs}, {} partitions each", step.step, plan.partitions_per_comb);
        _ = writeln!(text, "  {target}");
        if let (Some(summary), None) = (summary, step.target) {
            _ = writeln!(text, "  answered: {} rows in {}", summary.rows, seconds(summary.ran_in));
        }
        text.push_str(&indented(&shown));
    }
    Ok(text)
}

/// Returns the plan of a reduce step as text. It is planned for addresses at which no comb runs.
async fn display_reduce(step: &ReduceStep, plan: &QueryPlan) -> Result<String> {
    let whole = reduce_plan(step, plan, QueryId::fresh(), plan.partitions_per_comb).await?;
    if plan.fuse_only.is_some() || plan.comb_count == 1 {
        return Ok(displayable(whole.as_ref()).indent(false).to_string());
    }
    let (divided, _) = divide(whole, plan, &stand_ins(plan.comb_count), Ok).await?;
    Ok(display_plan_ascii(divided.as_ref(), false))
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
        human_bytes(stage.bytes()),
        human_bytes(table.extent.bytes),
    );
    for build in &stage.builds {
        let (files, size) = (build.files.len(), human_bytes(build.bytes()));
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
        human_bytes(done.bytes_scanned),
        human_bytes(done.bytes_delivered),
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
