//! Random queries over the shared tables: Buzz gives the rows of plain DataFusion.
//!
//! Query number *n* is made from the seed plus *n* alone, so any of them can be had again by itself. One that fails is made
//! smaller for as long as it fails in the same way.

mod generate;

mod query;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use buzz_local::LocalHost;
use buzz_protocol::Options;
use datafusion::arrow::datatypes::DataType;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use libtest_mimic::Failed;
use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::common::host;
use crate::plain::Asked;
use crate::shared_tables::{SharedTable, SharedTables};
use crate::verdict::{Verdict, compare};
use generate::{Column, Generator, Kind, Table};
use query::Select;

/// Queries of one test; several tests run at once.
const SHARE: u64 = 25;

/// A query that takes plain DataFusion longer is not tried: its rows would be millions.
const PATIENCE: Duration = Duration::from_secs(10);

/// Smaller queries that are tried for one that fails.
const SMALLER_MAX: usize = 300;

/// What a query is tried with, by turns: combs, and options.
const SETTINGS: [(usize, &[&str]); 5] = [
    (1, &["tasks=3", "split_bytes=1"]),
    (4, &["tasks=5", "split_bytes=1", "build_bytes=0"]),
    (2, &["tasks=2", "transport=tcp"]),
    (3, &[]),
    // Small batches, and inboxes that spill.
    (2, &["tasks=7", "split_bytes=1", "batch_size=500", "inbox_memory_bytes=20kB"]),
];

static TRIED: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// The seeds of all queries, test by test: `BUZZ_DIFFERENTIAL_QUERIES` of them from `BUZZ_DIFFERENTIAL_SEED` on.
pub(crate) fn shares() -> Vec<Range<u64>> {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first: u64 = number("BUZZ_DIFFERENTIAL_SEED", 1);
    let count = number("BUZZ_DIFFERENTIAL_QUERIES", 500);
    let last = first.saturating_add(count);
    (0..count.div_ceil(SHARE)).map(|share| first + share * SHARE..last.min(first + (share + 1) * SHARE)).collect()
}

/// Says how many queries were tried.
pub(crate) fn report() {
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    if count(&TRIED) > 0 {
        println!(
            "differential: {} random queries from seed {}; {} refused by plain DataFusion or too slow there",
            count(&TRIED),
            shares().first().map_or(0, |share| share.start),
            count(&REFUSED)
        );
    }
}

/// Tries the queries of `seeds`.
pub(crate) async fn run(data: &Path, seeds: Range<u64>) -> Result<(), Failed> {
    let shared = SharedTables::get(data).await?;
    let mut tables = Vec::new();
    for table in &shared.tables {
        tables.push(described(table).await?);
    }
    let hosts = SETTINGS.map(|(_, sets)| host(sets));
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        let turn = usize::try_from(seed % SETTINGS.len() as u64).expect("a small number");
        let query = Generator::new(StdRng::seed_from_u64(seed), &tables).query();
        let started = Instant::now();
        let verdict = tried(&query, &hosts[turn], turn, shared).await;
        if std::env::var_os("BUZZ_DIFFERENTIAL_VERBOSE").is_some() {
            println!("seed {seed}, {:.1} s, {verdict:?}: {query}", started.elapsed().as_secs_f64());
        }
        TRIED.fetch_add(1, Ordering::Relaxed);
        if verdict == Verdict::Refused {
            REFUSED.fetch_add(1, Ordering::Relaxed);
        }
        if verdict.is_good() {
            continue;
        }
        let (small, verdict) = shrunk(query.clone(), verdict, &hosts[turn], turn, shared).await;
        let (zones, sets) = SETTINGS[turn];
        failed.push(format!("seed {seed}, {zones} zones, {sets:?}: {verdict:?}\n  {small}\nwhich was\n  {query}\n"));
    }
    if failed.is_empty() {
        return Ok(());
    }
    let again = "again: make differential QUERIES=1 SEED=…";
    Err(format!("{} of {} queries; {again}\n{}", failed.len(), seeds.count(), failed.join("\n")).into())
}

async fn tried(query: &Select, host: &LocalHost, turn: usize, shared: &SharedTables) -> Verdict {
    let sql = query.to_string();
    let (zones, sets) = SETTINGS[turn];
    let named = |table: &&SharedTable| sql.contains(&format!(" {} ", table.name));
    let tables = shared.tables.iter().filter(named).map(|table| (table.name.clone(), table.written.clone())).collect();
    let ordered = !query.order.is_empty();
    let sets: Vec<String> = sets.iter().chain(&["timeout_seconds=100"]).map(ToString::to_string).collect();
    compare(host, Asked { sql, tables, options: Options::default(), ordered, patience: PATIENCE }, zones, &sets).await
}

/// The smallest query found that fails in the same way.
async fn shrunk(
    mut query: Select,
    mut verdict: Verdict,
    host: &LocalHost,
    turn: usize,
    shared: &SharedTables,
) -> (Select, Verdict) {
    let way = std::mem::discriminant(&verdict);
    let mut left = SMALLER_MAX;
    'smaller: loop {
        for smaller in query.smaller() {
            if left == 0 {
                break 'smaller;
            }
            left -= 1;
            let outcome = tried(&smaller, host, turn, shared).await;
            if std::mem::discriminant(&outcome) == way {
                (query, verdict) = (smaller, outcome);
                continue 'smaller;
            }
        }
        break;
    }
    (query, verdict)
}

/// What the generator must know of a table.
async fn described(table: &SharedTable) -> Result<Table, Failed> {
    let ctx = SessionContext::new();
    let path = format!("{}/", table.written.files.display());
    ctx.register_parquet(&table.name, path, ParquetReadOptions::default()).await?;
    let mut columns = Vec::new();
    for field in table.schema.fields() {
        let kind = match field.data_type() {
            kind if kind.is_integer() => Kind::Int,
            kind if kind.is_floating() => Kind::Float,
            DataType::Decimal128(..) => Kind::Decimal,
            DataType::Date32 => Kind::Date,
            DataType::Timestamp(..) => Kind::Time,
            _ => Kind::Text,
        };
        let name = field.name();
        let sql = format!(
            "SELECT DISTINCT CAST({name} AS VARCHAR) AS v FROM {} WHERE {name} IS NOT NULL ORDER BY v",
            table.name
        );
        let values = buzz_testkit::Rows::of(&ctx.sql(&sql).await?.collect().await?)?.rows;
        let spread = values.iter().step_by(values.len().div_ceil(8).max(1));
        let literals = spread.map(|row| literal(&row[0], kind)).collect();
        columns.push(Column { sql: name.clone(), kind, exact: true, literals });
    }
    let key: &[&str] = match table.name.as_str() {
        "customer" => &["c_custkey"],
        "lineitem" => &["l_orderkey", "l_linenumber"],
        "nation" => &["n_nationkey"],
        "orders" => &["o_orderkey"],
        "part" => &["p_partkey"],
        "partsupp" => &["ps_partkey", "ps_suppkey"],
        "region" => &["r_regionkey"],
        "supplier" => &["s_suppkey"],
        _ => &[],
    };
    Ok(Table {
        name: table.name.clone(),
        columns,
        key: key.iter().map(ToString::to_string).collect(),
        row_count: table.row_count,
    })
}

fn literal(text: &str, kind: Kind) -> String {
    match kind {
        Kind::Int | Kind::Decimal | Kind::Float => text.to_string(),
        Kind::Text => format!("'{}'", text.replace('\'', "''")),
        Kind::Date => format!("DATE '{text}'"),
        Kind::Time => format!("TIMESTAMP '{text}'"),
    }
}
