//! Finds stragglers: tasks that take a multiple of the time of the others of their stage.

use std::collections::HashMap;
use std::time::Duration;

use buzz_plan::{MapStage, QueryPlan, TaskStage};
use buzz_protocol::StageId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

/// Share of a stage's tasks that must be done before one of the others counts as a straggler.
const DONE_PERCENT: usize = 90;

/// Time in which no task is a straggler, however short the others are.
const TIME_MIN: Duration = Duration::from_secs(1);

/// The times of the tasks of all stages.
#[derive(Debug)]
pub(crate) struct Stragglers {
    /// Multiple of the median; `None` if no task is a straggler.
    factor: Option<u32>,
    stages: HashMap<StageId, StageTimes>,
}

#[derive(Debug)]
struct StageTimes {
    tasks: usize,
    done: Mutex<Vec<Duration>>,
    /// Maximum time of a task that is not a straggler; `None` until enough tasks are done.
    time_max: watch::Sender<Option<Duration>>,
}

impl Stragglers {
    /// Creates the times of the stages of `plan`, and of those that reduce. Without `enabled`, no task is a straggler.
    pub(crate) fn of(plan: &QueryPlan, reduce: &[TaskStage], enabled: bool) -> Self {
        let factor = Some(plan.options.straggler_factor).filter(|factor| enabled && *factor > 0);
        let times = |stage: &MapStage| StageTimes::of(MapStage::task_count(stage));
        let maps = plan.stages.iter().map(|stage| (stage.id, times(stage)));
        let reduces = reduce.iter().map(|stage| (stage.id, StageTimes::of(stage.tasks)));
        Self { factor, stages: maps.chain(reduces).collect() }
    }

    /// Records that a task of `stage` took `time`.
    pub(crate) fn done(&self, stage: StageId, time: Duration) {
        if let (Some(factor), Some(times)) = (self.factor, self.stages.get(&stage)) {
            times.add(time, factor);
        }
    }

    /// Waits until a task of `stage` that started at `started` is a straggler.
    pub(crate) async fn is_one(&self, stage: StageId, started: Instant) {
        let (Some(_), Some(times)) = (self.factor, self.stages.get(&stage)) else {
            return std::future::pending().await;
        };
        let mut time_max = times.time_max.subscribe();
        let known = time_max.wait_for(Option::is_some).await.ok().and_then(|time| *time);
        match known {
            Some(time) => tokio::time::sleep_until(started + time).await,
            None => std::future::pending().await,
        }
    }
}

impl StageTimes {
    fn of(tasks: usize) -> Self {
        Self { tasks, done: Mutex::default(), time_max: watch::Sender::new(None) }
    }

    fn add(&self, time: Duration, factor: u32) {
        let mut done = self.done.lock();
        done.push(time);
        if self.time_max.borrow().is_some() || done.len() < (self.tasks * DONE_PERCENT / 100).max(1) {
            return;
        }
        done.sort_unstable();
        let median = done[(done.len() - 1) / 2];
        self.time_max.send_replace(Some(median.saturating_mul(factor).max(TIME_MIN)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(tasks: usize, seconds: &[u64]) -> Option<Duration> {
        let times = StageTimes::of(tasks);
        for seconds in seconds {
            times.add(Duration::from_secs(*seconds), 3);
        }
        *times.time_max.borrow()
    }

    #[test]
    fn straggler_takes_a_multiple_of_the_median_once_90_percent_are_done() {
        assert_eq!(after(20, &[4; 17]), None);
        assert_eq!(after(20, &[4; 18]), Some(Duration::from_secs(12)));
        assert_eq!(after(4, &[1, 9, 2]), Some(Duration::from_secs(6)));
        assert_eq!(after(4, &[1, 9]), None);
        assert_eq!(after(10, &[0; 9]), Some(TIME_MIN), "short tasks vary");
        assert_eq!(after(1, &[]), None, "a single task is compared with nothing");
    }

    #[tokio::test]
    async fn straggler_is_found_once_enough_tasks_are_done() {
        let stage = StageId(0);
        let stragglers = Stragglers { factor: Some(3), stages: HashMap::from([(stage, StageTimes::of(10))]) };
        let started = Instant::now() - TIME_MIN;
        let mut found = Box::pin(stragglers.is_one(stage, started));
        assert!(futures::poll!(&mut found).is_pending());
        (0..9).for_each(|_| stragglers.done(stage, Duration::ZERO));
        found.await;
        let off = Stragglers { factor: None, stages: HashMap::new() };
        assert!(futures::poll!(Box::pin(off.is_one(stage, started))).is_pending());
    }
}
