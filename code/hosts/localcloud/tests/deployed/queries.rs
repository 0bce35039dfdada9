//! Queries without faults.

use serde_json::{Value, json};

use buzz_localcloud::ecs::AddressKind;
use buzz_localcloud::stack::{FUSE, HBEE};

use crate::stack::{EXAMPLE_SQL, GROUPS, LARGE, TRIPS, ask, assert_answers, deploy, example, plain};

#[tokio::test(flavor = "multi_thread")]
async fn example_query_runs_without_combs_cold_and_warm() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(EXAMPLE_SQL).await;
    let (answer, log) = deployed.invoke_logged(&example()).await;
    assert_answers(&answer, &expected);
    let answer = answer.unwrap();
    assert_eq!(answer["status"], "answered");
    assert_eq!(answer["columns"][0], json!({"name": "payment_type", "type": "Utf8"}));
    assert_eq!((&answer["summary"]["files_found"], &answer["summary"]["files_read"]), (&json!(93), &json!(15)));
    assert!(answer["summary"]["cost_usd"].as_f64().unwrap() > 0.0);
    assert!(log.contains("query answered") && log.contains("REPORT RequestId"), "{log}");
    assert_eq!(deployed.cloud.ecs.started(), 0);

    let cold = deployed.cloud.lambda.counts(FUSE).cold_starts + deployed.cloud.lambda.counts(HBEE).cold_starts;
    assert_answers(&deployed.invoke(&example()).await, &expected);
    let warm = deployed.cloud.lambda.counts(FUSE).cold_starts + deployed.cloud.lambda.counts(HBEE).cold_starts;
    assert_eq!(warm, cold, "the second query starts no new instance");
}

