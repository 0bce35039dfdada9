//! The columns that `NATURAL JOIN` merges, in the conditions of its SELECT.
//!
//! The planner finds them ambiguous, and which columns are merged is known only once the tables are. So a condition names each
//! relation in turn, and planning the statement shows which one has the column. Other SELECTs must not have the same fault
//! meanwhile: there, the column is null.

use std::ops::ControlFlow;

use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::sqlparser::ast::{
    Expr as SqlExpr, Ident, Join as SqlJoin, JoinConstraint as SqlConstraint, Select, Value, VisitorMut,
};

use super::syntax::normal;
use super::using::{alias_of, constraint};
use crate::visit::{each_own_expression_mut, visit_mut};

/// A SELECT with a NATURAL JOIN.
pub(crate) struct NaturalSelect {
    /// The relations that its joins merge.
    pub(crate) merged: Vec<Ident>,
    /// The relations beside them.
    pub(crate) others: Vec<Ident>,
}

/// The form of a column in the conditions of a SELECT.
#[derive(Clone)]
pub(crate) enum Named {
    Itself,
    Null,
    By(Ident),
}

/// Returns the SELECTs of `statement` with a NATURAL JOIN.
pub(crate) fn natural_selects(statement: &ParsedStatement) -> Vec<NaturalSelect> {
    let mut natural = Natural { column: "", names: &[], found: Vec::new() };
    if let ParsedStatement::Statement(sql) = &mut statement.clone() {
        let _: ControlFlow<()> = visit_mut(sql, &mut natural);
    }
    natural.found
}

/// Returns `statement` with `column` as `names` says in the conditions of its SELECTs with a NATURAL JOIN, which are in the order of
/// [`natural_selects`].
pub(crate) fn with_names_of(statement: &ParsedStatement, column: &str, names: &[Named]) -> ParsedStatement {
    let mut statement = statement.clone();
    if let ParsedStatement::Statement(sql) = &mut statement {
        let _: ControlFlow<()> = visit_mut(sql, &mut Natural { column, names, found: Vec::new() });
    }
    statement
}

struct Natural<'a> {
    column: &'a str,
    names: &'a [Named],
    found: Vec<NaturalSelect>,
}

impl VisitorMut for Natural<'_> {
    type Break = ();

    fn post_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        let Some((merged, others)) = natural_relations(select) else { return ControlFlow::Continue(()) };
        if let Some(named @ (Named::Null | Named::By(_))) = self.names.get(self.found.len()) {
            let mut renamed = |expression: &mut SqlExpr| rename(expression, self.column, named);
            each_own_expression_mut(&mut select.selection, &mut renamed);
            for join in select.from.iter_mut().flat_map(|table| &mut table.joins) {
                each_own_expression_mut(&mut join.join_operator, &mut renamed);
            }
        }
        self.found.push(NaturalSelect { merged, others });
        ControlFlow::Continue(())
    }
}

/// Replaces `expression` as `named` says if it is `column` without a relation.
fn rename(expression: &mut SqlExpr, column: &str, named: &Named) {
    if let SqlExpr::Identifier(found) = &*expression
        && normal(found) == column
    {
        *expression = match named {
            Named::By(relation) => SqlExpr::CompoundIdentifier(vec![relation.clone(), found.clone()]),
            Named::Null => SqlExpr::value(Value::Null),
            Named::Itself => return,
        };
    }
}

/// Returns the names of the relations at the start of a FROM that NATURAL JOIN merges, and those of all other relations. `None` if
/// there is none of these joins, or a relation has no name.
fn natural_relations(select: &Select) -> Option<(Vec<Ident>, Vec<Ident>)> {
    let is_natural = |join: &SqlJoin| matches!(constraint(&join.join_operator), Some(SqlConstraint::Natural));
    let first = select.from.iter().position(|table| table.joins.first().is_some_and(is_natural))?;
    let (mut merged, mut others) = (Vec::new(), Vec::new());
    for (index, table) in select.from.iter().enumerate() {
        let natural = if index == first { table.joins.iter().take_while(|join| is_natural(join)).count() } else { 0 };
        let joined = table.joins.iter().map(|join| &join.relation);
        for (place, factor) in std::iter::once(&table.relation).chain(joined).enumerate() {
            let relations = if index == first && place <= natural { &mut merged } else { &mut others };
            relations.push(alias_of(factor)?.clone());
        }
    }
    Some((merged, others))
}
