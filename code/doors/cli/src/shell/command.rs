//! The commands of the shell, which begin with a point or a backslash.

use std::fmt;
use std::path::PathBuf;

use buzz_protocol::query::name_help;
use buzz_protocol::{Format, Param, QueryError, Result};

use crate::args::{assignment, param, table_uri};

/// Names of the commands, for completion.
pub(super) const NAMES: [&str; 14] = [
    ".exit", ".format", ".help", ".maxrows", ".pager", ".param", ".quit", ".read", ".schema", ".set", ".table",
    ".tables", ".timing", ".zones",
];

/// The text of `.help`.
pub(super) const HELP: &str = "\
Statements end with a semicolon: SELECT, DESCRIBE t, SHOW TABLES, EXPLAIN, EXPLAIN ANALYZE.

  .tables              list the tables                         \\dt
  .schema [TABLE]      print columns and their types           \\d TABLE
  .table NAME=PLACE    add a table: a file, folder, glob or Delta Lake table
  .format [FORMAT]     table, json, ndjson or csv
  .maxrows [N]         rows of a table before the middle is left out; 0 prints all
  .set [KEY=VALUE]     set an option of the queries, or list the options
  .param [NAME=VALUE]  set the value of $NAME, or list the values
  .zones [N]           number of combs that reduce
  .timing [on|off]     print files, bytes, tasks and time of each query     \\timing
  .pager [on|off|CMD]  show long results in a pager ($PAGER, or less)
  .read FILE           run the statements in a file
  .help                list the commands                       \\?
  .quit                end the shell, as Ctrl-D does           \\q

Tab completes names, Ctrl-R searches earlier statements, Ctrl-C cancels a running query.
";

/// A command.
#[derive(Debug, PartialEq)]
pub(super) enum Command {
    Help,
    Quit,
    Tables,
    /// The columns of one table, or of all.
    Schema(Option<String>),
    Table(String, String),
    Format(Option<Format>),
    MaxRows(Option<usize>),
    Set(Option<String>),
    Param(Option<(String, Param)>),
    Zones(Option<usize>),
    /// Off, on, or the other of both.
    Timing(Option<bool>),
    Pager(Option<Pager>),
    Read(PathBuf),
}

/// The program that shows long results.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) enum Pager {
    Off,
    /// `$PAGER`, or `less` if it is installed.
    Usual,
    Program(String),
}

impl fmt::Display for Pager {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pager::Off => "off",
            Pager::Usual => "on",
            Pager::Program(program) => program,
        })
    }
}

/// Commands of the shells of DuckDB, PostgreSQL and SQLite, and what to do instead.
const OTHERS: [(&[&str], &str); 5] = [
    (&[".mode", "\\pset", "\\a", "\\x"], "write .format table, json, ndjson or csv"),
    (&[".headers", ".header", "\\H"], "rows of csv and tables have a header"),
    (&[".import", ".open", "\\copy", "\\c", "\\connect"], "write .table NAME=PLACE to read a file"),
    (&[".output", ".once", "\\o", "\\g"], "run `buzz sql … --output FILE` to write one"),
    (&["\\l", "\\dn", "\\dv", "\\df", ".databases", ".dbinfo"], "write .tables"),
];

/// Returns true if `text` is a command and not SQL.
pub(super) fn is_command(text: &str) -> bool {
    let text = text.trim_start();
    text.starts_with(['.', '\\']) || ["quit", "exit", "help"].contains(&text.trim_end().trim_end_matches(';'))
}

/// Parses a command.
///
/// # Errors
/// `Invalid` if it does not exist or its argument is wrong.
pub(super) fn parse(text: &str) -> Result<Command> {
    let text = text.trim();
    let (name, argument) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let argument = argument.trim().trim_end_matches(';').trim_end();
    let name = name.trim_end_matches(';');
    let given = (!argument.is_empty()).then_some(argument);
    let required =
        || given.ok_or_else(|| QueryError::invalid(format!("{name} needs an argument; .help lists the commands")));
    let invalid = |message: String| QueryError::invalid(message);
    Ok(match name {
        ".help" | "\\?" | "\\h" | "help" => Command::Help,
        ".quit" | ".exit" | "\\q" | "quit" | "exit" => Command::Quit,
        ".tables" | "\\dt" => Command::Tables,
        "\\d" | "\\d+" if given.is_none() => Command::Tables,
        ".schema" | "\\d" | "\\d+" => Command::Schema(given.map(str::to_string)),
        ".table" => {
            let (name, uri) = table_uri(required()?).map_err(invalid)?;
            Command::Table(name, uri)
        }
        ".format" => Command::Format(given.map(str::parse).transpose()?),
        ".maxrows" => Command::MaxRows(given.map(number).transpose()?),
        ".set" => Command::Set(given.map(assignment).transpose().map_err(invalid)?),
        ".param" => Command::Param(given.map(param).transpose().map_err(invalid)?),
        ".zones" => Command::Zones(given.map(number).transpose()?),
        ".timing" | "\\timing" => Command::Timing(match given {
            None => None,
            Some("on") => Some(true),
            Some("off") => Some(false),
            Some(other) => return Err(QueryError::invalid(format!("`{other}` is neither on nor off"))),
        }),
        ".pager" => Command::Pager(given.map(|given| match given {
            "on" => Pager::Usual,
            "off" => Pager::Off,
            program => Pager::Program(program.to_string()),
        })),
        ".read" | "\\i" => Command::Read(PathBuf::from(required()?)),
        _ => {
            let help = match OTHERS.iter().find(|(names, _)| names.contains(&name)) {
                Some((_, instead)) => format!("; {instead}"),
                None => name_help(name, NAMES.into_iter()),
            };
            return Err(QueryError::invalid(format!(
                "command `{name}` does not exist{help}; .help lists the commands"
            )));
        }
    })
}

fn number(text: &str) -> Result<usize> {
    text.parse().map_err(|_| QueryError::invalid(format!("`{text}` is not a whole number")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_parsed_with_their_arguments() {
        assert_eq!(parse(" .table t=a b.csv;\n").unwrap(), Command::Table("t".to_string(), "a b.csv".to_string()));
        assert_eq!(parse("\\d trips").unwrap(), Command::Schema(Some("trips".to_string())));
        assert_eq!(parse("\\d").unwrap(), Command::Tables);
        assert_eq!(parse(".format csv").unwrap(), Command::Format(Some(Format::Csv)));
        assert_eq!(parse("\\timing").unwrap(), Command::Timing(None));
        assert_eq!(parse(".pager less -S").unwrap(), Command::Pager(Some(Pager::Program("less -S".to_string()))));
        assert_eq!(parse(".param low=4").unwrap(), Command::Param(Some(("low".to_string(), Param::Int(4)))));
        assert_eq!(parse("quit;").unwrap(), Command::Quit);
        for (text, words) in [
            (".tabels", "command `.tabels` does not exist; did you mean `.tables`?"),
            (".mode csv", "command `.mode` does not exist; write .format table, json"),
            ("\\copy t to x", "command `\\copy` does not exist; write .table NAME=PLACE"),
            (".table", ".table needs an argument"),
            (".table x", "not of the form NAME=URI"),
            (".set task=1", "did you mean `tasks`?"),
            (".format xml", "format `xml` does not exist"),
            (".zones many", "`many` is not a whole number"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(words), "{text}: {error}");
        }
    }

    #[test]
    fn every_command_is_in_the_help() {
        for name in NAMES {
            assert!(HELP.contains(name) || name == ".exit", "{name}");
        }
    }
}
