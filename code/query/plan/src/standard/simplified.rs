//! Expressions whose simplification loses nulls.
//!
//! DataFusion simplifies `x IN (1) AND x IN (2)` to false and `x NOT IN (1) OR x NOT IN (2)` to true, also where `x` is
//! null and the result unknown. It does the same with lists that it makes of `x = 1 OR x = 2`.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::Transformed;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, Operator};

use super::operands::type_of;

/// Replaces `expression` by one whose simplification keeps nulls.
pub(super) fn with_nulls(expression: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) = &expression else {
        return Ok(Transformed::no(expression));
    };
    let negated = *op == Operator::Or;
    let (lefts, rights) = (lists(left, *op), lists(right, *op));
    for left in lefts.iter().filter(|list| list.applies(negated)) {
        for right in rights.iter().filter(|list| list.applies(negated)) {
            if left.value == right.value
                && left.value.nullable(schema)?
                && left.is_disjoint(right, &type_of(left.value, schema)?)
            {
                // False if the value is not null, and unknown otherwise; or true and unknown.
                let unknown = Expr::Literal(ScalarValue::Boolean(None), None);
                let value = left.value.clone();
                let constant = if negated { value.is_not_null().or(unknown) } else { value.is_null().and(unknown) };
                let rest = without(&expression, left, right, *op);
                return Ok(Transformed::yes(rest.into_iter().fold(constant, |all, next| match op {
                    Operator::Or => all.or(next),
                    _ => all.and(next),
                })));
            }
        }
    }
    Ok(Transformed::no(expression))
}

/// Gives `coalesce(coalesce(a, b), c)` one call: DataFusion writes each value twice, and so those of nested calls many times.
pub(super) fn flat(expression: Expr) -> Transformed<Expr> {
    let Expr::ScalarFunction(mut call) = expression else { return Transformed::no(expression) };
    let is_nested = |arg: &Expr| matches!(arg, Expr::ScalarFunction(inner) if inner.name() == "coalesce");
    if call.name() != "coalesce" || !call.args.iter().any(is_nested) {
        return Transformed::no(Expr::ScalarFunction(call));
    }
    let args = std::mem::take(&mut call.args).into_iter();
    call.args = args
        .flat_map(|arg| match arg {
            Expr::ScalarFunction(inner) if inner.name() == "coalesce" => inner.args,
            other => vec![other],
        })
        .collect();
    Transformed::yes(Expr::ScalarFunction(call))
}

/// A list of literals that a value is compared with.
struct List<'a> {
    value: &'a Expr,
    literals: Vec<&'a ScalarValue>,
    negated: bool,
    whole: &'a Expr,
}

impl List<'_> {
    fn applies(&self, negated: bool) -> bool {
        self.negated == negated && !self.literals.iter().any(|literal| literal.is_null())
    }

    /// Checks if no value is in both lists, of values of `data_type`. False if that is not known before the planner gives
    /// their literals one type.
    fn is_disjoint(&self, other: &List<'_>, data_type: &DataType) -> bool {
        let values = |list: &List<'_>| {
            list.literals.iter().map(|literal| value_as(literal, data_type)).collect::<Option<Vec<ScalarValue>>>()
        };
        match (values(self), values(other)) {
            (Some(own), Some(others)) => !own.iter().any(|value| others.contains(value)),
            _ => false,
        }
    }
}

/// Returns `literal` as a value of `data_type`, with one form of zero. `None` if the planner may compare it in another type.
fn value_as(literal: &ScalarValue, data_type: &DataType) -> Option<ScalarValue> {
    let own = literal.data_type();
    let keeps = own == *data_type
        || own.is_integer() && (data_type.is_integer() || data_type.is_floating())
        || own.is_string() && data_type.is_string();
    if !keeps {
        return None;
    }
    Some(match literal.cast_to(data_type).ok()? {
        // These match -0.0 too.
        ScalarValue::Float32(Some(0.0)) => ScalarValue::Float32(Some(0.0)),
        ScalarValue::Float64(Some(0.0)) => ScalarValue::Float64(Some(0.0)),
        value => value,
    })
}

/// Returns the lists of the operands that `op` combines.
fn lists(expression: &Expr, op: Operator) -> Vec<List<'_>> {
    let (mut open, mut found) = (vec![expression], Vec::new());
    while let Some(next) = open.pop() {
        match next {
            Expr::BinaryExpr(BinaryExpr { left, op: other, right }) if *other == op => {
                open.extend([left.as_ref(), right.as_ref()]);
            }
            Expr::InList(InList { expr, list, negated }) => {
                let literals = list.iter().map(|item| match item {
                    Expr::Literal(value, _) => Some(value),
                    _ => None,
                });
                if let Some(literals) = literals.collect::<Option<Vec<_>>>() {
                    found.push(List { value: expr, literals, negated: *negated, whole: next });
                }
            }
            _ => {}
        }
    }
    found
}

/// Returns the operands of `expression` that are not one of both lists.
fn without(expression: &Expr, left: &List<'_>, right: &List<'_>, op: Operator) -> Vec<Expr> {
    let (mut open, mut rest) = (vec![expression], Vec::new());
    while let Some(next) = open.pop() {
        match next {
            Expr::BinaryExpr(BinaryExpr { left, op: other, right }) if *other == op => {
                open.extend([right.as_ref(), left.as_ref()]);
            }
            list if list == left.whole || list == right.whole => {}
            other => rest.push(other.clone()),
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{Field, Schema};
    use datafusion::functions::core::expr_fn::coalesce;
    use datafusion::prelude::{col, in_list, lit};

    use super::*;

    #[test]
    fn nested_calls_of_coalesce_are_one() {
        let nested = coalesce(vec![coalesce(vec![col("x"), col("y")]), lit(1_i64)]);
        assert_eq!(flat(nested).data, coalesce(vec![col("x"), col("y"), lit(1_i64)]));
    }

    #[test]
    fn lists_without_a_common_value_keep_nulls() {
        let schema = Schema::new(vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Int64, true)]);
        let schema = DFSchema::try_from(schema).unwrap();
        let list = |items: &[i64], negated| in_list(col("x"), items.iter().map(|item| lit(*item)).collect(), negated);
        let text = |expression| with_nulls(expression, &schema).unwrap().data.to_string();
        assert_eq!(text(list(&[1], false).and(list(&[2], false))), "x IS NULL AND Boolean(NULL)");
        assert_eq!(text(list(&[1], true).or(list(&[2, 3], true))), "x IS NOT NULL OR Boolean(NULL)");
        let rest = list(&[1], false).and(col("y").gt(lit(0_i64))).and(list(&[2], false));
        assert_eq!(text(rest), "x IS NULL AND Boolean(NULL) AND y > Int64(0)");
        let doubles = in_list(col("x"), vec![lit(2.0), lit(7.0)], false);
        let mixed = list(&[1, 2], false).and(doubles);
        assert_eq!(with_nulls(mixed.clone(), &schema).unwrap().data, mixed, "2 is 2.0");
        let common = list(&[1, 2], false).and(list(&[2], false));
        assert_eq!(with_nulls(common.clone(), &schema).unwrap().data, common);
    }
}
