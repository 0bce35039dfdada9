//! Aggregates and joins without a window: the changes of all epochs, applied one after the other, are the rows of the batch statement.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, StructArray};
use arrow::datatypes::Field;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use buzz_connect::{Generator, Nexmark};
use buzz_protocol::CHANGES;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{BASE, Cut, run_nexmark};

const STATEMENTS: &[&str] = &[
    "SELECT count(*) AS n, max(bid.price) AS most FROM nexmark",
    "SELECT bid.auction AS auction, count(*) AS n, min(bid.price) AS least FROM nexmark WHERE bid IS NOT NULL GROUP BY 1",
    "SELECT bid.auction % 7 AS k, bid.channel AS c, count(DISTINCT bid.bidder) AS n, bool_and(bid.price > 100) AS b FROM \
     nexmark GROUP BY 1, 2",
    // A row appears and disappears by its condition.
    "SELECT bid.auction AS auction, count(*) AS n FROM nexmark WHERE bid IS NOT NULL GROUP BY 1 HAVING count(*) % 3 = 1",
    "SELECT n, auction % 2 AS half FROM (SELECT bid.auction AS auction, count(*) AS n FROM nexmark GROUP BY 1) WHERE n < 20",
    // The key is not selected, so groups have equal rows.
    "SELECT count(*) AS n FROM nexmark GROUP BY bid.bidder",
    "SELECT median(bid.price) AS middle, bid.channel AS c FROM nexmark WHERE bid.price IS NOT NULL GROUP BY 2",
];

/// Rows as texts, with how often each occurs.
pub(crate) type Counted = BTreeMap<String, i64>;

fn add(rows: &ArrayRef, times: i64, counted: &mut Counted) {
    let options = FormatOptions::default().with_null("NULL");
    let formatter = ArrayFormatter::try_new(rows.as_ref(), &options).expect("all types have a format");
    for row in (0..rows.len()).filter(|row| rows.is_valid(*row)) {
        *counted.entry(formatter.value(row).to_string()).or_default() += times;
    }
    counted.retain(|_, count| *count != 0);
}

/// Applies changes to no rows. Fails if an operation does not fit its rows, or a row is taken away that does not exist.
pub(crate) fn applied(changes: &[RecordBatch]) -> Counted {
    let mut counted = Counted::new();
    apply(changes, &mut counted);
    counted
}

/// Applies changes to rows. Rows that do not change are new ones.
pub(crate) fn apply(changes: &[RecordBatch], counted: &mut Counted) {
    for batch in changes {
        if !batch.schema().metadata().contains_key(CHANGES) {
            add(&nullable(batch), 1, counted);
            continue;
        }
        let (before, after, ops) = (batch.column(0), batch.column(1), batch.column(2).as_string::<i32>());
        for row in 0..batch.num_rows() {
            let op = match (before.is_valid(row), after.is_valid(row)) {
                (false, true) => "c",
                (true, true) => "u",
                (true, false) => "d",
                (false, false) => "nothing",
            };
            assert_eq!(ops.value(row), op);
            add(&before.slice(row, 1), -1, counted);
            add(&after.slice(row, 1), 1, counted);
            assert!(counted.values().all(|count| *count > 0), "a row was taken away that does not exist");
        }
    }
}

/// Returns rows as structs, all of whose fields may be null.
fn nullable(batch: &RecordBatch) -> ArrayRef {
    let schema = batch.schema();
    let fields = schema.fields().iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
    let columns = fields.zip(batch.columns().iter().cloned()).collect::<Vec<(Arc<Field>, ArrayRef)>>();
    Arc::new(StructArray::from(columns))
}

