//! Streams joined with tables that are looked up: all epochs together have the rows of batch.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use buzz_stream::{EpochInput, Pipeline, Script, SourceInput, SourceRows};
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::changes::{Counted, apply};
use crate::harness::{Cut, input_of, run_epochs};

const SECOND: i64 = 1_000_000_000;

/// Rows of a stream and of a table. Keys are NULL, occur several times, and lack a partner.
fn tables(rng: &mut StdRng) -> (RecordBatch, RecordBatch) {
    let key = |rng: &mut StdRng| rng.random_bool(0.9).then(|| rng.random_range(0..12_i64));
    let count = rng.random_range(1..150);
    let keys = Int64Array::from_iter((0..count).map(|_| key(rng)));
    let values = Int64Array::from_iter_values((0..count).map(|_| rng.random_range(0..5)));
    let times = TimestampNanosecondArray::from_iter_values((0..count).map(|row| row * SECOND));
    let stream = RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(keys) as ArrayRef, true),
        ("v", Arc::new(values) as ArrayRef, true),
        ("t", Arc::new(times) as ArrayRef, true),
    ]);
    let count = rng.random_range(0..20);
    let keys = Int64Array::from_iter((0..count).map(|_| key(rng)));
    let names = (0..count).map(|row| (row % 5 != 3).then(|| format!("n{}", row % 4)));
    let names = StringArray::from_iter(names);
    let table = RecordBatch::try_from_iter_with_nullable([
        ("k", Arc::new(keys) as ArrayRef, true),
        ("name", Arc::new(names) as ArrayRef, true),
    ]);
    (stream.expect("columns of one length"), table.expect("columns of one length"))
}

fn lookup(table: &RecordBatch) -> SourceInput {
    SourceInput { is_lookup: true, ..input_of(table, None, 0) }
}

/// Statements over the stream `r` and the table `u`. The window of those that have one has all rows.
const STATEMENTS: &[&str] = &[
    "SELECT r.k, r.v, u.name FROM r JOIN u ON r.k = u.k",
    "SELECT r.k, r.v, u.name FROM r LEFT JOIN u ON r.k = u.k",
    "SELECT r.k, r.v, u.name FROM u RIGHT JOIN r ON r.k = u.k AND r.v > 2",
    "SELECT r.k, r.v, u.name FROM r, u WHERE r.k = u.k + 1 AND u.name <> 'n1'",
    "SELECT r.k, r.v, u.name FROM r LEFT JOIN u ON r.k < u.k",
    "SELECT r.k, r.v, n.n FROM r LEFT JOIN (SELECT k, count(*) AS n, max(name) AS name FROM u GROUP BY k) AS n ON r.k = n.k",
    "SELECT r.k, r.v FROM r LEFT SEMI JOIN u ON r.k = u.k",
    "SELECT r.k, r.v FROM r LEFT ANTI JOIN u ON r.k = u.k",
    "SELECT a.k, a.name AS a, b.name AS b FROM (SELECT r.k, u.name FROM r JOIN u ON r.k = u.k) AS a LEFT JOIN u AS b ON a.k = b.k + 3",
    "SELECT u.name, count(*) AS n, sum(r.v) AS v FROM r LEFT JOIN u ON r.k = u.k GROUP BY u.name{w}",
    "SELECT w.k, w.n, u.name FROM (SELECT k, count(*) AS n FROM r GROUP BY k{w}) AS w JOIN u ON w.k = u.k",
];

