//! Executes the commands.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use buzz_engine::{Content, Estimate, Progress, Question, SinkOnce, Summary, TableDescription};
use buzz_protocol::{Format, QueryError, Result, human_bytes};
use buzz_results::Layout;
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::args::{Arguments, Command, HowArguments, TablesArguments};
use crate::output::{Output, write_rows};
use crate::terminal::{note, print, warn};
use crate::{names, question, sample, timeline, watch};

/// Exit code of an interrupted process: 128 plus the number of the signal.
pub(crate) const INTERRUPTED: u8 = 130;

/// Maximum time to wait until a cancelled query has ended: on a stack, and in this process.
pub(crate) const CANCEL_TIMEOUT_STACK: Duration = Duration::from_secs(15);
pub(crate) const CANCEL_TIMEOUT_LOCAL: Duration = Duration::from_millis(500);

/// Executes `arguments`. Prints errors to standard error and returns the exit code.
pub async fn carry_out(arguments: Arguments) -> ExitCode {
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
    let interrupted = CancellationToken::new();
    let timeout = if arguments.is_remote() { CANCEL_TIMEOUT_STACK } else { CANCEL_TIMEOUT_LOCAL };
    // Runs in a separate task, so that an interrupt is handled while it computes.
    let mut work = tokio::spawn(execute(arguments.command, threads, interrupted.clone()).boxed());
    let done = tokio::select! {
        done = &mut work => done,
        _ = tokio::signal::ctrl_c() => {
            interrupted.cancel();
            // Waits until the query's tasks and combs are released. A second Ctrl-C does not wait.
            tokio::select! {
                _ = tokio::time::timeout(timeout, &mut work) => {}
                _ = tokio::signal::ctrl_c() => {}
            }
            if !work.is_finished() {
                work.abort();
                // Waits only for the removal of a partially written output.
                _ = tokio::time::timeout(CANCEL_TIMEOUT_LOCAL, work).await;
            }
            note("interrupted");
            return ExitCode::from(INTERRUPTED);
        }
    };
    let failed = match done {
        Ok(Ok(())) => return ExitCode::SUCCESS,
        Ok(Err(error)) => error,
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => QueryError::panicked(panic.as_ref()),
            Err(_) => QueryError::internal("the command's task was aborted"),
        },
    };
    note(&format!("error: {failed}"));
    ExitCode::FAILURE
}

async fn execute(command: Command, threads: usize, interrupted: CancellationToken) -> Result<()> {
    match command {
        Command::Query(arguments) => ask(question::of_file(&arguments)?, &arguments.how, threads, &interrupted).await,
        Command::Sql(arguments) => {
            ask(question::of_statement(&arguments)?, &arguments.how, threads, &interrupted).await
        }
        Command::Tables(arguments) => tables(arguments, threads).await,
        Command::Sample { folder, rows } => sample::generate(folder, rows, threads).await,
        // It ends by itself, with a last epoch, when it is interrupted.
        Command::Mcp(_) | Command::Serve(_) | Command::Shell(_) | Command::Stream(_) => {
            Err(QueryError::internal("this command asks no question of its own"))
        }
    }
}

/// Runs `question` with the settings in `how`, and writes the answer.
async fn ask(
    mut question: Question,
    how: &HowArguments,
    threads: usize,
    interrupted: &CancellationToken,
) -> Result<()> {
    let engine = names::engine(&how.stack, how.tables_file.as_deref(), &question.options, threads).await?;

    // Opened before the query runs, so that an unwritable place fails at once.
    let format = question::format(how)?;
    let output = Output::open(how.output.as_deref())?;
    output.check(format)?;
    let timeline = how.timeline.as_deref().map(|path| Output::open(Some(path))).transpose()?;
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
            () = interrupted.cancelled() => note("cancelling the query …"),
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
