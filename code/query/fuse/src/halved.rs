//! Runs a query once more with smaller tasks if an HBee ran out of memory.

use buzz_engine::{Progress, Question, RowSink, Summary};
use buzz_plan::{MapStage, QueryPlan};
use buzz_protocol::{ErrorKind, QueryError, Result};

use crate::Fuse;

impl Fuse {
    /// Runs `plan`, which answers `question`. If a task ran out of memory and its work can be divided, plans again with
    /// twice the tasks, each over half the split, and runs that. Returns that plan too.
    ///
    /// # Errors
    /// As [`Fuse::run`]. If the tasks cannot be smaller, the error of the first run.
    pub(crate) async fn run_or_halve(
        &self,
        question: &Question,
        plan: &QueryPlan,
        progress: &Progress,
        sink: &mut dyn RowSink,
    ) -> Result<(Summary, Option<QueryPlan>)> {
        let error = match self.run(plan, progress, &mut *sink).await {
            Err(error) if is_of_task(&error) => error,
            ran => return ran.map(|summary| (summary, None)),
        };
        let smaller = halved(question, plan);
        let planned = progress.unless_stopped(self.plan(&smaller)).await;
        if let Ok(again) = &planned {
            progress.add_requests(again.requests);
        }
        let mut again = match planned {
            Ok(again) if again.task_count() > plan.task_count() => again,
            // There is nothing to divide, or more tasks exceed a bound.
            Ok(_) => return Err(error),
            Err(failed) if failed.kind == ErrorKind::Limit => return Err(error),
            Err(failed) => return Err(failed),
        };
        // The deadline counts from the start of the query.
        again.planned_in = progress.elapsed().saturating_sub(again.opened_in);
        tracing::warn!(
            query_id = %question.id,
            error = error.without_values(),
            tasks = plan.task_count(),
            more = again.task_count(),
            "running the query in smaller tasks"
        );
        progress.warn([format!(
            "a task ran out of memory; the query ran again in {} tasks instead of {}: set `tasks` or `split_bytes`, or give HBees \
             more memory",
            again.task_count(),
            plan.task_count()
        )]);
        Progress::add(&progress.reruns, 1);
        progress.restart();
        Ok((self.run(&again, progress, sink).await?, Some(again)))
    }
}

/// Returns true if the memory of an HBee, not of a comb, was too small.
fn is_of_task(error: &QueryError) -> bool {
    error.out_of_memory && error.task().is_some()
}

/// Returns `question` with twice the tasks of `plan` and half the splits.
fn halved(question: &Question, plan: &QueryPlan) -> Question {
    let most = plan.stages.iter().map(MapStage::task_count).max().unwrap_or(1);
    let mut smaller = question.clone();
    smaller.options.tasks = most.saturating_mul(2);
    smaller.options.split_bytes = (smaller.options.split_bytes / 2).max(1);
    // Kept rows are those of splits of one size.
    smaller.options.reuse = false;
    smaller
}
