//! Arguments of the `buzz` command. The doc comments are its `--help` text.

use std::ffi::OsString;
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
  buzz query query.json --timeline query.html
      Write a page that shows the tasks as bars over time: why was it slow?
  buzz tables query.json
      List files, size, columns and partition columns of each table of the query.
  buzz query query.json --stack dev
      Run the query on the stack `dev` on AWS. Ctrl-C cancels it there.
  echo '{…}' | buzz query - --format ndjson | head
      Read the query from standard input and print one JSON object per row.
  buzz sql -f report.sql --table trips=data/nyc-taxi-daily --output report.csv
      Read the statement from a file; - reads standard input. The ending of --output sets the format.
  buzz sql 'DESCRIBE t' --table t=rides/2024
      Print the columns of a table. SHOW TABLES and information_schema.columns work too.
  buzz tables add trips=data/nyc-taxi-daily
      Name a table in buzz.json, so that statements in this folder need no --table.
  buzz shell --table trips=data/nyc-taxi-daily
      Explore tables interactively. `buzz` alone does the same without tables.

Output: rows on standard output; progress, warnings and a summary on standard error.
Log: off by default; BUZZ_LOG=info (or buzz_fuse=debug) writes it to standard error.
Exit codes: 0 success, 1 query failed, 2 invalid arguments, 130 interrupted.";

const NAMES_EXAMPLES: &str = "\
Examples:
  buzz tables query.json
      Print files, size, columns and partition columns of each table of a query.
  buzz tables add trips=data/nyc-taxi-daily
      Add a table to buzz.json. From now on, `buzz sql 'SELECT COUNT(*) FROM trips'` works in this folder.
  buzz tables add 'rides=s3://lake/rides/*.csv?delimiter=;' --stack dev
      Add a table to the names of the stack `dev`.
  buzz sql \"CREATE VIEW daily AS SELECT DATE_TRUNC('day', pickup_at) AS day, COUNT(*) AS rides FROM trips GROUP BY 1\"
      Add a view. CREATE EXTERNAL TABLE, DROP TABLE and DROP VIEW work too.
  buzz tables list
      List names, types, number of columns and places, without opening a table.";

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

    /// Run one SQL statement on the tables given by --table, or named in a registry (`buzz tables add`).
    ///
    /// The type of each table is detected from its files. EXPLAIN prints the plan without running the statement.
    /// EXPLAIN ANALYZE runs it and prints the plan with measurements.
    #[command(after_help = option_help())]
    Sql(SqlArguments),

    /// List the tables of a query, or add, list, show and drop names of tables.
    ///
    /// `buzz tables query.json` opens the tables of a query and prints files, bytes, columns and partition columns. `add`, `list`,
    /// `show` and `drop` work on a registry of names: the file buzz.json in the working directory, another file (--tables), or
    /// that of a stack (--stack). Statements name its tables without --table.
    #[command(after_help = NAMES_EXAMPLES)]
    Tables(TablesArguments),

    /// Explore tables interactively, or run a script from standard input.
    ///
    /// Statements end with a semicolon. `.help` lists the commands, Tab completes names, Ctrl-C cancels a running query and
    /// Ctrl-D ends the shell. If standard input is not a terminal, its statements run one after the other up to the first
    /// that fails.
    #[command(after_help = option_help())]
    Shell(ShellArguments),

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

    /// Answer SQL from other programs, through PostgreSQL's protocol, Arrow Flight SQL, HTTP and MCP, until interrupted.
    #[command(after_help = option_help())]
    Serve(crate::serve::ServeArguments),

    /// Answer a client of the Model Context Protocol (MCP) on standard input and output.
    #[command(after_help = crate::mcp::help())]
    Mcp(crate::mcp::McpArguments),
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
    /// SQL statement, or - for standard input.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    pub sql: Option<String>,

    /// Read the statement from this file, or from standard input for -.
    #[arg(short, long, value_name = "PATH")]
    pub file: Option<PathBuf>,

    /// Number of combs that reduce, 1 to 16.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub zones: usize,

    /// Arguments to run the statement.
    #[command(flatten)]
    pub how: HowArguments,
}

/// The tables and settings with which the shell starts.
#[derive(Debug, Args)]
pub struct ShellArguments {
    /// Add a table; can be repeated. In the shell, `.table NAME=URI` does the same.
    #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
    pub tables: Vec<(String, String)>,

    /// File of names: tables and views that need no --table [default: buzz.json in the working directory, if it exists].
    #[arg(long = "tables", value_name = "FILE")]
    pub tables_file: Option<PathBuf>,

    /// Set an option, such as tasks=64; can be repeated. The options are listed below.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    pub sets: Vec<String>,

    /// Number of combs that reduce, 1 to 16.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub zones: usize,

