//! Rows that are exchanged through objects in storage, with no comb at all.

use std::fs::File;
use std::path::Path;

use buzz_localcloud::lambda::Fault;
use buzz_localcloud::stack::HBEE;
use buzz_localcloud::upload::upload;
use buzz_testkit::{TPCH_TABLES, datafusion_slt_files, tpch_statement, tpch_table};
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use serde_json::json;

use crate::common;
use crate::stack::{Deployed, GROUPS, LARGE, ask, assert_answers, assert_same, deploy, plain};

/// Returns the scale factor of the tables of TPC-H: 0.01, or that of `BUZZ_TPCH_SCALE`.
fn scale() -> f64 {
    std::env::var("BUZZ_TPCH_SCALE").map_or(0.01, |scale| scale.parse().expect("`BUZZ_TPCH_SCALE` is not a number"))
}

/// Number of files of each table of TPC-H with as many rows.
const FILES: usize = 4;

impl Deployed {
    /// Returns the keys of the objects below `prefix` in the bucket of the stack.
    async fn keys(&self, prefix: &str) -> String {
        let listing = ["s3api", "list-objects-v2", "--bucket", "buzz-local", "--prefix", prefix];
        let arguments = [&listing[..], &["--query", "Contents[].Key", "--output", "text"]].concat();
        common::aws(&self.cloud.endpoint, &self.path(""), &arguments).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_are_reduced_through_objects_by_fuse_and_by_functions() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    for memory in ["64MiB", "1"] {
        let options = json!({"reducer": "objects", "tasks": 6, "inbox_memory_bytes": memory});
        let answer = deployed.invoke(&ask(GROUPS, 1, options)).await;
        assert_answers(&answer, &expected);
        let summary = &answer.unwrap()["summary"];
        assert_eq!((&summary["reducer"], &summary["combs"]), (&json!("objects"), &json!(0)), "{summary}");
        // Tasks beyond those that read files reduce.
        assert_eq!(summary["tasks"].as_u64().unwrap() > 6, memory == "1", "{summary}");
        let kept = deployed.keys("results/exchange/").await;
        assert!(!kept.contains("exchange/"), "objects are removed at the end of a query: {kept}");
    }
    assert_eq!(deployed.cloud.ecs.started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_that_map_and_reduce_may_run_twice() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    let options = json!({"reducer": "objects", "tasks": 4, "inbox_memory_bytes": "1", "straggler_factor": 0});
    // More than the four tasks that read files: the others hit tasks that reduce.
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Twice, 6);
    assert_answers(&deployed.invoke(&ask(GROUPS, 1, options)).await, &expected);
    assert_eq!(deployed.cloud.lambda.faults_left(HBEE), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_fit_no_response_go_through_objects_on_a_stack_without_combs() {
    let deployed = deploy(|stack| {
        stack.fuse_environment.insert("BUZZ_COMB_CLUSTER".to_string(), String::new());
    })
    .await;
    let file = deployed.path("query.json");
    std::fs::write(&file, ask(LARGE, 1, json!({}))["query"].to_string()).unwrap();
    let rows = deployed.buzz_rows(&["query", file.to_str().unwrap()]).await;
    assert_same(&rows, &plain(LARGE).await, false);
    assert_eq!(deployed.cloud.ecs.started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tpch_runs_without_combs() {
    let deployed = deploy(|stack| {
        stack.fuse_environment.insert("BUZZ_COMB_CLUSTER".to_string(), String::new());
    })
    .await;
    let folder = deployed.path("tpch");
    let ctx = SessionContext::new();
    for name in TPCH_TABLES {
        write_table(&folder.join(name), name);
        let path = format!("{}/", folder.join(name).display());
        ctx.register_parquet(name, &path, ParquetReadOptions::default()).await.unwrap();
    }
    upload(&deployed.cloud.endpoint, &folder, "s3://buzz-local/tpch").await.unwrap();
    let slt_files = datafusion_slt_files().unwrap();
    let tables: Vec<String> =
        TPCH_TABLES.iter().map(|name| format!("{name}=s3://buzz-local/tpch/{name}/*.parquet")).collect();
    for number in 1..=22 {
        println!("q{number}");
        let sql = tpch_statement(&slt_files, number).unwrap().sql;
        let expected = ctx.sql(&sql).await.unwrap().collect().await.unwrap();
        let named: Vec<&str> = tables.iter().flat_map(|table| ["--table", table.as_str()]).collect();
        let sets = ["--set", "reducer=objects", "--set", "tasks=4", "--set", "inbox_memory_bytes=1"];
        let rows = deployed.buzz_rows(&[&["sql", &sql][..], &named, &sets].concat()).await;
        assert_same(&rows, &expected, false);
    }
}

/// Writes table `name` of TPC-H into some files of `folder`.
fn write_table(folder: &Path, name: &str) {
    let (schema, batches) = tpch_table(name, scale()).unwrap();
    std::fs::create_dir_all(folder).unwrap();
    let share = batches.len().div_ceil(FILES).max(1);
    for (number, batches) in batches.chunks(share).enumerate() {
        let out = File::create(folder.join(format!("part-{number}.parquet"))).unwrap();
        let mut writer = ArrowWriter::try_new(out, schema.clone(), None).unwrap();
        for batch in batches {
            writer.write(batch).unwrap();
        }
        writer.close().unwrap();
    }
}
