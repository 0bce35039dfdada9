//! Kinds of statements that a client of PostgreSQL sends, found by their first words.

use crate::postgres::copy::{self, CopyFormat};
use crate::postgres::error::PgError;
use crate::postgres::templates;
use crate::scan::{self, Kind, Token};

type Result<T> = std::result::Result<T, PgError>;

/// A statement.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Statement {
    /// Only white space and comments.
    Empty,
    /// A statement that returns rows.
    Query(String),
    /// A statement that creates or drops a name, and the tag of its completion.
    Change {
        sql: String,
        tag: &'static str,
    },
    /// A query whose rows are sent as a file.
    Copy {
        query: String,
        format: CopyFormat,
    },
    /// `SET name = value`; None means the default.
    Set {
        name: String,
        value: Option<String>,
        tag: &'static str,
    },
    /// `RESET ALL` and `DISCARD ALL`.
    ResetAll {
        tag: &'static str,
    },
    /// `SHOW name`.
    Show(String),
    /// `SHOW ALL`.
    ShowAll,
    Begin,
    Commit,
    Rollback,
    /// A statement with no effect here, and the tag of its completion.
    Nothing(&'static str),
    /// `DEALLOCATE name`; None means all.
    Deallocate(Option<String>),
    /// `DECLARE name CURSOR FOR query`.
    Declare {
        name: String,
        query: String,
    },
    /// `FETCH count FROM name`, and `MOVE`, which returns no rows.
    Fetch {
        name: String,
        rows_max: usize,
        is_move: bool,
    },
    /// `CLOSE name`; None means all.
    CloseCursor(Option<String>),
}

/// A statement in progress of being read.
struct Reader<'a> {
    sql: &'a str,
    tokens: Vec<Token>,
    at: usize,
}

impl<'a> Reader<'a> {
    fn next_is(&mut self, word: &str) -> bool {
        let is = self.tokens.get(self.at).is_some_and(|token| token.is_word(self.sql, word));
        self.at += usize::from(is);
        is
    }

    fn next_is_symbol(&mut self, symbol: char) -> bool {
        let is = self.tokens.get(self.at).is_some_and(|token| token.is_symbol(self.sql, symbol));
        self.at += usize::from(is);
        is
    }

    /// Takes a name with its parts, such as `buzz.tasks`.
    fn name(&mut self) -> Result<String> {
        let mut name = String::new();
        loop {
            match self.tokens.get(self.at) {
                Some(token) if matches!(token.kind, Kind::Word | Kind::Quoted) => name.push_str(&token.name(self.sql)),
                _ => return Err(self.wrong()),
            }
            self.at += 1;
            if !self.next_is_symbol('.') {
                return Ok(name);
            }
            name.push('.');
        }
    }

    fn is_done(&self) -> bool {
        self.at >= self.tokens.len()
    }

    fn rest(&self) -> &'a str {
        self.tokens.get(self.at).map_or("", |token| &self.sql[token.at.start..])
    }

    fn wrong(&self) -> PgError {
        let near = self.tokens.get(self.at.min(self.tokens.len().saturating_sub(1)));
        let near = near.map_or("its end", |token| token.text(self.sql));
        PgError::syntax(format!("syntax error at or near \"{near}\""))
    }
}

/// Finds the kind of `sql`, which is one statement.
///
/// # Errors
/// If the statement changes something, or is one of this module and not complete.
pub(super) fn statement(sql: &str) -> Result<Statement> {
    let tokens = scan::tokens(sql);
    let Some(first) = tokens.iter().find(|token| !token.is_symbol(sql, '(')) else { return Ok(Statement::Empty) };
    let verb = if first.kind == Kind::Word { first.text(sql).to_lowercase() } else { String::new() };
    let mut reader = Reader { sql, tokens, at: 1 };
    Ok(match verb.as_str() {
        "set" => return set(&mut reader),
        "reset" if reader.next_is("all") => Statement::ResetAll { tag: "RESET" },
        "reset" => Statement::Set { name: setting(&mut reader)?, value: None, tag: "RESET" },
        "show" => return show(&mut reader),
        "begin" => Statement::Begin,
        "start" if reader.next_is("transaction") => Statement::Begin,
        "commit" | "end" => Statement::Commit,
        "rollback" | "abort" => {
            _ = reader.next_is("work") || reader.next_is("transaction");
            if reader.next_is("to") { Statement::Nothing("ROLLBACK") } else { Statement::Rollback }
        }
        "savepoint" => Statement::Nothing("SAVEPOINT"),
        "release" => Statement::Nothing("RELEASE"),
        "listen" => Statement::Nothing("LISTEN"),
        "unlisten" => Statement::Nothing("UNLISTEN"),
        "discard" if reader.next_is("all") => Statement::ResetAll { tag: "DISCARD ALL" },
        "discard" => Statement::Nothing("DISCARD"),
        "deallocate" => {
            reader.next_is("prepare");
            Statement::Deallocate(if reader.next_is("all") { None } else { Some(reader.name()?) })
        }
        "declare" => return declare(&mut reader),
        "fetch" => return fetch(&mut reader, false),
        "move" => return fetch(&mut reader, true),
        "close" => Statement::CloseCursor(if reader.next_is("all") { None } else { Some(reader.name()?) }),
        "copy" => {
            let (query, format) = copy::parse(sql)?;
            Statement::Copy { query: templates::translated(&query), format }
        }
        "select" | "with" | "values" | "table" | "explain" | "describe" | "desc" => {
            Statement::Query(templates::translated(sql))
        }
        "create" | "drop" => return change(&mut reader, verb == "create"),
        "insert" | "update" | "delete" | "merge" | "alter" | "truncate" | "grant" | "revoke" | "comment" | "vacuum"
        | "analyze" | "reindex" | "cluster" | "refresh" | "call" | "do" | "lock" | "notify" | "import" | "security" => {
            return Err(read_only(&verb.to_uppercase()));
        }
        _ => {
            reader.at = 0;
            return Err(reader.wrong());
        }
    })
}

