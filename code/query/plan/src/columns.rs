//! Finds columns whose names have capital letters by names without quotes.
//!
//! SQL reads `userId` as `userid`. If no column in scope has that name and exactly one differs from it only by case, the
//! name is replaced by that column's in double quotes, and the statement is planned again. So a lowercase column is always
//! preferred, and two columns that both fit remain an error.
//!
//! Also names the relation of columns that `NATURAL JOIN` merges: the planner finds them ambiguous in WHERE, and which they
//! are is known only once the tables are.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::common::{Location, SchemaError};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Expr, Ident, JoinConstraint, JoinOperator, ObjectName, ObjectNamePart, Select, VisitorMut,
};

use crate::standard::{self, Named};
use crate::visit::{each_expression_mut, visit_mut};

/// Maximum number of names that are replaced in one statement, since each is found by planning it.
const NAMES_MAX: usize = 300;

/// Plans `statement`. The session must collect the places of columns (`sql_parser.collect_spans`).
///
/// # Errors
/// As [`SessionState::statement_to_plan`].
pub(crate) async fn planned(state: &SessionState, mut statement: Statement) -> Result<LogicalPlan> {
    for _ in 0..NAMES_MAX {
        let error = match state.statement_to_plan(statement.clone()).await {
            Ok(plan) => return Ok(plan),
            Err(error) => error,
        };
        if let Some(column) = ambiguous(&error) {
            match with_side(state, &statement, column).await {
                Some(named) => statement = named,
                None => return Err(error),
            }
            continue;
        }
        let replaced = missing(&error, None).is_some_and(|missing| replace(&mut statement, missing));
        if !replaced {
            return Err(error);
        }
    }
    state.statement_to_plan(statement).await
}

/// Returns `statement` with the relation of `column`, which NATURAL JOIN merges, in its conditions. `None` if in a SELECT no
/// relation has that column, or one beside these joins has it too.
async fn with_side(state: &SessionState, statement: &Statement, column: &str) -> Option<Statement> {
    let selects = standard::natural_selects(statement);
    let mut chosen = vec![Named::Null; selects.len()];
    for (index, select) in selects.iter().enumerate() {
        let planned = async |named: Named| {
            let mut names = vec![Named::Null; selects.len()];
            names[index] = named;
            let error = state.statement_to_plan(standard::with_names_of(statement, column, &names)).await.err();
            found(error.as_ref(), column)
        };
        if planned(Named::Itself).await != Found::Several {
            chosen[index] = Named::Itself;
            continue;
        }
        for other in &select.others {
            if planned(Named::By(other.clone())).await != Found::None {
                return None;
            }
        }
        for merged in &select.merged {
            if planned(Named::By(merged.clone())).await == Found::One {
                chosen[index] = Named::By(merged.clone());
                break;
            }
        }
        if matches!(chosen[index], Named::Null) {
            return None;
        }
    }
    let is_named = chosen.iter().any(|named| matches!(named, Named::By(_)));
    is_named.then(|| standard::with_names_of(statement, column, &chosen))
}

/// The columns that a name finds.
#[derive(PartialEq)]
enum Found {
    None,
    One,
    Several,
}

/// Returns how many columns `column` finds in a statement that was planned with this error.
fn found(error: Option<&DataFusionError>, column: &str) -> Found {
    match error.and_then(schema_error) {
        Some(SchemaError::FieldNotFound { field, .. }) if field.name == column => Found::None,
        Some(SchemaError::AmbiguousReference { field }) if field.name == column => Found::Several,
        _ => Found::One,
    }
}

/// Returns the name without a relation that several columns have.
fn ambiguous(error: &DataFusionError) -> Option<&str> {
    match schema_error(error)? {
        SchemaError::AmbiguousReference { field } if field.relation.is_none() => Some(&field.name),
        _ => None,
    }
}

fn schema_error(error: &DataFusionError) -> Option<&SchemaError> {
    match error.find_root() {
        DataFusionError::Collection(errors) => schema_error(errors.first()?),
        DataFusionError::SchemaError(error, _) => Some(error),
        _ => None,
    }
}

/// A name without a column, and the only column that has the name if case is ignored.
struct Missing {
    name: String,
    /// The table that qualifies the name.
    table: Option<String>,
    column: String,
    /// End of the name in the statement. Errors about the condition of a join have none.
    end: Option<Location>,
}

