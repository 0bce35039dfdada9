//! `buzz stream`: continuous queries in this process.
//!
//! - `run` is the loop. `start` opens the pipeline in its state, `runner` runs an epoch, and `commit` ends it: state files,
//!   the record, and the rows in the sinks (`publish`, `outbox`). `summary` counts.
//! - `plan` turns a script into a pipeline with its sources and sinks.
//! - `json` translates the JSON form of a query to a script; `unique` refuses keys that it has twice.
//! - `store` is where state is kept.

mod commit;
mod json;
mod outbox;
mod plan;
mod publish;
mod run;
mod runner;
mod start;
mod store;
mod summary;
mod unique;

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use buzz_epoch::EpochLog;
use buzz_protocol::{QueryError, Result};
use buzz_serve::StreamsSettings;
use buzz_storage::QueryStores;
use clap::{Args, Subcommand};

/// The commands of `buzz stream`.
#[derive(Debug, Subcommand)]
pub enum StreamCommand {
    /// Run a script of continuous queries, or a query in JSON with "stream".
    ///
    /// The script has CREATE TABLE for sources and sinks, views, and INSERT INTO … SELECT. The rows of a SELECT without
    /// INSERT are printed as JSON lines. With --state, the run can be killed and started again without losing or
    /// repeating rows.
    Run(RunArguments),

    /// Print the stages of a script, what each keeps and for how long, and what an epoch costs. Reads no rows.
    Check {
        /// The script, or - for standard input.
        file: PathBuf,
        /// Print the physical plans too.
        #[arg(long)]
        plans: bool,
    },

    /// List the epochs of a pipeline, newest first.
    Epochs {
        /// The folder or s3:// uri of the state.
        #[arg(long, value_name = "URI")]
        state: String,
        /// The pipeline [default: the only one in the state].
        #[arg(long)]
        name: Option<String>,
        /// Maximum number of epochs.
        #[arg(long, default_value_t = 20)]
        last: usize,
    },
}

/// Arguments of `buzz stream run`.
#[derive(Debug, Args, Clone)]
pub struct RunArguments {
    /// The script, or - for standard input.
    pub file: PathBuf,

    /// Keep state, offsets and output in this folder or s3:// uri, and continue from it.
    #[arg(long, value_name = "URI")]
    pub state: Option<String>,

    /// End when all sources have ended; folders are read once and not followed.
    #[arg(long)]
    pub until_end: bool,

    /// Number of workers that hold state. It may differ from the run before.
    #[arg(long, value_name = "N")]
    pub parallelism: Option<NonZeroUsize>,

    /// Name of the pipeline in the state [default: the name of the script].
    #[arg(long)]
    pub name: Option<String>,

    /// Go back to this epoch before the start; 0 starts without state. Sinks keep the rows of later epochs and get them
    /// again.
    #[arg(long, value_name = "N", requires = "state")]
    pub from_epoch: Option<u64>,

    /// Stop after this number of epochs.
    #[arg(long, value_name = "N")]
    pub epochs: Option<u64>,

    /// Do not sync files of a local --state to the disk: faster, but the newest epochs may be lost with the power.
    #[arg(long)]
    pub no_sync: bool,
}