fn read_only(verb: &str) -> PgError {
    PgError::new("25006", format!("cannot execute {verb}: Buzz only reads; write a SELECT"))
}

/// Finds what a statement creates or drops.
fn change(reader: &mut Reader<'_>, is_create: bool) -> Result<Statement> {
    let sql = reader.sql.to_string();
    if !is_create {
        return match () {
            () if reader.next_is("table") => Ok(Statement::Change { sql, tag: "DROP TABLE" }),
            () if reader.next_is("view") => Ok(Statement::Change { sql, tag: "DROP VIEW" }),
            () => Err(PgError::new(
                "25006",
                "cannot execute DROP: Buzz only reads; only names of tables and views are dropped",
            )),
        };
    }
    let _ = reader.next_is("or") && reader.next_is("replace");
    if reader.next_is("view") {
        return Ok(Statement::Change { sql, tag: "CREATE VIEW" });
    }
    if reader.next_is("external") {
        return Ok(Statement::Change { sql, tag: "CREATE TABLE" });
    }
    let remedy = "write CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 's3://…', or CREATE VIEW v AS SELECT …";
    Err(PgError::new("25006", format!("cannot execute CREATE: Buzz only reads; {remedy}")))
}

/// Takes the name of a setting, of which some have several words.
fn setting(reader: &mut Reader<'_>) -> Result<String> {
    if reader.next_is("time") {
        return if reader.next_is("zone") { Ok("timezone".to_string()) } else { Err(reader.wrong()) };
    }
    if reader.next_is("transaction") {
        let is_level = reader.next_is("isolation") && reader.next_is("level");
        return if is_level { Ok("transaction_isolation".to_string()) } else { Err(reader.wrong()) };
    }
    if reader.next_is("session") {
        return if reader.next_is("authorization") {
            Ok("session_authorization".to_string())
        } else {
            Err(reader.wrong())
        };
    }
    reader.name()
}

fn set(reader: &mut Reader<'_>) -> Result<Statement> {
    if reader.next_is("session") {
        if reader.next_is("characteristics") {
            return Ok(Statement::Nothing("SET"));
        }
        if reader.next_is("authorization") {
            return Ok(Statement::Nothing("SET"));
        }
    } else if reader.next_is("local") {
        // Until the end of the transaction, and there is only one after the other.
    }
    if reader.next_is("transaction") || reader.next_is("constraints") || reader.next_is("role") {
        return Ok(Statement::Nothing("SET"));
    }
    if reader.next_is("names") {
        return value(reader, "client_encoding".to_string());
    }
    let name = setting(reader)?;
    if name != "timezone" && !reader.next_is_symbol('=') && !reader.next_is("to") {
        return Err(reader.wrong());
    }
    if name == "timezone" {
        _ = reader.next_is_symbol('=') || reader.next_is("to");
    }
    value(reader, name)
}

fn value(reader: &mut Reader<'_>, name: String) -> Result<Statement> {
    if reader.is_done() {
        return Err(reader.wrong());
    }
    let tag = "SET";
    let only_one = reader.at + 1 == reader.tokens.len();
    if only_one && (reader.next_is("default") || name == "timezone" && reader.next_is("local")) {
        return Ok(Statement::Set { name, value: None, tag });
    }
    let tokens = &reader.tokens[reader.at..];
    let value: String = tokens.iter().map(|token| token.value(reader.sql)).collect::<Vec<_>>().join("");
    Ok(Statement::Set { name, value: Some(value), tag })
}

