//! DataFusion's own `.slt` files, and those of Buzz in `tests/sql`: every SELECT runs in Buzz and in plain DataFusion on the same Parquet, and every other
//! statement that plain DataFusion refuses must fail in Buzz too.
//!
//! A statement that does not agree must stand in `known.txt` or `known_answers.txt` with a reason. A statement that stands
//! there must not agree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use buzz_protocol::Options;
use buzz_testkit::workspace_root;
use libtest_mimic::{Completion, Failed};
use parking_lot::{Mutex, MutexGuard};

use crate::common::host;
use crate::inputs::Inputs;
use crate::known::{Entry, Known, List, Place};
use crate::plain::Asked;
use crate::script::{Kind, Script, Sql, records};
use crate::verdict::{PATIENCE, Plain, Verdict, compare_with};

/// Counts over all files.
#[derive(Debug, Default)]
struct Totals {
    /// SELECTs over tables that both answered alike, and all that plain DataFusion answered.
    with_table: (usize, usize),
    without_table: (usize, usize),
    /// SELECTs that both refused, and all that plain DataFusion refused.
    refused: (usize, usize),
    /// Other statements that both refused, and all that plain DataFusion refused.
    others_refused: (usize, usize),
    slow: usize,
    not_parquet: usize,
    /// Statements over tables whose files are missing, by script; and the files.
    lost: BTreeMap<String, usize>,
    missing: BTreeSet<String>,
    wrong: usize,
    failed: BTreeMap<(List, Place), Entry>,
    times: Vec<(Duration, String)>,
}

/// Numbers of combs that each file is tried with.
const ZONES: [usize; 2] = [1, 4];

static TOTALS: LazyLock<Mutex<Totals>> = LazyLock::new(Mutex::default);

fn totals() -> MutexGuard<'static, Totals> {
    TOTALS.lock()
}

/// Both lists, or the reason why they cannot be read.
pub(crate) type Lists = Result<[Known; 2], String>;

/// Reads both lists.
pub(crate) fn lists() -> Lists {
    Ok([Known::read(List::Differs)?, Known::read(List::Answers)?])
}

/// Returns the files below `folder` that are scripts of their own.
pub(crate) fn files(folder: &Path) -> Vec<String> {
    let below = |pattern: &str| glob::glob(&folder.join(pattern).to_string_lossy()).into_iter().flatten().flatten();
    let scripts = below("**/*.slt").chain(below("*.slt.part"));
    let relative = scripts.filter_map(|path| Some(path.strip_prefix(folder).ok()?.to_string_lossy().into_owned()));
    let mut files: Vec<String> = relative.collect();
    files.sort();
    files
}

/// Returns the folder of the `.slt` files of Buzz.
pub(crate) fn own_files() -> PathBuf {
    workspace_root().join("code/doors/cli/tests/sql")
}

/// Runs one file of `folder` with each number of combs, and compares with the lists. The test is ignored if every statement
/// reads a file that is missing.
pub(crate) async fn run(inputs: &Inputs, folder: &Path, file: &str, lists: &Lists) -> Result<Completion, Failed> {
    let started = Instant::now();
    let lists = lists.as_ref().map_err(Clone::clone)?;
    let mut script = Script::new(inputs).await?;
    let host = host(&[]);
    let (mut wrong, mut seen, mut tried, mut lost) = (Vec::new(), Vec::new(), 0, 0);
    for sql in records(folder, file)? {
        seen.push((sql.line, sql.text.clone()));
        let Ok(kind) = tokio::time::timeout(PATIENCE, script.take(&sql.text)).await else {
            totals().slow += 1;
            continue;
        };
        let asked = |tables, ordered| Asked {
            sql: sql.text.clone(),
            tables,
            options: options(&script).0,
            ordered,
            patience: PATIENCE,
        };
        let (what, asked, plain) = match kind {
            Kind::Setup => continue,
            Kind::Missing => {
                lost += 1;
                continue;
            }
            Kind::NotParquet => {
                totals().not_parquet += 1;
                continue;
            }
            Kind::Select { tables, ordered } => {
                let what = if tables.is_empty() { What::Select } else { What::SelectOfTable };
                let asked = asked(tables, ordered);
                let plain = Plain::of(&asked).await;
                (what, asked, plain)
            }
            Kind::Refused { tables, error } => (What::Other, asked(tables, false), Plain::Refused(error)),
        };
        tried += 1;
        for zones in ZONES {
            let verdict = compare_with(&host, &asked, &plain, zones, &sets(&script, zones)).await;
            count(&sql, zones, what, &verdict);
            wrong.extend(judge(&sql, zones, &verdict, lists));
        }
    }
    wrong.extend(lists.iter().flat_map(|known| known.strangers(file, &seen)));
    let mut totals = totals();
    totals.times.push((started.elapsed(), file.to_string()));
    if lost > 0 {
        *totals.lost.entry(file.to_string()).or_default() += lost;
    }
    totals.missing.extend(script.missing().iter().cloned());
    if !wrong.is_empty() {
        return Err(format!("{} statements\n{}", wrong.len(), wrong.join("\n")).into());
    }
    if tried == 0 && lost > 0 {
        let missing: Vec<&str> = script.missing().iter().map(String::as_str).collect();
        return Ok(Completion::ignored_with(format!("files are missing: {}", missing.join(", "))));
    }
    Ok(Completion::Completed)
}

