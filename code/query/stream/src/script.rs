//! Scripts: tables, views and statements, in the dialects of Arroyo, Flink and RisingWave.
//!
//! The SQL parser does not support these clauses, so they are taken out of the tokens first: `CREATE SOURCE` and
//! `CREATE SINK`, `WATERMARK FOR`, generated columns, `WITH (…)` options, `EMIT ON WINDOW CLOSE`, and
//! `TABLE t, DESCRIPTOR(ts)`.

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::ast::{
    ColumnDef, Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, Insert, ObjectType, Query, SelectItem,
    Set, Statement, TableFactor, TableObject, VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use std::ops::ControlFlow;

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
    /// Functions that are expressions.
    functions: Vec<Macro>,
}

/// A function whose body is one expression of its arguments. Calls are replaced by the body.
#[derive(Debug, Clone)]
struct Macro {
    name: String,
    arguments: Vec<String>,
    body: SqlExpr,
}

/// A table: a source, a sink, or a name for the rows of an INSERT.
#[derive(Debug, Clone)]
pub struct TableDefinition {
    /// Its name, in lower case unless quoted.
    pub name: String,
    /// Its columns; empty if the connector defines them.
    pub columns: Vec<ColumnDef>,
    /// Expressions of generated columns, by name.
    pub generated: BTreeMap<String, String>,
    /// The column of `WATERMARK FOR` and its expression, if one is given.
    pub watermark: Option<(String, Option<String>)>,
    /// The options of `WITH`, with keys in lower case.
    pub options: BTreeMap<String, String>,
}

impl TableDefinition {
    /// Returns the value of an option.
    pub fn option(&self, key: &str) -> Option<&str> {
        self.options.get(key).map(String::as_str)
    }
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
            if statement.iter().any(|token| !matches!(token, Token::Whitespace(_))) {
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

    /// `CREATE SINK s AS SELECT … WITH (…)` and `CREATE SINK s FROM t WITH (…)`.
    fn create_sink(&mut self, tokens: &[Token], on_close: bool) -> Result<()> {
        let significant: Vec<Token> =
            tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).cloned().collect();
        let mut rest = &significant[2..];
        if words(rest, 3) == ["IF", "NOT", "EXISTS"] {
            rest = &rest[3..];
        }
        let bad = || {
            QueryError::invalid("CREATE SINK requires a name, AS SELECT … or FROM table, and WITH (connector = '…', …)")
        };
        let [Token::Word(name), rest @ ..] = rest else { return Err(bad()) };
        let name = normal(&datafusion::sql::sqlparser::ast::Ident {
            value: name.value.clone(),
            quote_style: name.quote_style,
            span: datafusion::sql::sqlparser::tokenizer::Span::empty(),
        });
        let (rest, options) = take_options(rest.to_vec())?;
        let options = options.ok_or_else(bad)?;
        let mut statement = match words(&rest, 1).first().map(String::as_str) {
            Some("AS") => join_spaced(&rest[1..]),
            Some("FROM") => format!("SELECT * FROM {}", join_spaced(&rest[1..])),
            _ => return Err(bad()),
        };
        if let Some(at) = statement.to_uppercase().rfind(" FORMAT PLAIN") {
            statement.truncate(at);
        }
        let Statement::Query(query) = parse(&statement)? else { return Err(bad()) };
        let mut options = options;
        options.insert("type".to_string(), "sink".to_string());
        self.tables.push(TableDefinition {
            name: name.clone(),
            columns: Vec::new(),
            generated: BTreeMap::new(),
            watermark: None,
            options,
        });
        self.statements.push(Output { into: Some(name), columns: Vec::new(), query: windows(query)?, on_close });
        Ok(())
    }

