//! Compares estimates of a deployed Buzz with what runs really read and call.

use std::fs::File;
use std::path::Path;

use buzz_localcloud::stack::HBEE;
use buzz_localcloud::upload::upload;
use buzz_testkit::tpch_table;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::file::properties::WriterProperties;
use serde_json::{Value, json};

use crate::stack::{Deployed, GROUPS, ask, deploy, example};

/// Scale factor of the tables of TPC-H: 60,000 rows of `lineitem`.
const SCALE: f64 = 0.01;

/// Tables of TPC-H, and the number of files of each.
const TABLES: [(&str, usize); 4] = [("lineitem", 4), ("orders", 2), ("customer", 1), ("part", 1)];

/// Statements of TPC-H: of one table and with joins, with conditions that leave much out and with none.
const STATEMENTS: [(&str, &str); 5] = [
    (
        "q1",
        "SELECT l_returnflag, l_linestatus, SUM(l_quantity) AS quantity, SUM(l_extendedprice * (1 - l_discount)) AS price, \
         AVG(l_tax) AS tax, COUNT(*) AS n FROM lineitem WHERE l_shipdate <= DATE '1998-09-02' GROUP BY 1, 2 ORDER BY 1, 2",
    ),
    (
        "q3",
        "SELECT l_orderkey, SUM(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate FROM customer, orders, lineitem \
         WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey AND l_orderkey = o_orderkey \
         AND o_orderdate < DATE '1995-03-15' AND l_shipdate > DATE '1995-03-15' GROUP BY l_orderkey, o_orderdate \
         ORDER BY revenue DESC, o_orderdate LIMIT 10",
    ),
    (
        "q6",
        "SELECT SUM(l_extendedprice * l_discount) AS revenue FROM lineitem WHERE l_shipdate >= DATE '1994-01-01' \
         AND l_shipdate < DATE '1995-01-01' AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24",
    ),
    (
        "q12",
        "SELECT l_shipmode, SUM(CASE WHEN o_orderpriority = '1-URGENT' THEN 1 ELSE 0 END) AS high FROM orders, lineitem \
         WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') AND l_receiptdate >= DATE '1994-01-01' \
         GROUP BY l_shipmode ORDER BY l_shipmode",
    ),
    (
        "q14",
        "SELECT SUM(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice ELSE 0 END) / SUM(l_extendedprice) AS share \
         FROM lineitem, part WHERE l_partkey = p_partkey AND l_shipdate >= DATE '1995-09-01'",
    ),
];

/// Writes the tables of TPC-H below `folder`, with row groups of 5,000 rows.
fn write_tables(folder: &Path) {
    for (name, files) in TABLES {
        let (schema, batches) = tpch_table(name, SCALE).unwrap();
        std::fs::create_dir_all(folder.join(name)).unwrap();
        for file in 0..files {
            let properties = WriterProperties::builder().set_max_row_group_row_count(Some(5_000)).build();
            let out = File::create(folder.join(name).join(format!("part-{file}.parquet"))).unwrap();
            let mut writer = ArrowWriter::try_new(out, schema.clone(), Some(properties)).unwrap();
            let share = batches.len().div_ceil(files);
            for batch in batches.iter().skip(file * share).take(share) {
                writer.write(batch).unwrap();
            }
            writer.close().unwrap();
        }
    }
}

/// Returns the estimate of `event`, which no HBee is invoked for.
async fn estimated(deployed: &Deployed, event: &Value) -> Value {
    let before = deployed.cloud.lambda.counts(HBEE).invocations;
    let mut explain = event.clone();
    explain["explain"] = json!(true);
    let estimate = deployed.invoke(&explain).await.unwrap()["estimate"].take();
    assert_eq!(deployed.cloud.lambda.counts(HBEE).invocations, before);
    estimate
}

/// Checks that the bytes, requests and tasks of an estimate of `event` are within 20 % of those of its run.
async fn check(deployed: &Deployed, name: &str, event: &Value) {
    // Instances keep the catalogs and footers that they have read.
    deployed.cloud.lambda.cool_down();
    let estimate = estimated(deployed, event).await;
    deployed.cloud.lambda.cool_down();
    let answer = deployed.invoke(event).await.unwrap();
    let summary = &answer["summary"];
    for (expected, found) in [("bytes", "bytes_read"), ("requests", "requests"), ("tasks", "tasks")] {
        let (expected, found) = (estimate[expected].as_u64().unwrap(), summary[found].as_u64().unwrap());
        assert!(found > 0 && expected.abs_diff(found) * 5 <= found, "{name}: {estimate} instead of {summary}");
    }
    let bound = |of: &str, bound: &str| estimate[of][bound].as_f64().unwrap();
    for of in ["seconds", "dollars"] {
        assert!(bound(of, "low") > 0.0 && bound(of, "low") < bound(of, "high"), "{name}: {estimate}");
    }
    let count = |name: &str| summary[name].as_u64().unwrap();
    assert_eq!(count("get_requests") + count("put_requests"), count("requests"), "{name}: {summary}");
    assert_eq!((count("combs_started"), &summary["started_usd"]), (0, &json!(0.0)), "{name}: {summary}");
}

#[tokio::test(flavor = "multi_thread")]
async fn estimates_of_the_sample_are_within_20_percent_of_a_run() {
    let deployed = deploy(|_| {}).await;
    check(&deployed, "example", &json!({"query": example()})).await;
    check(&deployed, "groups", &ask(GROUPS, 1, json!({"tasks": 8}))).await;
    check(&deployed, "one column", &ask("SELECT SUM(passenger_count) AS n FROM nyc_taxi", 1, json!({"tasks": 8})))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn estimates_of_tpch_are_within_20_percent_of_a_run() {
    let deployed = deploy(|_| {}).await;
    let folder = deployed.path("tpch");
    write_tables(&folder);
    upload(&deployed.cloud.endpoint, &folder, "s3://buzz-local/tpch").await.unwrap();
    let catalogs = TABLES
        .map(|(table, _)| json!({"name": table, "type": "Parquet", "uri": format!("s3://buzz-local/tpch/{table}")}));
    for (name, sql) in STATEMENTS {
        let query = json!({"sql": sql, "catalogs": catalogs});
        check(&deployed, name, &json!({"query": query, "options": {"tasks": 4, "reducer": "inline"}})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn combs_that_a_query_starts_are_apart_from_its_own_cost() {
    let deployed = deploy(|_| {}).await;
    let event = ask(GROUPS, 2, json!({"reducer": "comb"}));
    let estimate = estimated(&deployed, &event).await;
    let starts = |answer: &Value| {
        let summary = &answer["summary"];
        let dollars = |name: &str| summary[name].as_f64().unwrap();
        (summary["combs_started"].as_u64().unwrap(), dollars("cost_usd"), dollars("started_usd"))
    };
    let (combs, own, started) = starts(&deployed.invoke(&event).await.unwrap());
    assert_eq!(combs, 2);
    // Two combs of 2 vCPUs and 4 GB are idle for 300 seconds each before they stop.
    let idle = 2.0 * 300.0 / 3600.0 * (2.0 * 0.032 + 4.0 * 0.0035);
    assert!(started > idle && own > 0.0, "{own} {started}");
    assert!(estimate["dollars"]["high"].as_f64().unwrap() > idle, "{estimate}");
    let (combs, _, started) = starts(&deployed.invoke(&event).await.unwrap());
    assert_eq!((combs, started.to_bits()), (0, 0.0_f64.to_bits()), "they run already");
}
