//! Sources whose rows change: the changes of all epochs, applied one after the other, are the rows of the batch statement over
//! the rows that are left.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use buzz_protocol::CHANGES;
use buzz_stream::SourceInput;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::changes::{applied, batch};
use crate::harness::{Cut, input_of, run};

const STATEMENTS: &[&str] = &[
    "SELECT k, v, s FROM nexmark",
    "SELECT k, v + 1 AS w FROM nexmark WHERE v > 40",
    "SELECT s, count(*) AS n, sum(v) AS v, max(v) AS most FROM nexmark GROUP BY s",
    "SELECT count(*) AS n FROM nexmark",
    "SELECT DISTINCT v % 5 AS v FROM nexmark",
    "SELECT s, n FROM (SELECT s, count(*) AS n FROM nexmark GROUP BY s) WHERE n > 3",
    "SELECT k, v FROM (SELECT *, row_number() OVER (PARTITION BY s ORDER BY v DESC, k) AS r FROM nexmark) WHERE r <= 2",
    "SELECT a.k, b.v FROM nexmark AS a JOIN nexmark AS b ON a.v = b.v AND a.s < b.s",
    "SELECT a.k, b.n FROM nexmark AS a LEFT JOIN (SELECT v, count(*) AS n FROM nexmark WHERE s = 'a' GROUP BY v) AS b ON a.v = b.v",
    "SELECT k, v FROM nexmark UNION ALL SELECT v, k FROM nexmark WHERE s <> 'b'",
    "SELECT k, v FROM nexmark ORDER BY v, k LIMIT 4",
];

/// A row: key, value and text.
type Row = (i64, i64, &'static str);

/// Returns random changes, each row with its place, and the rows that are left.
fn random_changes(rng: &mut StdRng, count: i64) -> (Vec<(Row, i64)>, Vec<Row>) {
    let (mut rows, mut live) = (Vec::new(), Vec::<Row>::new());
    for change in 0..count {
        let new = (change, rng.random_range(0..90), ["a", "b", "c"][rng.random_range(0..3)]);
        let old = (!live.is_empty() && rng.random_bool(0.6)).then(|| rng.random_range(0..live.len()));
        if let Some(old) = old {
            rows.push((live.swap_remove(old), 2 * change));
        }
        if old.is_none() || rng.random_bool(0.5) {
            rows.push((new, 2 * change + 1));
            live.push(new);
        }
    }
    (rows, live)
}

fn columns(rows: &[Row]) -> Vec<ArrayRef> {
    vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2))),
    ]
}

fn fields() -> Vec<Field> {
    let types = [("k", DataType::Int64), ("v", DataType::Int64), ("s", DataType::Utf8)];
    types.map(|(name, data_type)| Field::new(name, data_type, true)).to_vec()
}

/// Returns rows with their places, as a source of changes has them.
fn placed(rows: &[(Row, i64)]) -> RecordBatch {
    let mut fields = fields();
    fields.push(Field::new("__buzz_place", DataType::Int64, true));
    let schema = Schema::new(fields).with_metadata([(CHANGES.to_string(), "true".to_string())].into());
    let mut columns = columns(&rows.iter().map(|row| row.0).collect::<Vec<_>>());
    columns.push(Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))));
    RecordBatch::try_new(Arc::new(schema), columns).expect("columns of one length")
}

fn source(rows: RecordBatch) -> BTreeMap<String, (RecordBatch, SourceInput)> {
    let input = input_of(&rows, None, 0);
    BTreeMap::from([("nexmark".to_string(), (rows, input))])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_a_source_add_up_to_batch_over_what_is_left() {
    for seed in 0..44_u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let statement = STATEMENTS[seed as usize % STATEMENTS.len()];
        let count = rng.random_range(1..300);
        let (changes, left) = random_changes(&mut rng, count);
        let cuts: Vec<Cut> = (0..rng.random_range(0..12))
            .map(|_| Cut {
                events: rng.random_range(0..60),
                reload: rng.random_bool(0.3).then(|| rng.random_range(1..5)),
                snapshot: rng.random_bool(0.2),
            })
            .collect();
        let found = run(statement, &source(placed(&changes)), &cuts).await;
        let found = found.unwrap_or_else(|error| panic!("seed {seed}: {statement}: {error}"));
        let left =
            RecordBatch::try_new(Arc::new(Schema::new(fields())), columns(&left)).expect("columns of one length");
        assert_eq!(applied(&found), batch(statement, left).await, "seed {seed}: {statement}");
    }
}

#[tokio::test]
async fn change_passes_through_as_one() {
    let (old, new, other) = ((1, 10, "a"), (1, 20, "a"), (2, 50, "b"));
    // An epoch has two batches of two rows each.
    let changes = placed(&[(old, 1), (other, 3), (old, 4), (new, 5)]);
    for (statement, expected) in [
        ("SELECT k, v FROM nexmark", vec!["c", "c", "u"]),
        // Only the row after the change fulfils the condition, and then only the row before it.
        ("SELECT k, v FROM nexmark WHERE v > 15", vec!["c", "c"]),
        ("SELECT k, v FROM nexmark WHERE v < 15", vec!["c", "d"]),
        ("SELECT k FROM nexmark", vec!["c", "c"]),
    ] {
        let found = run(statement, &source(changes.clone()), &[]).await.expect("it runs");
        let ops: Vec<&str> =
            found.iter().flat_map(|batch| batch.column(2).as_string::<i32>().iter().flatten()).collect();
        assert_eq!(ops, expected, "{statement}");
    }
}

#[tokio::test]
async fn windows_and_rows_that_did_not_come_are_refused() {
    let rows = placed(&[((1, 10, "a"), 1)]);
    for (statement, reason) in [
        ("SELECT count(*) AS n, tumble(interval '2 seconds') AS w FROM nexmark GROUP BY w", "debezium_json"),
        ("SELECT k, tumble(interval '2 seconds') AS w FROM nexmark", "a row could not be taken away again"),
    ] {
        let error = run(statement, &source(rows.clone()), &[]).await.expect_err("windows close once").to_string();
        assert!(error.contains("rows that change cannot run over a stream"), "{statement}: {error}");
        assert!(error.contains(reason), "{statement}: {error}");
    }
    let timed = "CREATE TABLE nexmark (k BIGINT, v BIGINT, s TEXT, at TIMESTAMP AS to_timestamp(v), WATERMARK FOR at) WITH \
                 (connector = 'x'); SELECT k FROM nexmark";
    let error = run(timed, &source(rows), &[]).await.expect_err("it has an event time").to_string();
    assert!(error.contains("cannot have an event time") && error.contains("remove WATERMARK FOR"), "{error}");
    let gone = placed(&[((1, 10, "a"), 0)]);
    let error = run("SELECT s, count(*) AS n FROM nexmark GROUP BY s", &source(gone), &[]).await;
    let error = error.expect_err("the row did not come").to_string();
    assert!(error.contains("did not come before") && error.contains("REPLICA IDENTITY FULL"), "{error}");
}
