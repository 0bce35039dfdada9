//! Submits, watches and cancels queries.

use std::time::Duration;

use buzz_localcloud::lambda::Fault;
use buzz_localcloud::stack::HBEE;
use serde_json::{Value, json};

use crate::stack::{Answer, Deployed, GROUPS, ask, assert_answers, deploy, plain};

async fn submit(deployed: &Deployed, mut event: Value) -> Value {
    event["async"] = json!(true);
    let submitted = deployed.invoke(&event).await.unwrap();
    assert_eq!(submitted["status"], "submitted");
    submitted["query_id"].clone()
}

/// Watches a query until `done` holds, and returns the last answer.
async fn watch(deployed: &Deployed, query: &Value, done: impl Fn(&Answer) -> bool) -> Answer {
    for _ in 0..200 {
        let seen = deployed.invoke(&json!({"watch": query})).await;
        if done(&seen) {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the query {query} does not end");
}

fn status(seen: &Answer) -> &str {
    seen.as_ref().map_or("failed", |seen| seen["status"].as_str().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn submitted_query_reports_progress_then_answer() {
    let deployed = deploy(|_| {}).await;
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(6)), 3);
    let query = submit(&deployed, ask(GROUPS, 1, json!({"tasks": 8}))).await;
    let halfway = |seen: &Answer| {
        status(seen) != "running" || seen.as_ref().is_ok_and(|seen| seen["tasks_done"].as_u64() >= Some(1))
    };
    let seen = watch(&deployed, &query, |seen| status(seen) != "submitted" && halfway(seen)).await.unwrap();
    assert_eq!((&seen["status"], &seen["tasks"]), (&json!("running"), &json!(8)));
    let answer = watch(&deployed, &query, |seen| status(seen) == "answered").await;
    assert_answers(&answer, &plain(GROUPS).await);
    assert_eq!(answer.unwrap()["query_id"], query);
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_query_fails_with_kind_cancelled() {
    let deployed = deploy(|_| {}).await;
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(60)), 4);
    let query = submit(&deployed, ask(GROUPS, 1, json!({"tasks": 4}))).await;
    deployed.until("HBees are invoked", |cloud| cloud.lambda.counts(HBEE).invocations >= 4).await;
    deployed.invoke(&json!({"cancel": query})).await.unwrap();
    let (kind, message) = watch(&deployed, &query, |seen| status(seen) == "failed").await.unwrap_err();
    assert_eq!(kind, "Cancelled", "{message}");
    let (kind, _) = deployed.invoke(&json!({"watch": "01890a5d-ac96-774b-bcce-b302099a8057"})).await.unwrap_err();
    assert_eq!(kind, "Invalid", "a query that was never submitted");
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_lists_running_queries_and_cancels_one() {
    let deployed = deploy(|_| {}).await;
    assert_eq!(deployed.queries(None).await.unwrap(), "no query runs\n");
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(60)), 4);
    let query = submit(&deployed, ask(GROUPS, 1, json!({"tasks": 4}))).await;
    let id = query.as_str().unwrap();
    watch(&deployed, &query, |seen| status(seen) == "running").await.unwrap();
    let listed = deployed.queries(None).await.unwrap();
    let line = listed.lines().find(|line| line.starts_with(id)).unwrap_or_else(|| panic!("{listed}"));
    assert!(line.contains("map") || line.contains("plan"), "{listed}");

    assert_eq!(deployed.queries(Some(id)).await.unwrap(), format!("query {id} ends within seconds\n"));
    let (kind, message) = watch(&deployed, &query, |seen| status(seen) == "failed").await.unwrap_err();
    assert_eq!(kind, "Cancelled", "{message}");
    assert_eq!(deployed.queries(None).await.unwrap(), "no query runs\n");
    assert_eq!(deployed.queries(Some(id)).await.unwrap_err(), format!("error: query {id} has ended\n"));
    let unknown = deployed.queries(Some("01890a5d-ac96-774b-bcce-b302099a8057")).await.unwrap_err();
    assert!(unknown.contains("does not run"), "{unknown}");
}

/// Returns the number of tasks that ended with kind `Cancelled`, by the logs of the HBees.
fn cancelled_tasks(logs: &std::path::Path) -> usize {
    let files = std::fs::read_dir(logs.join(HBEE)).unwrap().map(|file| file.unwrap().path());
    let texts: String = files.map(|file| std::fs::read_to_string(file).unwrap()).collect();
    texts.lines().filter(|line| line.contains("\"task failed\"") && line.contains("\"Cancelled\"")).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_query_ends_its_hbees() {
    let deployed = deploy(|_| {}).await;
    // Minutes of computing, in batches of a second.
    let sql = "SELECT COUNT(*) AS n FROM nyc_taxi WHERE levenshtein(repeat(payment_type, 200), \
               repeat(CAST(pickup_at AS VARCHAR), 60)) > 3";
    let logs = deployed.path("cloud/logs");
    for (reducer, ended) in [("comb", 2), ("inline", 4)] {
        let before = deployed.cloud.lambda.counts(HBEE).invocations;
        let options = json!({"reducer": reducer, "tasks": 2, "batch_size": 16});
        let query = submit(&deployed, ask(sql, 1, options)).await;
        deployed.until("HBees are invoked", |cloud| cloud.lambda.counts(HBEE).invocations >= before + 2).await;
        deployed.invoke(&json!({"cancel": query})).await.unwrap();
        let (kind, message) = watch(&deployed, &query, |seen| status(seen) == "failed").await.unwrap_err();
        assert_eq!(kind, "Cancelled", "{message}");
        deployed.until("the HBees end their tasks", |_| cancelled_tasks(&logs) >= ended).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn query_fails_before_fuse_timeout_and_reports_finished_tasks() {
    let deployed = deploy(|stack| stack.fuse_timeout = Duration::from_secs(12)).await;
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(60)), 1);
    let answer = deployed.invoke(&ask(GROUPS, 1, json!({"tasks": 4, "straggler_factor": 0}))).await;
    let (kind, message) = answer.unwrap_err();
    assert_eq!(kind, "Limit", "{message}");
    assert!(message.contains("the Fuse function reached its time limit"), "{message}");
    assert!(message.contains("of 4 tasks were done"), "{message}");
}
