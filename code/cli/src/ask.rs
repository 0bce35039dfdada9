//! Executes the commands of the command line.

use std::io::{self, ErrorKind as IoErrorKind, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use buzz_answer::rows::Rows;
use buzz_fuse::explain::bytes;
use buzz_fuse::{Explain, NoRows, Progress, Request, Summary};
use buzz_protocol::{Options, Query, QueryError, Result, split_version};
use buzz_storage::{Storage, panic_message};
use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::args::{Arguments, Command, HowArguments, QueryArguments, SqlArguments};
use crate::local::LocalHost;
use crate::output::{Output, write_rows};
use crate::{sample, watch};

/// Exit code of an interrupted process: 128 plus the number of the signal.
const INTERRUPTED: u8 = 130;

/// Maximum time to wait until a stack has stopped a cancelled query.
const CANCEL_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(15);

/// Executes `arguments`. Prints errors to standard error and returns the exit code.
pub async fn carry_out(arguments: Arguments) -> ExitCode {
    let threads = match arguments.threads {
        Some(threads) => threads.get(),
        None => std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get),
    };
    if let Command::Stream(command) = arguments.command {
        return crate::stream::carry_out(command, threads).await;
    }
    // Runs in a separate task, so that an interrupt is handled while it computes.
    let interrupted = CancellationToken::new();
    let remote = match &arguments.command {
        Command::Query(QueryArguments { how, .. }) | Command::Sql(SqlArguments { how, .. }) => how.is_remote(),
        _ => false,
    };
    let mut work = tokio::spawn(match arguments.command {
        Command::Query(query) => ask_file(query, threads, interrupted.clone()).boxed(),
        Command::Sql(statement) => ask_sql(statement, threads, interrupted.clone()).boxed(),
        Command::Tables { file, tables } => show_tables(file, tables).boxed(),
        Command::Sample { folder, rows } => sample::generate(folder, rows, threads).boxed(),
        Command::Stream(_) => unreachable!("streams are executed above"),
    });
    let done = tokio::select! {
        done = &mut work => done,
        _ = tokio::signal::ctrl_c() => {
            interrupted.cancel();
            if remote {
                // Cancels the query on the stack and waits for its end. A second Ctrl-C does not wait.
                tokio::select! {
                    _ = tokio::time::timeout(CANCEL_TIMEOUT, &mut work) => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
            }
            if work.is_finished() {
                eprintln!("interrupted");
                return ExitCode::from(INTERRUPTED);
            }
            work.abort();
            // Waits only for the removal of a partially written output.
            _ = tokio::time::timeout(std::time::Duration::from_millis(500), work).await;
            eprintln!("interrupted");
            return ExitCode::from(INTERRUPTED);
        }
    };
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(error)) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
        Err(ended) => {
            let panic = ended.try_into_panic().ok();
            let message = panic.as_ref().map_or("its task was aborted", |panic| panic_message(panic.as_ref()));
            eprintln!("error: a bug in Buzz stopped the query: {message}");
            ExitCode::FAILURE
        }
    }
}

async fn ask_file(arguments: QueryArguments, threads: usize, interrupted: CancellationToken) -> Result<()> {
    let text = read_text(&arguments.file)?;
    let (query, base) = parse_query(&text, &arguments.how.tables)?;
    #[cfg(feature = "stack")]
    if arguments.how.is_remote() {
        let mut json: serde_json::Value = serde_json::from_str(&text.json)
            .map_err(|error| QueryError::invalid(format!("{}: {error}", text.source)))?;
        for (name, uri) in &arguments.how.tables {
            set_uri(&mut json, name, uri);
        }
        return ask_stack(json, arguments.how, &interrupted).await;
    }
    drop(interrupted);
    ask(query, base, arguments.how, threads).await
}

