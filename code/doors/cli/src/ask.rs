//! Executes the commands.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use buzz_engine::{Content, Estimate, Progress, Question, SinkOnce, Summary, TableDescription};
use buzz_protocol::{Format, QueryError, Result, human_bytes};
use buzz_results::Layout;
use futures::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;

use crate::args::{Arguments, Command, HowArguments, TablesArguments};
use crate::interrupt::Interrupt;
use crate::output::{Output, write_rows};
use crate::terminal::{note, print, warn};
use crate::{names, question, sample, timeline, watch};

/// Exit code of a process that SIGINT interrupted: 128 plus the number of the signal.
pub(crate) const INTERRUPTED: u8 = 130;

/// The signal for a file that exceeds the limit of its size, on Linux and on macOS.
const SIGXFSZ: i32 = 25;

/// Maximum time to wait until a cancelled query has ended: on a stack, and in this process.
pub(crate) const CANCEL_TIMEOUT_STACK: Duration = Duration::from_secs(15);
pub(crate) const CANCEL_TIMEOUT_LOCAL: Duration = Duration::from_millis(500);

/// Executes `arguments`. Prints errors to standard error and returns the exit code.
pub async fn carry_out(arguments: Arguments) -> ExitCode {
    fail_writes_of_large_files();
    let threads = match arguments.threads {
        Some(threads) => threads.get(),
        None => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
    };
    if let Command::Stream(command) = arguments.command {
        // Planning recurses, and only the threads of the runtime have a stack that is made for it.
        let runtime = tokio::runtime::Handle::current();
        let run = move || runtime.block_on(crate::stream::carry_out(command, threads));
        let done = tokio::task::spawn_blocking(run).await;
        return done.unwrap_or_else(|error| {
            crate::terminal::note(&format!("error: the run stopped: {error}"));
            ExitCode::FAILURE
        });
    }
    if let Command::Shell(command) = arguments.command {
        return crate::shell::carry_out(command, threads).await;
    }
    if let Command::Serve(arguments) = arguments.command {
        return crate::serve::carry_out(arguments, threads).await;
    }
    if let Command::Mcp(arguments) = arguments.command {
        return crate::mcp::carry_out(arguments, threads).await;
    }
    match answered(arguments, threads).await {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Interrupted(signal)) => {
            note("interrupted");
            ExitCode::from(u8::try_from(128 + signal.as_raw_value()).unwrap_or(INTERRUPTED))
        }
        Err(failed) => {
            note(&format!("error: {failed}"));
            ExitCode::FAILURE
        }
    }
}

/// The end of a command that did not fail.
enum Ended {
    Done,
    Interrupted(SignalKind),
}

/// Executes a command that ends by itself or when it is interrupted. Then it leaves no temporary output.
async fn answered(arguments: Arguments, threads: usize) -> Result<Ended> {
    let interrupt = Interrupt::default();
    let timeout = if arguments.is_remote() { CANCEL_TIMEOUT_STACK } else { CANCEL_TIMEOUT_LOCAL };
    let stopped = crate::serve::stopped()?;
    // Runs in a separate task, so that an interrupt is handled while it computes.
    let mut work = tokio::spawn(execute(arguments.command, threads, interrupt.clone()).boxed());
    let signal = tokio::select! {
        done = &mut work => return done_of(done).map(|()| Ended::Done),
        signal = stopped => signal,
    };
    let again = crate::serve::stopped()?;
    interrupt.interrupt();
    // Waits until the query's tasks and combs are released. A second signal does not wait.
    let ended = tokio::select! {
        ended = tokio::time::timeout(timeout, &mut work) => ended.ok(),
        _ = again => None,
    };
    let ended = match ended {
        Some(ended) => Some(ended),
        None => {
            work.abort();
            tokio::time::timeout(CANCEL_TIMEOUT_LOCAL, work).await.ok()
        }
    };
    interrupt.remove_temporary();
    // The output was complete before the signal had an effect.
    let is_done = ended.is_some_and(|done| matches!(done, Ok(Ok(()))));
    Ok(if is_done { Ended::Done } else { Ended::Interrupted(signal) })
}

fn done_of(done: std::result::Result<Result<()>, JoinError>) -> Result<()> {
    done.unwrap_or_else(|ended| {
        Err(match ended.try_into_panic() {
            Ok(panic) => QueryError::panicked(panic.as_ref()),
            Err(_) => QueryError::internal("the command's task was aborted"),
        })
    })
}

/// Keeps the signal that a process gets when a file exceeds its limit (`ulimit -f`) from ending the process: the write
/// fails instead, with a message.
fn fail_writes_of_large_files() {
    // A handler stays installed when its stream is dropped. If there is none, the process ends as before.
    _ = signal(SignalKind::from_raw(SIGXFSZ));
}

async fn execute(command: Command, threads: usize, interrupt: Interrupt) -> Result<()> {
    match command {
        Command::Query(arguments) => ask(question::of_file(&arguments)?, &arguments.how, threads, &interrupt).await,
        Command::Sql(arguments) => ask(question::of_statement(&arguments)?, &arguments.how, threads, &interrupt).await,
        Command::Tables(arguments) => tables(arguments, threads).await,
        Command::Sample { folder, rows } => sample::generate(folder, rows, threads).await,
        // It ends by itself, with a last epoch, when it is interrupted.
        Command::Mcp(_) | Command::Serve(_) | Command::Shell(_) | Command::Stream(_) => {
            Err(QueryError::internal("this command asks no question of its own"))
        }
    }
}

