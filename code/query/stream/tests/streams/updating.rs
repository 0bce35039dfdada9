//! Random statements without windows: after each epoch, the changes so far are the rows of batch over the events so far.
//!
//! `BUZZ_STREAM_UPDATING=2000 BUZZ_STREAM_SEED=1` chooses how many and which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampNanosecondArray};
use buzz_connect::{Generator, Nexmark};
use buzz_stream::{EpochInput, Pipeline, Script, SourceRows};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::changes::{Counted, apply, batch};
use crate::differential::number;
use crate::harness::{BASE, Cut, input_of, run_epochs, texts};

/// Returns a random query with columns `k`, `v` and `s`.
fn relation(rng: &mut StdRng, depth: usize) -> String {
    if depth == 0 {
        let bases = [
            "SELECT bid.auction AS k, bid.price AS v, bid.channel AS s FROM nexmark WHERE bid IS NOT NULL",
            "SELECT bid.auction AS k, bid.bidder AS v, bid.channel AS s FROM nexmark WHERE bid.price > 500",
            "SELECT auction.id AS k, auction.category AS v, 'a' AS s FROM nexmark WHERE auction IS NOT NULL",
            "SELECT bid.auction AS k, NULLIF(bid.price % 7, 3) AS v, NULLIF(bid.channel, 'Apple') AS s FROM nexmark",
        ];
        return bases.choose(rng).expect("not empty").to_string();
    }
    let below = rng.random_range(0..depth);
    let a = relation(rng, depth - 1);
    let modulus = [2, 5, 1000].choose(rng).copied().expect("not empty");
    match rng.random_range(0..12) {
        0 | 1 => {
            let aggregates = ["count(*)", "sum(v) % 1000", "max(v)", "min(v)", "count(DISTINCT v)", "median(v)"];
            let aggregate = aggregates.choose(rng).expect("not empty");
            let having = ["", " HAVING count(*) % 3 <> 1"].choose(rng).expect("not empty");
            let key = [format!("k % {modulus}"), "length(s)".to_string()];
            let key = key.choose(rng).expect("not empty");
            format!(
                "SELECT CAST({key} AS BIGINT) AS k, CAST({aggregate} AS BIGINT) AS v, max(s) AS s FROM ({a}) GROUP BY {key}{having}"
            )
        }
        2 => format!("SELECT DISTINCT k % {modulus} AS k, v % 5 AS v, s FROM ({a})"),
        3 | 4 => {
            let function = ["row_number", "rank"].choose(rng).expect("not empty");
            let limit = rng.random_range(1..4);
            format!(
                "SELECT k, v, s FROM (SELECT *, {function}() OVER (PARTITION BY k % {modulus} ORDER BY v DESC NULLS LAST, k, s) \
                 AS r FROM ({a})) WHERE r <= {limit}"
            )
        }
        5 => format!("SELECT k, v + 1 AS v, s FROM ({a}) WHERE v % 3 = 0"),
        6 | 7 => {
            let b = relation(rng, below);
            let join = ["JOIN", "JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN"].choose(rng).expect("not empty");
            let also = ["", " AND a.s = b.s", " AND a.v < b.v"].choose(rng).expect("not empty");
            format!(
                "SELECT coalesce(a.k, b.k) AS k, coalesce(a.v, 7) * 3 % 1000 + coalesce(b.v, 5) % 1000 AS v, a.s AS s FROM \
                 (SELECT DISTINCT * FROM ({a})) AS a {join} (SELECT k, max(v) AS v, s FROM ({b}) GROUP BY k, s) AS b \
                 ON a.k = b.k{also}"
            )
        }
        8 => {
            let b = relation(rng, below);
            let join = ["LEFT SEMI JOIN", "LEFT ANTI JOIN"].choose(rng).expect("not empty");
            format!("SELECT a.k, a.v, a.s FROM ({a}) AS a {join} ({b}) AS b ON a.k = b.k AND a.v >= b.v")
        }
        9 => {
            let b = relation(rng, below);
            let union = ["UNION ALL", "UNION", "EXCEPT", "INTERSECT"].choose(rng).expect("not empty");
            format!("SELECT k, v, s FROM ({a}) {union} SELECT k, v, s FROM ({b})")
        }
        10 => format!("SELECT k, v, s FROM ({a}) ORDER BY v NULLS LAST, k, s LIMIT 4"),
        _ => {
            let b = relation(rng, 0);
            format!("SELECT a.k, b.v, a.s FROM ({a}) AS a JOIN ({b}) AS b ON a.k = b.k AND a.v % 4 = b.v % 4")
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_after_each_epoch_add_up_to_batch() {
    let (count, seed) = (number("BUZZ_STREAM_UPDATING", 60), number("BUZZ_STREAM_SEED", 1));
    let mut failures = Vec::new();
    for n in seed..seed + count {
        let mut rng = StdRng::seed_from_u64(n);
        let depth = rng.random_range(1..4);
        let statement = relation(&mut rng, depth);
        let nexmark = Nexmark { rate: 100.0, seed: n, disorder_nanos: 0, keys: 20, hot_percent: 0 };
        let events = rng.random_range(1..250);
        let (mut cuts, mut at) = (Vec::new(), 0);
        while at < events {
            let size = rng.random_range(0..80);
            let reload = rng.random_bool(0.3).then(|| rng.random_range(1..5));
            cuts.push(Cut { events: size, reload, snapshot: rng.random_bool(0.2) });
            at += size;
        }
        let rows = nexmark.events(BASE, 0, events);
        let sources = BTreeMap::from([("nexmark".to_string(), (rows.clone(), input_of(&rows, Some("date_time"), 0)))]);
        let epochs = match run_epochs(&statement, &sources, &cuts, None).await {
            Ok(epochs) => epochs,
            Err(error) => {
                failures.push(format!("seed {n} fails: {error}\n{statement}"));
                continue;
            }
        };
        let (mut counted, mut until) = (Counted::new(), 0);
        for (index, changes) in epochs.iter().enumerate() {
            until = cuts.get(index).map_or(events, |cut| events.min(until + cut.events));
            apply(changes, &mut counted);
            let expected = batch(&statement, rows.slice(0, until)).await;
            if counted != expected {
                failures.push(format!(
                    "seed {n} differs in epoch {index}: {counted:?} instead of {expected:?}\n{statement}"
                ));
                break;
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{} of {count} statements differ:\n{}",
        failures.len(),
        failures[..failures.len().min(5)].join("\n")
    );
}

/// Rows of `(t, k, v)`, each a second after the one before.
fn keyed_rows(keys: impl IntoIterator<Item = i64>) -> RecordBatch {
    let keys: Vec<i64> = keys.into_iter().collect();
    let times = (0..keys.len() as i64).map(|row| BASE + row * 1_000_000_000);
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values(times));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..keys.len() as i64));
    let keys: ArrayRef = Arc::new(Int64Array::from(keys));
    RecordBatch::try_from_iter([("t", times), ("k", keys), ("v", values)]).expect("the columns have equal lengths")
}

/// Keys expire after three epochs without a row of theirs, whether the state goes through files or not.
#[tokio::test]
async fn key_that_nothing_touches_expires_in_all_processes_at_the_same_epoch() {
    // Key 1 has rows in epochs 1, 3 and 8.
    let rows = keyed_rows([1, 2, 1, 2, 2, 2, 2, 1, 2]);
    let sources = BTreeMap::from([("r".to_string(), (rows.clone(), input_of(&rows, Some("t"), 0)))]);
    let top = "SELECT k, v FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY v) AS n FROM r) WHERE n = 1";
    // The last change of key 1, with a memory of three epochs and without end.
    for (statement, forgets, remembers) in [
        ("SELECT k, count(*) AS n FROM r GROUP BY k", "NULL | {k: 1, n: 1} | c", "{k: 1, n: 2} | {k: 1, n: 3} | u"),
        (
            "SELECT k, sum(n) AS n FROM (SELECT k, v, count(*) AS n FROM r GROUP BY k, v) GROUP BY k",
            "NULL | {k: 1, n: 1} | c",
            "{k: 1, n: 2} | {k: 1, n: 3} | u",
        ),
        (top, "NULL | {k: 1, v: 7} | c", "NULL | {k: 1, v: 0} | c"),
        ("SELECT DISTINCT k FROM r", "NULL | {k: 1} | c", "NULL | {k: 1} | c"),
        (
            "SELECT a.k AS k, a.v AS v FROM r AS a LEFT JOIN r AS b ON a.k = b.k AND a.v < b.v WHERE b.v IS NULL",
            "NULL | {k: 1, v: 7} | c",
            "{k: 1, v: 2} | NULL | d",
        ),
    ] {
        let mut results = Vec::new();
        for (reload, snapshot) in [(None, false), (Some(2), false), (Some(3), true)] {
            let cuts = [Cut { events: 1, reload, snapshot }; 9];
            for (ttl, last) in [(Some(3_000_000_000), forgets), (None, remembers)] {
                let epochs = run_epochs(statement, &sources, &cuts, ttl).await.expect("it runs");
                let changes: Vec<Vec<String>> = epochs.iter().map(|rows| texts(rows)).collect();
                let found = changes.iter().flatten().rfind(|row| row.contains("k: 1"));
                assert_eq!(found.map(String::as_str), Some(last), "{statement}, with {ttl:?}");
                if ttl.is_some() {
                    results.push(changes);
                }
            }
        }
        assert_eq!(results[0], results[1], "{statement}: the state went through files");
        assert_eq!(results[0], results[2], "{statement}: the whole state went through files");
    }
}

/// Runs one row per epoch, and returns the rows and the largest number of state rows.
async fn largest_state(statement: &str, rows: &RecordBatch, ttl: Option<i64>) -> (Vec<RecordBatch>, usize) {
    let script = Script::parse(statement).expect("it is a script");
    let inputs = BTreeMap::from([("r".to_string(), input_of(rows, Some("t"), 0))]);
    let pipeline = Pipeline::plan(&script, &inputs, &BTreeMap::new(), 1).await.expect("it can be planned");
    let pipeline = pipeline.with_updating_ttl(ttl);
    let (mut state, mut output, mut largest) = (pipeline.start(), Vec::new(), 0);
    for row in 0..rows.num_rows() {
        let partitions = vec![("0".to_string(), vec![rows.slice(row, 1)])];
        let rows = SourceRows { partitions, ended: false, idle: BTreeSet::new() };
        let sources = BTreeMap::from([("r".to_string(), rows)]);
        let input = EpochInput { now: row as i64 * 1_000_000_000, sources, ..Default::default() };
        output.extend(pipeline.epoch(&mut state, &input).await.expect("it runs").rows.concat());
        largest = largest.max(pipeline.stages().map(|(stage, _)| pipeline.size(&state, stage).0).sum());
    }
    (output, largest)
}

#[tokio::test]
async fn state_is_bounded_by_the_time_to_live() {
    let rows = keyed_rows(0..200);
    let ttl = Some(8_000_000_000);
    for (statement, most) in [
        ("SELECT k, count(*) AS n FROM r GROUP BY k", 12),
        ("SELECT k, sum(n) AS n FROM (SELECT k, v, count(*) AS n FROM r GROUP BY k, v) GROUP BY k", 36),
        ("SELECT a.k, b.v FROM r AS a LEFT JOIN r AS b ON a.k = b.k", 36),
        ("SELECT a.k, b.v FROM r AS a JOIN r AS b ON a.k = b.k", 24),
    ] {
        let (_, bounded) = largest_state(statement, &rows, ttl).await;
        assert!(bounded > 0 && bounded <= most, "{statement}: {bounded} rows");
        assert!(largest_state(statement, &rows, None).await.1 >= 200, "{statement}");
    }
}

#[tokio::test]
async fn interval_join_keeps_rows_for_their_interval_and_equals_batch() {
    let rows = keyed_rows((0..150).map(|row| row % 3));
    for (condition, most) in [
        ("a.t BETWEEN b.t - INTERVAL '5 seconds' AND b.t + INTERVAL '2 seconds'", Some(16)),
        ("b.t >= a.t AND b.t < a.t + INTERVAL '6 seconds'", Some(16)),
        ("a.t = b.t", Some(8)),
        ("a.t + INTERVAL '3 seconds' = b.t - INTERVAL '3 seconds'", Some(16)),
        // Only one side has a bound, or none.
        ("b.t <= a.t", None),
        ("a.v = b.v", None),
    ] {
        let statement = format!("SELECT a.v AS a, b.v AS b FROM r AS a JOIN r AS b ON a.k = b.k AND {condition}");
        let (found, largest) = largest_state(&statement, &rows, None).await;
        let context = SessionContext::new();
        let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).expect("the schema is that of the rows");
        context.register_table("r", Arc::new(table)).expect("the name is new");
        let expected = context.sql(&statement).await.expect("it can be planned").collect().await.expect("it runs");
        assert_eq!(texts(&found), texts(&expected), "{condition}");
        assert!(most.is_none_or(|most| largest <= most), "{condition}: {largest} rows are kept");
        assert!(most.is_some() || largest >= 150, "{condition}: {largest} rows are kept");
    }
}

/// The rows of an inner join of final rows are final: windows may be over them, and a sink of JSON takes them.
#[tokio::test]
async fn inner_join_of_final_rows_is_final() {
    let nexmark = Nexmark { rate: 100.0, seed: 3, disorder_nanos: 0, keys: 20, hot_percent: 0 };
    let rows = nexmark.events(BASE, 0, 400);
    let sources = BTreeMap::from([("nexmark".to_string(), (rows.clone(), input_of(&rows, Some("date_time"), 0)))]);
    let joined = "(SELECT b.price AS price FROM (SELECT bid.auction AS k, bid.price AS price FROM nexmark WHERE bid IS NOT NULL) \
                  AS b JOIN (SELECT auction.id AS k FROM nexmark WHERE auction IS NOT NULL) AS a ON a.k = b.k)";
    let windowed = format!("SELECT count(*) AS n, sum(price) AS s FROM {joined} GROUP BY tumble(interval '1 day')");
    let cuts = [Cut { events: 37, reload: Some(2), snapshot: false }; 10];
    let found = run_epochs(&windowed, &sources, &cuts, None).await.expect("it runs").concat();
    let context = SessionContext::new();
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("the schema is that of the rows");
    context.register_table("nexmark", Arc::new(table)).expect("the name is new");
    let batch = format!("SELECT count(*) AS n, sum(price) AS s FROM {joined}");
    let expected = context.sql(&batch).await.expect("it can be planned").collect().await.expect("it runs");
    assert_eq!(texts(&found), texts(&expected));
}
