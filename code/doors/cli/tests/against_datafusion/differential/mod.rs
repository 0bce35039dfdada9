//! Random queries over TPC-H, the taxi sample and real trips: Buzz returns the rows of plain DataFusion.
//!
//! Query number *n* depends only on the seed plus *n* and on the tables, so that each can be repeated by itself. A query that
//! fails is made smaller while it fails in the same way.

mod duckdb;

mod generate;

mod query;

use std::ops::Range;
use std::sync::LazyLock;
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
use crate::extremes::EXTREMES;
use crate::inputs::Inputs;
use crate::plain::Asked;
use crate::tables::{SourceTable, TRIPS, Tables};
use crate::verdict::{Verdict, compare};
use generate::{Column, Generator, Kind, Table};
use query::Select;

/// Queries of one test; several tests run at once.
const SHARE: u64 = 25;

/// A query that takes plain DataFusion longer is skipped: it would have millions of rows.
const PATIENCE: Duration = Duration::from_secs(10);

/// Smaller queries that are tried for one that fails.
const SMALLER_MAX: usize = 300;

/// Combs and options that queries are tried with, by turns.
const SETTINGS: [(usize, &[&str]); 12] = [
    (1, &["tasks=3", "split_bytes=1"]),
    (4, &["tasks=5", "split_bytes=1", "build_bytes=0", "join_order=written"]),
    (2, &["tasks=2", "transport=tcp", "join_order=written"]),
    (3, &[]),
    // Small batches, and inboxes that spill.
    (2, &["tasks=7", "split_bytes=1", "batch_size=500", "inbox_memory_bytes=20kB"]),
    (1, &["transport=tcp", "build_bytes=0", "tasks=16", "split_bytes=1"]),
    (3, &["transport=tcp", "build_bytes=0", "tasks=4"]),
    // Fuse reduces.
    (2, &["reducer=inline", "tasks=6"]),
    (8, &["reducer=comb", "tasks=3", "build_bytes=0", "batch_size=100"]),
    // Operators that spill, or end with `Limit`.
    (1, &["tasks=4", LOW_MEMORY, "build_bytes=0"]),
    (3, &["tasks=4", LOW_MEMORY, "transport=tcp"]),
    (4, &["transport=tcp", "inbox_memory_bytes=20kB", "tasks=16", "split_bytes=1", "build_bytes=0"]),
];

/// Less memory than some queries need.
const LOW_MEMORY: &str = "memory_bytes=4MB";

static TRIED: AtomicUsize = AtomicUsize::new(0);
static REFUSED: AtomicUsize = AtomicUsize::new(0);

/// The tables that queries are over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    /// The tables that the tests make: a seed gives the same query in every clone.
    Made,
    /// These and the real one.
    Real,
}

/// Returns the seeds of all queries, test by test: `BUZZ_DIFFERENTIAL_QUERIES`, starting from `BUZZ_DIFFERENTIAL_SEED`,
/// over the tables that the tests make; and a quarter as many over the real one.
pub(crate) fn shares(over: Over) -> Vec<Range<u64>> {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first: u64 = number("BUZZ_DIFFERENTIAL_SEED", 1);
    let made: u64 = number("BUZZ_DIFFERENTIAL_QUERIES", 400);
    let count = match over {
        Over::Made => made,
        Over::Real => made.div_ceil(4),
    };
    let last = first.saturating_add(count);
    (0..count.div_ceil(SHARE)).map(|share| first + share * SHARE..last.min(first + (share + 1) * SHARE)).collect()
}

/// Prints how many queries were tried.
pub(crate) fn report() {
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    if count(&TRIED) > 0 {
        println!(
            "differential: {} random queries from seed {}; {} refused by plain DataFusion or too slow there",
            count(&TRIED),
            shares(Over::Made).first().map_or(0, |share| share.start),
            count(&REFUSED)
        );
    }
}

/// Tries the queries of `seeds`.
pub(crate) async fn run(inputs: &Inputs, over: Over, seeds: Range<u64>) -> Result<(), Failed> {
    let all = Tables::get(inputs).await?;
    let mut tables = Vec::new();
    for table in all.tables.iter().filter(|table| over == Over::Real || table.name != TRIPS) {
        tables.push(described(table).await?);
    }
    let hosts = SETTINGS.map(|(_, sets)| LazyLock::new(move || host(sets)));
    let mut failed = Vec::new();
    for seed in seeds.clone() {
        let turn = usize::try_from(seed % SETTINGS.len() as u64).expect("a small number");
        let query = Generator::new(StdRng::seed_from_u64(seed), &tables).query();
        let started = Instant::now();
        let verdict = tried(&query, &hosts[turn], turn, all).await;
        if std::env::var_os("BUZZ_DIFFERENTIAL_VERBOSE").is_some() {
            println!("seed {seed}, {:.1} s, {verdict:?}: {query}", started.elapsed().as_secs_f64());
        }
        TRIED.fetch_add(1, Ordering::Relaxed);
        if matches!(verdict, Verdict::Refused | Verdict::Slow) {
            REFUSED.fetch_add(1, Ordering::Relaxed);
        }
        if let (Verdict::Agrees, Some(folder)) = (&verdict, duckdb::folder()) {
            duckdb::write(&folder, seeds.start, seed, &asked(&query, all), all).await?;
        }
        if verdict.is_good() {
            continue;
        }
        let (small, verdict) = shrunk(query.clone(), verdict, &hosts[turn], turn, all).await;
        let (zones, sets) = SETTINGS[turn];
        failed.push(format!("seed {seed}, {zones} zones, {sets:?}: {verdict:?}\n  {small}\nwhich was\n  {query}\n"));
    }
    if failed.is_empty() {
        return Ok(());
    }
    let again = match over {
        Over::Made => "again: make differential QUERIES=1 SEED=…",
        Over::Real => "again: make differential-real QUERIES=1 SEED=…",
    };
    Err(format!("{} of {} queries; {again}\n{}", failed.len(), seeds.count(), failed.join("\n")).into())
}

