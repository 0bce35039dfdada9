//! Windows of a table, as in `FROM TUMBLE(t, ts, INTERVAL '10' SECOND)`: they become subqueries.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use buzz_plan::visit::visit_mut;
use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, Query, Statement, TableFactor, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::tokens::{Piece, is_blank, parse};

/// Rewrites `TUMBLE(TABLE t, DESCRIPTOR(ts), …)` and `TABLE(TUMBLE(…))` to `TUMBLE(t, ts, …)`.
pub(super) fn window_arguments(pieces: Vec<Piece<'_>>) -> Vec<Piece<'_>> {
    let word = |piece: &Piece<'_>, expected: &str| matches!(&piece.token, Token::Word(word) if word.value.eq_ignore_ascii_case(expected) && word.quote_style.is_none());
    let next = |from: usize| (from..pieces.len()).find(|&index| !is_blank(&pieces[index]));
    let opens = |index: usize| pieces[index].token == Token::LParen;
    let is_window = |index: usize| ["tumble", "hop", "session"].iter().any(|name| word(&pieces[index], name));
    // Positions of parentheses whose content stays.
    let mut dropped = BTreeSet::new();
    let closing = |open: usize| {
        let mut depth = 0;
        (open..pieces.len()).find(|&index| {
            match pieces[index].token {
                Token::LParen => depth += 1,
                Token::RParen => depth -= 1,
                _ => {}
            }
            depth == 0
        })
    };
    for index in 0..pieces.len() {
        let Some(after) = next(index + 1) else { continue };
        if word(&pieces[index], "descriptor") && opens(after) {
            dropped.extend([index, after]);
            dropped.extend(closing(after));
        }
        if word(&pieces[index], "table") && opens(after) && next(after + 1).is_some_and(is_window) {
            dropped.extend([index, after]);
            dropped.extend(closing(after));
        }
        if is_window(index)
            && opens(after)
            && let Some(argument) = next(after + 1)
            && word(&pieces[argument], "table")
        {
            dropped.insert(argument);
        }
    }
    pieces.into_iter().enumerate().filter(|(index, _)| !dropped.contains(index)).map(|(_, piece)| piece).collect()
}

/// Checks that a statement has no window of a kind that does not exist here.
///
/// # Errors
/// `Invalid`, with what to write instead.
pub(super) fn check_windows(pieces: &[Piece<'_>]) -> Result<()> {
    let mut significant = pieces.iter().filter(|piece| !is_blank(piece)).peekable();
    while let Some(piece) = significant.next() {
        let is_cumulate = matches!(&piece.token, Token::Word(word) if word.value.eq_ignore_ascii_case("cumulate") && word.quote_style.is_none());
        if is_cumulate && significant.peek().is_some_and(|next| next.token == Token::LParen) {
            return Err(QueryError::invalid(
                "CUMULATE is not supported; use HOP(t, ts, slide, width), whose windows all have the width, or TUMBLE by the \
                 step and add up in the reader",
            ));
        }
    }
    Ok(())
}

/// Rewrites `FROM TUMBLE(t, ts, width)` to a subquery that selects `window_start` and `window_end`.
pub(super) fn windows(mut query: Box<Query>) -> Result<Box<Query>> {
    let mut visitor = Relations { failure: None };
    let _ = visit_mut(&mut query, &mut visitor);
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
    if let TableFactor::Table { sample: Some(_), .. } | TableFactor::Derived { sample: Some(_), .. } = factor {
        return Err(QueryError::invalid("TABLESAMPLE is not supported; filter by a column of the rows in WHERE"));
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