    /// Format of the rows: table, json, ndjson or csv.
    #[arg(long, value_parser = format(), default_value_t = Format::Table)]
    pub format: Format,

    /// The stack that runs the queries, if any.
    #[command(flatten)]
    pub stack: StackArguments,
}

/// A query whose tables are described, or a command about names.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct TablesArguments {
    /// The command about names.
    #[command(subcommand)]
    pub names: Option<NamesCommand>,

    /// JSON file with the query, or - for standard input.
    #[arg(required = true)]
    pub file: Option<PathBuf>,

    /// Set the uri of a catalog entry; can be repeated.
    #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
    pub tables: Vec<(String, String)>,

    /// File of names [default: buzz.json in the working directory, if it exists].
    #[arg(long = "tables", value_name = "FILE")]
    pub tables_file: Option<PathBuf>,

    /// The stack that opens the tables, if any.
    #[command(flatten)]
    pub stack: StackArguments,
}

/// The commands about names.
#[derive(Debug, Subcommand)]
pub enum NamesCommand {
    /// Add a table to the names. It is opened, and its type and columns are recorded.
    Add {
        /// Name and place of the table, with fields as for --table: 'rides=s3://lake/*.csv?delimiter=;'.
        #[arg(value_name = "NAME=URI", value_parser = table_uri)]
        table: (String, String),
        /// Replace the table of this name.
        #[arg(long)]
        replace: bool,
        /// The registry.
        #[command(flatten)]
        place: NamesPlace,
    },
    /// List all names with type, number of columns and place. Opens no table.
    List {
        /// The registry.
        #[command(flatten)]
        place: NamesPlace,
    },
    /// Print the entry of a name with its columns. Opens no table.
    Show {
        /// The name.
        name: String,
        /// The registry.
        #[command(flatten)]
        place: NamesPlace,
    },
    /// Remove the name of a table or a view. The files of a table stay.
    Drop {
        /// The name.
        name: String,
        /// Succeed if the name does not exist.
        #[arg(long)]
        if_exists: bool,
        /// The registry.
        #[command(flatten)]
        place: NamesPlace,
    },
}

impl NamesCommand {
    /// Returns the registry that the command is about.
    pub fn place(&self) -> &NamesPlace {
        match self {
            Self::Add { place, .. } | Self::List { place } | Self::Show { place, .. } | Self::Drop { place, .. } => {
                place
            }
        }
    }
}

/// The place of a registry of names.
#[derive(Debug, Args)]
pub struct NamesPlace {
    /// File of names [default: buzz.json in the working directory].
    #[arg(long = "tables", value_name = "FILE", conflicts_with = "stack_name")]
    pub file: Option<PathBuf>,

    /// The stack whose names are meant, if any.
    #[command(flatten)]
    pub stack: StackArguments,
}

/// Arguments to run a query, shared by `query` and `sql`.
#[derive(Debug, Args)]
pub struct HowArguments {
    /// Format of the rows [default: by the ending of --output, otherwise table].
    #[arg(long, value_parser = format())]
    pub format: Option<Format>,

    /// Write the rows to this file instead of standard output. It is created or replaced only if the query succeeds.
    #[arg(long, value_name = "PATH")]
    pub output: Option<PathBuf>,

    /// Write a page to this file that shows when each task ran: phases, attempts, reruns, bytes, rows.
    #[arg(long, value_name = "FILE.html", conflicts_with = "explain")]
    pub timeline: Option<PathBuf>,

    /// Maximum number of rows of a table on a terminal, from its start and its end; 0 prints all rows.
    #[arg(long, default_value_t = 40, value_name = "N")]
    pub max_rows: usize,

    /// Set an option, such as tasks=64; can be repeated. The options are listed below.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = assignment)]
    pub sets: Vec<String>,

    /// Set the value of parameter $NAME in the SQL: a number, true, false, null, or a string; can be repeated.
    #[arg(long = "param", value_name = "NAME=VALUE", value_parser = param)]
    pub params: Vec<(String, Param)>,

    /// Set the uri of a table; can be repeated.
    ///
    /// The uri names a Delta Lake folder, a file, folder or glob of Parquet, CSV or JSON lines, or a manifest. A Delta
    /// Lake folder can have a version or a time: t=path@v12 or t=path@2024-01-31T12:00:00Z. Fields of the catalog entry can
    /// follow: 't=a.csv?delimiter=;&schema=id Int64, name Utf8'. For a query file, the uri and the fields replace those of
    /// the catalog entry with this name. A relative path is resolved against the working directory, or
    /// against the folder of the query file if it does not exist there.
    #[arg(long = "table", value_name = "NAME=URI", value_parser = table_uri)]
    pub tables: Vec<(String, String)>,

