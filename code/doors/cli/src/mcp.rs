//! `buzz mcp`: answers a client of the Model Context Protocol on standard input and output.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;

use buzz_protocol::{Options, Result};
use buzz_serve::{Bounds, McpSettings, RegistrySettings};
use clap::Args;
use futures::FutureExt;

use crate::args::{StackArguments, assignment, option_help, table_uri};
use crate::serve::{RUNNING_LOCAL, RUNNING_STACK, own_tables, read_again_after, stopped};
use crate::terminal::note;
use crate::{names, question};

/// Queries that wait until another one ends.
const WAITING: usize = 64;

/// Arguments of `buzz mcp`.
#[derive(Debug, Args)]
pub struct McpArguments {
    /// Serve the table at this uri under a name; can be repeated. Hides a table of this name in the file of tables.
    #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
    tables: Vec<(String, String)>,

    /// File of names, which `buzz tables add` writes [default: buzz.json, if it exists].
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
    let file = arguments.tables_file.as_deref();
    let (engine, registry) = names::engine_and_names(&arguments.stack, file, &options, threads).await?;
    names::at_start(&arguments.stack, file, registry.as_ref()).await?;
    let running = arguments.running.unwrap_or(if is_remote { RUNNING_STACK } else { RUNNING_LOCAL });
    let base = question::working_directory()?;
    let read_again_after = read_again_after(is_remote);
    let settings = McpSettings {
        tables: own_tables(&arguments.tables)?,
        registry: Some(RegistrySettings { registry, read_again_after, can_change: false }),
        base,
        options,
        bounds: Bounds { running, waiting: WAITING, answers: running + 16 },
    };
    if io::stdin().is_terminal() {
        note(
            "waiting for a client of the Model Context Protocol on standard input; `buzz mcp --help` shows how to configure one",
        );
    }
    let stop = stopped()?.map(|_| ());
    buzz_serve::serve_stdio(engine, settings, stop).await
}