/// Runs `question` with the settings in `how`, and writes the answer.
async fn ask(mut question: Question, how: &HowArguments, threads: usize, interrupt: &Interrupt) -> Result<()> {
    let engine = names::engine(&how.stack, how.tables_file.as_deref(), &question.options, threads).await?;

    // Opened before the query runs, so that an unwritable place fails at once.
    let format = question::format(how)?;
    let output = Output::open(how.output.as_deref())?.until(interrupt);
    output.check(format)?;
    let timeline = how.timeline.as_deref().map(|path| Output::open(Some(path))).transpose()?;
    let timeline = timeline.map(|output| output.left_by(interrupt));
    let layout = Layout { rows_max: Some(how.max_rows).filter(|rows| *rows > 0), ..Layout::default() };
    let query = question.id;
    let incoming = output.incoming(format)?;
    let written = incoming.map(|(sink, written)| {
        question.sink = Some(SinkOnce::new(sink));
        written
    });
    let mut running = engine.start(question);
    let progress = Arc::clone(running.progress());
    let answering = async {
        tokio::select! {
            answer = running.answer() => return answer,
            () = interrupt.interrupted() => note("cancelling the query …"),
        }
        running.cancel();
        running.answer().await
    };
    let answer = watch::while_running(&progress, query, answering).await;
    // A page that cannot be written loses neither the error of the query nor its rows.
    let page = timeline.map(|output| {
        output.write_text(&match &answer {
            Ok(answer) => timeline::page(query, &answer.summary, None),
            Err(error) => timeline::page(query, &so_far(&progress), Some(error)),
        })
    });
    let mut answer = answer?;
    match &answer.content {
        Content::Plan(text) if matches!(format, Format::Json | Format::Ndjson) => {
            print(&plan_json(text, answer.summary.estimate.as_ref()))?;
        }
        Content::Plan(text) => print(text)?,
        Content::Rows(rows) => write_rows(rows, format, &layout, output)?,
        Content::Passed => {
            let written = written.ok_or_else(|| QueryError::internal("the rows were passed to no output"))?;
            output.finish(written).await?;
        }
    }
    if !matches!(answer.content, Content::Plan(_)) {
        // The user has waited for the output too.
        answer.summary.total = progress.elapsed();
    }
    if !matches!(answer.content, Content::Plan(_)) || answer.summary.ran() {
        note(&one_line(&answer.summary));
    }
    page.unwrap_or(Ok(()))
}

/// Returns a plan as one line of JSON: `{"plan": …, "estimate": {…}}`. The plan of a query that ran has no estimate.
fn plan_json(text: &str, estimate: Option<&Estimate>) -> String {
    let mut plan = serde_json::json!({"plan": text});
    if let Some(estimate) = estimate {
        plan["estimate"] = serde_json::json!(estimate);
    }
    format!("{plan}\n")
}

/// Returns the work that was done for a query without an answer.
fn so_far(progress: &Progress) -> Summary {
    Summary {
        bytes_read: Progress::get(&progress.bytes_scanned),
        tasks: Progress::get(&progress.tasks),
        retries: Progress::get(&progress.retries),
        stragglers: Progress::get(&progress.stragglers),
        requests: progress.requests(),
        reruns: Progress::get(&progress.reruns),
        rows_delivered: Progress::get(&progress.rows_delivered),
        total: progress.elapsed(),
        timeline: progress.timeline(),
        ..Summary::default()
    }
}

/// Formats the summary that follows the rows.
pub(crate) fn one_line(summary: &Summary) -> String {
    let cost = summary.cost_usd.map_or_else(|| "n/a".to_string(), |cost| format!("${cost:.6}"));
    let requests = summary.requests_note().map(|requests| format!(" requests: {requests},")).unwrap_or_default();
    let reused = summary.reused_note().map(|reused| format!(" reused: {reused},")).unwrap_or_default();
    let started = summary.started_note().map(|started| format!(", started: {started}")).unwrap_or_default();
    format!(
        "rows: {}, files: {} of {}, bytes: {}, tasks: {}, retries: {},{requests}{reused} time: {:.2} s, cost: {cost}{started}",
        summary.rows,
        summary.files_read,
        summary.files_found,
        human_bytes(summary.bytes_read),
        summary.tasks,
        summary.retries,
        summary.total.as_secs_f64(),
    )
}

async fn tables(arguments: TablesArguments, threads: usize) -> Result<()> {
    let Some(file) = arguments.file else {
        return match arguments.names {
            Some(command) => names::carry_out(command, threads).await,
            None => Err(QueryError::invalid("`buzz tables` needs a query file, or add, list, show or drop")),
        };
    };
    let question = question::of_tables(Path::new(&file), &arguments.tables)?;
    let file = arguments.tables_file.as_deref();
    let engine = names::engine(&arguments.stack, file, &question.options, threads).await?;
    let tables = engine.describe(&question).await?;
    for table in &tables {
        table.warnings.iter().for_each(|warning| warn(warning));
    }
    print(&tables.iter().map(described).collect::<String>())
}

fn described(table: &TableDescription) -> String {
    let version = table.version.map(|version| format!(", version {version}")).unwrap_or_default();
    let partitions =
        if table.partition_columns.is_empty() { "none".to_string() } else { table.partition_columns.join(", ") };
    let columns: String = table.columns.iter().map(|(name, data_type)| format!("    {name}: {data_type}\n")).collect();
    format!(
        "{} ({}{version}): {}\n  files: {}, bytes: {}\n  partition columns: {partitions}\n  columns:\n{columns}",
        table.name, table.kind, table.uri, table.files, table.bytes
    )
}
