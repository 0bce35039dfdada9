//! Columns of a SELECT list that have one name.
//!
//! The planner refuses a list with two columns of one name, also if it has made the name itself: it names `b::smallint` and
//! `t.b` like `b`. Here, the second column gets another name: [`distinguish`] if the statement shows that the names are one,
//! otherwise [`with_names`], after the planner has refused the statement.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Ident, OrderBy, OrderByExpr, OrderByKind, Query,
    Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr, Visitor, VisitorMut, WildcardAdditionalOptions,
};

use super::syntax::{is_unnest, normal};
use super::using::MARK;
use crate::visit::{visit, visit_mut};

/// Names the columns of `statement` whose names may be those of other columns of their SELECT. `None` if there are none.
pub(crate) fn with_names(mut statement: Statement) -> Option<Statement> {
    let Statement::Statement(sql) = &mut statement else { return None };
    let mut named = Named { is_changed: false, orders: Vec::new() };
    let _: ControlFlow<()> = visit_mut(sql, &mut named);
    named.is_changed.then_some(statement)
}

struct Named {
    is_changed: bool,
    /// The names in the ORDER BY of each query that is open.
    orders: Vec<BTreeSet<String>>,
}

impl VisitorMut for Named {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        self.orders.push(in_order_by(query));
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &mut Query) -> ControlFlow<()> {
        self.orders.pop();
        ControlFlow::Continue(())
    }

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let has_references = name_references(select, self.orders.last());
        let has_expressions = name_expressions(select);
        self.is_changed |= has_references || has_expressions;
        ControlFlow::Continue(())
    }
}

/// Names the columns of `select` whose names the planner would make of their expressions, if there are other columns.
/// Returns true if it has named one.
fn name_expressions(select: &mut Select) -> bool {
    let is_made = |item: &SelectItem| match item {
        SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)) => false,
        SelectItem::UnnamedExpr(expression) => !is_unnest(expression),
        _ => false,
    };
    if select.projection.len() < 2 {
        return false;
    }
    let mut is_changed = false;
    for item in &mut select.projection {
        if is_made(item)
            && let SelectItem::UnnamedExpr(expr) = item
        {
            let alias = Ident::with_quote('"', expr.to_string());
            *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias };
            is_changed = true;
        }
    }
    is_changed
}

/// Gives other names to the columns of `select` that refer, or may refer, to a column that is there already: `t.b` beside
/// `b`, `b` beside `*`, and `t.b` beside `t.*`. Returns true if it has named one.
///
/// `t.b` and `u.b` stay, as the planner distinguishes them.
fn name_references(select: &mut Select, order_by: Option<&BTreeSet<String>>) -> bool {
    let mut taken = taken(select, order_by);
    let wildcards = Wildcards::of(select);
    // The parts of each name, and if it is an alias, by the last part.
    let mut seen: BTreeMap<String, Vec<(Vec<String>, bool)>> = BTreeMap::new();
    let mut is_changed = false;
    for item in &mut select.projection {
        let (parts, is_alias): (Vec<String>, bool) = match &*item {
            SelectItem::UnnamedExpr(Expr::Identifier(name)) => (vec![normal(name)], false),
            SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => (parts.iter().map(normal).collect(), false),
            SelectItem::ExprWithAlias { alias, .. } => (vec![normal(alias)], true),
            _ => continue,
        };
        let Some(name) = parts.last().cloned() else { continue };
        // ORDER BY may mean any of two columns with other values, so their names stay, and are an error.
        let is_ordered = order_by.is_some_and(|names| names.contains(&name));
        let others = seen.entry(name.clone()).or_default();
        let is_one = |(other, has_alias): &(Vec<String>, bool)| {
            let is_ambiguous = is_ordered && (is_alias || *has_alias);
            !is_ambiguous && (other.ends_with(&parts) || parts.ends_with(other))
        };
        let is_in_wildcard = !is_alias && wildcards.have(&parts);
        // The columns of a wildcard are not known here, so a name has a form that columns rarely have.
        let numbered =
            |number: usize| if is_in_wildcard { format!("{name} ({number})") } else { format!("{name}_{number}") };
        let other_name = (1..).map(numbered).find(|name| !taken.contains(name));
        match other_name.filter(|_| is_in_wildcard || others.iter().any(is_one)) {
            Some(other_name) => {
                taken.insert(other_name.clone());
                rename(item, other_name);
                is_changed = true;
            }
            None => others.push((parts, is_alias)),
        }
    }
    is_changed
}

