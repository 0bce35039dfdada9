//! The registry of names of a stack: statements that name its tables, and changes from several callers at once.

use buzz_testkit::sorted_text;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::common;
use crate::stack::{Deployed, TRIPS, assert_answers, assert_same, deploy, plain, stderr};

const COUNT: &str = "SELECT COUNT(*) AS n, MAX(\"PULocationID\") AS far FROM trips";

/// Runs `buzz … --stack`, which must succeed, and returns what it prints to standard output.
async fn printed(deployed: &Deployed, arguments: &[&str]) -> String {
    let done = deployed.buzz(arguments).output().await.unwrap();
    assert!(done.status.success(), "{arguments:?}: {}", stderr(&done));
    String::from_utf8(done.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_alone_finds_the_tables_and_views_of_the_stack() {
    let deployed = deploy(|_| {}).await;
    let unknown = deployed.invoke(&json!({"sql": COUNT})).await.unwrap_err();
    assert!(unknown.1.contains("table `trips` does not exist"), "{unknown:?}");
    printed(&deployed, &["tables", "add", &format!("trips={TRIPS}/*.parquet")]).await;
    let expected = plain(COUNT).await;
    assert_answers(&deployed.invoke(&json!({"sql": COUNT})).await, &expected);
    assert_same(&deployed.buzz_rows(&["sql", COUNT]).await, &expected, false);

    let view = "CREATE VIEW far AS SELECT \"PULocationID\" AS place, COUNT(*) AS n FROM trips GROUP BY 1";
    let created = deployed.invoke(&json!({"sql": view})).await.unwrap();
    assert_eq!(created["rows"], json!([{"result": "view `far` was added: 2 columns"}]));
    let sql = "SELECT place, n FROM far ORDER BY n DESC, place LIMIT 5";
    let plain = plain(&sql.replace("FROM far", &format!("FROM ({})", view.split_once(" AS ").unwrap().1))).await;
    for set in ["reducer=inline", "reducer=comb"] {
        assert_same(&deployed.buzz_rows(&["sql", sql, "--set", set]).await, &plain, true);
    }
    assert!(!sorted_text(&plain).is_empty());
    let listed = printed(&deployed, &["tables", "list"]).await;
    let listed: Vec<&str> = listed.lines().map(|line| line.split_whitespace().next().unwrap()).collect();
    assert_eq!(listed, ["far", "trips"]);
    assert!(printed(&deployed, &["tables", "show", "trips"]).await.contains("trip_distance: Float64"));

    let names = deployed.path("cloud/s3/buzz-local/results/names.json");
    let stored: Value = serde_json::from_slice(&std::fs::read(&names).unwrap()).unwrap();
    assert_eq!(stored["catalogs"][0]["uri"], format!("{TRIPS}/*.parquet"));
    let damaged = deployed.path("damaged.json");
    std::fs::write(&damaged, "{\"catalogs\": 7}").unwrap();
    let copy = ["s3", "cp", damaged.to_str().unwrap(), "s3://buzz-local/results/names.json"];
    common::aws(&deployed.cloud.endpoint, &deployed.path(""), &copy).await.unwrap();
    let damaged = deployed.invoke(&json!({"sql": COUNT})).await.unwrap_err();
    assert!(damaged.1.contains("s3://buzz-local/results/names.json: `catalogs` is not a list"), "{damaged:?}");
    let own =
        json!({"sql": COUNT, "catalogs": [{"name": "trips", "type": "Parquet", "uri": format!("{TRIPS}/*.parquet")}]});
    assert_answers(&deployed.invoke(&own).await, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_add_names_at_the_same_time_lose_none() {
    let deployed = deploy(|_| {}).await;
    let add = |number: usize| {
        let deployed = &deployed;
        async move {
            let sql = format!("CREATE VIEW v{number} AS SELECT {number} AS n");
            deployed.invoke(&json!({"sql": sql})).await.unwrap()
        }
    };
    for start in (0..12).step_by(6) {
        join_all((start..start + 6).map(add)).await;
    }
    assert_eq!(printed(&deployed, &["tables", "list"]).await.lines().count(), 12);
    let all = deployed.invoke(&json!({"sql": "SELECT COUNT(*) AS n FROM information_schema.tables"})).await.unwrap();
    assert_eq!(all["rows"], json!([{"n": 12}]));
}

#[tokio::test(flavor = "multi_thread")]
async fn stack_adds_only_tables_that_it_may_read() {
    let deployed = deploy(|_| {}).await;
    for (table, words) in [
        ("own=s3://buzz-local/results/queries", "is among the stack's own objects"),
        ("own=s3://buzz-local/results/names.json", "is among the stack's own objects"),
        ("local=/etc", "a stack cannot read the local path `/etc`"),
        ("gone=s3://buzz-local/nothing", "gone"),
    ] {
        let done = deployed.buzz(&["tables", "add", table]).output().await.unwrap();
        assert_eq!(done.status.code(), Some(1), "{table}");
        assert!(stderr(&done).contains(words), "{table}: {}", stderr(&done));
    }
    assert_eq!(printed(&deployed, &["tables", "list"]).await, "");
    let missing = deployed.buzz(&["tables", "drop", "trips"]).output().await.unwrap();
    assert!(stderr(&missing).contains("table `trips` does not exist in s3://buzz-local/results/names.json"));
    let wrong = deployed.invoke(&json!({"names": {"drop": {}}})).await.unwrap_err();
    assert!(wrong.1.contains("event in `names`: "), "{wrong:?}");
}