    #[expect(clippy::too_many_lines, reason = "one branch for each option")]
    fn create_table(&mut self, tokens: Vec<Token>) -> Result<()> {
        let is_source = words(&tokens, 2).get(1).is_some_and(|word| word == "SOURCE");
        let (tokens, options) = take_options(tokens)?;
        let mut options = options.unwrap_or_default();
        if is_source {
            options.entry("type".to_string()).or_insert_with(|| "source".to_string());
        }
        let mut definition = TableDefinition {
            name: String::new(),
            columns: Vec::new(),
            generated: BTreeMap::new(),
            watermark: None,
            options,
        };
        let mut head = Vec::new();
        let mut elements = Vec::new();
        let mut tail = Vec::new();
        let mut depth = 0;
        for token in tokens {
            match &token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            match (depth, &token, elements.is_empty() && tail.is_empty()) {
                (0, Token::RParen, _) => {
                    tail.push(Token::Whitespace(datafusion::sql::sqlparser::tokenizer::Whitespace::Space))
                }
                (0, _, true) => head.push(token),
                (0, _, false) => tail.push(token),
                (1, Token::LParen, true) => elements.push(Vec::new()),
                (1, Token::Comma, _) => elements.push(Vec::new()),
                _ => elements.last_mut().expect("an element is open inside parentheses").push(token),
            }
        }
        for word in words(&tail, usize::MAX) {
            match word.as_str() {
                "APPEND" | "ONLY" | "FORMAT" | "PLAIN" | "ENCODE" => {}
                "JSON" | "CSV" | "PARQUET" => {
                    definition.options.entry("format".to_string()).or_insert_with(|| word.to_lowercase());
                }
                other => {
                    return Err(QueryError::invalid(format!(
                        "`{other}` after the columns of CREATE TABLE is not understood; use WITH (…) for options"
                    )));
                }
            }
        }
        let mut columns = Vec::new();
        for element in elements {
            if element.iter().all(|token| matches!(token, Token::Whitespace(_))) {
                continue;
            }
            match words(&element, 2).as_slice() {
                [first, second] if first == "WATERMARK" && second == "FOR" => {
                    definition.watermark = Some(watermark(&element)?);
                }
                [first, _] if first == "PRIMARY" => {}
                _ => columns.push(generated(element, &mut definition.generated)?),
            }
        }
        // The parser requires a column.
        let placeholder = if columns.is_empty() { "__none INT".to_string() } else { columns.join(", ") };
        let head = join(&head);
        let head = head.trim().to_string();
        let head = match is_source {
            true => {
                head.replacen(&head[..head.to_uppercase().find("SOURCE").unwrap_or_default() + 6], "CREATE TABLE", 1)
            }
            false => head,
        };
        let Statement::CreateTable(table) = parse(&format!("{head} ({placeholder})"))? else {
            return Err(QueryError::invalid(format!("`{}` is not understood as CREATE TABLE", shorten(&head))));
        };
        definition.name = table.name.0.last().and_then(|part| part.as_ident()).map(normal).unwrap_or_default();
        if !columns.is_empty() {
            definition.columns = table.columns;
        }
        self.tables.push(definition);
        Ok(())
    }
}

/// Reads `WATERMARK FOR column [AS expression]`.
fn watermark(element: &[Token]) -> Result<(String, Option<String>)> {
    let tokens: Vec<&Token> = element.iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let [_, _, Token::Word(column), rest @ ..] = tokens.as_slice() else {
        return Err(QueryError::invalid(
            "WATERMARK FOR requires a column, as in WATERMARK FOR ts AS ts - INTERVAL '5 seconds'",
        ));
    };
    let name = match column.quote_style {
        Some(_) => column.value.clone(),
        None => column.value.to_lowercase(),
    };
    match rest {
        [] => Ok((name, None)),
        [Token::Word(word), expression @ ..] if word.value.eq_ignore_ascii_case("as") && !expression.is_empty() => {
            let expression: Vec<Token> = expression.iter().map(|token| (*token).clone()).collect();
            Ok((name, Some(join_spaced(&expression))))
        }
        _ => Err(QueryError::invalid(format!(
            "WATERMARK FOR {name} is followed by something other than AS: `{}`",
            join(element)
        ))),
    }
}

/// Takes the expression out of `name TYPE GENERATED ALWAYS AS (expression) STORED` and of `name TYPE AS expression`.
fn generated(element: Vec<Token>, found: &mut BTreeMap<String, String>) -> Result<String> {
    let mut depth = 0;
    let mut at = None;
    for (index, token) in element.iter().enumerate() {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(word) if depth == 0 && at.is_none() && word.value.eq_ignore_ascii_case("as") => {
                at = Some(index)
            }
            _ => {}
        }
    }
    let Some(at) = at else { return Ok(join(&element)) };
    let Some(Token::Word(name)) = element.iter().find(|token| matches!(token, Token::Word(_))) else {
        return Err(QueryError::invalid(format!("column `{}` has no name", join(&element))));
    };
    let name = if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() };
    let mut expression: Vec<Token> = element[at + 1..].to_vec();
    while let Some(last) = expression.iter().rposition(|token| !matches!(token, Token::Whitespace(_)))
        && matches!(&expression[last], Token::Word(word) if ["STORED", "VIRTUAL", "PERSISTED"].contains(&word.value.to_uppercase().as_str()))
    {
        expression.truncate(last);
    }
    found.insert(name, join(&expression));
    let mut declaration = element[..at].to_vec();
    while let Some(last) = declaration.iter().rposition(|token| !matches!(token, Token::Whitespace(_)))
        && matches!(&declaration[last], Token::Word(word) if ["GENERATED", "ALWAYS"].contains(&word.value.to_uppercase().as_str()))
    {
        declaration.truncate(last);
    }
    Ok(join(&declaration))
}