async fn ask_sql(arguments: SqlArguments, threads: usize, interrupted: CancellationToken) -> Result<()> {
    let base = std::env::current_dir()
        .map_err(|error| QueryError::invalid(format!("the working directory is not accessible: {error}")))?;
    let storage = storage();
    let mut catalogs = Vec::new();
    for (name, text) in &arguments.how.tables {
        let (uri, version, timestamp) = split_version(text);
        let kind = buzz_catalog::kind_of(uri, &base, &storage).await?;
        catalogs.push(serde_json::json!({
            "name": name, "type": kind.to_string(), "uri": uri, "version": version, "timestamp": timestamp
        }));
    }
    let query = serde_json::json!({
        "sql": arguments.sql, "capacity": {"zones": arguments.zones}, "catalogs": catalogs
    });
    #[cfg(feature = "stack")]
    if arguments.how.is_remote() {
        return ask_stack(query, arguments.how, &interrupted).await;
    }
    drop(interrupted);
    let (query, warnings) = Query::parse(&query.to_string(), "command line")?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    ask(query, base, arguments.how, threads).await
}

/// Creates the storage of one command. If the variables have no credentials, it looks for them where the AWS command
/// line does.
fn storage() -> Storage {
    let storage = Storage::default();
    #[cfg(feature = "stack")]
    if std::env::var_os("AWS_ACCESS_KEY_ID").is_none() {
        return storage.with_credentials(Arc::new(buzz_aws::credentials::UsualCredentials::default()));
    }
    storage
}

/// Runs the query on the stack in the arguments.
#[cfg(feature = "stack")]
async fn ask_stack(mut query: serde_json::Value, how: HowArguments, interrupted: &CancellationToken) -> Result<()> {
    for (name, value) in &how.params {
        query["params"][name] = serde_json::to_value(value)
            .map_err(|error| QueryError::invalid(format!("--param {name}: not serializable: {error}")))?;
    }
    crate::remote::ask(query, &how.stack, &how, interrupted).await
}

/// Replaces the uri of the catalog entry `name`, which exists in the query.
#[cfg(feature = "stack")]
fn set_uri(query: &mut serde_json::Value, name: &str, text: &str) {
    let (uri, version, timestamp) = split_version(text);
    for catalog in query["catalogs"].as_array_mut().into_iter().flatten().filter(|catalog| catalog["name"] == name) {
        catalog["uri"] = uri.into();
        if version.is_some() || timestamp.is_some() {
            (catalog["version"], catalog["timestamp"]) = (version.into(), timestamp.into());
        }
    }
}

async fn ask(mut query: Query, base: PathBuf, arguments: HowArguments, threads: usize) -> Result<()> {
    let mut options = Options::default();
    for assignment in &arguments.sets {
        options.set(assignment)?;
    }
    query.params.extend(arguments.params.iter().cloned());

    let host = LocalHost::new(Arc::new(storage()), &options, threads)?;
    let fuse = host.fuse();
    let plan = fuse.plan(&Request { query, base, options }).await?;
    for warning in &plan.warnings {
        eprintln!("warning: {warning}");
    }
    if arguments.explain || plan.explain == Explain::Plan {
        return print(&fuse.explain(&plan).await?);
    }
    let progress = Arc::new(Progress::default());
    if plan.explain == Explain::Analyze {
        let answered = watch::while_running(&progress, fuse.answer(&plan, &progress, &mut NoRows)).await;
        let summary = answered?;
        print(&fuse.explain_analyzed(&plan, &summary).await?)?;
        eprintln!("{}", one_line(&summary));
        return Ok(());
    }

    let output = Output::open(arguments.output.as_deref())?;
    let mut rows = Rows::new();
    let answered = watch::while_running(&progress, fuse.answer(&plan, &progress, &mut rows)).await;
    let summary = answered?;
    write_rows(&rows, arguments.format, output)?;
    eprintln!("{}", one_line(&summary));
    Ok(())
}

fn one_line(summary: &Summary) -> String {
    let time = summary.opened_in + summary.planned_in + summary.ran_in;
    format!(
        "rows: {}, files: {} of {}, bytes: {}, tasks: {}, retries: {}, time: {:.2} s, cost: n/a",
        summary.rows,
        summary.files_read,
        summary.files_found,
        bytes(summary.bytes_read),
        summary.tasks,
        summary.retries,
        time.as_secs_f64()
    )
}

