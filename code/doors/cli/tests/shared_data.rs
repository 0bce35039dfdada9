//! Runs queries on real tables with the complete engine, and compares them with answers that other engines computed.
//!
//! [`buzz_testkit::shared_data`] locates the tables. Without them, all tests are reported as ignored.

#![expect(clippy::print_stdout, reason = "a test reports what it skips")]

mod common;

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use buzz_protocol::{ErrorKind, QueryError};
use buzz_testkit::{NO_SHARED_DATA, plain_rows, same_rows, shared_data, sorted_text};
use common::{Answer, ask, statement, steps};
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::Value;

fn main() {
    let arguments = Arguments::from_args();
    let data = shared_data();
    if data.is_none() {
        println!("{NO_SHARED_DATA}; their tests are ignored");
    }
    let absent = data.is_none();
    let data = data.unwrap_or_default();

    let mut trials = Vec::new();
    for case in ANSWERED {
        let data = data.clone();
        trials.push(Trial::test(format!("answers::{}", case.name), move || run(answered(data, case))));
    }
    for file in BROKEN {
        let path = data.join("parquet").join(file);
        trials.push(Trial::test(format!("broken::{file}"), move || run(broken(path))));
    }
    for query in 1..=22 {
        let data = data.clone();
        trials.push(Trial::test(format!("tpch::q{query}"), move || run(tpch(data, query))));
    }
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(absent)).collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn run(test: impl Future<Output = Result<(), Failed>>) -> Result<(), Failed> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(test)
}

async fn answer(query: &Value, base: &Path, sets: &[&str]) -> Result<Answer, Failed> {
    ask(query, base, sets).await.map_err(|error: QueryError| Failed::from(format!("{:?}: {error}", error.kind)))
}

/// Returns true if `found` and `expected` are the same value. Dates, times and decimals have several text forms.
fn same_value(found: &str, expected: &Value) -> bool {
    let plain = |text: &str| {
        let text = text.replace('T', " ").trim_end_matches('Z').trim_end_matches("+00").to_string();
        if text.contains(['.', ':']) {
            text.trim_end_matches('0').trim_end_matches('.').trim_end_matches(":00").to_string()
        } else {
            text
        }
    };
    let expected = expected.as_str().map_or_else(|| expected.to_string(), str::to_string);
    if plain(found) == plain(&expected) || format!("{} 00:00:00", found) == expected {
        return true;
    }
    match (found.parse::<f64>(), expected.parse::<f64>()) {
        (Ok(found), Ok(expected)) => (found - expected).abs() <= expected.abs() * 1e-9,
        _ => false,
    }
}

