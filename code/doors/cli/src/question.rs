//! Makes a question of the arguments: reads the query, applies `--table`, `--set` and `--param`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use buzz_engine::{Question, Want};
use buzz_protocol::{FORMATS, Format, Options, Query, QueryBody, QueryError, Result};

use crate::args::{HowArguments, QueryArguments, SqlArguments};
use crate::output::folder_of;
use crate::tables;
use crate::terminal::warn;
use crate::timeline::ATTEMPTS_MAX;

/// Reads the query of `buzz query`.
///
/// # Errors
/// `Invalid` if the file cannot be read or the query, an option or a table is wrong.
pub(crate) fn of_file(arguments: &QueryArguments) -> Result<Question> {
    let (query, base) = read(&arguments.file, &arguments.how.tables)?;
    finished(query, base, &arguments.how)
}

/// Makes the query of `buzz sql`. The engine detects the types of its tables.
///
/// # Errors
/// `Invalid` if the statement cannot be read, the number of zones or an option is wrong, or the working directory does not
/// exist.
pub(crate) fn of_statement(arguments: &SqlArguments) -> Result<Question> {
    let query = query_of(statement(arguments)?, &arguments.how.tables, arguments.zones)?;
    finished(query, working_directory()?, &arguments.how)
}

/// Makes a query of the statement `sql` over `tables`.
///
/// # Errors
/// `Invalid` if the number of zones is wrong or two tables have the same name.
pub(crate) fn query_of(sql: String, places: &[(String, String)], zones: usize) -> Result<Query> {
    let catalogs = places.iter().map(|(name, text)| tables::entry(name, text)).collect::<Result<_>>()?;
    let body = QueryBody::Sql(sql);
    let query = Query { body, zones, catalogs, params: Default::default() };
    // Checks what a query in a file is checked for, such as names that are used twice.
    Ok(Query::parse(&query.to_json().to_string(), "command line")?.0)
}

/// Returns the folder against which relative places are resolved.
///
/// # Errors
/// `Invalid` if it does not exist.
pub(crate) fn working_directory() -> Result<PathBuf> {
    std::env::current_dir()
        .map_err(|error| QueryError::invalid(format!("the working directory is not accessible: {error}")))
}

/// Returns the SQL of `buzz sql`: its argument, or the text of a file or of standard input.
fn statement(arguments: &SqlArguments) -> Result<String> {
    let standard_input = Path::new("-");
    match (&arguments.sql, &arguments.file) {
        (Some(sql), _) if sql == "-" => read_text(standard_input, "SQL"),
        (Some(sql), _) if looks_like_a_file(sql) => {
            let file = sql.trim_start_matches('@');
            Err(QueryError::invalid(format!("`{sql}` is not SQL; `buzz sql -f {file}` runs the statement in a file")))
        }
        (Some(sql), _) => Ok(sql.clone()),
        (None, Some(file)) => read_text(file, "SQL"),
        (None, None) => Err(QueryError::invalid("there is no statement; write it, or name a file with -f")),
    }
}

fn looks_like_a_file(sql: &str) -> bool {
    !sql.contains(char::is_whitespace) && (sql.starts_with('@') || sql.to_lowercase().ends_with(".sql"))
}

/// Reads a file, or standard input for `-`.
///
/// # Errors
/// `Invalid` if it is not readable or not UTF-8.
pub(crate) fn read_text(file: &Path, what: &str) -> Result<String> {
    let mut bytes = Vec::new();
    let name = if file == Path::new("-") {
        let read = io::stdin().read_to_end(&mut bytes);
        read.map_err(|error| QueryError::invalid(format!("standard input is not readable: {error}")))?;
        "standard input".to_string()
    } else {
        let name = format!("{what} file `{}`", file.display());
        bytes = std::fs::read(file).map_err(|error| QueryError::invalid(format!("{name}: {error}")))?;
        name
    };
    String::from_utf8(bytes).map_err(|_| QueryError::invalid(format!("{name} is not UTF-8; convert it first")))
}

/// Returns the format of the rows: the one of `--format`, or the one that the ending of `--output` names.
///
/// # Errors
/// `Invalid` if the ending names a format that Buzz does not write.
pub(crate) fn format(how: &HowArguments) -> Result<Format> {
    if let Some(format) = how.format {
        return Ok(format);
    }
    let ending = how.output.as_deref().and_then(Path::extension).and_then(|ending| ending.to_str());
    let Some(ending) = ending.map(str::to_lowercase) else { return Ok(Format::Table) };
    match ending.as_str() {
        "parquet" | "parq" | "pq" => Ok(Format::Parquet),
        "csv" => Ok(Format::Csv),
        "json" => Ok(Format::Json),
        "ndjson" | "jsonl" => Ok(Format::Ndjson),
        "arrow" | "ipc" | "feather" => Ok(Format::Arrow),
        "tsv" | "xlsx" | "xls" | "avro" | "orc" | "gz" | "zst" | "bz2" | "xz" | "zip" => {
            let formats = FORMATS.map(|(format, _)| format.name()).join(", ");
            Err(QueryError::invalid(format!(
                "no format has the ending `.{ending}`; choose one with --format: {formats}"
            )))
        }
        _ => Ok(Format::Table),
    }
}

/// Makes a question for the tables of the query in `file`.
///
/// # Errors
/// As [`of_file`].
pub(crate) fn of_tables(file: &Path, tables: &[(String, String)]) -> Result<Question> {
    let (query, base) = read(file, tables)?;
    Ok(Question::new(query, base))
}

fn finished(mut query: Query, base: PathBuf, how: &HowArguments) -> Result<Question> {
    let mut options = Options::default();
    for assignment in &how.sets {
        options.set(assignment)?;
    }
    if how.timeline.is_some() && options.timeline_attempts == 0 {
        options.timeline_attempts = ATTEMPTS_MAX;
    }
    query.params.extend(how.params.iter().cloned());
    let want = if how.explain { Want::Plan } else { Want::Rows(format(how)?) };
    Ok(Question::new(query, base).with_options(options).with_want(want))
}

/// Reads and parses a query file, or standard input for `-`, and replaces the URIs of `tables`. Returns the query and the
/// folder against which its relative URIs are resolved.
fn read(file: &Path, tables: &[(String, String)]) -> Result<(Query, PathBuf)> {
    let json = read_text(file, "query")?;
    let (source, folder) = if file == Path::new("-") {
        ("standard input".to_string(), Path::new("."))
    } else {
        (file.display().to_string(), folder_of(file))
    };
    if file.extension().is_some_and(|ending| ending == "sql") {
        return Err(QueryError::invalid(format!(
            "`{source}` is a file of SQL, and `buzz query` reads a query in JSON; `buzz stream run {source}` runs a continuous \
             query, and `buzz sql -f {source}` a statement"
        )));
    }
    let (mut query, warnings) = Query::parse(&json, &source)?;
    for warning in warnings {
        warn(&warning);
    }
    for (name, uri) in tables {
        query.replace_table(tables::from_working_directory(tables::entry(name, uri)?))?;
    }
    let base = std::path::absolute(folder)
        .map_err(|error| QueryError::invalid(format!("folder `{}`: {error}", folder.display())))?;
    Ok((query, base))
}
