//! The columns of a table that rows are inserted into: each statement returns all of them, in their order.

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, SchemaRef};
use buzz_protocol::{QueryError, Result};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast, lit};

/// The columns of a table that rows are inserted into.
#[derive(Debug, Clone)]
pub(super) struct Target {
    columns: SchemaRef,
    /// The table declares them, so a SELECT gives them by position. Otherwise they are those of its first statement, and
    /// a SELECT gives them by name.
    declared: bool,
}

impl Target {
    /// Returns the columns that a table declares.
    pub(super) fn declared(columns: &SchemaRef) -> Self {
        Self { columns: Arc::clone(columns), declared: true }
    }

    /// Returns the columns of the first statement with a table that declares none.
    pub(super) fn of(first: &LogicalPlan) -> Self {
        Self { columns: Arc::new(first.schema().as_arrow().clone()), declared: false }
    }

    fn names(&self) -> Vec<String> {
        self.columns.fields().iter().map(|field| field.name().clone()).collect()
    }

    fn unknown(&self, name: &str) -> QueryError {
        let (columns, remedy) = (self.names().join(", "), "name them by AS, or declare the columns of the table");
        QueryError::invalid(match self.declared {
            true => format!("column `{name}` is not a column of the table, which has {columns}"),
            false => format!(
                "column `{name}` is not a column of the table, whose first INSERT has the columns {columns}; {remedy}"
            ),
        })
    }
}