/// The wildcards of a SELECT.
#[derive(Default)]
struct Wildcards {
    /// There is one without a relation.
    is_whole: bool,
    /// The relations of the others, by their last names.
    relations: BTreeSet<String>,
}

impl Wildcards {
    fn of(select: &Select) -> Self {
        let mut wildcards = Self::default();
        for item in &select.projection {
            match item {
                SelectItem::Wildcard(options) if is_plain(options) => wildcards.is_whole = true,
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(relation), options)
                    if is_plain(options) =>
                {
                    wildcards.relations.extend(relation.0.last().and_then(|part| part.as_ident()).map(normal));
                }
                _ => {}
            }
        }
        wildcards
    }

    /// Checks if the column with the name of these `parts` is one of a wildcard.
    fn have(&self, parts: &[String]) -> bool {
        self.is_whole
            || match parts {
                [.., relation, _] => self.relations.contains(relation),
                _ => !self.relations.is_empty(),
            }
    }
}

/// Checks if a wildcard has all columns, by their names.
fn is_plain(options: &WildcardAdditionalOptions) -> bool {
    options.opt_exclude.is_none() && options.opt_except.is_none() && options.opt_rename.is_none()
}

fn rename(item: &mut SelectItem, name: String) {
    let alias = Ident::with_quote('"', name);
    *item = match mem::replace(item, SelectItem::Wildcard(Default::default())) {
        SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. } => {
            SelectItem::ExprWithAlias { expr, alias }
        }
        other => other,
    };
}

/// Returns the names in the ORDER BY of `query`; none if it is not one SELECT.
pub(super) fn in_order_by(query: &Query) -> BTreeSet<String> {
    let mut names = Names::default();
    if matches!(query.body.as_ref(), SetExpr::Select(_)) {
        let _: ControlFlow<()> = visit(&query.order_by, &mut names);
    }
    names.found
}

/// Returns the names that `select` or its ORDER BY use.
fn taken(select: &Select, order_by: Option<&BTreeSet<String>>) -> BTreeSet<String> {
    let mut names = Names::default();
    let _: ControlFlow<()> = visit(select, &mut names);
    let mut taken = names.found;
    taken.extend(order_by.into_iter().flatten().cloned());
    taken.extend(select.projection.iter().filter_map(|item| match item {
        SelectItem::ExprWithAlias { alias, .. } => Some(normal(alias)),
        _ => None,
    }));
    taken
}

/// Collects the names in expressions outside of subqueries.
#[derive(Default)]
struct Names {
    found: BTreeSet<String>,
    depth: usize,
}

impl Visitor for Names {
    type Break = ();

    fn pre_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth += 1;
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _query: &Query) -> ControlFlow<()> {
        self.depth -= 1;
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        match expression {
            Expr::Identifier(name) if self.depth == 0 => self.found.extend([normal(name)]),
            Expr::CompoundIdentifier(parts) if self.depth == 0 => self.found.extend(parts.iter().map(normal)),
            _ => {}
        }
        ControlFlow::Continue(())
    }
}

/// Writes a reference to a side of a join in the ORDER BY of `query` as the column of the SELECT list that has its value: the planner
/// does not find that by its expression, which SELECT DISTINCT needs.
pub(super) fn ordered_by_output(query: &mut Query) {
    let SetExpr::Select(select) = query.body.as_ref() else { return };
    let Some(OrderBy { kind: OrderByKind::Expressions(order), .. }) = &mut query.order_by else { return };
    for OrderByExpr { expr, .. } in order {
        let output = select.projection.iter().find_map(|item| match item {
            SelectItem::ExprWithAlias { expr: Expr::Function(output), alias } if is_mark(output) => {
                matches!(expr, Expr::Function(ordered) if ordered == output).then_some(alias)
            }
            _ => None,
        });
        if let Some(alias) = output {
            *expr = Expr::Identifier(alias.clone());
        }
    }
}