/// The rows of plain DataFusion over all rows.
pub(crate) async fn batch(statement: &str, rows: RecordBatch) -> Counted {
    let context = SessionContext::new();
    for rule in ["single_distinct_aggregation_to_group_by", "extract_leaf_expressions", "push_down_leaf_projections"] {
        context.remove_optimizer_rule(rule);
    }
    let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("the schema is that of the rows");
    context.register_table("nexmark", Arc::new(table)).expect("the name is new");
    let frame = context.sql(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    let mut counted = Counted::new();
    for batch in frame.collect().await.unwrap_or_else(|error| panic!("{statement}: {error}")) {
        add(&nullable(&batch), 1, &mut counted);
    }
    counted
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_all_epochs_add_up_to_batch() {
    for seed in 0..40_u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let statement = STATEMENTS[seed as usize % STATEMENTS.len()];
        let nexmark =
            Nexmark { rate: 200.0, seed, disorder_nanos: 0, keys: [0, 40][rng.random_range(0..2)], hot_percent: 0 };
        let events = rng.random_range(1..900);
        let (mut cuts, mut at) = (Vec::new(), 0);
        while at < events && cuts.len() < 30 {
            let size = rng.random_range(0..120);
            let reload = rng.random_bool(0.2).then(|| rng.random_range(1..5));
            cuts.push(Cut { events: size, reload, snapshot: rng.random_bool(0.1) });
            at += size;
        }
        let changes = run_nexmark(statement, &nexmark, events, &cuts).await.expect("it runs");
        let expected = batch(statement, nexmark.events(BASE, 0, events)).await;
        assert_eq!(applied(&changes), expected, "seed {seed}: {statement}");
    }
}

#[tokio::test]
async fn group_that_does_not_change_is_not_emitted_again() {
    let nexmark = Nexmark { rate: 100.0, seed: 1, disorder_nanos: 0, keys: 0, hot_percent: 0 };
    let cuts = vec![Cut { events: 50, reload: None, snapshot: false }; 10];
    // Each epoch has events of all three types.
    let changes =
        run_nexmark("SELECT event_type AS kind, count(*) > 0 AS some FROM nexmark GROUP BY 1", &nexmark, 500, &cuts)
            .await
            .expect("it runs");
    let count: usize = changes.iter().map(RecordBatch::num_rows).sum();
    let printed = arrow::util::pretty::pretty_format_batches(&changes).expect("rows can be printed");
    assert_eq!(count, 3, "each type once:\n{printed}");
}

#[tokio::test]
async fn operators_that_cannot_follow_rows_that_change_are_refused() {
    let nexmark = Nexmark { rate: 100.0, seed: 1, disorder_nanos: 0, keys: 0, hot_percent: 0 };
    let counts = "(SELECT bid.auction AS auction, count(*) AS n FROM nexmark GROUP BY 1)";
    let windows =
        "(SELECT tumble(interval '2 seconds') AS w, bid.auction AS auction, count(*) AS n FROM nexmark GROUP BY 1, 2)";
    for statement in [
        format!("SELECT count(*), tumble(interval '2 seconds') AS w FROM {counts} GROUP BY w"),
        format!("SELECT n, tumble(interval '2 seconds') AS w FROM {counts}"),
        format!("SELECT n FROM {counts} ORDER BY n"),
        format!("SELECT n FROM {counts} LIMIT 3"),
        format!("SELECT n, random() FROM {counts}"),
        format!("SELECT a.n FROM {counts} AS a JOIN {windows} AS b ON a.auction < b.auction"),
        format!("SELECT n FROM {counts} EMIT ON WINDOW CLOSE"),
    ] {
        match run_nexmark(&statement, &nexmark, 10, &[]).await {
            Ok(_) => panic!("{statement} runs"),
            Err(error) => assert!(error.to_string().contains("cannot run over a stream"), "{statement}: {error}"),
        }
    }
    // The rows of closed windows are final, so they may be counted without a window.
    run_nexmark(&format!("SELECT auction, sum(n) AS n FROM {windows} GROUP BY auction"), &nexmark, 300, &[])
        .await
        .expect("it runs");
}
