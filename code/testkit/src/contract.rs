//! Checks that every implementation of a trait of `buzz-host` must pass.

use std::collections::HashSet;

use buzz_host::{Combs, Compute};
use buzz_protocol::{CombAddress, HBeeTask, TaskOutcome};
use futures::future::join_all;

/// Checks that `compute` keeps the contract of [`Compute`]. The task `works` succeeds and returns rows; `fails` fails.
///
/// # Panics
/// When it does not.
pub async fn check_compute(compute: &dyn Compute, works: &HBeeTask, fails: &HBeeTask) {
    assert!(compute.concurrency() >= 1, "a task can run");
    assert!(compute.tasks_min() >= 1, "a stage has a task");
    assert!(compute.inline_bytes() >= 1 << 20, "small results reach Fuse within the outcomes");

    let first = succeeded(compute, works).await;
    let second = succeeded(compute, works).await;
    let many = join_all((0..8).map(|_| succeeded(compute, works))).await;
    let deliveries: HashSet<_> = [&first, &second].into_iter().chain(&many).map(|outcome| outcome.delivery).collect();
    assert_eq!(deliveries.len(), 10, "each attempt delivers under an id of its own");
    assert!(many.iter().all(|outcome| outcome.rows == first.rows), "each attempt delivers the same rows");

    let error = compute.run(fails, &|| {}).await.expect_err("the error of a task reaches the caller");
    let place = (error.step(), error.task());
    assert_eq!(place, (Some(fails.step.as_str()), Some(fails.task.0)), "{error}");

    // A future that is dropped at once, or after it has started, leaves a compute that works.
    drop(compute.run(works, &|| {}));
    let soon = std::time::Duration::from_micros(100);
    drop(tokio::time::timeout(soon, compute.run(works, &|| {})).await);
    assert_eq!(succeeded(compute, works).await.rows, first.rows);
}

async fn succeeded(compute: &dyn Compute, task: &HBeeTask) -> TaskOutcome {
    let outcome = compute.run(task, &|| {}).await.expect("the task works");
    assert_eq!(outcome.rows.len(), task.partitioning.count(), "the outcome counts the rows of each partition");
    assert!(outcome.rows.iter().sum::<u64>() > 0, "the task returns rows");
    outcome
}

/// Checks that `combs`, which can have at least `count` combs and has none that stop, keeps the contract of [`Combs`].
///
/// # Panics
/// When it does not.
pub async fn check_combs(combs: &dyn Combs, count: usize) {
    let ready = combs.ready(count).await.expect("so many combs can be had");
    assert_eq!(distinct(&ready).len(), count, "`ready` returns as many combs as were requested, each once: {ready:?}");
    let again = combs.ready(count).await.expect("the same combs can be had again");
    assert_eq!(distinct(&again), distinct(&ready), "combs that run are used again");
    for fewer in 0..count {
        let some = combs.ready(fewer).await.expect("fewer combs can be had");
        assert_eq!(distinct(&some).len(), fewer, "{some:?}");
        assert!(distinct(&some).is_subset(&distinct(&ready)), "no comb is started if enough run");
    }
    for wanted in 0..count + 2 {
        let warm = combs.warm(wanted).await.expect("combs that run can be listed");
        assert_eq!(distinct(&warm).len(), warm.len(), "`warm` returns each comb once");
        assert!(warm.len() <= wanted, "`warm({wanted})` returns at most so many combs: {warm:?}");
        assert!(warm.len() >= wanted.min(count), "`warm({wanted})` returns those that run: {warm:?}");
    }
    for of in 1..=count {
        assert!(combs.partitions_per_comb(of) >= 1, "each of {of} combs works on a partition");
    }
    for address in &ready {
        assert!(combs.fate(address).await.is_none(), "a comb that runs has not ended");
    }
    let first = ready.first().expect("at least one comb was requested");
    combs.avoid(first);
    let others = combs.ready(count).await.expect("another comb can be had instead of one that is avoided");
    assert_eq!(distinct(&others).len(), count, "{others:?}");
}

fn distinct(combs: &[CombAddress]) -> HashSet<&CombAddress> {
    combs.iter().collect()
}