/// Gives the second column of a name another one: `SELECT a, a` becomes `SELECT a, a AS a_1`. The new name is none that
/// the SELECT or its ORDER BY use, as it would hide the column that they mean.
pub(super) fn distinguish(select: &mut Select, order_by: Option<&BTreeSet<String>>) {
    let mut seen: BTreeSet<String> = BTreeSet::new();
    let is_first = |item: &SelectItem| key_and_name(item).is_none_or(|(key, _)| seen.insert(key));
    if !select.projection.iter().any(is_marked) && select.projection.iter().all(is_first) {
        return;
    }
    let taken = taken(select, order_by);
    // The columns of a wildcard are not known here, so a name has a form that columns rarely have.
    let is_wildcard = |item: &SelectItem| matches!(item, SelectItem::Wildcard(..) | SelectItem::QualifiedWildcard(..));
    let has_wildcard = select.projection.iter().any(is_wildcard);
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for item in &mut select.projection {
        let Some((key, name)) = key_and_name(item) else { continue };
        let is_marked = is_marked(item);
        if !is_marked && seen.insert(key) {
            continue;
        }
        let numbered =
            (1..).map(|number| if has_wildcard { format!("{name} ({number})") } else { format!("{name}_{number}") });
        let numbered = numbered.filter(|name| !taken.contains(name));
        let own = std::iter::once(name.clone()).filter(|_| is_marked);
        let Some(name) = own.chain(numbered).find(|name| !seen.contains(name)) else { continue };
        seen.insert(name.clone());
        rename(item, name);
    }
}

/// Returns the text that two columns of one name have in common, and the name. `None` for several columns.
fn key_and_name(item: &SelectItem) -> Option<(String, String)> {
    Some(match item {
        SelectItem::UnnamedExpr(Expr::Identifier(name)) => (normal(name), normal(name)),
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => {
            let parts: Vec<String> = parts.iter().map(normal).collect();
            (parts.join("."), parts.last().cloned().unwrap_or_default())
        }
        SelectItem::UnnamedExpr(Expr::Function(function)) if is_mark(function) => {
            let name = marked(function)?;
            (name.clone(), name)
        }
        SelectItem::UnnamedExpr(expression) if is_unnest(expression) => return None,
        SelectItem::UnnamedExpr(other) => (other.to_string(), other.to_string()),
        SelectItem::ExprWithAlias { alias, .. } => (normal(alias), normal(alias)),
        _ => return None,
    })
}

/// Checks if a column of a SELECT list is a marked reference without an alias.
fn is_marked(item: &SelectItem) -> bool {
    matches!(item, SelectItem::UnnamedExpr(Expr::Function(function)) if is_mark(function))
}

fn is_mark(function: &Function) -> bool {
    function.name.to_string() == MARK
}

/// Returns the name of the column that a marked reference refers to.
fn marked(function: &Function) -> Option<String> {
    let FunctionArguments::List(list) = &function.args else { return None };
    match list.args.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(Expr::CompoundIdentifier(parts))) => parts.last().map(normal),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::with_names;
    use crate::sql::parse_statement;

    #[test]
    fn columns_that_may_have_one_name_get_another() {
        let named = |sql: &str| with_names(parse_statement(sql).unwrap()).map(|statement| statement.to_string());
        for (sql, expected) in [
            ("SELECT b, b::SMALLINT FROM t", "SELECT b, b::SMALLINT AS \"b::SMALLINT\" FROM t"),
            ("SELECT *, b::SMALLINT FROM t", "SELECT *, b::SMALLINT AS \"b::SMALLINT\" FROM t"),
            ("SELECT b, T.B FROM t", "SELECT b, T.B AS \"b_1\" FROM t"),
            ("SELECT a.b, c.b, b, d.a.b FROM a, c", "SELECT a.b, c.b, b AS \"b_1\", d.a.b AS \"b_2\" FROM a, c"),
            ("SELECT t.b, 1 AS b, b_1 FROM t", "SELECT t.b, 1 AS \"b_2\", b_1 FROM t"),
            ("SELECT 1 AS b, t.b FROM t ORDER BY t.b_1", "SELECT 1 AS b, t.b AS \"b_2\" FROM t ORDER BY t.b_1"),
        ] {
            assert_eq!(named(sql).as_deref(), Some(expected), "{sql}");
        }
        for sql in [
            "SELECT a.b, c.b FROM a, c",
            "SELECT b + 1 FROM t",
            "SELECT t.b, 1 AS b FROM t ORDER BY b",
            "SELECT 1 AS b, t.b FROM t ORDER BY b",
        ] {
            assert_eq!(named(sql), None, "{sql}");
        }
    }
}