/// The text of a query, its source, and the base folder of its relative uris.
struct QueryText {
    json: String,
    source: String,
    base: PathBuf,
}

fn read_text(file: &Path) -> Result<QueryText> {
    if file == Path::new("-") {
        let mut json = String::new();
        let read = io::stdin().read_to_string(&mut json);
        read.map_err(|error| QueryError::invalid(format!("standard input is not readable: {error}")))?;
        return Ok(QueryText { json, source: "standard input".to_string(), base: PathBuf::from(".") });
    }
    let json = std::fs::read_to_string(file)
        .map_err(|error| QueryError::invalid(format!("query file `{}`: {error}", file.display())))?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(QueryText { json, source: file.display().to_string(), base: folder.to_path_buf() })
}

/// Parses the query in `text` and replaces the uris given by `tables`. Also returns the base folder of relative uris.
fn parse_query(text: &QueryText, tables: &[(String, String)]) -> Result<(Query, PathBuf)> {
    let QueryText { json, source, base } = text;
    let (mut query, warnings) = Query::parse(json, source)?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    for (name, uri) in tables {
        query.replace_uri(name, &from_working_directory(uri))?;
    }
    let base = std::path::absolute(base)
        .map_err(|error| QueryError::invalid(format!("folder `{}`: {error}", base.display())))?;
    Ok((query, base))
}

/// Resolves a path against the working directory, if it exists there. Otherwise returns `uri` unchanged.
fn from_working_directory(uri: &str) -> String {
    if uri.contains("://") {
        return uri.to_string();
    }
    let (uri, version) = match split_version(uri).0 {
        plain if plain.len() < uri.len() => uri.split_at(plain.len()),
        _ => (uri, ""),
    };
    // For a glob, checks the folder before the first special character.
    let plain =
        uri.find(['*', '?', '[']).map_or(uri, |at| uri[..at].rsplit_once('/').map_or(".", |(folder, _)| folder));
    match std::path::absolute(uri) {
        Ok(absolute) if Path::new(plain).exists() => format!("{}{version}", absolute.display()),
        _ => format!("{uri}{version}"),
    }
}

async fn show_tables(file: PathBuf, tables: Vec<(String, String)>) -> Result<()> {
    let (query, base) = parse_query(&read_text(&file)?, &tables)?;
    let storage = storage();
    let mut text = String::new();
    buzz_catalog::know_buckets(&query.catalogs, &storage)?;
    for entry in &query.catalogs {
        let table = buzz_catalog::open(entry, &base, &storage).await?;
        for warning in &table.warnings {
            eprintln!("warning: {warning}");
        }
        let version = table.version.map(|version| format!(", version {version}")).unwrap_or_default();
        text.push_str(&format!("{} ({}{version}): {}\n", table.name, entry.kind, table.uri));
        text.push_str(&format!("  files: {}, bytes: {}\n", table.files.len(), table.bytes()));
        let partitions =
            if table.partition_columns.is_empty() { "none".to_string() } else { table.partition_columns.join(", ") };
        text.push_str(&format!("  partition columns: {partitions}\n  columns:\n"));
        for field in table.schema.fields() {
            // Shows view types as the types they represent.
            let shown = field.data_type().to_string().replace("Utf8View", "Utf8").replace("BinaryView", "Binary");
            text.push_str(&format!("    {}: {shown}\n", field.name()));
        }
    }
    print(&text)
}

/// Prints to standard output. A closed pipe is not an error.
pub(crate) fn print(text: &str) -> Result<()> {
    use io::Write;
    quiet_when_closed(io::stdout().lock().write_all(text.as_bytes()))
}

/// Converts the outcome of a write to standard output. A closed pipe is not an error: the reader has read enough.
pub(crate) fn quiet_when_closed(written: io::Result<()>) -> Result<()> {
    match written {
        Err(error) if error.kind() == IoErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(QueryError::invalid(format!("standard output is not writable: {error}"))),
        Ok(()) => Ok(()),
    }
}

/// Returns true if standard error is a terminal.
pub(crate) fn watched() -> bool {
    io::stderr().is_terminal()
}