fn asked(query: &Select, all: &Tables) -> Asked {
    let sql = query.to_string();
    let named = |table: &&SourceTable| sql.contains(&format!(" {} ", table.name));
    let tables = all.tables.iter().filter(named).map(|table| (table.name.clone(), table.written.clone())).collect();
    Asked { sql, tables, options: Options::default(), ordered: !query.order.is_empty(), patience: PATIENCE }
}

async fn tried(query: &Select, host: &LocalHost, turn: usize, all: &Tables) -> Verdict {
    let (zones, sets) = SETTINGS[turn];
    let mut sets: Vec<String> = sets.iter().chain(&["timeout_seconds=100"]).map(ToString::to_string).collect();
    let mut verdict = compare(host, &asked(query, all), zones, &sets).await;
    if matches!(&verdict, Verdict::Fails(error) if error.contains("exceeds the type")) {
        // Plain DataFusion does not notice that a value exceeds its type.
        sets.push("overflow=wrap".to_string());
        verdict = compare(host, &asked(query, all), zones, &sets).await;
    }
    match verdict {
        // The query needs more memory than it has.
        Verdict::Fails(error) if error.starts_with("Limit") && sets.iter().any(|set| set == LOW_MEMORY) => {
            Verdict::Refused
        }
        Verdict::Answered(error) if is_fault_of_plain(&error) => Verdict::Refused,
        Verdict::Differs(_) if query.filters_a_total() => Verdict::Refused,
        verdict => verdict,
    }
}

/// Returns whether `error`, of a statement that Buzz answers, is a fault of plain DataFusion: its optimizer fails, for
/// example at a time or a decimal that it converts to a smaller type, or at a column that it has removed.
fn is_fault_of_plain(error: &str) -> bool {
    error.starts_with("Internal error") || error.starts_with("Optimizer rule")
}

/// The smallest query found that fails in the same way.
async fn shrunk(
    mut query: Select,
    mut verdict: Verdict,
    host: &LocalHost,
    turn: usize,
    all: &Tables,
) -> (Select, Verdict) {
    let way = std::mem::discriminant(&verdict);
    let mut left = SMALLER_MAX;
    'smaller: loop {
        for smaller in query.smaller() {
            if left == 0 {
                break 'smaller;
            }
            left -= 1;
            let outcome = tried(&smaller, host, turn, all).await;
            if std::mem::discriminant(&outcome) == way {
                (query, verdict) = (smaller, outcome);
                continue 'smaller;
            }
        }
        break;
    }
    (query, verdict)
}

/// Describes a table to the generator.
async fn described(table: &SourceTable) -> Result<Table, Failed> {
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
            DataType::Boolean | DataType::List(_) | DataType::Struct(_) => Kind::Nested,
            _ => Kind::Text,
        };
        let name = field.name();
        if kind == Kind::Nested {
            columns.push(Column { sql: name.clone(), kind, exact: true, literals: Vec::new() });
            continue;
        }
        let sql = format!(
            "SELECT DISTINCT CAST({name} AS VARCHAR) AS v FROM {} WHERE {name} IS NOT NULL ORDER BY v",
            table.name
        );
        let values = buzz_testkit::Rows::of(&ctx.sql(&sql).await?.collect().await?)?.rows;
        let spread = values.iter().step_by(values.len().div_ceil(8).max(1));
        let literals = spread.map(|row| literal(&row[0], kind)).collect();
        columns.push(Column { sql: name.clone(), kind, exact: true, literals });
    }
    columns.extend(parts_of_nested(&table.name));
    let key: &[&str] = match table.name.as_str() {
        "customer" => &["c_custkey"],
        EXTREMES => &["id"],
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

/// Returns elements of lists and fields of structs.
fn parts_of_nested(table: &str) -> Vec<Column> {
    if table != EXTREMES {
        return Vec::new();
    }
    let part = |sql: &str, kind: Kind, literals: &[&str]| Column {
        sql: sql.to_string(),
        kind,
        exact: true,
        literals: literals.iter().map(ToString::to_string).collect(),
    };
    vec![
        part("items[1]", Kind::Int, &["1", "5"]),
        part("items[-1]", Kind::Int, &["0", "8"]),
        part("place['x']", Kind::Int, &["2", "3"]),
        part("place['y']", Kind::Text, &["'a'", "''"]),
    ]
}

/// Returns a decimal as a literal with its own digits.
fn decimal(text: &str) -> String {
    let digits = text.trim_start_matches('-');
    let scale = digits.split_once('.').map_or(0, |(_, fraction)| fraction.len());
    let precision = digits.chars().filter(char::is_ascii_digit).count();
    format!("CAST('{text}' AS DECIMAL({precision}, {scale}))")
}

fn literal(text: &str, kind: Kind) -> String {
    match kind {
        Kind::Float if text.parse::<f64>().is_ok_and(|number| !number.is_finite()) => {
            format!("CAST('{text}' AS DOUBLE)")
        }
        // Plain DataFusion compares a decimal with the DOUBLE of a short literal, which may be another number.
        Kind::Decimal => decimal(text),
        Kind::Int | Kind::Float => text.to_string(),
        Kind::Text | Kind::Nested => format!("'{}'", text.replace('\'', "''")),
        Kind::Date => format!("DATE '{text}'"),
        Kind::Time => format!("TIMESTAMP '{text}'"),
    }
}