/// Values of options by their key.
type Values = BTreeMap<String, String>;

/// Takes the last `WITH (key = value, …)` out of the tokens.
fn take_options(tokens: Vec<Token>) -> Result<(Vec<Token>, Option<Values>)> {
    let is_blank = |token: &Token| matches!(token, Token::Whitespace(_));
    let mut depth = 0;
    let mut start = None;
    for (index, token) in tokens.iter().enumerate() {
        match token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Word(word) if depth == 0 && word.value.eq_ignore_ascii_case("with") => {
                let next = tokens[index + 1..].iter().find(|token| !is_blank(token));
                if next == Some(&Token::LParen) {
                    start = Some(index);
                }
            }
            _ => {}
        }
    }
    let Some(start) = start else { return Ok((tokens, None)) };
    let mut options = BTreeMap::new();
    let (mut depth, mut entry, mut end) = (0, Vec::new(), tokens.len());
    let mut entries = Vec::new();
    for (index, token) in tokens.iter().enumerate().skip(start + 1) {
        match token {
            Token::LParen => {
                depth += 1;
                if depth == 1 {
                    continue;
                }
            }
            Token::RParen => {
                depth -= 1;
                if depth == 0 {
                    end = index + 1;
                    break;
                }
            }
            Token::Comma if depth == 1 => {
                entries.push(std::mem::take(&mut entry));
                continue;
            }
            _ => {}
        }
        if depth > 0 && !is_blank(token) {
            entry.push(token.clone());
        }
    }
    entries.push(entry);
    for entry in entries.into_iter().filter(|entry| !entry.is_empty()) {
        let at = entry.iter().position(|token| *token == Token::Eq);
        let Some(at) = at else {
            return Err(QueryError::invalid(format!("option `{}` of WITH has no value", join(&entry))));
        };
        let key: String = entry[..at].iter().map(bare).collect();
        let value: String = entry[at + 1..].iter().map(bare).collect();
        options.insert(key.to_lowercase(), value);
    }
    let mut rest = tokens[..start].to_vec();
    rest.extend_from_slice(&tokens[end..]);
    Ok((rest, Some(options)))
}

/// Removes `EMIT ON WINDOW CLOSE`.
fn take_emit(tokens: &mut Vec<Token>) -> Result<bool> {
    let upper = |token: &Token| match token {
        Token::Word(word) => word.value.to_uppercase(),
        _ => String::new(),
    };
    let Some(at) = tokens.iter().rposition(|token| upper(token) == "EMIT") else { return Ok(false) };
    let tail = words(&tokens[at..], usize::MAX);
    match tail.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["EMIT", "ON", "WINDOW", "CLOSE", ..] => {
            let close = tokens[at..].iter().position(|token| upper(token) == "CLOSE").unwrap_or_default() + at;
            tokens.drain(at..=close);
            Ok(true)
        }
        ["EMIT", "CHANGES", ..] => Err(QueryError::invalid(
            "EMIT CHANGES is not supported: rows are emitted when their window closes; remove it",
        )),
        // A column named emit.
        _ => Ok(false),
    }
}