/// Brings `plan` to the columns of the table that it is inserted into: in their order, with their names and types, and
/// NULL for those that it leaves out. `named` are the columns that INSERT names. Without `target`, the table takes the
/// columns as they are.
///
/// # Errors
/// `Invalid` if the table has no column of a name, a name is given twice, or a cast would change values.
pub(super) fn into_columns(plan: LogicalPlan, named: &[String], target: Option<&Target>) -> Result<LogicalPlan> {
    let given = given_names(&plan, named, target)?;
    let columns = plan.schema().columns();
    let Some(target) = target else {
        if named.is_empty() {
            return Ok(plan);
        }
        let exprs = columns.into_iter().zip(given).map(|(column, name)| Expr::Column(column).alias(name));
        return Ok(LogicalPlanBuilder::from(plan).project(exprs.collect::<Vec<_>>())?.build()?);
    };
    if let Some(unknown) = given.iter().find(|name| target.columns.index_of(name).is_err()) {
        return Err(target.unknown(unknown));
    }
    let mut exprs = Vec::new();
    let mut unchanged = given.len() == target.columns.fields().len();
    for (place, field) in target.columns.fields().iter().enumerate() {
        let to = field.data_type();
        let Some(index) = given.iter().position(|name| name == field.name()) else {
            exprs.push(lit(ScalarValue::try_new_null(to)?).alias(field.name()));
            continue;
        };
        let found = plan.schema().field(index);
        unchanged &= index == place && found.name() == field.name() && found.data_type() == to;
        let column = Expr::Column(columns[index].clone());
        exprs.push(match found.data_type() {
            from if from == to => column.alias(field.name()),
            from if is_exact(from, to) || is_exact_literal(&plan, index, to) => {
                cast(column, to.clone()).alias(field.name())
            }
            from => {
                return Err(QueryError::invalid(format!(
                    "column `{}` of the SELECT has type {from}, and column `{}` of the table has type {to}, which does not \
                     have all of its values; cast it in the SELECT, or give the table's column another type",
                    found.name(),
                    field.name()
                )));
            }
        });
    }
    if unchanged {
        return Ok(plan);
    }
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// Returns the names of the table's columns that the columns of `plan` are for.
fn given_names(plan: &LogicalPlan, named: &[String], target: Option<&Target>) -> Result<Vec<String>> {
    let count = plan.schema().fields().len();
    let by_position = match (named, target) {
        ([], Some(target)) if target.declared => target.names(),
        (named, _) => named.to_vec(),
    };
    if by_position.is_empty() {
        let given: Vec<String> = plan.schema().fields().iter().map(|field| field.name().clone()).collect();
        if let Some(name) = duplicate(&given).filter(|_| target.is_some()) {
            return Err(QueryError::invalid(format!(
                "two columns of the SELECT are named `{name}`; give them other names by AS"
            )));
        }
        return Ok(given);
    }
    if let Some(name) = duplicate(&by_position) {
        return Err(QueryError::invalid(format!("column `{name}` of the table is named twice; remove one of them")));
    }
    if by_position.len() != count {
        let owner = if named.is_empty() { "the table has" } else { "INSERT names" };
        return Err(QueryError::invalid(format!(
            "the SELECT has {count} columns, but {owner} {}: {}",
            by_position.len(),
            by_position.join(", ")
        )));
    }
    Ok(by_position)
}

/// Returns a name that occurs twice.
fn duplicate(names: &[String]) -> Option<&String> {
    names.iter().enumerate().find(|(index, name)| names[..*index].contains(name)).map(|(_, name)| name)
}

/// Returns true if a cast keeps each value, or fails for a row whose value does not fit, such as an integer that is too
/// large.
fn is_exact(from: &DataType, to: &DataType) -> bool {
    match (from, to) {
        (from, to) if from == to => true,
        (DataType::Null, _) => true,
        (DataType::Dictionary(_, value), to) => is_exact(value, to),
        (from, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) => !from.is_nested() && !from.is_binary(),
        (from, DataType::Binary | DataType::LargeBinary | DataType::BinaryView) => from.is_binary(),
        (DataType::List(from), DataType::List(to)) => is_exact(from.data_type(), to.data_type()),
        (DataType::Struct(from), DataType::Struct(to)) => {
            let keeps = |(from, to): (&FieldRef, &FieldRef)| {
                from.name() == to.name() && is_exact(from.data_type(), to.data_type())
            };
            from.len() == to.len() && from.iter().zip(to).all(keeps)
        }
        (DataType::Timestamp(from, zone), DataType::Timestamp(to, other)) => from <= to && is_same_clock(zone, other),
        (DataType::Date32, DataType::Timestamp(_, None) | DataType::Date64) => true,
        (DataType::Boolean, to) => to.is_integer(),
        (from, to) if from.is_floating() && to.is_floating() => from.primitive_width() <= to.primitive_width(),
        (from, to) if from.is_integer() && to.is_integer() => true,
        // A DOUBLE has the nearest value of a larger number, as in other assignments of SQL.
        (from, DataType::Float64) if from.is_integer() || from.is_decimal() => true,
        // A float of 4 bytes has all integers of 2.
        (from, to) if from.is_integer() && to.is_floating() => {
            from.primitive_width().map(|width| 2 * width) <= to.primitive_width()
        }
        (from, to) => match (scale(from), scale(to)) {
            (Some(from), Some(to)) => from <= to,
            (None, Some(to)) => from.is_integer() && to >= 0,
            (Some(from), None) => from <= 0 && to.is_integer(),
            (None, None) => false,
        },
    }
}

/// Returns the digits after the point of a decimal.
fn scale(of: &DataType) -> Option<i8> {
    match of {
        DataType::Decimal32(_, scale)
        | DataType::Decimal64(_, scale)
        | DataType::Decimal128(_, scale)
        | DataType::Decimal256(_, scale) => Some(*scale),
        _ => None,
    }
}

/// Returns true if times of two zones are the same numbers. Times without a zone are those of UTC.
fn is_same_clock(zone: &Option<Arc<str>>, other: &Option<Arc<str>>) -> bool {
    let is_utc = |zone: &Option<Arc<str>>| zone.as_deref().is_none_or(|zone| matches!(zone, "UTC" | "+00:00" | "Z"));
    zone.is_some() == other.is_some() || is_utc(zone) && is_utc(other)
}

/// Returns true if column `index` of `plan` is a literal whose value a cast keeps, such as 0 in a column of floats.
fn is_exact_literal(plan: &LogicalPlan, index: usize, to: &DataType) -> bool {
    let LogicalPlan::Projection(projection) = plan else { return false };
    let Some(Expr::Literal(value, _)) = projection.expr.get(index).map(|expr| expr.clone().unalias()) else {
        return false;
    };
    let back = value.cast_to(to).and_then(|cast| cast.cast_to(&value.data_type()));
    back.is_ok_and(|back| back == value)
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{Field, Schema, TimeUnit};
    use datafusion::prelude::SessionContext;

    use super::*;

    async fn plan(sql: &str) -> LogicalPlan {
        SessionContext::new().state().create_logical_plan(sql).await.expect("the statement is right")
    }

    fn table(columns: &[(&str, DataType)]) -> Target {
        let fields: Vec<Field> = columns.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect();
        Target::declared(&Arc::new(Schema::new(fields)))
    }

    async fn rows(plan: LogicalPlan) -> String {
        let rows = SessionContext::new().execute_logical_plan(plan).await.expect("a plan").collect().await;
        let text = arrow::util::pretty::pretty_format_batches(&rows.expect("rows")).expect("a text").to_string();
        let lines = text.lines().filter(|line| line.starts_with('|'));
        lines.map(|line| line.split_whitespace().collect::<String>()).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn columns_have_the_order_of_the_table() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        let declared = table(&[("a", DataType::Int64), ("b", DataType::Int64)]);
        let first = Target::of(&plan("SELECT 1 AS a, 2 AS b").await);
        let cases: [(&str, &[&str], &Target, &str); 7] = [
            ("SELECT 1 AS x, 2 AS y", &[], &declared, "|a|b| |1|2|"),
            ("SELECT 1 AS x, 2 AS y", &["b", "a"], &declared, "|a|b| |2|1|"),
            ("SELECT 1 AS x", &["b"], &declared, "|a|b| ||1|"),
            ("SELECT 1 AS b, 2 AS a", &[], &declared, "|a|b| |1|2|"),
            ("SELECT 1 AS b, 2 AS a", &[], &first, "|a|b| |2|1|"),
            ("SELECT 1 AS b", &[], &first, "|a|b| ||1|"),
            ("SELECT 1 AS x, 2 AS y", &["b", "a"], &first, "|a|b| |2|1|"),
        ];
        for (sql, named, target, expected) in cases {
            let plan = into_columns(plan(sql).await, &names(named), Some(target)).expect("the columns fit");
            assert_eq!(rows(plan).await, expected, "{sql} {named:?}");
        }
        let plan = into_columns(plan("SELECT 1 AS x").await, &names(&["a"]), None).expect("any column fits");
        assert_eq!(rows(plan).await, "|a| |1|");
    }

    #[tokio::test]
    async fn columns_that_do_not_fit_are_refused() {
        let declared = table(&[("a", DataType::Int64), ("f", DataType::Float64)]);
        let first = Target::of(&plan("SELECT 1 AS a, 2 AS b").await);
        let cases: [(&str, &[&str], &Target, &str); 8] = [
            ("SELECT 1", &[], &declared, "the SELECT has 1 columns, but the table has 2: a, f"),
            ("SELECT 1, 2", &["a"], &declared, "the SELECT has 2 columns, but INSERT names 1: a"),
            ("SELECT 1, 2", &["a", "a"], &declared, "`a` of the table is named twice"),
            ("SELECT 1", &["c"], &declared, "`c` is not a column of the table, which has a, f"),
            ("SELECT 1 AS c", &[], &first, "whose first INSERT has the columns a, b; name them by AS"),
            ("SELECT 'x' AS a", &[], &first, "and column `a` of the table has type Int64"),
            ("SELECT 1.5 AS x", &["a"], &declared, "column `x` of the SELECT has type Float64"),
            ("SELECT l.a, r.a FROM (SELECT 1 AS a) l, (SELECT 2 AS a) r", &[], &first, "two columns of the SELECT"),
        ];
        for (sql, named, target, message) in cases {
            let named: Vec<String> = named.iter().map(ToString::to_string).collect();
            let error = into_columns(plan(sql).await, &named, Some(target)).expect_err("the columns do not fit");
            assert!(error.message.contains(message), "{sql} {named:?}: {error}");
        }
        // Its value is the same as a float.
        let plan = into_columns(plan("SELECT 7").await, &["f".to_string()], Some(&declared)).expect("it fits");
        assert_eq!(rows(plan).await, "|a|f| ||7.0|");
    }

    #[test]
    fn casts_that_change_values_are_not_exact() {
        let micros = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Arc::from));
        let nanos = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Nanosecond, zone.map(Arc::from));
        let exact = [
            (DataType::UInt64, DataType::Int32),
            (DataType::Int64, DataType::Float64),
            (DataType::Decimal128(10, 2), DataType::Float64),
            (DataType::Float32, DataType::Float64),
            (DataType::Int64, DataType::Decimal128(20, 2)),
            (DataType::Decimal128(10, 1), DataType::Decimal128(10, 2)),
            (DataType::Int64, DataType::Utf8),
            (DataType::Date32, nanos(None)),
            (micros(None), nanos(None)),
            (micros(Some("+00:00")), nanos(None)),
        ];
        for (from, to) in exact {
            assert!(is_exact(&from, &to), "{from} to {to}");
        }
        let inexact = [
            (DataType::Int32, DataType::Float32),
            (DataType::Float64, DataType::Float32),
            (DataType::Float64, DataType::Int64),
            (DataType::Decimal128(10, 2), DataType::Decimal128(10, 1)),
            (DataType::Decimal128(10, 2), DataType::Int64),
            (DataType::Utf8, DataType::Int64),
            (nanos(None), micros(None)),
            (nanos(None), DataType::Date32),
            (micros(Some("Europe/Berlin")), nanos(None)),
            (DataType::Int64, DataType::Boolean),
        ];
        for (from, to) in inexact {
            assert!(!is_exact(&from, &to), "{from} to {to}");
        }
    }
}