#[tokio::test(flavor = "multi_thread")]
async fn inline_and_comb_reduction_return_equal_rows_for_1_and_64_tasks_and_1_and_3_zones() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    for reducer in ["inline", "comb"] {
        for zones in [1, 3] {
            for tasks in [1, 64] {
                let answer = deployed.invoke(&ask(GROUPS, zones, json!({"reducer": reducer, "tasks": tasks}))).await;
                println!("{reducer}, {zones} zones, {tasks} tasks");
                assert_answers(&answer, &expected);
                let summary = &answer.unwrap()["summary"];
                assert_eq!(summary["tasks"], tasks);
                assert_eq!(summary["reducer"], reducer);
            }
        }
        let combs = if reducer == "inline" { 0 } else { 3 };
        assert_eq!(deployed.cloud.ecs.started(), combs, "combs are reused");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_and_partial_aggregates_are_kept_in_the_bucket() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    let invocations = || deployed.cloud.lambda.counts(HBEE).invocations;
    let asked = async |sql: &str, options: Value| {
        let answer = deployed.invoke(&ask(sql, 1, options)).await;
        assert_answers(&answer, &expected);
        answer.unwrap()["summary"].clone()
    };
    let first = asked(GROUPS, json!({"reducer": "inline", "reuse": true})).await;
    assert!(first["reused"].is_null(), "{first}");
    let ran = invocations();
    let again = asked(GROUPS, json!({"reducer": "inline", "reuse": true})).await;
    assert_eq!((&again["reused"]["answer"], &again["tasks"]), (&json!(true), &json!(0)), "{again}");
    assert_eq!(invocations(), ran);
    // Another answer of the same partial aggregates, which go to combs.
    let ordered = asked(&format!("{GROUPS} ORDER BY n"), json!({"reducer": "comb", "reuse": true})).await;
    assert_eq!((&ordered["reused"]["tasks"], &ordered["reducer"]), (&ordered["tasks"], &json!("comb")), "{ordered}");
    assert!(ordered["tasks"].as_u64().unwrap() > 50 && invocations() == ran, "{ordered}");
    // A query that does not ask for it runs.
    let other = asked(GROUPS, json!({"reducer": "inline"})).await;
    assert!(other["reused"].is_null() && invocations() > ran, "{other}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fuse_of_a_stack_without_combs_reduces_every_query_itself() {
    let deployed = deploy(|stack| stack.combs = false).await;
    for (zones, tasks) in [(1, 1), (3, 64)] {
        let answer = deployed.invoke(&ask(GROUPS, zones, json!({"tasks": tasks}))).await;
        assert_answers(&answer, &plain(GROUPS).await);
        assert_ne!(answer.unwrap()["summary"]["reducer"], "comb");
    }
    // On other stacks, combs would be started for as many rows.
    let answer = deployed.invoke(&ask(LARGE, 1, json!({"tasks": 48}))).await.unwrap();
    assert_eq!(answer["row_count"], 180_000);

    let (kind, message) = deployed.invoke(&ask(GROUPS, 1, json!({"reducer": "comb"}))).await.unwrap_err();
    assert_eq!(kind, "Invalid");
    assert!(message.contains("this stack has none") && message.contains("COMB_NETWORK=public_ipv4"), "{message}");
    // One response cannot carry the rows of one task, so they go through objects.
    let answer = deployed.invoke(&ask(LARGE, 1, json!({"tasks": 1}))).await.unwrap();
    assert_eq!(answer["row_count"], 180_000);
    assert_eq!(deployed.cloud.ecs.started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn combs_with_only_ipv6_addresses_are_reachable() {
    let deployed = deploy(|stack| stack.comb_address = AddressKind::Ipv6).await;
    let answer = deployed.invoke(&ask(GROUPS, 2, json!({"reducer": "comb"}))).await;
    assert_answers(&answer, &plain(GROUPS).await);
    assert_eq!(deployed.cloud.ecs.started(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn result_of_20_mb_is_written_to_storage_in_full() {
    let deployed = deploy(|_| {}).await;
    let sql = LARGE;
    let expected = plain(sql).await;
    let mut event = ask(sql, 1, json!({"reducer": "comb"}));
    event["output"] = json!({"format": "csv"});
    let answer = deployed.invoke(&event).await.unwrap();
    assert!(answer["rows"].is_null(), "{answer}");
    let rows: usize = expected.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(answer["row_count"], rows);
    let bytes = answer["output"]["bytes"].as_u64().unwrap();
    assert!(bytes > 20_000_000, "{bytes}");
    let script = "import sys, urllib.request as u; b = u.urlopen(sys.argv[1]).read(); print(len(b), b.count(b'\\n'))";
    let url = answer["output"]["url"].as_str().unwrap();
    let fetched = tokio::process::Command::new("python3").args(["-c", script, url]).output().await.unwrap();
    assert_eq!(String::from_utf8(fetched.stdout).unwrap().trim(), format!("{bytes} {}", rows + 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn cost_is_estimated_and_bounded_before_the_query_runs() {
    let deployed = deploy(|_| {}).await;
    let mut event = ask(GROUPS, 1, json!({"tasks": 4}));
    event["explain"] = json!(true);
    let plan = deployed.invoke(&event).await.unwrap()["explain"].as_str().unwrap().to_string();
    assert!(
        plan.contains("estimate: 4 tasks read ") && plan.contains(" requests in ") && plan.contains(" s, for $0.00"),
        "{plan}"
    );
    let dear = ask(GROUPS, 1, json!({"tasks": 4, "max_cost_usd": 0.000_001}));
    let (kind, message) = deployed.invoke(&dear).await.unwrap_err();
    assert!(kind == "Limit" && message.contains("or raise `max_cost_usd`"), "{kind}: {message}");
    assert_eq!(deployed.cloud.lambda.counts(HBEE).invocations, 0);
    let cheap = ask(GROUPS, 1, json!({"tasks": 4, "max_cost_usd": 1}));
    assert_answers(&deployed.invoke(&cheap).await, &plain(GROUPS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_the_stack_apply_to_queries_that_set_none() {
    let deployed = deploy(|stack| {
        stack.fuse_environment.insert("BUZZ_MAX_SCAN_BYTES".to_string(), "1kB".to_string());
    })
    .await;
    let (kind, message) = deployed.invoke(&ask(GROUPS, 1, json!({}))).await.unwrap_err();
    assert!(kind == "Limit" && message.contains("more than 1.0 kB;"), "{kind}: {message}");
    assert_eq!(deployed.cloud.lambda.counts(HBEE).invocations, 0);
    let allowed = ask(GROUPS, 1, json!({"max_scan_bytes": "1GB"}));
    assert_answers(&deployed.invoke(&allowed).await, &plain(GROUPS).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_too_large_for_inline_go_through_objects() {
    let deployed = deploy(|_| {}).await;
    // One task delivers all rows, about 3 MB, which exceeds `inbox_memory_bytes`.
    let sql = "SELECT COUNT(*) AS n, SUM(r) AS r, MIN(pickup_at) AS lo, MAX(payment_type) AS t FROM (SELECT pickup_at, \
               payment_type, ROW_NUMBER() OVER (ORDER BY pickup_at, dropoff_at, total_amount) AS r FROM nyc_taxi)";
    let answer = deployed.invoke(&ask(sql, 1, json!({"tasks": 1, "inbox_memory_bytes": "1MB"}))).await;
    assert_answers(&answer, &plain(sql).await);
    assert_eq!(answer.unwrap()["summary"]["reducer"], "objects");
    assert_eq!(deployed.cloud.ecs.started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_query_returns_function_error() {
    let deployed = deploy(|_| {}).await;
    let wrong = ask("SELECT fare FROM nyc_taxi", 1, json!({}));
    let (kind, message) = deployed.invoke(&wrong).await.unwrap_err();
    assert_eq!(kind, "Invalid");
    assert!(message.contains("fare"), "{message}");
    let (kind, message) = deployed.invoke(&json!({"nonsense": 1})).await.unwrap_err();
    assert_eq!(kind, "Invalid", "{message}");
    let (kind, message) = deployed.invoke(&ask(GROUPS, 1, json!({"task": 3}))).await.unwrap_err();
    assert!(kind == "Invalid" && message.contains("did you mean `tasks`?"), "{message}");

    // A file that is not Parquet. The HBee's error keeps its kind and location.
    let broken = deployed.path("broken");
    std::fs::create_dir_all(&broken).unwrap();
    std::fs::write(broken.join("a.parquet"), vec![0_u8; 5000]).unwrap();
    buzz_localcloud::upload::upload(&deployed.cloud.endpoint, &broken, "s3://buzz-local/broken").await.unwrap();
    let schema = json!([{"name": "x", "type": "Int64"}]);
    let manifest = json!({"schema": schema, "files": [{"uri": "a.parquet", "size": 5000}]}).to_string();
    std::fs::write(broken.join("manifest.json"), manifest).unwrap();
    buzz_localcloud::upload::upload(&deployed.cloud.endpoint, &broken, "s3://buzz-local/broken").await.unwrap();
    let catalogs = json!([{"name": "t", "type": "Static", "uri": "s3://buzz-local/broken/manifest.json"}]);
    let query: Value = json!({"sql": "SELECT SUM(x) FROM t", "catalogs": catalogs});
    let (kind, message) = deployed.invoke(&query).await.unwrap_err();
    assert_eq!(kind, "Data", "{message}");
    assert!(message.contains("s3://buzz-local/broken/a.parquet"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn monthly_trips_query_matches_plain_datafusion() {
    let deployed = deploy(|_| {}).await;
    let sql = "SELECT t.\"PULocationID\" AS place, COUNT(*) AS n, SUM(t.passenger_count) AS passengers, \
               MAX(t.lpep_pickup_datetime) AS last FROM trips t JOIN \
               (SELECT \"PULocationID\" AS p FROM trips GROUP BY 1 HAVING COUNT(*) > 500) busy ON t.\"PULocationID\" = busy.p \
               GROUP BY 1";
    let expected = plain(sql).await;
    let catalogs = json!([{"name": "trips", "type": "Parquet", "uri": format!("{TRIPS}/*.parquet")}]);
    for (reducer, zones) in [("inline", 1), ("comb", 3)] {
        let query = json!({"sql": sql, "capacity": {"zones": zones}, "catalogs": catalogs});
        let answer = deployed.invoke(&json!({"query": query, "options": {"reducer": reducer}})).await;
        assert_answers(&answer, &expected);
    }
}
