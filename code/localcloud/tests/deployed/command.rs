//! The command `buzz --stack`.

use std::time::Duration;

use buzz_localcloud::LocalCloud;
use buzz_localcloud::lambda::Fault;
use buzz_localcloud::stack::{FUSE, HBEE, Stack};
use serde_json::json;
use tokio::process::Child;

use crate::stack::{Deployed, GROUPS, LARGE, TRIPS, ask, assert_same, deploy, plain, stderr};

#[tokio::test(flavor = "multi_thread")]
async fn sql_command_runs_on_the_stack_with_inline_and_comb_reduction() {
    let deployed = deploy(|_| {}).await;
    let sql = "SELECT t.\"PULocationID\", COUNT(*) AS n, SUM(t.total_amount) AS total, MAX(t.trip_distance) AS far \
               FROM trips t GROUP BY 1 ORDER BY n DESC, 1 LIMIT 20";
    let expected = plain(sql).await;
    let table = format!("trips={TRIPS}/*.parquet");
    for set in ["reducer=inline", "reducer=comb"] {
        let rows = deployed.buzz_rows(&["sql", sql, "--table", &table, "--set", set]).await;
        assert_same(&rows, &expected, true);
    }
    let printed = deployed.buzz(&["sql", sql, "--table", &table, "--format", "csv"]).output().await.unwrap();
    assert!(printed.status.success(), "{}", stderr(&printed));
    assert_eq!(String::from_utf8(printed.stdout).unwrap().lines().count(), 21, "standard output has only rows");
}

#[tokio::test(flavor = "multi_thread")]
async fn query_command_downloads_result_of_20_mb() {
    let deployed = deploy(|_| {}).await;
    let file = deployed.path("query.json");
    std::fs::write(&file, ask(LARGE, 1, json!({}))["query"].to_string()).unwrap();
    let rows = deployed.buzz_rows(&["query", file.to_str().unwrap(), "--set", "reducer=comb"]).await;
    assert_same(&rows, &plain(LARGE).await, false);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_query_exits_with_1_and_prints_the_error() {
    let deployed = deploy(|_| {}).await;
    let file = deployed.path("wrong.json");
    let wrong = ask("SELECT fare FROM nyc_taxi", 1, json!({}));
    std::fs::write(&file, wrong["query"].to_string()).unwrap();
    let failed = deployed.buzz(&["query", file.to_str().unwrap()]).output().await.unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(failed.stdout.is_empty() && stderr(&failed).contains("fare"), "{}", stderr(&failed));
}

#[tokio::test(flavor = "multi_thread")]
async fn warning_is_printed_once() {
    let deployed = deploy(|_| {}).await;
    let file = deployed.path("query.json");
    let mut query = ask("SELECT COUNT(*) FROM nyc_taxi", 1, json!({}))["query"].clone();
    query["colour"] = json!("red");
    std::fs::write(&file, query.to_string()).unwrap();
    let answered = deployed.buzz(&["query", file.to_str().unwrap()]).output().await.unwrap();
    assert!(answered.status.success(), "{}", stderr(&answered));
    let said = stderr(&answered);
    assert!(said.contains("query.json: unknown field `colour`") && said.matches("colour").count() == 1, "{said}");
}

/// Sends SIGINT to a running `buzz`, which must exit with 130 within 30 seconds and print no rows.
async fn interrupt(running: Child) {
    let pid = running.id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    let ended = tokio::time::timeout(Duration::from_secs(30), running.wait_with_output()).await.expect("it ends");
    let ended = ended.unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", stderr(&ended));
    assert!(ended.stdout.is_empty());
}

/// Returns true if a query of the stack has ended as cancelled.
fn cancelled(deployed: &Deployed) -> bool {
    let queries = std::fs::read_dir(deployed.path("cloud/s3/buzz-local/results/queries")).into_iter().flatten();
    queries.flatten().any(|query| {
        let answer = std::fs::read_to_string(query.path().join("answer.json")).unwrap_or_default();
        answer.to_lowercase().contains("cancelled")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_cancels_the_query_on_the_stack() {
    let at_once = |stack: &mut Stack| {
        stack.fuse_environment.insert("BUZZ_HBEE_CONCURRENCY".to_string(), "4".to_string());
    };
    let deployed = deploy(at_once).await;
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(60)), 4);
    let file = deployed.path("query.json");
    std::fs::write(&file, ask(GROUPS, 1, json!({}))["query"].to_string()).unwrap();
    let running = deployed.buzz(&["query", file.to_str().unwrap(), "--set", "tasks=12"]).spawn().unwrap();
    let asked = |cloud: &LocalCloud| cloud.lambda.counts(HBEE).invocations;
    deployed.until("HBees are invoked", |cloud| asked(cloud) >= 4).await;
    interrupt(running).await;
    deployed.until("the query ends on the stack", |_| cancelled(&deployed)).await;
    // The query has twelve tasks.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(asked(&deployed.cloud), 4, "no further HBee is invoked");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_before_fuse_receives_the_query_cancels_it() {
    let deployed = deploy(|_| {}).await;
    deployed.cloud.lambda.fail_next(FUSE, &Fault::Slow(Duration::from_secs(3)), 1);
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(60)), 4);
    let file = deployed.path("query.json");
    std::fs::write(&file, ask(GROUPS, 1, json!({}))["query"].to_string()).unwrap();
    let running = deployed.buzz(&["query", file.to_str().unwrap(), "--set", "tasks=4"]).spawn().unwrap();
    deployed.until("Fuse is invoked", |cloud| cloud.lambda.counts(FUSE).invocations >= 1).await;
    interrupt(running).await;
    deployed.until("the query ends on the stack", |_| cancelled(&deployed)).await;
}
