//! `CREATE FUNCTION`: a function is one expression, put in place of each call.

use std::ops::ControlFlow;

use buzz_plan::visit::{visit, visit_mut};
use buzz_protocol::{QueryError, Result, SqlLength};
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, FunctionArg, FunctionArgExpr, FunctionArguments, SelectItem, Statement, Visitor, VisitorMut,
};
use datafusion::sql::sqlparser::tokenizer::Token;

use super::tokens::{Piece, is_blank, normal, parse};

/// A function whose body is one expression of its arguments. Calls are replaced by the body.
#[derive(Debug, Clone)]
pub(super) struct Macro {
    pub(super) name: String,
    pub(super) arguments: Vec<String>,
    pub(super) body: SqlExpr,
}

/// Reads `CREATE FUNCTION name(argument type, …) RETURNS type LANGUAGE SQL AS $$SELECT expression$$`.
pub(super) fn function(pieces: &[Piece<'_>]) -> Result<Macro> {
    let bad = || {
        QueryError::invalid(
            "CREATE FUNCTION requires an expression: CREATE FUNCTION name(a type) RETURNS type LANGUAGE SQL AS \
             $$SELECT expression$$",
        )
    };
    let significant: Vec<&Token> = pieces.iter().filter(|piece| !is_blank(piece)).map(|piece| &piece.token).collect();
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

/// Maximum number of parts of the expressions that take the place of the calls of a script. A function that names its
/// argument ten times makes ten million of seven calls in each other.
const PARTS_MAX: usize = 100_000;

/// The size of an expression.
#[derive(Default)]
struct Size {
    parts: usize,
    /// The longest way from the expression to a part of it.
    depth: usize,
    /// Expressions that are visited.
    open: usize,
}

impl Size {
    fn of(expr: &SqlExpr) -> Self {
        let mut size = Self::default();
        let _ = visit(expr, &mut size);
        size
    }
}

impl Visitor for Size {
    type Break = ();

    fn pre_visit_expr(&mut self, _: &SqlExpr) -> ControlFlow<()> {
        self.parts += 1;
        self.open += 1;
        self.depth = self.depth.max(self.open);
        ControlFlow::Continue(())
    }

    fn post_visit_expr(&mut self, _: &SqlExpr) -> ControlFlow<()> {
        self.open = self.open.saturating_sub(1);
        ControlFlow::Continue(())
    }
}

/// Counts how often a function's body names each argument.
struct Uses<'a> {
    names: &'a [String],
    counts: Vec<usize>,
}

impl Visitor for Uses<'_> {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &SqlExpr) -> ControlFlow<()> {
        if let SqlExpr::Identifier(ident) = expr
            && let Some(index) = self.names.iter().position(|name| *name == normal(ident))
        {
            self.counts[index] += 1;
        }
        ControlFlow::Continue(())
    }
}

impl Macro {
    /// Returns the size of the body with `given` in place of the arguments, without making it.
    fn size(&self, given: &[SqlExpr]) -> Size {
        let mut uses = Uses { names: &self.arguments, counts: vec![0; self.arguments.len()] };
        let _ = visit(&self.body, &mut uses);
        let mut size = Size::of(&self.body);
        let mut deepest = 0;
        for (given, count) in given.iter().zip(uses.counts) {
            let given = Size::of(given);
            size.parts = size.parts.saturating_add(count.saturating_mul(given.parts));
            deepest = deepest.max(given.depth);
        }
        // Each part is in parentheses.
        size.depth += deepest + 2;
        size
    }
}

/// Replaces calls of functions.
pub(super) struct Calls<'a> {
    pub(super) functions: &'a [Macro],
    /// Parts of the expressions that took the place of calls.
    pub(super) added: usize,
    pub(super) failure: Option<QueryError>,
}

impl Calls<'_> {
    /// Checks that `given` in the body of `function` makes an expression that can be planned.
    fn check_size(&mut self, function: &Macro, given: &[SqlExpr]) -> Result<()> {
        let size = function.size(given);
        self.added = self.added.saturating_add(size.parts);
        if self.added > PARTS_MAX || size.depth > SqlLength::OPERATORS_MAX {
            return Err(QueryError::limit(format!(
                "calls of {}() make an expression of more than {PARTS_MAX} parts or {} operators in one chain; compute its \
                 arguments in a subquery first",
                function.name,
                SqlLength::OPERATORS_MAX
            )));
        }
        Ok(())
    }
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
        if let Err(error) = self.check_size(found, &given) {
            self.failure = Some(error);
            return ControlFlow::Break(());
        }
        let mut body = found.body.clone();
        let _ = visit_mut(&mut body, &mut Arguments { names: &found.arguments, given: &given });
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