async fn of_batch(statement: &str, stream: &RecordBatch, table: &RecordBatch) -> Counted {
    let context = SessionContext::new();
    for (name, rows) in [("r", stream), ("u", table)] {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows.clone()]]).expect("the schema is that of the rows");
        context.register_table(name, Arc::new(table)).expect("the name is new");
    }
    let frame = context.sql(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let rows = frame.collect().await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let mut counted = Counted::new();
    apply(&rows, &mut counted);
    counted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_streams_joined_with_tables_equal_batch() {
    let updating = STATEMENTS[9].replace("{w}", "");
    for seed in 0..60_u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let (stream, table) = tables(&mut rng);
        let mut cuts = Vec::new();
        for _ in 0..rng.random_range(0..12) {
            let reload = rng.random_bool(0.3).then(|| rng.random_range(1..5));
            cuts.push(Cut { events: rng.random_range(0..40), reload, snapshot: rng.random_bool(0.2) });
        }
        let sources = BTreeMap::from([
            ("r".to_string(), (stream.clone(), input_of(&stream, Some("t"), 0))),
            ("u".to_string(), (table.clone(), lookup(&table))),
        ]);
        let statements = STATEMENTS
            .iter()
            .map(|statement| (statement.replace("{w}", ", tumble(interval '1 day')"), statement.replace("{w}", "")));
        // Rows that change are those of a join.
        for (statement, batch) in statements.chain([(updating.clone(), updating.clone())]) {
            let rows = run_epochs(&statement, &sources, &cuts, None).await;
            let rows = rows.unwrap_or_else(|error| panic!("{statement}: {error}")).concat();
            let mut counted = Counted::new();
            apply(&rows, &mut counted);
            assert_eq!(counted, of_batch(&batch, &stream, &table).await, "seed {seed}: {statement}");
        }
    }
}

fn names(rows: &[(i64, &str)]) -> RecordBatch {
    let keys: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|(key, _)| *key)));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, name)| *name)));
    RecordBatch::try_from_iter_with_nullable([("k", keys, true), ("name", names, true)]).expect("columns of one length")
}

#[tokio::test]
async fn rows_find_the_rows_of_the_newest_read() {
    let script = Script::parse("SELECT r.k, u.name FROM r LEFT JOIN u ON r.k = u.k").expect("it is a script");
    let rows =
        RecordBatch::try_from_iter([("k", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef)]).expect("a column");
    let table = names(&[(1, "a")]);
    let inputs = BTreeMap::from([("r".to_string(), input_of(&rows, None, 0)), ("u".to_string(), lookup(&table))]);
    let pipeline = Pipeline::plan(&script, &inputs, &BTreeMap::new(), 2).await.expect("it can be planned");
    assert_eq!(pipeline.lookups(), BTreeSet::from(["u"]));
    assert_eq!(pipeline.sources(), BTreeSet::from(["r"]));
    let mut state = pipeline.start();
    for (read, expected) in [
        (names(&[(1, "a")]), ["{k: 1, name: a}", "{k: 2, name: NULL}"]),
        (names(&[(1, "b"), (2, "c")]), ["{k: 1, name: b}", "{k: 2, name: c}"]),
        (names(&[]), ["{k: 1, name: NULL}", "{k: 2, name: NULL}"]),
    ] {
        pipeline.look_up(&mut state, "u", vec![read], 0).expect("it is looked up");
        let partitions = vec![("0".to_string(), vec![rows.clone()])];
        let sources = BTreeMap::from([("r".to_string(), SourceRows { partitions, ..SourceRows::default() })]);
        let input = EpochInput { now: 1, sources, ..EpochInput::default() };
        let output = pipeline.epoch(&mut state, &input).await.expect("it runs");
        let mut counted = Counted::new();
        apply(&output.rows.concat(), &mut counted);
        assert_eq!(counted.keys().map(String::as_str).collect::<Vec<_>>(), expected);
        // Without new rows, looked-up rows alone emit nothing.
        let output = pipeline.epoch(&mut state, &EpochInput { now: 2, ..EpochInput::default() }).await;
        assert!(output.expect("it runs").rows.concat().is_empty());
    }
}