/// Rewrites `TUMBLE(TABLE t, DESCRIPTOR(ts), …)` and `TABLE(TUMBLE(…))` to `TUMBLE(t, ts, …)`.
fn window_arguments(tokens: Vec<Token>) -> Vec<Token> {
    let is_blank = |token: &Token| matches!(token, Token::Whitespace(_));
    let word = |token: &Token, expected: &str| matches!(token, Token::Word(word) if word.value.eq_ignore_ascii_case(expected) && word.quote_style.is_none());
    let next = |from: usize| (from..tokens.len()).find(|&index| !is_blank(&tokens[index]));
    let is_window = |index: usize| ["tumble", "hop", "session"].iter().any(|name| word(&tokens[index], name));
    // Positions of parentheses whose content stays.
    let mut dropped = std::collections::BTreeSet::new();
    let closing = |open: usize| {
        let mut depth = 0;
        (open..tokens.len()).find(|&index| {
            match tokens[index] {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            depth == 0
        })
    };
    for index in 0..tokens.len() {
        let Some(after) = next(index + 1) else { continue };
        if word(&tokens[index], "descriptor") && tokens[after] == Token::LParen {
            dropped.extend([index, after]);
            dropped.extend(closing(after));
        }
        if word(&tokens[index], "table") && tokens[after] == Token::LParen && next(after + 1).is_some_and(is_window) {
            dropped.extend([index, after]);
            dropped.extend(closing(after));
        }
        if is_window(index)
            && tokens[after] == Token::LParen
            && let Some(argument) = next(after + 1)
            && word(&tokens[argument], "table")
        {
            dropped.insert(argument);
        }
    }
    tokens.into_iter().enumerate().filter(|(index, _)| !dropped.contains(index)).map(|(_, token)| token).collect()
}

/// Reads `CREATE FUNCTION name(argument type, …) RETURNS type LANGUAGE SQL AS $$SELECT expression$$`.
fn function(tokens: &[Token]) -> Result<Macro> {
    let bad = || {
        QueryError::invalid(
            "CREATE FUNCTION requires an expression: CREATE FUNCTION name(a type) RETURNS type LANGUAGE SQL AS \
             $$SELECT expression$$",
        )
    };
    let significant: Vec<&Token> = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    let [_, _, Token::Word(name), Token::LParen, rest @ ..] = significant.as_slice() else { return Err(bad()) };
    let close = rest.iter().position(|token| **token == Token::RParen).ok_or_else(bad)?;
    let mut arguments = Vec::new();
    for argument in rest[..close].split(|token| **token == Token::Comma).filter(|argument| !argument.is_empty()) {
        let Token::Word(word) = argument[0] else { return Err(bad()) };
        arguments.push(word.value.to_lowercase());
    }
    let body = rest[close..].iter().find_map(|token| match token {
        Token::DollarQuotedString(text) => Some(text.value.clone()),
        Token::SingleQuotedString(text) => Some(text.clone()),
        _ => None,
    });
    let Statement::Query(query) = parse(&body.ok_or_else(bad)?)? else { return Err(bad()) };
    let projection = query.body.as_select().filter(|select| select.from.is_empty()).map(|select| &select.projection);
    match projection.map(Vec::as_slice) {
        Some([SelectItem::UnnamedExpr(body) | SelectItem::ExprWithAlias { expr: body, .. }]) => {
            Ok(Macro { name: name.value.to_lowercase(), arguments, body: body.clone() })
        }
        _ => Err(bad()),
    }
}

/// Replaces calls of functions.
struct Calls<'a> {
    functions: &'a [Macro],
    failure: Option<QueryError>,
}

impl VisitorMut for Calls<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
        let SqlExpr::Function(call) = expr else { return ControlFlow::Continue(()) };
        let name = call.name.to_string().to_lowercase();
        let Some(found) = self.functions.iter().find(|function| function.name == name) else {
            return ControlFlow::Continue(());
        };
        let given: Vec<SqlExpr> = match &call.args {
            FunctionArguments::List(list) => list
                .args
                .iter()
                .filter_map(|arg| match arg {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr.clone()),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        if given.len() != found.arguments.len() {
            self.failure = Some(QueryError::invalid(format!(
                "{name}() is called with {} arguments, but it has {}",
                given.len(),
                found.arguments.len()
            )));
            return ControlFlow::Break(());
        }
        let mut body = found.body.clone();
        let _ = body.visit(&mut Arguments { names: &found.arguments, given: &given });
        *expr = SqlExpr::Nested(Box::new(body));
        ControlFlow::Continue(())
    }
}

/// Replaces the arguments in a function's body.
struct Arguments<'a> {
    names: &'a [String],
    given: &'a [SqlExpr],
}

impl VisitorMut for Arguments<'_> {
    type Break = ();

    fn post_visit_expr(&mut self, expr: &mut SqlExpr) -> ControlFlow<()> {
        if let SqlExpr::Identifier(ident) = expr
            && let Some(index) = self.names.iter().position(|name| *name == normal(ident))
        {
            *expr = SqlExpr::Nested(Box::new(self.given[index].clone()));
        }
        ControlFlow::Continue(())
    }
}

/// Rewrites `FROM TUMBLE(t, ts, width)` to a subquery that selects `window_start` and `window_end`.
fn windows(mut query: Box<Query>) -> Result<Box<Query>> {
    let mut visitor = Relations { failure: None };
    let _ = query.visit(&mut visitor);
    match visitor.failure {
        Some(error) => Err(error),
        None => Ok(query),
    }
}