    /// File of names: tables and views that need no --table [default: buzz.json in the working directory, if it exists].
    ///
    /// `buzz tables add` writes it. --table and the catalogs of a query come before it. With --stack, the default is the stack's
    /// own names.
    #[arg(long = "tables", value_name = "FILE")]
    pub tables_file: Option<PathBuf>,

    /// Print steps, files after pruning, tasks, plans and an estimate of the work, without running the query. With --format json,
    /// print {"plan": …, "estimate": {…}}.
    #[arg(long)]
    pub explain: bool,

    /// The stack to run the query on, if any.
    #[command(flatten)]
    pub stack: StackArguments,
}

/// The stack on AWS that runs the query.
#[derive(Debug, Clone, Args)]
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
            Command::Tables(TablesArguments { names: Some(names), .. }) => names.place().stack.is_named(),
            Command::Tables(TablesArguments { stack, .. }) => stack.is_named(),
            Command::Shell(ShellArguments { stack, .. }) => stack.is_named(),
            Command::Sample { .. } | Command::Stream(_) | Command::Serve(_) | Command::Mcp(_) => false,
        }
    }
}

/// Returns the arguments of the process as clap can parse them. SQL may begin with a comment, which clap would take for an
/// option: a space is put before it. Without arguments on a terminal, the shell is started.
pub fn prepared(arguments: impl IntoIterator<Item = OsString>, on_terminal: bool) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if arguments.len() == 1 && on_terminal {
        arguments.push("shell".into());
    }
    for argument in arguments.iter_mut().skip(1) {
        let Some(text) = argument.to_str() else { continue };
        // The name of an option has no blanks.
        let name = text.split('=').next().unwrap_or_default();
        if name.starts_with("--") && name.contains(char::is_whitespace) {
            *argument = format!(" {text}").into();
        }
    }
    arguments
}

/// Parses a format by name. `--help` lists each format with its description.
fn format() -> impl TypedValueParser<Value = Format> {
    let named = FORMATS.map(|(format, help)| PossibleValue::new(format.name()).help(help));
    PossibleValuesParser::new(named).map(|name| name.parse().expect("only formats are possible"))
}

/// Returns the list of options for `--help`.
pub(crate) fn option_help() -> String {
    let width = OPTION_HELP.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    let lines: Vec<String> = OPTION_HELP.iter().map(|(key, help)| format!("  {key:width$}  {help}")).collect();
    format!("Options for --set:\n{}", lines.join("\n"))
}

/// Checks that `text` sets an option.
pub(crate) fn assignment(text: &str) -> Result<String, String> {
    Options::default().set(text).map(|()| text.to_string()).map_err(|error| error.to_string())
}

/// Parses NAME=VALUE. A value that is not a number, true, false or null is a text.
pub(crate) fn param(text: &str) -> Result<(String, Param), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("`{text}` is not of the form NAME=VALUE"))?;
    // A value that is not JSON is a string without quotes.
    let param = serde_json::from_str(value).unwrap_or_else(|_| Param::Text(value.to_string()));
    Ok((name.trim_start_matches('$').to_string(), param))
}

/// Parses NAME=URI.
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

    fn parsed(arguments: &[&str]) -> Result<Arguments, clap::Error> {
        let words = ["buzz"].iter().chain(arguments).map(OsString::from);
        Arguments::try_parse_from(prepared(words, false))
    }

    #[test]
    fn statement_may_begin_with_a_comment() {
        let sql = "-- daily = yes\nSELECT 1";
        for arguments in [
            ["sql", sql, "--table", "t=a b"],
            ["sql", "--table", "t=a b", sql],
            ["sql", "--table=t=a b", "--explain", sql],
        ] {
            let Command::Sql(statement) = parsed(&arguments).unwrap().command else { panic!("not SQL") };
            assert_eq!(statement.sql.unwrap().trim_start(), sql);
            assert_eq!(statement.how.tables, [("t".to_string(), "a b".to_string())]);
        }
        assert!(parsed(&["sql", "--fromat", "csv", "SELECT 1"]).is_err());
        assert!(parsed(&["sql"]).is_err());
        assert!(parsed(&["sql", "-f", "q.sql", "SELECT 1"]).is_err());
        let Command::Sql(statement) = parsed(&["sql", "-"]).unwrap().command else { panic!("not SQL") };
        assert_eq!(statement.sql.as_deref(), Some("-"));
    }

    #[test]
    fn shell_starts_without_arguments_on_a_terminal() {
        let started = |on_terminal| Arguments::try_parse_from(prepared([OsString::from("buzz")], on_terminal));
        assert!(matches!(started(true).unwrap().command, Command::Shell(_)));
        assert!(started(false).is_err());
    }
}