#[tokio::test]
async fn joins_that_would_take_back_other_rows_are_refused() {
    let table = names(&[(1, "a")]);
    let rows = RecordBatch::try_from_iter([("k", Arc::new(Int64Array::from(vec![1])) as ArrayRef)]).expect("a column");
    let inputs = BTreeMap::from([("r".to_string(), input_of(&rows, None, 0)), ("u".to_string(), lookup(&table))]);
    for (statement, message) in [
        (
            "SELECT a.n, u.name FROM (SELECT k, count(*) AS n FROM r GROUP BY k) AS a JOIN u ON a.k = u.k",
            "JOIN of rows that change with a lookup table cannot run over a stream",
        ),
        ("SELECT r.k, u.name FROM r RIGHT JOIN u ON r.k = u.k", "Right JOIN of a stream with a constant table"),
        ("SELECT r.k, u.name FROM r FULL JOIN u ON r.k = u.k", "Full JOIN of a stream with a constant table"),
        ("SELECT k FROM u", "the statement reads no stream"),
        (
            "CREATE TABLE u (k BIGINT, t TIMESTAMP, WATERMARK FOR t) WITH (connector = 'json'); SELECT r.k FROM r JOIN u ON \
             r.k = u.k",
            "table `u` is looked up, so its rows have no event time",
        ),
    ] {
        let mut inputs = inputs.clone();
        if statement.contains("WATERMARK") {
            let times: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![1]));
            let table = RecordBatch::try_from_iter([("k", rows.column(0).clone()), ("t", times)]).expect("two columns");
            inputs.insert("u".to_string(), lookup(&table));
        }
        let script = Script::parse(statement).expect("it is a script");
        match Pipeline::plan(&script, &inputs, &BTreeMap::new(), 1).await {
            Ok(_) => panic!("{statement} runs"),
            Err(error) => assert!(error.to_string().contains(message), "{statement}: {error}"),
        }
    }
}

/// A pair of an interval join has the time of its newer row, so it may belong to a window that closed before.
#[tokio::test]
async fn late_pairs_are_counted_by_the_stage_that_joins_them() {
    let script = "SELECT count(*) AS n FROM (SELECT a.k AS k FROM a JOIN b ON a.k = b.k AND b.t BETWEEN a.t AND a.t + INTERVAL '1 \
                  minute') GROUP BY tumble(interval '10 seconds')";
    let script = Script::parse(script).expect("it is a script");
    let rows = |keys: &[i64], seconds: &[i64]| {
        let times = seconds.iter().map(|second| second * SECOND);
        RecordBatch::try_from_iter_with_nullable([
            ("k", Arc::new(Int64Array::from(keys.to_vec())) as ArrayRef, true),
            ("t", Arc::new(TimestampNanosecondArray::from_iter_values(times)) as ArrayRef, true),
        ])
        .expect("columns of one length")
    };
    let input = input_of(&rows(&[], &[]), Some("t"), 0);
    let inputs = BTreeMap::from([("a".to_string(), input.clone()), ("b".to_string(), input)]);
    let pipeline = Pipeline::plan(&script, &inputs, &BTreeMap::new(), 1).await.expect("it can be planned");
    let mut state = pipeline.start();
    let (mut late, mut counted) = (Vec::new(), Counted::new());
    for (number, (a, b)) in [
        (rows(&[1, 2], &[0, 1]), rows(&[1], &[2])),
        // The windows through 20 s close.
        (rows(&[9], &[25]), rows(&[9], &[25])),
        // Three rows of the past: two find the row of key 2, of which one pair is late, and one finds no partner.
        (rows(&[], &[]), rows(&[2, 2, 7], &[3, 24, 4])),
        (rows(&[9], &[90]), rows(&[8], &[90])),
    ]
    .into_iter()
    .enumerate()
    {
        let sources = [("a", a), ("b", b)].map(|(name, rows)| {
            let partitions = vec![("0".to_string(), vec![rows])];
            (name.to_string(), SourceRows { partitions, ..SourceRows::default() })
        });
        let input = EpochInput { now: number as i64 * SECOND, sources: sources.into(), ..EpochInput::default() };
        let output = pipeline.epoch(&mut state, &input).await.expect("it runs");
        late.push(output.late_pairs.values().sum::<u64>());
        apply(&output.rows.concat(), &mut counted);
    }
    assert_eq!(late, [0, 0, 1, 0]);
    let expected = Counted::from([("{n: 1}".to_string(), 1), ("{n: 2}".to_string(), 1)]);
    assert_eq!(counted, expected, "the window at 0 s has one pair, the one at 20 s two");
}