struct Relations {
    failure: Option<QueryError>,
}

impl VisitorMut for Relations {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        match relation(factor) {
            Ok(Some(rewritten)) => *factor = rewritten,
            Ok(None) => {}
            Err(error) => {
                self.failure = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

fn relation(factor: &TableFactor) -> Result<Option<TableFactor>> {
    if let TableFactor::Table { version: Some(_), name, .. } = factor {
        return Err(QueryError::invalid(format!(
            "FOR SYSTEM_TIME AS OF on `{name}` is not supported; join the two streams on a window"
        )));
    }
    let TableFactor::Table { name, args: Some(args), alias, .. } = factor else { return Ok(None) };
    let function = name.to_string().to_lowercase();
    if !["tumble", "hop", "session"].contains(&function.as_str()) {
        return Ok(None);
    }
    let exprs: Vec<&SqlExpr> = args
        .args
        .iter()
        .filter_map(|arg| match arg {
            FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
            FunctionArg::Named { arg: FunctionArgExpr::Expr(expr), .. } => Some(expr),
            _ => None,
        })
        .collect();
    let expected = if function == "hop" { 4 } else { 3 };
    if exprs.len() != expected {
        let usage = match function.as_str() {
            "hop" => "HOP(table, time, INTERVAL slide, INTERVAL width)".to_string(),
            name => format!("{}(table, time, INTERVAL …)", name.to_uppercase()),
        };
        return Err(QueryError::invalid(format!(
            "{} has {} arguments; write {usage}",
            function.to_uppercase(),
            exprs.len()
        )));
    }
    let alias = match alias {
        Some(alias) => alias.to_string(),
        None => format!("AS {}", exprs[0].to_string().rsplit('.').next().unwrap_or_default()),
    };
    let lengths: Vec<String> = exprs[2..].iter().map(ToString::to_string).collect();
    let call = format!("{function}({}, {})", exprs[1], lengths.join(", "));
    let text = format!(
        "SELECT * FROM (SELECT *, get_field({call}, 'start') AS window_start, get_field({call}, 'end') AS window_end \
         FROM {}) {alias}",
        exprs[0]
    );
    let Statement::Query(query) = parse(&text)? else { return Ok(None) };
    let relation = query.body.as_select().and_then(|select| select.from.first()).map(|from| from.relation.clone());
    Ok(relation)
}

fn parse(text: &str) -> Result<Statement> {
    let mut statements = Parser::parse_sql(&GenericDialect {}, text)
        .map_err(|error| QueryError::invalid(format!("`{}` is not understood: {error}", shorten(text))))?;
    if statements.len() != 1 {
        return Err(QueryError::invalid(format!("`{}` is not one statement", shorten(text))));
    }
    Ok(statements.remove(0))
}

fn shorten(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

fn normal(ident: &datafusion::sql::sqlparser::ast::Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

/// Returns the first words of the tokens, in upper case. Anything but a word ends the list.
fn words(tokens: &[Token], count: usize) -> Vec<String> {
    let significant = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_)));
    significant
        .map_while(|token| match token {
            Token::Word(word) => Some(word.value.to_uppercase()),
            _ => None,
        })
        .take(count)
        .collect()
}

fn bare(token: &Token) -> String {
    match token {
        Token::Word(word) => word.value.clone(),
        Token::SingleQuotedString(text) | Token::DoubleQuotedString(text) => text.clone(),
        other => other.to_string(),
    }
}

fn join(tokens: &[Token]) -> String {
    tokens.iter().map(ToString::to_string).collect()
}

/// Joins tokens whose whitespace was dropped.
fn join_spaced(tokens: &[Token]) -> String {
    let texts: Vec<String> = tokens.iter().map(ToString::to_string).collect();
    texts.join(" ").replace(" . ", ".").replace(" ( ", "(").replace(" :: ", "::")
}

fn split(tokens: Vec<Token>, separator: &Token) -> Vec<Vec<Token>> {
    tokens.split(|token| token == separator).map(<[Token]>::to_vec).collect()
}

fn without_comments(tokens: Vec<Token>) -> Vec<Token> {
    use datafusion::sql::sqlparser::tokenizer::Whitespace;
    let blank = |token| match token {
        Token::Whitespace(Whitespace::SingleLineComment { .. } | Whitespace::MultiLineComment(_)) => {
            Token::Whitespace(Whitespace::Newline)
        }
        other => other,
    };
    tokens.into_iter().map(blank).filter(|token| *token != Token::EOF).collect()
}
