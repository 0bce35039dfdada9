//! Arguments of the `buzz` command. The doc comments are its `--help` text.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use buzz_protocol::options::OPTION_HELP;
use buzz_protocol::{FORMATS, Format, Options, Param};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  buzz sample data/nyc-taxi-daily
      Generate the sample table: one month of taxi rides, 3 million rows, in Delta Lake format.
  buzz query code/examples/query-delta-taxi.json --table nyc_taxi=data/nyc-taxi-daily
      Run the example query on the sample table and print the rows.
  buzz sql 'SELECT payment_type, COUNT(*) FROM trips GROUP BY payment_type' --table trips=data/nyc-taxi-daily
      Run one SQL statement without a query file. Buzz divides the work between HBees and HCombs.
  buzz sql 'SELECT COUNT(*) FROM t' --table t=rides/2024/*.csv.gz
      Read CSV files. Parquet, JSON lines (.jsonl) and Delta Lake work the same way.
  buzz sql 'SELECT COUNT(*) FROM t' --table t=lake/trips@v12
      Read version 12 of a Delta Lake table.
  buzz query query.json --explain
      Print steps, files after pruning, tasks and plans, without running the query.
  buzz query query.json --format parquet --output result.parquet
      Write the rows to a Parquet file.
  buzz tables query.json
      List files, size, columns and partition columns of each table of the query.
  buzz query query.json --stack dev
      Run the query on the stack `dev` on AWS. Ctrl-C cancels it there.
  echo '{…}' | buzz query - --format ndjson | head
      Read the query from standard input and print one JSON object per row.

Output: rows on standard output; progress, warnings and a summary on standard error.
Log: off by default; BUZZ_LOG=info (or buzz_fuse=debug) writes it to standard error.
Exit codes: 0 success, 1 query failed, 2 invalid arguments, 130 interrupted.";

/// Runs SQL queries over data lakes.
///
/// Buzz splits a query into tasks. Workers (HBees) run them in parallel, reducers (HCombs) combine their results, and a
/// scheduler (Fuse) plans and dispatches both. By default all run in this process; with --stack they run on AWS.
#[derive(Debug, Parser)]
#[command(name = "buzz", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Arguments {
    /// Number of threads [default: one per CPU core].
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// The subcommand.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a query from a JSON file.
    ///
    /// The JSON has the field "sql" (one statement) or "steps" (one statement each, with the role that runs it). Its
    /// field "catalogs" has the name, type and uri of each table. The folder code/examples contains examples.
    #[command(after_help = option_help())]
    Query(QueryArguments),

    /// Run one SQL statement on the tables given by --table.
    ///
    /// The type of each table is detected from its files. EXPLAIN prints the plan without running the statement.
    /// EXPLAIN ANALYZE runs it and prints the plan with measurements.
    #[command(after_help = option_help())]
    Sql(SqlArguments),

    /// List the tables of a query: files, bytes, columns and partition columns.
    Tables(TablesArguments),

    /// Generate the sample table: one month of taxi rides in Delta Lake format.
    Sample {
        /// Folder to create. An existing table is left unchanged.
        folder: PathBuf,
        /// Number of rows. The same number always generates the same rows.
        #[arg(long, default_value_t = 3_000_000, value_name = "N")]
        rows: u64,
    },

    /// Run continuous queries.
    #[command(subcommand)]
    Stream(crate::stream::StreamCommand),

    /// Answer SQL from other programs, through PostgreSQL's protocol, Arrow Flight SQL and HTTP, until interrupted.
    #[command(after_help = option_help())]
    Serve(crate::serve::ServeArguments),
}

/// A query in a file.
#[derive(Debug, Args)]
pub struct QueryArguments {
    /// JSON file with the query, or - for standard input.
    pub file: PathBuf,

    /// Arguments to run the query.
    #[command(flatten)]
    pub how: HowArguments,
}

/// A statement on the command line.
#[derive(Debug, Args)]
pub struct SqlArguments {
    /// SQL statement.
    pub sql: String,

    /// Number of combs that reduce, 1 to 16.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub zones: usize,

    /// Arguments to run the statement.
    #[command(flatten)]
    pub how: HowArguments,
}

/// A query whose tables are described.
#[derive(Debug, Args)]
pub struct TablesArguments {
    /// JSON file with the query, or - for standard input.
    pub file: PathBuf,

    /// Set the uri of a catalog entry; can be repeated.
    #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
    pub tables: Vec<(String, String)>,

    /// The stack that opens the tables, if any.
    #[command(flatten)]
    pub stack: StackArguments,
}

/// Arguments to run a query, shared by `query` and `sql`.
#[derive(Debug, Args)]
pub struct HowArguments {
    /// Format of the rows.
    #[arg(long, value_parser = format(), default_value_t = Format::Table)]
    pub format: Format,

    /// Write the rows to this file instead of standard output. It is created or replaced only if the query succeeds.
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,

    /// Set an option, such as tasks=64; can be repeated. The options are listed below.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    pub sets: Vec<String>,

    /// Set the value of parameter $NAME in the SQL: a number, true, false, null, or a string; can be repeated.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = param)]
    pub params: Vec<(String, Param)>,

    /// Set the uri of a table; can be repeated.
    ///
    /// The uri names a Delta Lake folder, a file, folder or glob of Parquet, CSV or JSON lines, or a manifest. A Delta
    /// Lake folder can have a version or a time: t=path@v12 or t=path@2024-01-31T12:00:00Z. For a query file, the uri
    /// replaces that of the catalog entry with this name. A relative path is resolved against the working directory, or
    /// against the folder of the query file if it does not exist there.
    #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
    pub tables: Vec<(String, String)>,

    /// Print steps, files after pruning, tasks and plans, without running the query.
    #[arg(long)]
    pub explain: bool,

    /// The stack to run the query on, if any.
    #[command(flatten)]
    pub stack: StackArguments,
}

/// The stack on AWS that runs the query.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("stack_name").args(["stack", "function"]))]
pub struct StackArguments {
    /// Run the query on the AWS stack with this name. AWS_ variables and ~/.aws set region and credentials.
    #[arg(long, value_name = "NAME")]
    pub stack: Option<String>,

    /// Run the query on the AWS stack whose Fuse function has this name or ARN.
    #[arg(long, value_name = "NAME", conflicts_with = "stack")]
    pub function: Option<String>,

    /// Endpoint of AWS Lambda, for example of a local cloud; requires --stack or --function.
    #[arg(long, value_name = "URL", requires = "stack_name")]
    pub endpoint_url: Option<String>,
}

impl StackArguments {
    /// Returns true if a stack is named.
    pub fn is_named(&self) -> bool {
        self.stack.is_some() || self.function.is_some()
    }
}

impl Arguments {
    /// Returns true if a stack runs the command.
    pub fn is_remote(&self) -> bool {
        match &self.command {
            Command::Query(QueryArguments { how, .. }) | Command::Sql(SqlArguments { how, .. }) => how.stack.is_named(),
            Command::Tables(TablesArguments { stack, .. }) => stack.is_named(),
            Command::Sample { .. } | Command::Stream(_) | Command::Serve(_) => false,
        }
    }
}

/// Parses a format by name. `--help` lists each format with its description.
fn format() -> impl TypedValueParser<Value = Format> {
    let named = FORMATS.map(|(format, help)| PossibleValue::new(format.name()).help(help));
    PossibleValuesParser::new(named).map(|name| name.parse().expect("only formats are possible"))
}

fn option_help() -> String {
    let width = OPTION_HELP.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    let lines: Vec<String> = OPTION_HELP.iter().map(|(key, help)| format!("  {key:width$}  {help}")).collect();
    format!("Options for --set:\n{}", lines.join("\n"))
}

pub(crate) fn assignment(text: &str) -> Result<String, String> {
    Options::default().set(text).map(|()| text.to_string()).map_err(|error| error.to_string())
}

fn param(text: &str) -> Result<(String, Param), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form NAME=VALUE"))?;
    // A value that is not JSON is a string without quotes.
    let param = serde_json::from_str(value).unwrap_or_else(|_| Param::Text(value.to_string()));
    Ok((name.trim_start_matches('$').to_string(), param))
}

pub(crate) fn table_uri(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, uri)) if !name.is_empty() && !uri.is_empty() => Ok((name.to_string(), uri.to_string())),
        _ => Err(format!("`{text}` is not of the form NAME=URI")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_pass_clap_debug_assertions() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
