//! Random statements in random epochs against the batch statement over all rows.
//!
//! `BUZZ_STREAM_STATEMENTS=5000 BUZZ_STREAM_SEED=1` chooses how many and which. Statement *n* depends on seed + *n* alone.
//! A failure is printed with its seed, and the first `BUZZ_STREAM_SHRINK=3` are shrunk.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StructArray, TimestampNanosecondArray};
use arrow::datatypes::{DataType, Field, Fields, TimeUnit};
use buzz_connect::{Generator, Nexmark};
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::harness::{BASE, Cut, equal, run_nexmark, texts};
use crate::statements::{Twin, twin};

#[derive(Debug, Clone)]
struct Case {
    twin: Twin,
    nexmark: Nexmark,
    events: usize,
    cuts: Vec<Cut>,
}

fn case(seed: u64) -> Case {
    let mut rng = StdRng::seed_from_u64(seed);
    let twin = twin(&mut rng);
    let nexmark = Nexmark {
        rate: [20.0, 60.0, 200.0][rng.random_range(0..3)],
        seed,
        disorder_nanos: rng.random_range(0..3) * 700_000_000,
        keys: [0, 0, 40][rng.random_range(0..3)],
        hot_percent: 0,
    };
    let events = rng.random_range(50..1500);
    let (mut cuts, mut at) = (Vec::new(), 0);
    let largest = [20, 100, 600][rng.random_range(0..3)];
    while at < events && cuts.len() < 40 {
        let size = rng.random_range(0..largest);
        let reload = rng.random_bool(0.15).then(|| rng.random_range(1..5));
        cuts.push(Cut { events: size, reload, snapshot: rng.random_bool(0.1) });
        at += size;
    }
    Case { twin, nexmark, events, cuts }
}

/// Plain DataFusion over all rows and all windows.
async fn batch(case: &Case) -> Vec<RecordBatch> {
    let rows = case.nexmark.events(BASE, 0, case.events);
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(2));
    // Rules with bugs in DataFusion 55.2: wrong rows of DISTINCT, and columns that are not found.
    for rule in ["single_distinct_aggregation_to_group_by", "extract_leaf_expressions", "push_down_leaf_projections"] {
        context.remove_optimizer_rule(rule);
    }
    let register = |name: &str, rows: RecordBatch| {
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("the schema is that of the rows");
        context.register_table(name, Arc::new(table)).expect("the name is new");
    };
    register("nexmark", rows);
    let last = BASE + (case.events as f64 * 1e9 / case.nexmark.rate) as i64;
    for (slide, width) in &case.twin.windows {
        let (slide_nanos, width_nanos) = (slide * 1_000_000, width * 1_000_000);
        // A second window may read the ends of the first.
        let from = (BASE - 60_000_000_000).div_euclid(slide_nanos);
        let until = (last + 60_000_000_000).div_euclid(slide_nanos);
        let starts: Vec<i64> = (from..until).map(|k| k * slide_nanos).collect();
        let ends: Vec<i64> = starts.iter().map(|start| start + width_nanos).collect();
        let time = DataType::Timestamp(TimeUnit::Nanosecond, None);
        let fields = Fields::from(vec![Field::new("start", time.clone(), true), Field::new("end", time, true)]);
        let windows: ArrayRef = Arc::new(StructArray::new(
            fields,
            vec![Arc::new(TimestampNanosecondArray::from(starts)), Arc::new(TimestampNanosecondArray::from(ends))],
            None,
        ));
        let windows = RecordBatch::try_from_iter(vec![("win", windows)]).expect("one column is a batch");
        register(&format!("windows_{slide}_{width}"), windows);
    }
    let frame = context.sql(&case.twin.batch).await.unwrap_or_else(|error| panic!("{error}\n{}", case.twin.batch));
    frame.collect().await.unwrap_or_else(|error| panic!("{error}\n{}", case.twin.batch))
}

/// Returns the first difference, if there is one.
async fn difference(case: &Case) -> Option<String> {
    let expected = texts(&batch(case).await);
    let got = match run_nexmark(&case.twin.stream, &case.nexmark, case.events, &case.cuts).await {
        Ok(rows) => texts(&rows),
        Err(error) => return Some(format!("fails: {error}")),
    };
    if equal(&expected, &got) {
        return None;
    }
    let missing: Vec<&String> = expected.iter().filter(|row| !got.contains(row)).take(3).collect();
    let extra: Vec<&String> = got.iter().filter(|row| !expected.contains(row)).take(3).collect();
    Some(format!("{} rows instead of {}\n  missing {missing:#?}\n  extra {extra:#?}", got.len(), expected.len()))
}

/// Looks for a smaller case that still differs.
async fn shrink(mut case: Case) -> Case {
    loop {
        let mut smaller = Vec::new();
        let whole = Case { cuts: Vec::new(), ..case.clone() };
        let fixed = case.cuts.iter().map(|cut| Cut { reload: None, snapshot: false, ..*cut }).collect();
        if !case.cuts.is_empty() {
            smaller.push(whole);
            smaller.push(Case { cuts: case.cuts[..case.cuts.len() / 2].to_vec(), ..case.clone() });
        }
        if case.cuts.iter().any(|cut| cut.reload.is_some() || cut.snapshot) {
            smaller.push(Case { cuts: fixed, ..case.clone() });
        }
        if case.events > 1 {
            smaller.push(Case { events: case.events / 2, ..case.clone() });
            smaller.push(Case { events: case.events - 1, ..case.clone() });
        }
        if case.nexmark.disorder_nanos > 0 {
            smaller.push(Case { nexmark: Nexmark { disorder_nanos: 0, ..case.nexmark.clone() }, ..case.clone() });
        }
        let mut found = None;
        for candidate in smaller {
            if difference(&candidate).await.is_some() {
                found = Some(candidate);
                break;
            }
        }
        match found {
            Some(candidate) => case = candidate,
            None => return case,
        }
    }
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_statements_equal_batch() {
    let (count, seed) = (number("BUZZ_STREAM_STATEMENTS", 150), number("BUZZ_STREAM_SEED", 1));
    let (mut rows, mut failures, shrunk) = (0, 0, number("BUZZ_STREAM_SHRINK", 3));
    for n in seed..seed + count {
        let case = case(n);
        if let Some(difference) = difference(&case).await {
            failures += 1;
            println!("seed {n} differs: {difference}");
            if failures <= shrunk {
                let small = shrink(case).await;
                let left = self::difference(&small).await.unwrap_or_default();
                println!(
                    "shrunk to {} events, {:?}, cuts {:?}\n{left}\nstream: {}\nbatch:  {}",
                    small.events, small.nexmark, small.cuts, small.twin.stream, small.twin.batch
                );
            }
        } else {
            rows += 1;
        }
    }
    println!("{rows} of {count} statements equal, seeds {seed} to {}", seed + count - 1);
    assert_eq!(failures, 0, "{failures} of {count} statements differ from batch");
}