fn missing(error: &DataFusionError, end: Option<Location>) -> Option<Missing> {
    match error {
        DataFusionError::Context(_, inner) => missing(inner, end),
        DataFusionError::Diagnostic(diagnostic, inner) => missing(inner, diagnostic.span.map(|span| span.end).or(end)),
        DataFusionError::Shared(inner) => missing(inner, end),
        DataFusionError::Collection(errors) => missing(errors.first()?, end),
        DataFusionError::SchemaError(schema, _) => {
            let SchemaError::FieldNotFound { field, valid_fields } = schema.as_ref() else { return None };
            let table = field.relation.as_ref();
            let columns: BTreeSet<&str> = valid_fields
                .iter()
                .filter(|column| table.is_none_or(|table| column.relation.as_ref().is_none_or(|other| other == table)))
                .map(|column| column.name.as_str())
                .filter(|name| name.eq_ignore_ascii_case(&field.name))
                .collect();
            match columns.into_iter().collect::<Vec<_>>().as_slice() {
                [only] if *only != field.name => Some(Missing {
                    name: field.name.clone(),
                    table: table.map(|table| table.table().to_string()),
                    column: (*only).to_string(),
                    end: field.spans().first().map(|span| span.end).or(end),
                }),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Replaces the name at its place. A name without a place is replaced in all conditions of joins that have it. Returns
/// false if the statement does not have the name.
fn replace(statement: &mut Statement, missing: Missing) -> bool {
    let Statement::Statement(sql) = statement else { return false };
    let mut names = Names { missing, count: 0 };
    let _: ControlFlow<()> = visit_mut(sql, &mut names);
    names.count > 0
}

struct Names {
    missing: Missing,
    count: usize,
}

impl Names {
    fn is_missing(&self, name: &Ident) -> bool {
        name.quote_style.is_none() && name.value.to_ascii_lowercase() == self.missing.name
    }

    fn put(&mut self, name: &mut Ident) {
        name.value.clone_from(&self.missing.column);
        name.quote_style = Some('"');
        self.count += 1;
    }

    /// Replaces the name in the condition of a join.
    fn condition(&mut self, condition: &mut Expr) {
        each_expression_mut(condition, &mut |expression| match expression {
            Expr::Identifier(name) if self.missing.table.is_none() && self.is_missing(name) => self.put(name),
            Expr::CompoundIdentifier(names) => {
                if let [.., table, name] = names.as_mut_slice()
                    && self.missing.table.as_ref().is_some_and(|other| table.value.eq_ignore_ascii_case(other))
                    && self.is_missing(name)
                {
                    self.put(name);
                }
            }
            _ => {}
        });
    }
}

impl VisitorMut for Names {
    type Break = ();

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<()> {
        let name = match expression {
            Expr::Identifier(name) => Some(name),
            Expr::CompoundIdentifier(names) => names.last_mut(),
            _ => None,
        };
        let end = self.missing.end;
        if let Some(name) = name
            && end.is_some_and(|end| (end.line, end.column) == (name.span.end.line, name.span.end.column))
            && self.is_missing(name)
        {
            self.put(name);
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<()> {
        if self.missing.end.is_some() {
            return ControlFlow::Continue(());
        }
        for join in select.from.iter_mut().flat_map(|from| &mut from.joins) {
            match constraint(&mut join.join_operator) {
                Some(JoinConstraint::On(condition)) => self.condition(condition),
                Some(JoinConstraint::Using(columns)) => {
                    for ObjectName(parts) in columns {
                        if let [ObjectNamePart::Identifier(name)] = parts.as_mut_slice()
                            && self.is_missing(name)
                        {
                            self.put(name);
                        }
                    }
                }
                _ => {}
            }
        }
        ControlFlow::Continue(())
    }
}

/// Returns the condition of a join.
fn constraint(join: &mut JoinOperator) -> Option<&mut JoinConstraint> {
    match join {
        JoinOperator::Join(constraint)
        | JoinOperator::Inner(constraint)
        | JoinOperator::Left(constraint)
        | JoinOperator::LeftOuter(constraint)
        | JoinOperator::Right(constraint)
        | JoinOperator::RightOuter(constraint)
        | JoinOperator::FullOuter(constraint)
        | JoinOperator::Semi(constraint)
        | JoinOperator::LeftSemi(constraint)
        | JoinOperator::RightSemi(constraint)
        | JoinOperator::Anti(constraint)
        | JoinOperator::LeftAnti(constraint)
        | JoinOperator::RightAnti(constraint) => Some(constraint),
        _ => None,
    }
}