/// A query with a known answer, written as steps.
struct Answered {
    name: &'static str,
    /// File with the answers; `query` is the position in it.
    file: &'static str,
    query: usize,
    /// Catalog entry: name, type, and path relative to the folder of `file`.
    catalog: (&'static str, &'static str, &'static str),
    map: &'static str,
    reduce: &'static str,
}

const TRIPS: (&str, &str, &str) = ("trips", "Parquet", "green_tripdata_*.parquet");
const FLIGHTS: (&str, &str, &str) = ("flights3m", "Parquet", "flights-3m.parquet");
const COVID: (&str, &str, &str) = ("covid", "DeltaLake", "COVID-19_NYT");

const ANSWERED: &[Answered] = &[
    Answered {
        name: "trips_by_payment_type",
        file: "tables/nyc-tlc/queries.json",
        query: 0,
        catalog: TRIPS,
        map: "SELECT payment_type, COUNT(payment_type) AS c FROM trips GROUP BY payment_type",
        reduce: "SELECT payment_type, SUM(c) AS c FROM m GROUP BY payment_type ORDER BY payment_type",
    },
    Answered {
        name: "trips_averages",
        file: "tables/nyc-tlc/queries.json",
        query: 1,
        catalog: TRIPS,
        map: "SELECT payment_type, COUNT(*) AS n, SUM(total_amount) AS s, COUNT(total_amount) AS k, SUM(tip_amount) AS tips, \
              MIN(trip_distance) AS min_d, MAX(trip_distance) AS max_d FROM trips GROUP BY payment_type",
        reduce: "SELECT payment_type, SUM(n) AS n, SUM(s) / SUM(k) AS avg_total, SUM(tips) AS tips, MIN(min_d) AS min_d, \
                 MAX(max_d) AS max_d FROM m GROUP BY payment_type ORDER BY payment_type NULLS LAST",
    },
    Answered {
        name: "trips_distinct",
        file: "tables/nyc-tlc/queries.json",
        query: 2,
        catalog: TRIPS,
        map: "SELECT DISTINCT \"PULocationID\" AS p, \"DOLocationID\" AS d FROM trips",
        reduce: "SELECT COUNT(DISTINCT p) AS pu, COUNT(DISTINCT d) AS d FROM m",
    },
    Answered {
        name: "trips_by_day",
        file: "tables/nyc-tlc/queries.json",
        query: 3,
        catalog: TRIPS,
        map: "SELECT date_trunc('day', lpep_pickup_datetime) AS day, COUNT(*) AS n FROM trips GROUP BY 1",
        reduce: "SELECT day, SUM(n) AS n FROM m GROUP BY day ORDER BY day",
    },
    Answered {
        name: "flights_totals",
        file: "tables/flights-3m/queries.json",
        query: 0,
        catalog: FLIGHTS,
        map: "SELECT COUNT(*) AS n, SUM(delay) AS delay, SUM(distance) AS dist, COUNT(distance) AS k, MIN(\"date\") AS lo, \
              MAX(\"date\") AS hi FROM flights3m",
        reduce: "SELECT SUM(n) AS n, SUM(delay) AS delay, SUM(dist) / CAST(SUM(k) AS DOUBLE) AS dist, MIN(lo) AS lo, \
                 MAX(hi) AS hi FROM m",
    },
    Answered {
        name: "flights_by_origin",
        file: "tables/flights-3m/queries.json",
        query: 1,
        catalog: FLIGHTS,
        map: "SELECT origin, COUNT(*) AS n, SUM(delay) AS d, COUNT(delay) AS k FROM flights3m GROUP BY origin",
        reduce: "SELECT origin, SUM(n) AS n, SUM(d) / CAST(SUM(k) AS DOUBLE) AS avg_delay FROM m GROUP BY origin \
                 ORDER BY n DESC, origin LIMIT 20",
    },
    Answered {
        name: "flights_pairs",
        file: "tables/flights-3m/queries.json",
        query: 2,
        catalog: FLIGHTS,
        map: "SELECT origin, destination, COUNT(*) AS n FROM flights3m GROUP BY 1, 2",
        reduce: "SELECT origin, destination, SUM(n) AS n FROM m GROUP BY 1, 2 ORDER BY n DESC, 1, 2 LIMIT 10",
    },
    Answered {
        name: "flights_distinct",
        file: "tables/flights-3m/queries.json",
        query: 3,
        catalog: FLIGHTS,
        map: "SELECT DISTINCT origin, destination FROM flights3m",
        reduce: "SELECT COUNT(DISTINCT origin) AS o, COUNT(DISTINCT destination) AS d FROM m",
    },
    Answered {
        name: "flights_by_month",
        file: "tables/flights-3m/queries.json",
        query: 4,
        catalog: FLIGHTS,
        map: "SELECT extract(month FROM \"date\") AS m, COUNT(*) AS n, MAX(delay) AS worst FROM flights3m \
              WHERE distance > 1000 GROUP BY 1",
        reduce: "SELECT m.m AS m, SUM(n) AS n, MAX(worst) AS worst FROM m GROUP BY 1 ORDER BY 1",
    },
    Answered {
        name: "flights_count_of_pairs",
        file: "tables/flights-3m/queries.json",
        query: 5,
        catalog: FLIGHTS,
        map: "SELECT origin, destination FROM flights3m GROUP BY 1, 2",
        reduce: "SELECT COUNT(*) AS pairs FROM (SELECT origin, destination FROM m GROUP BY 1, 2) p",
    },
    Answered {
        name: "covid_totals",
        file: "delta/delta-rs/COVID-19_NYT.queries.json",
        query: 0,
        catalog: COVID,
        map: "SELECT COUNT(*) AS n, SUM(cases) AS c, SUM(deaths) AS d FROM covid",
        reduce: "SELECT SUM(n) AS n, SUM(c) AS c, SUM(d) AS d FROM m",
    },
    Answered {
        name: "covid_by_state",
        file: "delta/delta-rs/COVID-19_NYT.queries.json",
        query: 1,
        catalog: COVID,
        map: "SELECT state, COUNT(*) AS n, MAX(cases) AS mx FROM covid GROUP BY state",
        reduce: "SELECT state, SUM(n) AS n, MAX(mx) AS mx FROM m GROUP BY state ORDER BY state",
    },
];

/// Compares the rows with the stored answer, with one comb and with two. Single Parquet files are also compared with
/// plain DataFusion.
async fn answered(data: PathBuf, case: &Answered) -> Result<(), Failed> {
    let file = data.join(case.file);
    let folder = file.parent().ok_or("a file has a folder")?;
    let stored: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    let stored = &stored["queries"][case.query];
    let expected: Vec<Vec<&Value>> = stored["rows"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|row| row.as_array().into_iter().flatten().collect())
        .collect();

    for (zones, sets) in [(1, ["tasks=1", "transport=memory"]), (2, ["tasks=64", "transport=tcp"])] {
        let query = steps(zones, &[("m", case.map)], &[("r", case.reduce)], &[case.catalog]);
        let rows = answer(&query, folder, &sets).await?.rows;
        let found = all_rows(&rows)?;
        if found.len() != expected.len() {
            return Err(format!("{} rows instead of {}", found.len(), expected.len()).into());
        }
        for (found, expected) in found.iter().zip(&expected) {
            if !found.iter().zip(expected).all(|(found, expected)| same_value(found, expected)) {
                return Err(format!("{found:?} instead of {expected:?}").into());
            }
        }
        let (name, kind, place) = case.catalog;
        if kind == "Parquet" && !place.contains('*') {
            let path = folder.join(place);
            let tables = [(name, &*path.to_string_lossy())];
            let plain = plain_rows(stored["sql"].as_str().unwrap_or_default(), &tables, 2).await;
            let plain = plain.map_err(|error| error.to_string())?;
            if sorted_text(&plain) != sorted_text(&rows) {
                return Err("the rows of plain DataFusion differ".into());
            }
        }
    }
    Ok(())
}

fn all_rows(rows: &[RecordBatch]) -> Result<Vec<Vec<String>>, Failed> {
    let options = FormatOptions::default().with_null("null");
    let mut texts = Vec::new();
    for batch in rows {
        let columns: Vec<ArrayFormatter<'_>> =
            batch.columns().iter().map(|column| ArrayFormatter::try_new(column, &options)).collect::<Result<_, _>>()?;
        texts.extend(
            (0..batch.num_rows()).map(|row| columns.iter().map(|column| column.value(row).to_string()).collect()),
        );
    }
    Ok(texts)
}

/// Corrupt Parquet files. Each has made a reader fail in a different way, some by a panic.
const BROKEN: &[&str] = &[
    "arrow-testing/parquet/ARROW-17100.parquet",
    "duckdb/invalid_utf8_dba.parquet",
    "duckdb/rle_malicious_bitwidth.parquet",
    "impala/bad_codec.parquet",
    "impala/bad_compressed_size.parquet",
    "impala/corrupt_footer_len_incr.parquet",
    "impala/dict-encoded-negative-len.parq",
    "impala/plain-encoded-negative-len.parq",
    "parquet-testing/bad_data/ARROW-GH-41317.parquet",
    "parquet-testing/bad_data/ARROW-RS-GH-6229-DICTHEADER.parquet",
    "parquet-testing/bad_data/PARQUET-1481.parquet",
    "parquet-testing/data/nation.dict-malformed.parquet",
];

/// Checks that a corrupt file fails with kind `Data` and an error that names the file.
async fn broken(path: PathBuf) -> Result<(), Failed> {
    let path = path.to_string_lossy();
    let name = path.rsplit('/').next().unwrap_or_default();
    let (map, reduce) = ([("m", "SELECT * FROM t")], [("r", "SELECT COUNT(*) FROM m")]);
    let query = steps(1, &map, &reduce, &[("t", "Parquet", &path)]);
    match ask(&query, Path::new("/"), &[]).await {
        Err(error) if error.kind == ErrorKind::Data && error.to_string().contains(name) => Ok(()),
        Err(error) => Err(format!("{:?}: {error}", error.kind).into()),
        Ok(_) => Err("the query succeeded".into()),
    }
}

const TPCH_TABLES: [&str; 8] = ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

/// Runs a TPC-H query, as an HComb step over whole tables and as one statement that Buzz cuts. Its joins run on one
/// comb and on four. Compares the rows with plain DataFusion on the same files.
async fn tpch(data: PathBuf, number: u64) -> Result<(), Failed> {
    let folder = data.join("tables/tpch-sf0.01");
    let queries: Value = serde_json::from_slice(&std::fs::read(folder.join("queries.json"))?)?;
    let query = queries["queries"].as_array().into_iter().flatten().find(|query| query["q"] == number);
    let sql = query.and_then(|query| query["sql"].as_str()).ok_or("queries.json lacks the query")?;
    let words: Vec<&str> = sql.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let tables: Vec<&str> = TPCH_TABLES.into_iter().filter(|table| words.contains(table)).collect();

    let paths: Vec<String> =
        tables.iter().map(|table| folder.join(format!("{table}.parquet")).to_string_lossy().into_owned()).collect();
    let named: Vec<(&str, &str)> = tables.iter().copied().zip(paths.iter().map(String::as_str)).collect();
    let expected = plain_rows(sql, &named, 2).await.map_err(|error| error.to_string())?;

    let files: Vec<String> = tables.iter().map(|table| format!("{table}_files")).collect();
    let whole: Vec<(&str, &str, &str)> = named.iter().map(|(name, path)| (*name, "Parquet", *path)).collect();
    let selects: Vec<String> = files.iter().map(|files| format!("SELECT * FROM {files}")).collect();
    let maps: Vec<(&str, &str)> = tables.iter().copied().zip(selects.iter().map(String::as_str)).collect();
    let catalogs: Vec<(&str, &str, &str)> =
        files.iter().zip(&paths).map(|(files, path)| (files.as_str(), "Parquet", path.as_str())).collect();
    for (zones, transport) in [(1, "transport=memory"), (4, "transport=memory"), (4, "transport=tcp")] {
        let by_steps = steps(zones, &maps, &[("answer", sql)], &catalogs);
        let cut = statement(zones, sql, &whole);
        for (query, sets) in [(by_steps, vec![transport]), (cut, vec![transport, "tasks=16", "split_bytes=64KB"])] {
            let rows = answer(&query, &folder, &sets).await?.rows;
            if same_rows(&rows, &expected, true) {
                continue;
            }
            return Err(format!(
                "{zones} zones, {sets:?}: {:#?} instead of {:#?}",
                sorted_text(&rows),
                sorted_text(&expected)
            )
            .into());
        }
    }
    Ok(())
}
