//! Makes a question of the arguments: reads the query, applies `--table`, `--set` and `--param`.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use buzz_engine::{Question, Want};
use buzz_protocol::{Options, Query, QueryBody, QueryError, Result};

use crate::args::{HowArguments, QueryArguments, SqlArguments};
use crate::tables;
use crate::terminal::warn;

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
/// `Invalid` if the number of zones or an option is wrong, or the working directory does not exist.
pub(crate) fn of_statement(arguments: &SqlArguments) -> Result<Question> {
    let base = std::env::current_dir()
        .map_err(|error| QueryError::invalid(format!("the working directory is not accessible: {error}")))?;
    let catalogs = arguments.how.tables.iter().map(|(name, text)| tables::entry(name, text)).collect::<Result<_>>()?;
    let query = Query {
        body: QueryBody::Sql(arguments.sql.clone()),
        zones: arguments.zones,
        catalogs,
        params: Default::default(),
    };
    // Checks what a query in a file is checked for, such as names that are used twice.
    let (query, _) = Query::parse(&query.to_json().to_string(), "command line")?;
    finished(query, base, &arguments.how)
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
    query.params.extend(how.params.iter().cloned());
    let want = if how.explain { Want::Plan } else { Want::Rows(how.format) };
    Ok(Question::new(query, base).with_options(options).with_want(want))
}

/// Reads and parses a query file, or standard input for `-`, and replaces the URIs of `tables`. Returns the query and the
/// folder against which its relative URIs are resolved.
fn read(file: &Path, tables: &[(String, String)]) -> Result<(Query, PathBuf)> {
    let (json, source, folder) = if file == Path::new("-") {
        let mut json = String::new();
        let read = io::stdin().read_to_string(&mut json);
        read.map_err(|error| QueryError::invalid(format!("standard input is not readable: {error}")))?;
        (json, "standard input".to_string(), Path::new("."))
    } else {
        let json = std::fs::read_to_string(file)
            .map_err(|error| QueryError::invalid(format!("query file `{}`: {error}", file.display())))?;
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        (json, file.display().to_string(), folder)
    };
    if file.extension().is_some_and(|ending| ending == "sql") {
        return Err(QueryError::invalid(format!(
            "`{source}` is a file of SQL, and `buzz query` reads a query in JSON; `buzz stream run {source}` runs a continuous \
             query, and `buzz sql` a statement"
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
