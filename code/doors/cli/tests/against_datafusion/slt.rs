//! The shared `.slt` files of DataFusion: every SELECT goes through Buzz and through plain DataFusion on the same Parquet.
//!
//! What must hold: they agree, or the statement stands in `known.txt` with a reason, and then they must not agree.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use buzz_protocol::Options;
use libtest_mimic::Failed;
use parking_lot::Mutex;

use crate::common::host;
use crate::known::{Entry, Known, Place};
use crate::plain::Asked;
use crate::script::{Kind, Script, Sql, records};
use crate::verdict::{PATIENCE, Verdict, compare};

/// Counts over all files.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// SELECTs over tables that both answered alike, and all that plain DataFusion answered.
    with_table: (usize, usize),
    without_table: (usize, usize),
    /// SELECTs that both refused, and all that plain DataFusion refused.
    refused: (usize, usize),
    not_parquet: usize,
    wrong: usize,
    failed: BTreeMap<Place, Entry>,
    times: Vec<(Duration, String)>,
}

/// Each file is tried with so many combs.
pub(crate) const ZONES: [usize; 2] = [1, 4];

static TOTALS: LazyLock<Mutex<Totals>> = LazyLock::new(Mutex::default);

/// The files below `folder` that are scripts of their own.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let below = |pattern: &str| glob::glob(&folder.join(pattern).to_string_lossy()).into_iter().flatten().flatten();
    let scripts = below("**/*.slt").chain(below("*.slt.part"));
    let relative = scripts.filter_map(|path| Some(path.strip_prefix(folder).ok()?.to_string_lossy().into_owned()));
    let mut files: Vec<String> = relative.collect();
    files.sort();
    files
}

/// Runs one file with `zones` combs, and compares with `known`.
pub(crate) async fn run(data: &Path, file: &str, zones: usize, known: Result<Known, String>) -> Result<(), Failed> {
    let started = Instant::now();
    let known = known?;
    let folder = data.join("sql/datafusion-slt");
    let mut script = Script::new(data, file).await?;
    let host = host(&[]);
    let (mut wrong, mut tried) = (Vec::new(), Vec::new());
    for sql in records(&folder, file)? {
        let kind = match tokio::time::timeout(PATIENCE, script.take(&sql.text)).await {
            Ok(kind) => kind,
            Err(_) => Kind::NotParquet,
        };
        let (tables, ordered) = match kind {
            Kind::Setup => continue,
            Kind::NotParquet => {
                count(&sql, zones, false, &Verdict::NotParquet);
                continue;
            }
            Kind::Select { tables, ordered } => (tables, ordered),
        };
        let mut options = Options::default();
        // With several combs no join is done by HBees, so that all are divided among the combs.
        let build_bytes = if zones == 1 { "build_bytes=256MiB" } else { "build_bytes=0" };
        let sets = ["tasks=3", "split_bytes=1", "timeout_seconds=60", build_bytes];
        let mut sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        if let Some(zone) = script.time_zone().filter(|zone| options.set(&format!("time_zone={zone}")).is_ok()) {
            sets.push(format!("time_zone={zone}"));
        }
        let with_table = !tables.is_empty();
        let asked = Asked { sql: sql.text.clone(), tables, options, ordered, patience: PATIENCE };
        let verdict = compare(&host, asked, zones, &sets).await;
        tried.push((sql.line, sql.text.clone()));
        count(&sql, zones, with_table, &verdict);
        let at = format!("{}:{}", sql.file, sql.line);
        match (&verdict, known.of(&sql.file, sql.line, zones)) {
            (verdict, None) if verdict.is_good() => {}
            (verdict, Some(_)) if verdict.is_good() => wrong.push(format!("{at} agrees now; take it from known.txt")),
            (_, Some(_)) => {}
            (verdict, None) => wrong.push(format!("{at} {verdict:?}\n    {}", sql.text.trim().replace('\n', "\n    "))),
        }
    }
    wrong.extend(known.strangers(file, &tried));
    let mut totals = TOTALS.lock();
    totals.times.push((started.elapsed(), format!("{file} zones={zones}")));
    if wrong.is_empty() { Ok(()) } else { Err(format!("{} statements\n{}", wrong.len(), wrong.join("\n")).into()) }
}

fn count(sql: &Sql, zones: usize, with_table: bool, verdict: &Verdict) {
    let mut totals = TOTALS.lock();
    let totals = &mut *totals;
    let counted = match verdict {
        Verdict::NotParquet => {
            totals.not_parquet += 1;
            return;
        }
        Verdict::Refused | Verdict::Answered(_) => &mut totals.refused,
        _ if with_table => &mut totals.with_table,
        _ => &mut totals.without_table,
    };
    counted.1 += 1;
    let reason = match verdict {
        Verdict::Agrees | Verdict::Refused | Verdict::NotParquet => {
            counted.0 += 1;
            return;
        }
        Verdict::Differs(told) => {
            totals.wrong += 1;
            format!("wrong rows: {told}")
        }
        Verdict::Fails(error) => format!("fails: {error}"),
        Verdict::Answered(error) => format!("is answered, where plain DataFusion says: {error}"),
    };
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let entry = Entry { reason, sql: sql.text.clone() };
    totals.failed.insert((sql.file.clone(), sql.line, zones), entry);
}

/// Says how many SELECTs agree, and writes the list anew when asked to.
pub(crate) fn report() {
    let mut totals = TOTALS.lock();
    if totals.times.is_empty() {
        return;
    }
    let share = |(some, all): (usize, usize)| 100.0 * some as f64 / all.max(1) as f64;
    println!(
        "sqllogictest: {} of {} SELECTs that touch a table agree ({:.2} %), {} of {} without a table; {} of {} that plain \
         DataFusion refuses are refused; {} have other rows; {} read a table that Parquet cannot hold",
        totals.with_table.0,
        totals.with_table.1,
        share(totals.with_table),
        totals.without_table.0,
        totals.without_table.1,
        totals.refused.0,
        totals.refused.1,
        totals.wrong,
        totals.not_parquet,
    );
    totals.times.sort();
    for (time, file) in totals.times.iter().rev().take(5) {
        println!("  {:6.1} s {file}", time.as_secs_f64());
    }
    if std::env::var_os("BUZZ_SLT_WRITE_KNOWN").is_some() {
        let written = Known::read().unwrap_or_default().write(merged(&totals.failed));
        println!("known.txt: {written:?}");
    }
}

/// One entry for a statement that fails with every number of zones that it was tried with.
fn merged(failed: &BTreeMap<Place, Entry>) -> BTreeMap<Place, Entry> {
    let mut merged = BTreeMap::new();
    for ((file, line, zones), entry) in failed {
        let others = ZONES.iter().filter(|other| *other != zones);
        let elsewhere = others.filter_map(|other| failed.get(&(file.clone(), *line, *other))).next().is_some();
        let zones = if elsewhere { 0 } else { *zones };
        merged.entry((file.clone(), *line, zones)).or_insert_with(|| entry.clone());
    }
    merged
}
