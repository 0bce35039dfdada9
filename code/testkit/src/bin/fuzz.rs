//! Fuzzes the table readers: `buzz-fuzz SECONDS BUZZ [SEED]` mutates Parquet files and Delta logs at random, and reads
//! them with the command BUZZ. Answers and errors are expected. A panic, a crash, an internal error, a hang or more
//! than 6 GiB of address space is a finding. Findings are kept in a folder; the command that reproduces each one is
//! printed.

#![expect(clippy::print_stdout, reason = "a program prints")]

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Int64Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::Int32Type;
use buzz_testkit::{mutate, shared_data};
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Time after which a read counts as a hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// Maximum address space of a read in kilobytes. Threads reserve far more address space than they use.
const MEMORY_KILOBYTES: usize = 6 << 20;

/// Maximum size of a seed file in bytes. In a larger file a mutation rarely hits the metadata.
const SEED_BYTES_MAX: u64 = 20_000;

fn main() -> Result<ExitCode, Error> {
    let usage = "usage: buzz-fuzz SECONDS BUZZ [SEED]";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds: u64 = arguments.first().ok_or(usage)?.parse()?;
    let buzz = PathBuf::from(arguments.get(1).ok_or(usage)?);
    let seed: u64 = match arguments.get(2) {
        Some(seed) => seed.parse()?,
        None => rand::rng().random(),
    };
    let folder = std::env::temp_dir().join(format!("buzz-fuzz-{seed}"));
    fs::create_dir_all(&folder)?;
    let (files, logs) = seeds(&folder)?;
    println!("seed {seed}: {} Parquet files and {} Delta logs", files.len(), logs.len());

    let mut random = StdRng::seed_from_u64(seed);
    let end = Instant::now() + Duration::from_secs(seconds);
    let (mut tried, mut answered, mut findings) = (0, 0, 0);
    while Instant::now() < end {
        let place = folder.join(format!("case-{tried}"));
        let (table, sql) = if random.random_bool(0.5) {
            (broken_file(files.choose(&mut random).ok_or("no files")?, &place, &mut random)?, "SELECT * FROM t")
        } else {
            // The data files do not exist; only the log is tested.
            (broken_log(logs.choose(&mut random).ok_or("no logs")?, &place, &mut random)?, "EXPLAIN SELECT * FROM t")
        };
        tried += 1;
        match read(&buzz, sql, &table)? {
            Outcome::Answered => answered += 1,
            Outcome::Refused => {}
            Outcome::Finding(what) => {
                findings += 1;
                println!("FINDING: {what}\n  {} sql '{sql}' --table t={}", buzz.display(), table.display());
                continue;
            }
        }
        fs::remove_dir_all(&place)?;
    }
    println!("{tried} tried, {answered} answered, {} refused, {findings} findings", tried - answered - findings);
    if findings == 0 {
        fs::remove_dir_all(&folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    Ok(ExitCode::FAILURE)
}

/// Returns Parquet files and Delta logs to mutate: generated ones, and small ones of the real tables if available.
fn seeds(folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Error> {
    let made = folder.join("made.parquet");
    let lists = (0..300).map(|row| (row % 5 > 0).then(|| (0..row % 4).map(Some)));
    let columns: [(&str, ArrayRef); 3] = [
        ("id", Arc::new(Int64Array::from_iter_values(0..300))),
        (
            "text",
            Arc::new((0..300).map(|row| (row % 7 > 0).then(|| format!("row {}", row % 40))).collect::<StringArray>()),
        ),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists))),
    ];
    let batch = RecordBatch::try_from_iter(columns)?;
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(100)).build();
    let mut writer = ArrowWriter::try_new(fs::File::create(&made)?, batch.schema(), Some(properties))?;
    writer.write(&batch)?;
    writer.close()?;

    let log = folder.join("made-log");
    fs::create_dir_all(&log)?;
    let schema = r#"{\"type\":\"struct\",\"fields\":[{\"name\":\"id\",\"type\":\"long\",\"nullable\":true,\"metadata\":{}},{\"name\":\"day\",\"type\":\"date\",\"nullable\":true,\"metadata\":{}}]}"#;
    let actions = [
        r#"{"protocol":{"minReaderVersion":3,"minWriterVersion":7,"readerFeatures":["deletionVectors"],"writerFeatures":["deletionVectors"]}}"#.to_string(),
        format!(r#"{{"metaData":{{"id":"a","format":{{"provider":"parquet","options":{{}}}},"schemaString":"{schema}","partitionColumns":["day"],"configuration":{{}},"createdTime":0}}}}"#),
        r#"{"add":{"path":"day=2024-01-01/a%20b.parquet","partitionValues":{"day":"2024-01-01"},"size":100,"modificationTime":0,"dataChange":true,"stats":"{\"numRecords\":3,\"minValues\":{\"id\":1},\"maxValues\":{\"id\":3},\"nullCount\":{\"id\":0}}","deletionVector":{"storageType":"u","pathOrInlineDv":"ab^-aqEH.-t@S}K{vb[*k^","offset":4,"sizeInBytes":40,"cardinality":1}}}"#.to_string(),
    ];
    fs::write(log.join("00000000000000000000.json"), actions.join("\n"))?;

    let (mut files, mut logs) = (vec![made], vec![log]);
    if let Some(data) = shared_data() {
        walk(&data.join("parquet"), &mut |path| {
            let small = fs::metadata(path).is_ok_and(|meta| meta.len() < SEED_BYTES_MAX);
            if small && path.extension().is_some_and(|end| end == "parquet" || end == "parq") {
                files.push(path.to_path_buf());
            }
        })?;
        walk(&data.join("delta"), &mut |path| {
            if path.ends_with("_delta_log/00000000000000000000.json") {
                logs.extend(path.parent().map(Path::to_path_buf));
            }
        })?;
    }
    // Directory order differs between machines, but a seed must select the same cases everywhere.
    files.sort();
    logs.sort();
    Ok((files, logs))
}

