//! Faults of a cloud, none of which may lose or duplicate a row.

use std::time::Duration;

use buzz_localcloud::LocalCloud;
use buzz_localcloud::lambda::{ApiError, Fault};
use buzz_localcloud::stack::HBEE;
use serde_json::json;

use crate::stack::{GROUPS, ask, assert_answers, deploy, plain};

#[tokio::test(flavor = "multi_thread")]
async fn crashed_throttled_or_duplicate_hbees_do_not_change_rows() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    let unready = ApiError::new(502, "ResourceNotReadyException", "The function is being initialized");
    let faults = [
        Fault::DieAtStart,
        Fault::DieBeforeAnswer,
        Fault::Refuse(ApiError::throttled()),
        Fault::Refuse(ApiError::new(500, "ServiceException", "try again")),
        Fault::Refuse(unready),
        Fault::Twice,
    ];
    for reducer in ["inline", "comb", "objects"] {
        for fault in &faults {
            deployed.cloud.lambda.fail_next(HBEE, fault, 2);
            let answer = deployed.invoke(&ask(GROUPS, 2, json!({"reducer": reducer, "tasks": 6}))).await;
            println!("{reducer}, {fault:?}");
            assert_answers(&answer, &expected);
            let attempts = answer.unwrap()["summary"]["attempts"].as_u64().unwrap();
            // A rejected invocation counts as an attempt, although no task ran.
            let expected = if matches!(fault, Fault::Twice) { 6 } else { 8 };
            assert_eq!(attempts, expected);
            assert_eq!(deployed.cloud.lambda.faults_left(HBEE), 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_hbee_is_overtaken_by_a_second_attempt() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    for reducer in ["inline", "comb", "objects"] {
        deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(120)), 1);
        let answer = deployed.invoke(&ask(GROUPS, 1, json!({"reducer": reducer, "tasks": 8}))).await;
        assert_answers(&answer, &expected);
        assert_eq!(answer.unwrap()["summary"]["stragglers"], 1, "{reducer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_above_account_concurrency_are_throttled_and_retried() {
    let deployed = deploy(|stack| stack.concurrency = 6).await;
    let answer = deployed.invoke(&ask(GROUPS, 1, json!({"tasks": 24, "attempts": 20, "straggler_factor": 0}))).await;
    assert_answers(&answer, &plain(GROUPS).await);
    let throttles = deployed.cloud.lambda.counts(HBEE).throttles as u64;
    assert!(throttles > 0, "Fuse exceeds the concurrency of the account");
    assert_eq!(answer.unwrap()["summary"]["attempts"], 24 + throttles);
}

#[tokio::test(flavor = "multi_thread")]
async fn hbee_that_always_crashes_fails_the_query() {
    let deployed = deploy(|_| {}).await;
    deployed.cloud.lambda.fail_next(HBEE, &Fault::DieAtStart, 100);
    let (kind, message) = deployed.invoke(&ask(GROUPS, 1, json!({"tasks": 2}))).await.unwrap_err();
    assert_eq!(kind, "Unavailable");
    assert!(message.contains("aborted"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn hbee_out_of_memory_fails_with_kind_limit() {
    let deployed = deploy(|_| {}).await;
    deployed.cloud.lambda.fail_next(HBEE, &Fault::OutOfMemory, 1000);
    let (kind, message) = deployed.invoke(&ask(GROUPS, 1, json!({"tasks": 1}))).await.unwrap_err();
    assert_eq!(kind, "Limit", "{message}");
    assert!(message.contains("memory"), "{message}");
}

/// Ends the combs of a query with `end` while its HBees run. New combs must take over.
async fn combs_end_in_the_middle(end: fn(&LocalCloud) -> usize) {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    let event = ask(GROUPS, 2, json!({"reducer": "comb", "tasks": 6}));
    assert_answers(&deployed.invoke(&event).await, &expected);
    assert_eq!(deployed.cloud.ecs.started(), 2);

    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(3)), 6);
    let before = deployed.cloud.lambda.counts(HBEE).invocations;
    let (answer, ended) = tokio::join!(deployed.invoke(&event), async {
        deployed.until("HBees are invoked", |cloud| cloud.lambda.counts(HBEE).invocations >= before + 6).await;
        end(&deployed.cloud)
    });
    assert_eq!(ended, 2);
    assert_answers(&answer, &expected);
    assert_eq!(answer.unwrap()["summary"]["reruns"], 1);
    assert_eq!(deployed.cloud.ecs.started(), 4, "new combs took over");
}

#[tokio::test(flavor = "multi_thread")]
async fn comb_killed_mid_query_causes_one_rerun() {
    combs_end_in_the_middle(|cloud| cloud.ecs.kill_running()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn comb_stopped_mid_query_causes_one_rerun() {
    combs_end_in_the_middle(|cloud| cloud.ecs.stop_running()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_first_queries_share_new_combs() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    let event = ask(GROUPS, 2, json!({"reducer": "comb", "tasks": 4}));
    let (left, right) = tokio::join!(deployed.invoke(&event), deployed.invoke(&event));
    assert_answers(&left, &expected);
    assert_answers(&right, &expected);
    assert_eq!(deployed.cloud.ecs.started(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_ecs_delay_combs_and_fail_no_query() {
    let deployed = deploy(|_| {}).await;
    // More than the SDK repeats.
    deployed.cloud.ecs.throttle_next(8);
    deployed.cloud.ecs.refuse_next(4);
    let answer = deployed.invoke(&ask(GROUPS, 2, json!({"reducer": "comb", "tasks": 4}))).await;
    assert_answers(&answer, &plain(GROUPS).await);
    assert_eq!((&answer.unwrap()["summary"]["combs"], deployed.cloud.ecs.started()), (&json!(2), 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_combs_stop_and_next_query_starts_new_ones() {
    let deployed = deploy(|stack| stack.comb_idle = Duration::from_secs(1)).await;
    let expected = plain(GROUPS).await;
    let event = ask(GROUPS, 1, json!({"reducer": "comb", "tasks": 2}));
    // In the state that Fuse instances share, the second comb replaces the first, and the third the second.
    for started in 1..=3 {
        assert_answers(&deployed.invoke(&event).await, &expected);
        assert_eq!(deployed.cloud.ecs.started(), started);
        deployed.until("the comb stops", |cloud| cloud.ecs.running().is_empty()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn combs_do_not_stop_as_idle_during_a_query() {
    let deployed = deploy(|stack| stack.comb_idle = Duration::from_secs(1)).await;
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(4)), 2);
    let answer = deployed.invoke(&ask(GROUPS, 1, json!({"reducer": "comb", "tasks": 2}))).await;
    assert_answers(&answer, &plain(GROUPS).await);
    assert_eq!((answer.unwrap()["summary"]["reruns"].as_u64(), deployed.cloud.ecs.started()), (Some(0), 1));
}
