//! `buzz mcp`: answers a client of the Model Context Protocol on standard input and output.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use buzz_engine::Engine;
use buzz_protocol::{Options, Result};
use buzz_serve::{Bounds, McpSettings};
use clap::Args;

use crate::args::{StackArguments, assignment, option_help, table_uri};
use crate::serve::{RUNNING_LOCAL, RUNNING_STACK, stopped, tables};
use crate::terminal::note;
use crate::{compose, question};

/// Queries that wait until another one ends.
const WAITING: usize = 64;

/// Arguments of `buzz mcp`.
#[derive(Debug, Args)]
pub struct McpArguments {
    /// Serve the table at this uri under a name; can be repeated. Replaces an entry of the file of tables.
    #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
    tables: Vec<(String, String)>,

    /// JSON file whose field "catalogs" has the tables, as in a query [default: buzz.json, if it exists].
    #[arg(long = "tables", value_name = "FILE")]
    tables_file: Option<PathBuf>,

    /// Number of queries that run at the same time [default: 2, or 8 on a stack].
    #[arg(long, value_name = "N")]
    running: Option<usize>,

    /// Set an option of all queries, such as memory_bytes=2GiB; can be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    sets: Vec<String>,

    /// The stack that runs the queries, if any.
    #[command(flatten)]
    stack: StackArguments,
}

/// Returns the end of the text of `--help`.
pub(crate) fn help() -> String {
    format!(
        "\
The client starts this program. Many clients read a file such as mcp.json:

  {{
    \"mcpServers\": {{
      \"buzz\": {{
        \"command\": \"/usr/local/bin/buzz\",
        \"args\": [\"mcp\", \"--table\", \"trips=s3://bucket/trips\", \"--set\", \"max_scan_bytes=10GiB\"]
      }}
    }}
  }}

Write absolute paths, since the client chooses the working directory. Standard output has messages of the protocol only;
warnings go to standard error. The tools are list_tables, describe_table, estimate and query. An answer of query has up to 200
rows and 100000 bytes. `buzz serve` has the same tools at http://127.0.0.1:8642/mcp.

{}",
        option_help()
    )
}

/// Serves until the client closes standard input, SIGINT or SIGTERM, and returns the exit code.
pub(crate) async fn carry_out(arguments: McpArguments, threads: usize) -> ExitCode {
    match serve(arguments, threads).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("error: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn serve(arguments: McpArguments, threads: usize) -> Result<()> {
    let mut options = Options::default();
    for assignment in &arguments.sets {
        options.set(assignment)?;
    }
    let is_remote = arguments.stack.is_named();
    let engine: Arc<dyn Engine> = match is_remote {
        true => Arc::new(compose::stack_engine(&arguments.stack).await?),
        false => compose::local_engine(&options, threads)?,
    };
    let running = arguments.running.unwrap_or(if is_remote { RUNNING_STACK } else { RUNNING_LOCAL });
    let base = question::working_directory()?;
    let settings = McpSettings {
        tables: tables(arguments.tables_file.as_deref(), &arguments.tables, &base).await?,
        base,
        options,
        bounds: Bounds { running, waiting: WAITING, answers: running + 16 },
    };
    if io::stdin().is_terminal() {
        note(
            "waiting for a client of the Model Context Protocol on standard input; `buzz mcp --help` shows how to configure one",
        );
    }
    buzz_serve::serve_stdio(engine, settings, stopped()?).await
}
