//! Scripts: tables, views and statements, in the dialects of Arroyo, Flink and RisingWave.
//!
//! The SQL parser does not support these clauses, so they are taken out of the tokens first: `CREATE SOURCE` and
//! `CREATE SINK`, `WATERMARK FOR`, generated columns, `WITH (…)` options, `EMIT ON WINDOW CLOSE`, and
//! `TABLE t, DESCRIPTOR(ts)`.
//!
//! `table` reads declarations and `options` their options; `relations` and `functions` rewrite queries; `tokens` has what
//! they share.

mod functions;
mod options;
mod relations;
mod table;
mod tokens;

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::ast::{Insert, ObjectType, Query, Set, Statement, TableObject, VisitMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use self::functions::{Calls, Macro, function};
use self::options::take_emit;
use self::relations::{window_arguments, windows};
pub use self::table::TableDefinition;
use self::tokens::{canonical, is_blank, join, normal, parse, shorten, split, without_comments, words};

/// A parsed script.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Tables in the order of their declaration.
    pub tables: Vec<TableDefinition>,
    /// Views in the order of their declaration.
    pub views: Vec<View>,
    /// Statements that produce rows, in order.
    pub statements: Vec<Output>,
    /// Values of `SET`.
    pub settings: BTreeMap<String, String>,
    /// The statements without comments and white space, equal for scripts that differ in nothing else.
    pub canonical: String,
    /// Functions that are expressions.
    functions: Vec<Macro>,
}

/// A named query.
#[derive(Debug, Clone)]
pub struct View {
    /// Its name.
    pub name: String,
    /// Names for its columns, if given.
    pub columns: Vec<String>,
    /// Its query.
    pub query: Box<Query>,
}

/// A statement that produces rows.
#[derive(Debug, Clone)]
pub struct Output {
    /// The table it inserts into; `None` prints the rows.
    pub into: Option<String>,
    /// Columns named by INSERT, if any.
    pub columns: Vec<String>,
    /// Its query.
    pub query: Box<Query>,
    /// `EMIT ON WINDOW CLOSE` was given.
    pub on_close: bool,
}

impl Script {
    /// Parses a script.
    ///
    /// # Errors
    /// `Invalid` if a statement is not understood or not supported; the message names the clause.
    pub fn parse(text: &str) -> Result<Self> {
        let tokens = Tokenizer::new(&GenericDialect {}, text)
            .tokenize()
            .map_err(|error| QueryError::invalid(format!("the script cannot be read: {error}")))?;
        let mut script = Self::default();
        for statement in split(tokens, &Token::SemiColon) {
            let statement: Vec<Token> = without_comments(statement);
            if !statement.iter().all(is_blank) {
                script.canonical.push_str(&canonical(&statement));
                script.add(statement)?;
            }
        }
        if script.statements.is_empty() {
            return Err(QueryError::invalid(
                "the script has no statement that produces rows; add INSERT INTO … SELECT or a SELECT",
            ));
        }
        script.check_names()?;
        script.expand_functions()?;
        Ok(script)
    }

    /// Returns a table by name.
    pub fn table(&self, name: &str) -> Option<&TableDefinition> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// Replaces calls of functions by their bodies.
    fn expand_functions(&mut self) -> Result<()> {
        let mut calls = Calls { functions: &self.functions, failure: None };
        if self.functions.is_empty() {
            return Ok(());
        }
        for query in self.views.iter_mut().map(|view| &mut view.query) {
            let _ = query.visit(&mut calls);
        }
        for query in self.statements.iter_mut().map(|output| &mut output.query) {
            let _ = query.visit(&mut calls);
        }
        calls.failure.map_or(Ok(()), Err)
    }

    fn check_names(&self) -> Result<()> {
        let mut names: Vec<&str> = self.tables.iter().map(|table| table.name.as_str()).collect();
        names.extend(self.views.iter().map(|view| view.name.as_str()));
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(QueryError::invalid(format!("`{name}` is declared twice; rename one of them")));
            }
        }
        Ok(())
    }

    fn add(&mut self, tokens: Vec<Token>) -> Result<()> {
        let mut tokens = window_arguments(tokens);
        let on_close = take_emit(&mut tokens)?;
        let words = words(&tokens, 4);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["CREATE", "SINK", ..] => return self.create_sink(&tokens, on_close),
            ["CREATE", "TABLE" | "SOURCE", ..] | ["CREATE", "UNBOUNDED" | "TEMPORARY", ..] => {
                return self.create_table(tokens);
            }
            ["CREATE", "MATERIALIZED", ..] => {
                return Err(QueryError::invalid(
                    "CREATE MATERIALIZED VIEW is not supported yet; write CREATE TABLE … WITH (connector = 'parquet', \
                     type = 'sink', path = '…') and INSERT INTO it, or CREATE VIEW for a name only",
                ));
            }
            ["CREATE", "FUNCTION", ..] => {
                self.functions.push(function(&tokens)?);
                return Ok(());
            }
            _ => {}
        }
        let text = join(&tokens);
        let parsed = parse(&text)?;
        self.statement(parsed, on_close, &text)
    }

    fn statement(&mut self, statement: Statement, on_close: bool, text: &str) -> Result<()> {
        match statement {
            Statement::Query(query) => {
                self.statements.push(Output { into: None, columns: Vec::new(), query: windows(query)?, on_close });
            }
            Statement::Insert(Insert { table, columns, source: Some(query), .. }) => {
                let TableObject::TableName(name) = &table else {
                    return Err(QueryError::invalid(format!("INSERT INTO {table}: a table is required")));
                };
                let into = name.0.last().and_then(|part| part.as_ident()).map(normal);
                let columns =
                    columns.iter().filter_map(|name| name.0.last().and_then(|part| part.as_ident())).map(normal);
                self.statements.push(Output { into, columns: columns.collect(), query: windows(query)?, on_close });
            }
            Statement::CreateView(view) => {
                let name = view.name.0.last().and_then(|part| part.as_ident()).map(normal).unwrap_or_default();
                let columns = view.columns.iter().map(|column| normal(&column.name)).collect();
                self.views.push(View { name, columns, query: windows(view.query)? });
            }
            Statement::Set(Set::SingleAssignment { variable, values, .. }) => {
                let value = values.first().map(|value| value.to_string()).unwrap_or_default();
                self.settings.insert(variable.to_string().to_lowercase(), value.trim_matches('\'').to_string());
            }
            Statement::Drop { object_type: ObjectType::Table | ObjectType::View, .. } => {
                return Err(QueryError::invalid("DROP is not part of a script; remove the declaration instead"));
            }
            other => {
                let first = other.to_string().split_whitespace().next().unwrap_or_default().to_string();
                return Err(QueryError::invalid(format!(
                    "{first} is not supported in a script: `{}`; allowed are CREATE TABLE, CREATE VIEW, INSERT INTO, \
                     SELECT and SET",
                    shorten(text)
                )));
            }
        }
        Ok(())
    }
}