fn show(reader: &mut Reader<'_>) -> Result<Statement> {
    if reader.next_is("all") {
        return Ok(Statement::ShowAll);
    }
    // Statements of the engine, such as SHOW TABLES and SHOW COLUMNS FROM trips.
    if ["tables", "columns", "functions", "views", "schemas"].iter().any(|word| reader.next_is(word)) {
        return Ok(Statement::Query(reader.sql.to_string()));
    }
    let name = setting(reader)?;
    if reader.is_done() { Ok(Statement::Show(name)) } else { Err(reader.wrong()) }
}

fn declare(reader: &mut Reader<'_>) -> Result<Statement> {
    let name = reader.name()?;
    while !reader.next_is("cursor") {
        let is_option = ["binary", "insensitive", "asensitive", "no", "scroll"].iter().any(|word| reader.next_is(word));
        if !is_option {
            return Err(reader.wrong());
        }
    }
    let has_hold = reader.next_is("with") || reader.next_is("without");
    if has_hold && !reader.next_is("hold") {
        return Err(reader.wrong());
    }
    let query = if reader.next_is("for") { templates::translated(reader.rest()) } else { String::new() };
    if query.is_empty() { Err(reader.wrong()) } else { Ok(Statement::Declare { name, query }) }
}

fn fetch(reader: &mut Reader<'_>, is_move: bool) -> Result<Statement> {
    let is_forward = reader.next_is("forward");
    if !is_forward
        && ["backward", "prior", "first", "last", "absolute", "relative"].iter().any(|word| reader.next_is(word))
    {
        return Err(PgError::unsupported("cursors only move forward; use FETCH FORWARD n"));
    }
    let mut rows_max = 1;
    if reader.next_is("all") {
        rows_max = usize::MAX;
    } else if !reader.next_is("next")
        && let Some(token) = reader.tokens.get(reader.at).filter(|token| token.kind == Kind::Number)
    {
        rows_max = token.text(reader.sql).parse().map_err(|_| reader.wrong())?;
        reader.at += 1;
    }
    _ = reader.next_is("from") || reader.next_is("in");
    let name = reader.name()?;
    if reader.is_done() { Ok(Statement::Fetch { name, rows_max, is_move }) } else { Err(reader.wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set_to(name: &str, value: Option<&str>) -> Statement {
        Statement::Set { name: name.to_string(), value: value.map(str::to_string), tag: "SET" }
    }

    #[test]
    fn statements_of_clients_are_found() {
        let cases = [
            ("SET extra_float_digits = 3", set_to("extra_float_digits", Some("3"))),
            ("set session time zone 'UTC'", set_to("timezone", Some("UTC"))),
            ("SET TIMEZONE TO DEFAULT", set_to("timezone", None)),
            ("SET buzz.tasks = 4", set_to("buzz.tasks", Some("4"))),
            ("SET search_path TO \"$user\", public", set_to("search_path", Some("$user,public"))),
            ("SET NAMES 'utf8'", set_to("client_encoding", Some("utf8"))),
            ("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY", Statement::Nothing("SET")),
            ("SHOW TRANSACTION ISOLATION LEVEL", Statement::Show("transaction_isolation".to_string())),
            ("SHOW TABLES", Statement::Query("SHOW TABLES".to_string())),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", Statement::Begin),
            ("ROLLBACK TO SAVEPOINT a", Statement::Nothing("ROLLBACK")),
            ("rollback work", Statement::Rollback),
            ("DISCARD ALL", Statement::ResetAll { tag: "DISCARD ALL" }),
            ("(SELECT 1)", Statement::Query("(SELECT 1)".to_string())),
            ("-- nothing", Statement::Empty),
            (
                "DECLARE \"C 1\" NO SCROLL CURSOR WITHOUT HOLD FOR SELECT 1",
                Statement::Declare { name: "C 1".to_string(), query: "SELECT 1".to_string() },
            ),
            (
                "FETCH FORWARD 2000 FROM \"C 1\"",
                Statement::Fetch { name: "C 1".to_string(), rows_max: 2000, is_move: false },
            ),
            ("MOVE ALL IN c", Statement::Fetch { name: "c".to_string(), rows_max: usize::MAX, is_move: true }),
            ("CLOSE ALL", Statement::CloseCursor(None)),
        ];
        for (sql, expected) in cases {
            assert_eq!(statement(sql).unwrap(), expected, "{sql}");
        }
    }

    #[test]
    fn changes_and_nonsense_are_refused() {
        let error = |sql: &str| statement(sql).unwrap_err().message;
        assert_eq!(error("INSERT INTO t VALUES (1)"), "cannot execute INSERT: Buzz only reads; write a SELECT");
        assert_eq!(error("SELEC 1"), "syntax error at or near \"SELEC\"");
        for wrong in ["SET", "SET a", "SET a =", "DECLARE c CURSOR FOR", "FETCH 1 FROM", "FETCH BACKWARD 1 FROM c", "1"]
        {
            assert!(statement(wrong).is_err(), "{wrong}");
        }
    }
}
