//! Windows that are based on a named one.
//!
//! DataFusion replaces the name in `OVER w` in the SELECT list, and nowhere else: in QUALIFY and ORDER BY the function is an
//! unknown one or an aggregate. It never reads the name in `OVER (w ORDER BY a)` or in `WINDOW w2 AS (w ORDER BY a)`, so the
//! function is computed without the PARTITION BY of `w`. Here, each name is replaced by the window that it means. The rules
//! are those of the standard and of PostgreSQL: the base gives PARTITION BY, and ORDER BY if it has one, which the new window
//! then has not. A base with a frame can only be used as it is, `OVER w`.

use std::collections::BTreeMap;
use std::mem;

use buzz_protocol::{QueryError, Result};
use datafusion::sql::sqlparser::ast::{
    Expr, Function, Ident, NamedWindowDefinition, NamedWindowExpr, OrderBy, Select, WindowSpec, WindowType,
};

use super::syntax::normal;
use crate::visit::{any_expression, each_own_expression_mut};

/// Replaces the names of windows in `select`, and in the ORDER BY of its query, by the windows that its WINDOW clause
/// defines. Names without a definition stay; [`check`] refuses them.
///
/// # Errors
/// `Invalid`, naming the windows that contradict each other.
pub(super) fn resolved(select: &mut Select, order_by: Option<&mut OrderBy>) -> Result<()> {
    if select.named_window.is_empty() {
        return Ok(());
    }
    let windows = defined(mem::take(&mut select.named_window))?;
    let mut resolved = Ok(());
    // A window is not visible in subqueries.
    let mut resolve_in = |expression: &mut Expr| {
        if let Expr::Function(Function { over: Some(over), .. }) = expression
            && resolved.is_ok()
        {
            resolved = resolve(over, &windows);
        }
    };
    each_own_expression_mut(select, &mut resolve_in);
    if let Some(order_by) = order_by {
        each_own_expression_mut(order_by, &mut resolve_in);
    }
    resolved
}

/// Checks that `expression` does not name a window: [`resolved`] has replaced all that are defined.
///
/// # Errors
/// `Invalid`, naming the window.
pub(super) fn check(expression: &Expr) -> Result<()> {
    let name = match expression {
        Expr::Function(Function { over: Some(WindowType::NamedWindow(name)), .. }) => Some(name),
        Expr::Function(Function { over: Some(WindowType::WindowSpec(window)), .. }) => window.window_name.as_ref(),
        _ => None,
    };
    match name {
        Some(name) => Err(QueryError::invalid(format!(
            "window `{name}` does not exist in this SELECT; define it, `WINDOW {name} AS (…)`"
        ))),
        None => Ok(()),
    }
}

/// The windows of a WINDOW clause, by name. None of them has a base.
type Windows = BTreeMap<String, WindowSpec>;

/// Returns the windows of a WINDOW clause. Each may be based on those before it.
fn defined(definitions: Vec<NamedWindowDefinition>) -> Result<Windows> {
    let mut windows = Windows::new();
    for NamedWindowDefinition(name, definition) in definitions {
        let not_before = |base: &Ident| {
            QueryError::invalid(format!(
                "window `{name}` is based on window `{base}`, which the WINDOW clause does not define before it"
            ))
        };
        let window = match definition {
            NamedWindowExpr::NamedWindow(base) => {
                windows.get(&normal(&base)).cloned().ok_or_else(|| not_before(&base))?
            }
            NamedWindowExpr::WindowSpec(mut window) => {
                if let Some(base) = window.window_name.take() {
                    let found = windows.get(&normal(&base)).ok_or_else(|| not_before(&base))?;
                    complete(&mut window, &base, found)?;
                }
                window
            }
        };
        // A window in a window would be put into itself, and DataFusion refuses it.
        let is_window = |expression: &Expr| matches!(expression, Expr::Function(Function { over: Some(_), .. }));
        if any_expression(&window, &mut |expression| is_window(expression)) {
            return Err(QueryError::invalid(format!(
                "window `{name}` contains a window function; compute that one in a subquery"
            )));
        }
        if windows.insert(normal(&name), window).is_some() {
            return Err(QueryError::invalid(format!(
                "window `{name}` is defined twice in one WINDOW clause; rename one"
            )));
        }
    }
    Ok(windows)
}

/// Adds the clauses of `base`, whose name is `name`, to `window`.
fn complete(window: &mut WindowSpec, name: &Ident, base: &WindowSpec) -> Result<()> {
    let problem = if !window.partition_by.is_empty() {
        "cannot have a PARTITION BY of its own; remove it"
    } else if !window.order_by.is_empty() && !base.order_by.is_empty() {
        "cannot have an ORDER BY of its own, since that window has one; remove one"
    } else if base.window_frame.is_some() {
        "cannot be made, since that window has a frame; write its name without parentheses, or remove the frame"
    } else {
        window.partition_by.clone_from(&base.partition_by);
        if window.order_by.is_empty() {
            window.order_by.clone_from(&base.order_by);
        }
        return Ok(());
    };
    Err(QueryError::invalid(format!("a window based on window `{name}` {problem}")))
}