/// Compares a verdict with the lists; returns what is wrong.
fn judge(sql: &Sql, zones: usize, verdict: &Verdict, lists: &[Known]) -> Vec<String> {
    let at = format!("{}:{}", sql.file, sql.line);
    let expected = List::of(verdict);
    let mut wrong = Vec::new();
    for known in lists {
        match (known.of(&sql.file, sql.line, zones), expected == Some(known.list())) {
            (Some(entry), false) if entry.is_sometimes() => {}
            (Some(_), false) => wrong.push(format!("{at} agrees now; take it from {}", known.list().name())),
            (None, true) => {
                wrong.push(format!("{at} {verdict:?}\n    {}", sql.text.trim().replace('\n', "\n    ")));
            }
            _ => {}
        }
    }
    wrong
}

/// Returns Buzz's options that say the same as the settings of a script, and their text.
fn options(script: &Script) -> (Options, Option<String>) {
    let mut options = Options::default();
    let zone = script.time_zone().map(|zone| format!("time_zone={zone}"));
    if let Some(zone) = &zone {
        // Buzz and plain DataFusion both refuse the statements of a script with a zone that does not exist.
        _ = options.set(zone);
    }
    (options, zone)
}

fn sets(script: &Script, zones: usize) -> Vec<String> {
    // With several combs no join is done by HBees, so that all are divided among the combs.
    let build_bytes = if zones == 1 { "build_bytes=256MiB" } else { "build_bytes=0" };
    let sets = ["tasks=3", "split_bytes=1", "timeout_seconds=60", build_bytes];
    sets.into_iter().map(str::to_string).chain(options(script).1).collect()
}

/// The kind of a statement, for the counts.
#[derive(Debug, Clone, Copy)]
enum What {
    SelectOfTable,
    Select,
    Other,
}

fn count(sql: &Sql, zones: usize, what: What, verdict: &Verdict) {
    let mut totals = totals();
    let totals = &mut *totals;
    let counted = match (verdict, what) {
        (Verdict::Slow, _) => {
            totals.slow += 1;
            return;
        }
        (_, What::Other) => &mut totals.others_refused,
        (Verdict::Refused | Verdict::Answered(_) | Verdict::Unclear(_), _) => &mut totals.refused,
        (_, What::SelectOfTable) => &mut totals.with_table,
        (_, What::Select) => &mut totals.without_table,
    };
    counted.1 += 1;
    let Some(list) = List::of(verdict) else {
        counted.0 += 1;
        return;
    };
    let reason = match verdict {
        Verdict::Differs(told) => {
            totals.wrong += 1;
            format!("wrong rows: {told}")
        }
        Verdict::Fails(error) => format!("fails: {error}"),
        Verdict::Answered(error) => format!("plain DataFusion fails: {error}"),
        Verdict::Unclear(error) => format!("is refused without a clear error: {error}"),
        Verdict::Agrees | Verdict::Refused | Verdict::Slow => return,
    };
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    let entry = Entry { reason, sql: sql.text.clone() };
    totals.failed.insert((list, (sql.file.clone(), sql.line, zones)), entry);
}

/// Prints how many statements agree. Writes the lists if `BUZZ_SLT_WRITE_KNOWN` is set.
pub(crate) fn report() {
    let mut totals = totals();
    if totals.times.is_empty() {
        return;
    }
    let share = |(some, all): (usize, usize)| 100.0 * some as f64 / all.max(1) as f64;
    println!(
        "sqllogictest: {} of {} SELECTs that touch a table agree ({:.2} %), {} of {} without a table; of the statements \
         that plain DataFusion refuses, Buzz refuses {} of {} SELECTs and {} of {} others; {} have other rows",
        totals.with_table.0,
        totals.with_table.1,
        share(totals.with_table),
        totals.without_table.0,
        totals.without_table.1,
        totals.refused.0,
        totals.refused.1,
        totals.others_refused.0,
        totals.others_refused.1,
        totals.wrong,
    );
    println!(
        "  skipped: {} statements that read a table that Parquet cannot hold, {} that take plain DataFusion more than {} s, \
         {} that read files which are missing",
        totals.not_parquet,
        totals.slow,
        PATIENCE.as_secs(),
        totals.lost.values().sum::<usize>(),
    );
    if !totals.missing.is_empty() {
        let scripts: Vec<String> = totals.lost.iter().map(|(file, count)| format!("{file} ({count})")).collect();
        let missing: Vec<&str> = totals.missing.iter().map(String::as_str).collect();
        println!("  missing: {}\n  in: {}", missing.join(", "), scripts.join(", "));
    }
    totals.times.sort();
    for (time, file) in totals.times.iter().rev().take(5) {
        println!("  {:6.1} s {file}", time.as_secs_f64());
    }
    if std::env::var_os("BUZZ_SLT_WRITE_KNOWN").is_some() {
        for list in [List::Differs, List::Answers] {
            let written = Known::read(list).map(|known| known.write(merged(&totals.failed, list)));
            println!("{}: {written:?}", list.name());
        }
    }
}

/// Returns the failed statements of a list, with one entry for a statement that fails with every number of zones.
fn merged(failed: &BTreeMap<(List, Place), Entry>, list: List) -> BTreeMap<Place, Entry> {
    let of_list = failed.iter().filter(|((of, _), _)| *of == list);
    let failed: BTreeMap<&Place, &Entry> = of_list.map(|((_, place), entry)| (place, entry)).collect();
    let mut merged = BTreeMap::new();
    for ((file, line, zones), entry) in &failed {
        let others = ZONES.iter().filter(|other| *other != zones);
        let elsewhere = others.filter_map(|other| failed.get(&(file.clone(), *line, *other))).next().is_some();
        let zones = if elsewhere { 0 } else { *zones };
        merged.entry((file.clone(), *line, zones)).or_insert_with(|| (*entry).clone());
    }
    merged
}