/// Executes a command. Prints errors to standard error and returns the exit code.
pub async fn carry_out(command: StreamCommand, threads: usize) -> ExitCode {
    let stores = Arc::new(crate::compose::stores()).for_query();
    let done = match command {
        StreamCommand::Run(arguments) => run::run(arguments, threads, &stores).await,
        StreamCommand::Check { file, plans } => check(&file, plans, &stores).await,
        StreamCommand::Epochs { state, name, last } => epochs(&state, name, last, &stores).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            crate::terminal::note(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Opens the place of the streams of a server: a folder, whose files are synced, or an s3:// uri.
///
/// # Errors
/// `Invalid` if the uri is wrong, `Data` if the folder cannot be used.
pub(crate) async fn streams(place: &str) -> Result<StreamsSettings> {
    if !store::is_remote(place) {
        return StreamsSettings::of_folder(Path::new(place.trim_start_matches("file://")));
    }
    let stores = Arc::new(crate::compose::stores()).for_query();
    let (store, root) = store::open(place, true, &plan::place(&stores, false)?).await?;
    Ok(StreamsSettings::of_bucket(store, root))
}

async fn check(file: &Path, plans: bool, stores: &Arc<QueryStores>) -> Result<()> {
    let (text, _) = plan::read_script(file)?;
    let place = plan::place(stores, false)?;
    let planned = plan::plan(&text, plan::Workers { given: None, threads: 1 }, &place, "check").await?;
    let mut description = planned.pipeline.describe(plans);
    let epoch = planned.settings.epoch_nanos(false) as f64 / 1e9;
    let stages = planned.pipeline.stages().count();
    let sinks = planned.sinks.len();
    let puts = 1 + stages + 2 * sinks;
    let month = 30.0 * 86_400.0 / epoch * puts as f64 * 5e-6;
    description.push_str(&format!(
        "epoch: every {epoch} s; at most {puts} files ({stages} of state, {sinks} of output and their copies, 1 record); \
         on S3 at 0.005 US$ per 1,000 PUTs at most {month:.2} US$ in 30 days of events\n"
    ));
    crate::terminal::print(&description)
}

async fn epochs(state: &str, name: Option<String>, last: usize, stores: &Arc<QueryStores>) -> Result<()> {
    store::check_exists(state)?;
    let (store, root) = store::open(state, false, &plan::place(stores, false)?).await?;
    let name = match name {
        Some(name) => name,
        None => store::only_pipeline(&store, &root).await?,
    };
    let log = EpochLog::existing(store, root, &name).await?;
    let log = log.ok_or_else(|| QueryError::invalid(format!("`{state}` has no pipeline `{name}`")))?;
    let records = log.list(last).await?;
    let mut text = format!(
        "pipeline {name}, version {}\n{:>8}  {:24}  {:>12}  {:>12}  {:26}  {:>11}  {:>6}  {:>6}  {:>8}\n",
        log.manifest().version,
        "epoch",
        "time",
        "rows in",
        "rows out",
        "watermark",
        "state bytes",
        "late",
        "bad",
        "seconds"
    );
    for record in records {
        let metric = |key: &str| record.metrics.get(key).and_then(serde_json::Value::as_u64).unwrap_or_default();
        let seconds = record.metrics.get("seconds").and_then(serde_json::Value::as_f64).unwrap_or_default();
        let watermark = record.watermarks.values().min().copied();
        let watermark = match watermark {
            None => "none".to_string(),
            Some(micros) if micros >= i64::MAX / 1000 => "end".to_string(),
            Some(micros) => time_text(micros.saturating_mul(1000)),
        };
        let bytes: u64 = record.state.iter().map(|file| file.bytes).sum();
        let time = time_text(record.at_ms.saturating_mul(1_000_000));
        text.push_str(&format!(
            "{:>8}  {time:24}  {:>12}  {:>12}  {watermark:26}  {bytes:>11}  {:>6}  {:>6}  {seconds:>8.3}{}{}\n",
            record.epoch,
            metric("rows_in"),
            metric("rows_out"),
            record.late.values().sum::<u64>(),
            record.bad.values().sum::<u64>(),
            if record.stop { "  stop" } else { "" },
            if record.metrics.contains_key("skipped") { "  skipped" } else { "" },
        ));
    }
    crate::terminal::print(&text)
}

/// Formats nanoseconds since 1970.
fn time_text(nanos: i64) -> String {
    let array = arrow::array::TimestampMillisecondArray::from(vec![nanos.div_euclid(1_000_000)]);
    arrow::util::display::array_value_to_string(&array, 0).unwrap_or_default()
}