/// Replaces the name of a window, or of its base, in `over`.
fn resolve(over: &mut WindowType, windows: &Windows) -> Result<()> {
    match over {
        WindowType::NamedWindow(name) => {
            if let Some(window) = windows.get(&normal(name)) {
                *over = WindowType::WindowSpec(window.clone());
            }
        }
        WindowType::WindowSpec(window) => {
            if let Some(name) = window.window_name.clone()
                && let Some(base) = windows.get(&normal(&name))
            {
                complete(window, &name, base)?;
                window.window_name = None;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use buzz_protocol::ErrorKind;

    use crate::sql::parse_statement;

    #[test]
    fn named_windows_are_replaced_by_what_they_mean() {
        for (sql, expected) in [
            (
                "SELECT sum(a) OVER w FROM t WINDOW w AS (PARTITION BY a ROWS 1 PRECEDING)",
                "SELECT sum(a) OVER (PARTITION BY a ROWS 1 PRECEDING) FROM t",
            ),
            (
                "SELECT sum(a) OVER (W ORDER BY b) FROM t WINDOW w AS (PARTITION BY a)",
                "SELECT sum(a) OVER (PARTITION BY a ORDER BY b) FROM t",
            ),
            (
                "SELECT sum(a) OVER (w2 ROWS 1 PRECEDING) FROM t WINDOW w AS (PARTITION BY a), w2 AS (w ORDER BY b)",
                "SELECT sum(a) OVER (PARTITION BY a ORDER BY b ROWS 1 PRECEDING) FROM t",
            ),
            (
                "SELECT sum(a) OVER w2 FROM t WINDOW w AS (ORDER BY b ROWS 1 PRECEDING), w2 AS w",
                "SELECT sum(a) OVER (ORDER BY b ROWS 1 PRECEDING) FROM t",
            ),
            (
                "SELECT a FROM t WINDOW w AS (ORDER BY b) ORDER BY sum(a) OVER w, sum(b) OVER (w)",
                "SELECT a FROM t ORDER BY sum(a) OVER (ORDER BY b), sum(b) OVER (ORDER BY b)",
            ),
            (
                "SELECT a FROM t QUALIFY 1 + sum(a) OVER (w) > 1 WINDOW w AS (ORDER BY b)",
                "SELECT a FROM t QUALIFY 1 + sum(a) OVER (ORDER BY b) > 1",
            ),
            (
                "SELECT sum(a) OVER w, (SELECT max(b) OVER w FROM u WINDOW w AS (ORDER BY c)) FROM t WINDOW w AS ()",
                "SELECT sum(a) OVER (), (SELECT max(b) OVER (ORDER BY c) FROM u) FROM t",
            ),
            (
                "SELECT sum(a) OVER w FROM t WINDOW w AS () UNION ALL SELECT sum(a) OVER w FROM t WINDOW w AS (ORDER BY b)",
                "SELECT sum(a) OVER () FROM t UNION ALL SELECT sum(a) OVER (ORDER BY b) FROM t",
            ),
        ] {
            assert_eq!(parse_statement(sql).unwrap().to_string(), expected, "{sql}");
        }
    }

    #[test]
    fn windows_that_contradict_their_base_are_errors_that_name_it() {
        for (over, windows, words) in [
            ("(w PARTITION BY b)", "w AS (ORDER BY a)", "based on window `w` cannot have a PARTITION BY"),
            ("(w ORDER BY b)", "w AS (ORDER BY a)", "based on window `w` cannot have an ORDER BY"),
            ("(w)", "w AS (ORDER BY a ROWS 1 PRECEDING)", "that window has a frame"),
            ("w2", "w AS (ROWS 1 PRECEDING), w2 AS (w)", "that window has a frame"),
            ("v", "w AS ()", "window `v` does not exist"),
            ("(v ORDER BY b)", "w AS ()", "window `v` does not exist"),
            ("w", "w AS (w)", "window `w` is based on window `w`, which"),
            ("w", "w AS (w2), w2 AS (w)", "window `w` is based on window `w2`, which"),
            ("w", "w AS w2, w2 AS ()", "window `w` is based on window `w2`, which"),
            ("w", "w AS (), W AS ()", "window `W` is defined twice"),
            ("w", "v AS (ORDER BY (SELECT max(c) OVER w FROM u)), w AS ()", "window `v` contains a window function"),
        ] {
            let sql = format!("SELECT sum(a) OVER {over}, sum(a) OVER v FROM t WINDOW {windows}");
            let error = parse_statement(&sql).map(|parsed| parsed.to_string()).unwrap_err();
            assert!(error.kind == ErrorKind::Invalid && error.message.contains(words), "{sql}: {error}");
        }
        let error = parse_statement("SELECT (SELECT sum(a) OVER w FROM u) FROM t WINDOW w AS ()").unwrap_err();
        assert!(error.message.starts_with("window `w` does not exist in this SELECT"), "{error}");
        assert!(parse_statement("SELECT sum(a) OVER (v) FROM t").is_err());
    }
}
