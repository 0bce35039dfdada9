//! What can be asked on the command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use buzz_answer::format::{FORMATS, Format};
use buzz_protocol::options::OPTION_HELP;
use buzz_protocol::{Options, Param};
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  buzz sample data/nyc-taxi-daily
      Generates the sample table: a month of taxi rides, 3 million rows, as Delta Lake.
  buzz query code/examples/query-delta-taxi.json --table nyc_taxi=data/nyc-taxi-daily
      Runs the example on it and prints a table.
  buzz query query.json --format parquet --output result.parquet
      Writes the rows to a file; it appears whole or not at all.
  buzz query query.json --explain
      Shows steps, files after pruning, tasks and plans; runs nothing.
  buzz sql 'SELECT payment_type, COUNT(*) FROM trips GROUP BY payment_type' --table trips=data/nyc-taxi-daily
      Runs one statement; Buzz divides it between HBees and HCombs by itself.
  buzz sql 'SELECT COUNT(*) FROM t' --table t=rides/2024/*.csv.gz
      Reads CSV; so it does JSON lines (.jsonl), Parquet, and Delta Lake, also as of a version: t=table@v12.
  buzz tables query.json
      Shows what the query's catalogs hold.
  buzz query query.json --stack dev
      Runs it on the stack `dev` on AWS; Ctrl-C cancels it there.
  echo '{…}' | buzz query - --format ndjson | head
      Reads the query from standard input.

Rows go to standard output; progress, warnings and the summary go to standard error.
Exit code: 0 answered, 1 the query failed, 2 wrong usage, 130 interrupted.";

/// SQL over data lakes: functions map, combs reduce, here all in one process.
#[derive(Debug, Parser)]
#[command(name = "buzz", version, about, after_help = EXAMPLES, arg_required_else_help = true)]
pub struct Arguments {
    /// Threads to use; by default one for each core.
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a query given as JSON.
    #[command(after_help = option_help())]
    Query(QueryArguments),

    /// Run one SQL statement over tables that --table names.
    #[command(after_help = option_help())]
    Sql(SqlArguments),

    /// Show what a query's catalogs hold: files, bytes, schema and partition columns.
    Tables {
        /// The query's JSON, or - for standard input.
        file: PathBuf,
        /// Read a catalog from another place.
        #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
        tables: Vec<(String, String)>,
    },

    /// Generate the sample table, a month of taxi rides, as Delta Lake.
    Sample {
        /// The folder to make; nothing is done if the table is there.
        folder: PathBuf,
        /// Rows of the table.
        #[arg(long, default_value_t = 3_000_000, value_name = "N")]
        rows: u64,
    },
}

/// A query in a file.
#[derive(Debug, Args)]
pub struct QueryArguments {
    /// The query's JSON, or - for standard input.
    pub file: PathBuf,

    /// How to run it.
    #[command(flatten)]
    pub how: HowArguments,
}

/// A statement on the command line.
#[derive(Debug, Args)]
pub struct SqlArguments {
    /// The statement.
    pub sql: String,

    /// Combs that reduce, 1 to 16.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub zones: usize,

    /// How to run it.
    #[command(flatten)]
    pub how: HowArguments,
}

/// How to run a query.
#[derive(Debug, Args)]
pub struct HowArguments {
    /// Form of the rows.
    #[arg(long, value_parser = format(), default_value_t = Format::Table)]
    pub format: Format,

    /// Write the rows to this file instead of standard output; it appears whole or not at all.
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,

    /// Set an option; see the list below.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    pub sets: Vec<String>,

    /// The value of `$NAME` in the SQL: a number, true, false, null, or a text.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = param)]
    pub params: Vec<(String, Param)>,

    /// The place of a table: a Delta Lake folder, Parquet, CSV or JSON lines (file, folder or glob), or a manifest. Behind
    /// a Delta Lake folder may stand a version, as `t=path@v12` or `t=path@2024-01-31T12:00:00Z`. For a query in a file, it
    /// replaces the catalog's uri. A relative path is looked for in the working directory, then in the query's folder.
    #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
    pub tables: Vec<(String, String)>,

    /// Show steps, files after pruning, tasks and plans; run nothing.
    #[arg(long)]
    pub explain: bool,

    /// Where to run it, if not here.
    #[cfg(feature = "stack")]
    #[command(flatten)]
    pub stack: StackArguments,
}

impl HowArguments {
    /// Whether a stack runs it.
    pub fn is_remote(&self) -> bool {
        #[cfg(feature = "stack")]
        return self.stack.stack.is_some() || self.stack.function.is_some();
        #[cfg(not(feature = "stack"))]
        return false;
    }
}

/// A stack on AWS that answers in place of this process.
#[cfg(feature = "stack")]
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("stack_name").args(["stack", "function"]))]
pub struct StackArguments {
    /// Ask the stack of this stage on AWS. Region and credentials come from the usual AWS_ variables and files.
    #[arg(long, value_name = "NAME")]
    pub stack: Option<String>,

    /// Ask the stack whose Fuse has this function name or ARN.
    #[arg(long, value_name = "NAME", conflicts_with = "stack")]
    pub function: Option<String>,

    /// Another endpoint for AWS Lambda, as that of a local cloud; with --stack or --function.
    #[arg(long, value_name = "URL", requires = "stack_name")]
    pub endpoint_url: Option<String>,
}

/// The formats by name, with what each is.
fn format() -> impl TypedValueParser<Value = Format> {
    let named = FORMATS.map(|(format, help)| PossibleValue::new(format.name()).help(help));
    PossibleValuesParser::new(named).map(|name| name.parse().expect("only formats are possible"))
}

fn option_help() -> String {
    let width = OPTION_HELP.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    let lines: Vec<String> = OPTION_HELP.iter().map(|(key, help)| format!("  {key:width$}  {help}")).collect();
    format!("Options for --set:\n{}", lines.join("\n"))
}

fn assignment(text: &str) -> Result<String, String> {
    Options::default().set(text).map(|()| text.to_string()).map_err(|error| error.to_string())
}

fn param(text: &str) -> Result<(String, Param), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form NAME=VALUE"))?;
    // What is not a JSON value is a text without quotes.
    let param = serde_json::from_str(value).unwrap_or_else(|_| Param::Text(value.to_string()));
    Ok((name.trim_start_matches('$').to_string(), param))
}

fn table_uri(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, uri)) if !name.is_empty() && !uri.is_empty() => Ok((name.to_string(), uri.to_string())),
        _ => Err(format!("`{text}` is not of the form NAME=URI")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}
