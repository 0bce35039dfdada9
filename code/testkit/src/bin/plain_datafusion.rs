//! Runs plain DataFusion in one process, for benchmarks: `plain-datafusion THREADS SQL NAME=PATH…` prints the rows. It
//! prints the time from opening the tables to the last row on standard error. A folder with a `_delta_log` is read by
//! delta-rs, one of JSON lines or Arrow files as such, and any other as Parquet.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

use std::path::Path;
use std::time::Instant;

use arrow::util::pretty::pretty_format_batches;
use datafusion::execution::options::ArrowReadOptions;
use datafusion::prelude::{JsonReadOptions, ParquetReadOptions, SessionConfig, SessionContext};

type Error = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: plain-datafusion THREADS SQL NAME=PATH…";
    let threads: usize = arguments.next().ok_or(usage)?.parse()?;
    let sql = arguments.next().ok_or(usage)?;

    let started = Instant::now();
    let ctx = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(threads));
    for table in arguments {
        let (name, path) = table.split_once('=').ok_or(usage)?;
        if Path::new(path).join("_delta_log").is_dir() {
            let url = url::Url::from_directory_path(std::fs::canonicalize(path)?).map_err(|()| "not a folder")?;
            let table = deltalake::open_table(url).await?;
            ctx.register_table(name, table.table_provider().await?)?;
            continue;
        }
        match extension(Path::new(path)).as_deref() {
            Some("json") => ctx.register_json(name, path, JsonReadOptions::default()).await?,
            Some("arrow") => ctx.register_arrow(name, path, ArrowReadOptions::default()).await?,
            _ => ctx.register_parquet(name, path, ParquetReadOptions::default()).await?,
        }
    }
    let rows = ctx.sql(&sql).await?.collect().await?;
    let time = started.elapsed();
    println!("{}", pretty_format_batches(&rows)?);
    eprintln!("time: {:.4} s", time.as_secs_f64());
    Ok(())
}

/// Returns the extension of the files in a folder, by the first one that has one, or that of a file.
fn extension(path: &Path) -> Option<String> {
    let of = |path: &Path| path.extension().map(|extension| extension.to_string_lossy().into_owned());
    match std::fs::read_dir(path) {
        Ok(files) => {
            files.filter_map(Result::ok).filter(|file| file.path().is_file()).find_map(|file| of(&file.path()))
        }
        Err(_) => of(path),
    }
}