fn walk(folder: &Path, visit: &mut dyn FnMut(&Path)) -> Result<(), Error> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { walk(&path, visit)? } else { visit(&path) }
    }
    Ok(())
}

fn broken_file(seed: &Path, place: &Path, random: &mut StdRng) -> Result<PathBuf, Error> {
    fs::create_dir_all(place)?;
    let mut bytes = fs::read(seed)?;
    mutate(&mut bytes, random);
    let path = place.join("t.parquet");
    fs::write(&path, bytes)?;
    Ok(path)
}

fn broken_log(seed: &Path, place: &Path, random: &mut StdRng) -> Result<PathBuf, Error> {
    let log = place.join("_delta_log");
    fs::create_dir_all(&log)?;
    let mut names: Vec<PathBuf> = fs::read_dir(seed)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.is_file())
        .collect();
    names.sort();
    let broken = random.random_range(0..names.len().max(1));
    for (index, path) in names.iter().enumerate() {
        let mut bytes = fs::read(path)?;
        if index == broken {
            if random.random_bool(0.1) {
                continue;
            }
            mutate(&mut bytes, random);
        }
        fs::write(log.join(path.file_name().ok_or("a file has a name")?), bytes)?;
    }
    Ok(place.to_path_buf())
}

enum Outcome {
    Answered,
    Refused,
    Finding(String),
}

fn read(buzz: &Path, sql: &str, table: &Path) -> Result<Outcome, Error> {
    // The shell limits the address space. A process that exceeds it aborts.
    let limited = format!("ulimit -v {MEMORY_KILOBYTES}; exec \"$0\" \"$@\"");
    let mut child = Command::new("sh")
        .args(["-c", &limited])
        .arg(buzz)
        .args(["sql", sql, "--format", "ndjson", "--table"])
        .arg(format!("t={}", table.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut stderr = child.stderr.take().ok_or("a pipe")?;
    let said = std::thread::spawn(move || {
        let mut said = Vec::new();
        stderr.read_to_end(&mut said).map(|_| String::from_utf8_lossy(&said).into_owned())
    });
    let started = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if started.elapsed() > PATIENCE => {
                child.kill()?;
                child.wait()?;
                break None;
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let said = said.join().map_err(|_| "a reader of standard error panicked")??;
    let last = said.lines().rev().find(|line| line.contains("error")).unwrap_or_default().to_string();
    Ok(match status.map(|status| status.code()) {
        None => Outcome::Finding(format!("it hangs for {} s", PATIENCE.as_secs())),
        Some(Some(0)) => Outcome::Answered,
        Some(Some(1)) if last.contains("bug in Buzz") || last.contains("nternal") => Outcome::Finding(last),
        Some(Some(1)) => Outcome::Refused,
        Some(code) => Outcome::Finding(format!("exit code {code:?}: {last}")),
    })
}
