//! `buzz stream`: continuous queries in this process.
//!
//! `buzz-streamd` runs them; here are the arguments, and what is printed. `pipelines` has the commands about those of a server,
//! which `server` calls.

mod pipelines;
mod server;

use std::io::Read;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use buzz_serve::StreamsSettings;
use buzz_storage::QueryStores;
use buzz_streamd::{Jobs, Notes, Process, Run};
use clap::{Args, Subcommand};

pub use self::pipelines::PipelinesCommand;

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

    /// A command about pipelines of servers.
    #[command(flatten)]
    Pipelines(PipelinesCommand),
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

    /// Go on, with a script that has changed, after the rows that were read of sources that it declares alike. Statements that
    /// have not changed keep their state. Without it, such a script starts again.
    #[arg(long = "continue", requires = "state", conflicts_with = "from_epoch")]
    continues: bool,

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
        StreamCommand::Run(arguments) => run(arguments, threads, &stores).await,
        StreamCommand::Check { file, plans } => check(&file, plans, &stores).await,
        StreamCommand::Epochs { state, name, last } => epochs(&state, name, last, &stores).await,
        StreamCommand::Pipelines(command) => match process(&stores, false, threads) {
            Ok(process) => pipelines::carry_out(command, process).await,
            Err(error) => Err(error),
        },
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
    if !buzz_streamd::store::is_remote(place) {
        return StreamsSettings::of_folder(Path::new(place.trim_start_matches("file://")));
    }
    let stores = Arc::new(crate::compose::stores()).for_query();
    let (store, root) = buzz_streamd::store::open(place, true, &process(&stores, false, 1)?.place).await?;
    Ok(StreamsSettings::of_bucket(store, root, place.to_string()))
}

/// Prints notes to standard error.
#[derive(Debug)]
struct Terminal;

impl Notes for Terminal {
    fn note(&self, text: &str) {
        crate::terminal::note(text);
    }

    fn warn(&self, text: &str) {
        crate::terminal::warn(text);
    }
}

fn process(stores: &Arc<QueryStores>, until_end: bool, threads: usize) -> Result<Process> {
    Process::of_terminal(stores, until_end, threads, Arc::new(Terminal))
}

/// Reads a script, or a query in JSON, which is translated to one. Returns it with the name that the query gives.
fn read_script(file: &Path) -> Result<(String, Option<String>)> {
    let text = if file == Path::new("-") {
        let mut text = String::new();
        let read = std::io::stdin().read_to_string(&mut text);
        read.map_err(|error| QueryError::invalid(format!("standard input is not readable: {error}")))?;
        text
    } else {
        std::fs::read_to_string(file)
            .map_err(|error| QueryError::invalid(format!("script `{}` is not readable: {error}", file.display())))?
    };
    buzz_streamd::script_of(text)
}

/// Returns the name of the pipeline of a script: the given one, that of a query in JSON, or that of the file.
fn name_of(file: &Path, given: Option<String>, of_query: Option<String>) -> String {
    let stem = file.file_stem().filter(|stem| *stem != "-").map(|stem| stem.to_string_lossy().into_owned());
    given.or(of_query).or(stem).unwrap_or_else(|| "pipeline".to_string())
}

/// Starts the pipelines of the state at `uri`.
pub(crate) async fn jobs(uri: &str, threads: usize) -> Result<Jobs> {
    let stores = Arc::new(crate::compose::stores()).for_query();
    Jobs::start(uri, process(&stores, false, threads)?).await
}

async fn run(arguments: RunArguments, threads: usize, stores: &Arc<QueryStores>) -> Result<()> {
    let (script, of_query) = read_script(&arguments.file)?;
    let run = Run {
        script,
        name: name_of(&arguments.file, arguments.name, of_query),
        state: arguments.state,
        parallelism: arguments.parallelism,
        from_epoch: arguments.from_epoch,
        continues: arguments.continues,
        epochs: arguments.epochs,
        sync: !arguments.no_sync,
    };
    let interrupted = async {
        // Without a handler for the signal, an interrupt would end the process at any point, which is safe too.
        let _ = tokio::signal::ctrl_c().await;
    };
    let summary = buzz_streamd::run(&run, &process(stores, arguments.until_end, threads)?, interrupted).await?;
    crate::terminal::note(&summary);
    Ok(())
}

async fn check(file: &Path, plans: bool, stores: &Arc<QueryStores>) -> Result<()> {
    let (text, _) = read_script(file)?;
    crate::terminal::print(&buzz_streamd::describe(&text, plans, &process(stores, false, 1)?).await?)
}

async fn epochs(state: &str, name: Option<String>, last: usize, stores: &Arc<QueryStores>) -> Result<()> {
    let (name, log) = buzz_streamd::existing(state, name, &process(stores, false, 1)?).await?;
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
