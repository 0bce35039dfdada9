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

use buzz_plan::dialect::check_length;
use buzz_plan::visit::visit_mut;
use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::ast::{
    CreateTableOptions, Expr, Insert, ObjectType, OnInsert, Query, Set, Statement, TableObject,
};
use datafusion::sql::sqlparser::tokenizer::Token;

use self::functions::{Calls, Macro, function};
use self::options::take_emit;
use self::relations::{check_windows, window_arguments, windows};
pub use self::table::{MATERIALIZED_VIEW, TableDefinition};
use self::tokens::{Piece, canonical, is_blank, join, normal, parse, pieces, shorten, without_comments, words};

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
    /// When its rows are emitted.
    pub emission: Emission,
}

/// When the rows of a statement are emitted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Emission {
    /// When they are known: those of windows when these close, others in each epoch.
    #[default]
    Default,
    /// `EMIT ON WINDOW CLOSE`: rows without a window when the watermark has passed them.
    OnClose,
    /// `EMIT CHANGES`: as changes in each epoch.
    Changes,
}

impl Script {
    /// Parses a script.
    ///
    /// # Errors
    /// `Invalid` if a statement is not understood or not supported; the message names the clause. `Limit` if one is too long
    /// to be parsed.
    pub fn parse(text: &str) -> Result<Self> {
        let mut script = Self::default();
        for statement in pieces(text)?.split(|piece| piece.token == Token::SemiColon) {
            let statement = without_comments(statement);
            if !statement.iter().all(is_blank) {
                let text = join(&statement);
                check_length(&text).map_err(|error| error.at(format!("statement `{}`", shorten(&text))))?;
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

    /// Returns true if `text` is one query, without INSERT.
    ///
    /// # Errors
    /// `Invalid` if a literal or a comment has no end.
    pub fn is_query(text: &str) -> Result<bool> {
        let pieces = pieces(text)?;
        let statements = pieces.split(|piece| piece.token == Token::SemiColon);
        let mut statements = statements.filter(|statement| !statement.iter().all(is_blank));
        let (Some(statement), None) = (statements.next(), statements.next()) else { return Ok(false) };
        let first = statement.iter().find(|piece| !is_blank(piece) && piece.token != Token::LParen);
        let first = first.map(|piece| piece.text.to_uppercase());
        Ok(first.is_some_and(|word| ["SELECT", "WITH", "VALUES", "FROM", "TABLE"].contains(&word.as_str())))
    }

    /// Returns a table by name.
    pub fn table(&self, name: &str) -> Option<&TableDefinition> {
        self.tables.iter().find(|table| table.name == name)
    }

    /// Returns table `name` if the script declares it and nothing else: no other table, view, function or setting.
    pub fn only_table(&self, name: &str) -> Option<&TableDefinition> {
        let is_alone =
            self.tables.len() == 1 && self.views.is_empty() && self.functions.is_empty() && self.settings.is_empty();
        self.table(name).filter(|_| is_alone)
    }

    /// Replaces calls of functions by their bodies.
    fn expand_functions(&mut self) -> Result<()> {
        if self.functions.is_empty() {
            return Ok(());
        }
        let mut calls = Calls { functions: &self.functions, added: 0, failure: None };
        for query in self.views.iter_mut().map(|view| &mut view.query) {
            let _ = visit_mut(query, &mut calls);
        }
        for query in self.statements.iter_mut().map(|output| &mut output.query) {
            let _ = visit_mut(query, &mut calls);
        }
        calls.failure.map_or(Ok(()), Err)
    }

    fn check_names(&self) -> Result<()> {
        // A materialized view is a view too.
        let tables = self.tables.iter().filter(|table| table.option("connector") != Some(MATERIALIZED_VIEW));
        let mut names: Vec<&str> = tables.map(|table| table.name.as_str()).collect();
        names.extend(self.views.iter().map(|view| view.name.as_str()));
        for (index, name) in names.iter().enumerate() {
            if names[..index].contains(name) {
                return Err(QueryError::invalid(format!("`{name}` is declared twice; rename one of them")));
            }
        }
        for view in self.tables.iter().filter(|table| table.option("connector") == Some(MATERIALIZED_VIEW)) {
            let inserts = self.statements.iter().filter(|output| output.into.as_ref() == Some(&view.name)).count();
            if inserts != 1 || !self.views.iter().any(|known| known.name == view.name) {
                return Err(QueryError::invalid(format!(
                    "`{}` is a materialized view, which has the rows of its SELECT only; declare it by CREATE MATERIALIZED VIEW, \
                     with UNION ALL in place of INSERT INTO",
                    view.name
                )));
            }
        }
        Ok(())
    }

    fn add(&mut self, pieces: Vec<Piece<'_>>) -> Result<()> {
        check_windows(&pieces)?;
        let mut pieces = window_arguments(pieces);
        let emission = take_emit(&mut pieces);
        let words = words(&pieces, 4);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            ["CREATE", "SINK", ..] => return self.create_sink(pieces, emission),
            ["CREATE", "TABLE" | "SOURCE", ..] | ["CREATE", "UNBOUNDED" | "TEMPORARY", ..] => {
                return self.create_table(pieces);
            }
            ["CREATE", "FUNCTION", ..] => {
                self.functions.push(function(&pieces)?);
                return Ok(());
            }
            _ => {}
        }
        let text = join(&pieces);
        let parsed = parse(&text)?;
        self.statement(parsed, emission, &text)
    }

    fn statement(&mut self, statement: Statement, emission: Emission, text: &str) -> Result<()> {
        match statement {
            Statement::Query(query) => {
                self.statements.push(Output { into: None, columns: Vec::new(), query: windows(query)?, emission });
            }
            Statement::Insert(insert) if insert.source.is_some() => self.insert(insert, emission)?,
            Statement::CreateView(view) => {
                let name = view.name.0.last().and_then(|part| part.as_ident()).map(normal).unwrap_or_default();
                let columns = view.columns.iter().map(|column| normal(&column.name)).collect();
                if view.materialized {
                    if !matches!(view.options, CreateTableOptions::None) {
                        return Err(QueryError::invalid(format!(
                            "options of materialized view `{name}` are not supported: its rows are kept in the state; remove \
                             WITH (…)"
                        )));
                    }
                    self.materialized_view(&name, emission)?;
                }
                self.views.push(View { name, columns, query: windows(view.query)? });
            }
            Statement::Set(Set::SingleAssignment { variable, values, .. }) => {
                let value = match values.into_iter().next() {
                    Some(Expr::Value(value)) => {
                        let text = value.to_string();
                        value.into_string().unwrap_or(text)
                    }
                    Some(value) => value.to_string(),
                    None => String::new(),
                };
                let name = variable.to_string().to_lowercase();
                if self.settings.insert(name.clone(), value).is_some() {
                    return Err(QueryError::invalid(format!("SET {name} is given twice; remove one of them")));
                }
            }
            Statement::Drop { object_type: ObjectType::Table | ObjectType::View, .. } => {
                return Err(QueryError::invalid("DROP is not part of a script; remove the declaration instead"));
            }
            Statement::Explain { .. } | Statement::ExplainTable { .. } => {
                return Err(QueryError::invalid(
                    "EXPLAIN is not part of a script; remove it, and run `buzz stream check` to see the stages",
                ));
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

    fn insert(&mut self, insert: Insert, emission: Emission) -> Result<()> {
        check_insert(&insert)?;
        let Insert { table, columns, source: Some(query), .. } = insert else {
            return Err(QueryError::invalid("INSERT without rows is not supported; write INSERT INTO … SELECT"));
        };
        let TableObject::TableName(name) = &table else {
            return Err(QueryError::invalid(format!("INSERT INTO {table}: a table is required")));
        };
        let into = name.0.last().and_then(|part| part.as_ident()).map(normal);
        let columns = columns.iter().filter_map(|name| name.0.last().and_then(|part| part.as_ident())).map(normal);
        self.statements.push(Output { into, columns: columns.collect(), query: windows(query)?, emission });
        Ok(())
    }
}

/// Checks that `insert` only adds rows.
///
/// # Errors
/// `Invalid`, naming a clause that a sink cannot follow.
fn check_insert(insert: &Insert) -> Result<()> {
    let conflict = match &insert.on {
        Some(OnInsert::DuplicateKeyUpdate(_)) => "ON DUPLICATE KEY",
        _ => "ON CONFLICT",
    };
    let clauses = [
        (insert.overwrite, "INSERT OVERWRITE"),
        (insert.replace_into, "REPLACE INTO"),
        (insert.or.is_some(), "INSERT OR …"),
        (insert.ignore, "INSERT IGNORE"),
        (insert.on.is_some(), conflict),
        (insert.partitioned.is_some() || !insert.after_columns.is_empty(), "PARTITION (…)"),
        (!insert.assignments.is_empty(), "SET in INSERT"),
        (insert.settings.is_some(), "SETTINGS"),
        (insert.format_clause.is_some(), "FORMAT"),
        (insert.multi_table_insert_type.is_some(), "INSERT with several tables"),
        (insert.returning.is_some() || insert.output.is_some(), "RETURNING"),
    ];
    match clauses.iter().find(|(given, _)| *given) {
        Some((_, clause)) => Err(QueryError::invalid(format!(
            "{clause} is not supported: a statement only adds rows to its sink; write INSERT INTO … SELECT"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use buzz_protocol::ErrorKind;

    use super::*;

    const LITERALS: &str = "k || 'it''s ( . :: x' || 'x'' AND k <> ''a' || ' FORMAT PLAIN' || \"a\"\"b\"";

    #[test]
    fn literals_and_quoted_names_keep_their_text() {
        let script = Script::parse(&format!(
            "CREATE TABLE p (k TEXT, \"a\"\"b\" TEXT, g TEXT GENERATED ALWAYS AS ({LITERALS}) STORED, ts TIMESTAMP, -- (\n\
             WATERMARK FOR ts AS f({LITERALS}) /* ) */) WITH (connector = 'json', path = 'o''k');\n\
             CREATE VIEW v AS SELECT {LITERALS} FROM p;\n\
             INSERT INTO o SELECT {LITERALS} FROM v -- 'x';\n;\n\
             CREATE SINK s AS SELECT {LITERALS} FROM p WITH (connector = 'stdout') FORMAT PLAIN ENCODE JSON;\n\
             CREATE SINK IF NOT EXISTS \"it\"\"s\" FROM \"a\"\"b\" WITH (connector = 'stdout');\n\
             SET epoch = 'it''s';"
        ))
        .expect("the script is complete");
        let table = script.table("p").expect("p is declared");
        let names: Vec<&str> = table.columns.iter().map(|column| column.name.value.as_str()).collect();
        assert_eq!(names, ["k", "a\"b", "g", "ts"]);
        assert_eq!(table.generated["g"], format!("({LITERALS})"));
        assert_eq!(table.watermark, Some(("ts".to_string(), Some(format!("f({LITERALS})")))));
        assert_eq!(table.option("path"), Some("o'k"));
        assert_eq!(script.views[0].query.to_string(), format!("SELECT {LITERALS} FROM p"));
        let queries: Vec<String> = script.statements.iter().map(|output| output.query.to_string()).collect();
        let expected = [
            format!("SELECT {LITERALS} FROM v"),
            format!("SELECT {LITERALS} FROM p"),
            "SELECT * FROM \"a\"\"b\"".into(),
        ];
        assert_eq!(queries, expected);
        assert_eq!(script.statements[2].into.as_deref(), Some("it\"s"));
        assert_eq!(script.settings["epoch"], "it's");
    }

    #[test]
    fn source_and_windows_keep_their_text() {
        let script = Script::parse(
            "CREATE SOURCE \"source\" (ts TIMESTAMP, WATERMARK FOR ts) WITH (connector = 'json') FORMAT PLAIN ENCODE CSV;\n\
             SELECT 'it''s' FROM TABLE(TUMBLE(TABLE \"source\", DESCRIPTOR(ts), INTERVAL '10' SECOND)) \
             EMIT ON WINDOW CLOSE;",
        )
        .expect("the script is complete");
        let table = script.table("source").expect("the source is declared");
        assert_eq!((table.option("format"), table.option("type")), (Some("csv"), Some("source")));
        assert_eq!(table.watermark, Some(("ts".to_string(), None)));
        let query = script.statements[0].query.to_string();
        assert!(
            query.starts_with("SELECT 'it''s' FROM (SELECT *, get_field(tumble(ts, INTERVAL '10' SECOND)"),
            "{query}"
        );
        assert_eq!(script.statements[0].emission, Emission::OnClose);
        let script = Script::parse("SELECT emit, k FROM p EMIT CHANGES").expect("the script is complete");
        assert_eq!(script.statements[0].emission, Emission::Changes);
        assert_eq!(script.statements[0].query.to_string(), "SELECT emit, k FROM p");
    }

    #[test]
    fn materialized_view_is_a_view_and_a_table_that_it_is_inserted_into() {
        let script = Script::parse(
            "CREATE OR REPLACE MATERIALIZED VIEW \"V\" (a) AS SELECT k FROM p EMIT ON WINDOW CLOSE; \
             CREATE MATERIALIZED VIEW w AS SELECT a FROM \"V\"",
        )
        .expect("the script is complete");
        assert_eq!(script.table("V").and_then(|table| table.option("connector")), Some(MATERIALIZED_VIEW));
        assert_eq!((script.views[0].name.as_str(), script.views[0].columns.as_slice()), ("V", &["a".to_string()][..]));
        let statement = &script.statements[0];
        assert_eq!((statement.into.as_deref(), statement.emission), (Some("V"), Emission::OnClose));
        assert_eq!(statement.query.to_string(), "SELECT * FROM \"V\"");
        assert_eq!(script.statements[1].query.to_string(), "SELECT * FROM \"w\"");
        for (twice, message) in [
            ("CREATE VIEW v AS SELECT 1; CREATE MATERIALIZED VIEW v AS SELECT 2", "`v` is declared twice"),
            ("CREATE TABLE v (k INT); CREATE MATERIALIZED VIEW v AS SELECT 2", "`v` is declared twice"),
        ] {
            let error = Script::parse(twice).expect_err("the names are equal").to_string();
            assert!(error.contains(message), "{error}");
        }
    }

    #[test]
    fn clauses_that_a_sink_cannot_follow_are_refused() {
        for (statement, clause) in [
            ("INSERT OVERWRITE TABLE o SELECT k FROM p", "INSERT OVERWRITE"),
            ("INSERT INTO o SELECT k FROM p ON CONFLICT DO NOTHING", "ON CONFLICT"),
            ("INSERT INTO o SELECT k FROM p RETURNING k", "RETURNING"),
            ("INSERT INTO o SELECT k FROM p TABLESAMPLE (10 PERCENT)", "TABLESAMPLE"),
            (
                "SELECT * FROM TABLE(cumulate(TABLE p, DESCRIPTOR(ts), INTERVAL '1' MINUTE, INTERVAL '1' HOUR))",
                "CUMULATE",
            ),
            (
                "CREATE TABLE p (k INT, n INT DEFAULT 7) WITH (connector = 'json')",
                "`DEFAULT 7` of column `n` of table `p`",
            ),
            ("CREATE TABLE p (k INT, CHECK (k > 0)) WITH (connector = 'json')", "`CHECK (k > 0)` of table `p`"),
        ] {
            let error = Script::parse(statement).expect_err("the clause is refused").to_string();
            assert!(error.contains(&format!("{clause} is not supported")), "{statement}: {error}");
        }
    }

    #[test]
    fn option_that_is_given_twice_is_refused_by_its_name() {
        let table = |options: &str| {
            Script::parse(&format!("CREATE TABLE t (v BIGINT) WITH (connector = 'json', {options}); SELECT v FROM t"))
        };
        for (options, name) in [("path = 'a', path = 'b'", "path"), ("'Path' = 'a', path = 'a'", "path")] {
            let error = table(options).expect_err("the option is given twice").to_string();
            assert!(error.contains(&format!("option `{name}` of WITH is given twice")), "{error}");
        }
        table("path = 'a', format = 'json'").expect("the options differ");
        let error = Script::parse("SET epoch = '1s'; SET Epoch = '2s'; SELECT 1").expect_err("it is set twice");
        assert!(error.to_string().contains("SET epoch is given twice"), "{error}");
    }

    #[test]
    fn statement_that_is_too_long_or_too_deep_is_refused_before_it_is_parsed() {
        let types = |levels: usize| format!("{}INT{}", "Tuple(".repeat(levels), ")".repeat(levels));
        let chain = |terms: usize| vec!["v"; terms].join(" + ");
        let scripts = [
            (format!("SELECT CAST(v AS {}) FROM t", types(20_000)), "1000 parentheses"),
            (format!("CREATE TABLE t (v {}) WITH (connector = 'json')", types(20_000)), "1000 parentheses"),
            (format!("SELECT CAST(v AS {}INT{})", "ARRAY<".repeat(20_000), ">".repeat(20_000)), "3000 operators"),
            (format!("SELECT {} FROM t", chain(50_000)), "3000 operators"),
            (format!("CREATE TABLE t (v INT, w INT AS {})", chain(50_000)), "3000 operators"),
            (
                format!("CREATE FUNCTION f(v INT) RETURNS INT LANGUAGE SQL AS $$SELECT {}$$", chain(50_000)),
                "3000 operators",
            ),
        ];
        for (script, bound) in scripts {
            let error = Script::parse(&script).expect_err("it is too long");
            assert_eq!(error.kind, ErrorKind::Limit, "{error}");
            assert!(error.message.contains(bound), "{error}");
        }
    }

    #[test]
    fn calls_of_functions_that_make_a_large_expression_are_refused() {
        let script = |body: &str, calls: usize| {
            let select = format!("SELECT {}v{} FROM t", "f(".repeat(calls), ")".repeat(calls));
            Script::parse(&format!("CREATE FUNCTION f(a INT) RETURNS INT LANGUAGE SQL AS $$SELECT {body}$$; {select}"))
        };
        let ten = ["a"; 10].join(" + ");
        script(&ten, 3).expect("a thousand parts are allowed");
        for (body, calls) in [(ten, 7), (["a"; 300].join(" + "), 2)] {
            let error = script(&body, calls).expect_err("the expression is too large");
            assert_eq!(error.kind, ErrorKind::Limit, "{error}");
            assert!(error.message.contains("calls of f()"), "{error}");
        }
    }

    #[test]
    fn query_is_told_from_a_script() {
        for query in ["SELECT 1", "-- x\n((SELECT 1));", "/* x */ with a AS (SELECT 1) SELECT 2", "VALUES (1); -- end"]
        {
            assert!(Script::is_query(query).expect("all literals end"), "{query}");
        }
        for script in ["", "SELECT 1; SELECT 2", "INSERT INTO o SELECT 1", "SET epoch = '1s'; SELECT 1", "-- SELECT 1"]
        {
            assert!(!Script::is_query(script).expect("all literals end"), "{script}");
        }
    }
}
