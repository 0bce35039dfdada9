//! Prunes files by the `partition_filter` of a step.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchOptions, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Schema};
use buzz_catalog::{DataFile, Table};
use buzz_protocol::error::column_not_found;
use buzz_protocol::{Options, QueryError, Result};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNodeRecursion};
use datafusion::common::{DFSchema, SchemaError};
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{Between, BinaryExpr, InList, Like, ScalarFunction};
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, Volatility, cast};
use datafusion::scalar::ScalarValue;

use crate::dialect::{physical_expression, written_expression};
use crate::prune::{check_plain, describe, kept, passes};
use crate::standard;
use crate::trees::Tree;

/// Returns the files whose partition values, path (`key`) or size in bytes (`length`) pass `filter`, a boolean SQL
/// expression. It means what it means in a WHERE, and has the parameters `values` by name. A text literal compared with a number or
/// date is cast to that type. A text operator such as `LIKE` applies to the text form of the value.
///
/// # Errors
/// `Invalid` when the filter is not a boolean expression over these columns.
pub(crate) fn by_partition_filter(
    state: &SessionState,
    table: &Table,
    files: Vec<DataFile>,
    filter: &str,
    (values, options): (&HashMap<String, ScalarValue>, &Options),
) -> Result<Vec<DataFile>> {
    let batch = with_key(describe(table, &files)?, table, &files)?;
    let schema = DFSchema::try_from(batch.schema())?;
    let place = |error: QueryError| error.at(format!("partition_filter \"{filter}\""));

    let expr = written_expression(state, filter, &schema).map_err(|error| place(not_a_partition(error, table)))?;
    check_plain(&expr).map_err(place)?;
    check_stable(&expr).map_err(place)?;
    let expr = with_values(expr, values).map_err(place)?;
    let expr = standard::planned_expression(expr, &schema, options).map_err(place)?;
    let expr = with_start(state, expr, &schema).map_err(|error| place(error.into()))?;
    let typed =
        expr.rewrite_up(&mut |expr| text_means_value(expr, &schema)).data().map_err(|error| place(error.into()))?;
    match typed.get_type(&schema).map_err(|error| place(error.into()))? {
        DataType::Boolean | DataType::Null => {}
        other => return Err(place(QueryError::invalid(format!("it is of type {other}, not a condition")))),
    }
    let condition = physical_expression(state, typed, &schema).map_err(place)?;
    let keep = passes(&condition, &batch).map_err(place)?;
    Ok(kept(files, &keep))
}

/// Replaces the parameters in `expression` by `values`.
fn with_values(expression: Expr, values: &HashMap<String, ScalarValue>) -> Result<Expr> {
    let replaced = expression.rewrite_up(&mut |inner| {
        let Expr::Placeholder(placeholder) = &inner else { return Ok(Transformed::no(inner)) };
        let value = values.get(placeholder.id.trim_start_matches('$')).cloned();
        Ok(value.map_or(Transformed::no(inner), |value| Transformed::yes(Expr::Literal(value, None))))
    });
    Ok(replaced.data()?)
}

/// Replaces `now()` and the other functions of the time by the start of the query. They have no value otherwise.
fn with_start(state: &SessionState, expression: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .with_query_execution_start_time(state.execution_props().query_execution_start_time)
        .build();
    let replaced = expression.rewrite_up(&mut |inner| {
        let Expr::ScalarFunction(ScalarFunction { func, args }) = inner else { return Ok(Transformed::no(inner)) };
        if func.signature().volatility != Volatility::Stable {
            return Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })));
        }
        match func.simplify(args, &context)? {
            ExprSimplifyResult::Simplified(value) => Ok(Transformed::yes(value)),
            ExprSimplifyResult::Original(args) => {
                Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })))
            }
        }
    });
    replaced.data()
}

/// Appends the columns `(key: Utf8, length: UInt64)` of `files` to `batch`, unless the table has columns of these
/// names.
fn with_key(batch: RecordBatch, table: &Table, files: &[DataFile]) -> Result<RecordBatch> {
    let mut fields: Vec<FieldRef> = batch.schema().fields().iter().cloned().collect();
    let mut columns = batch.columns().to_vec();
    if table.schema.field_with_name("key").is_err() {
        fields.push(Arc::new(Field::new("key", DataType::Utf8, false)));
        columns.push(Arc::new(StringArray::from_iter_values(files.iter().map(|file| &file.path))));
    }
    if table.schema.field_with_name("length").is_err() {
        fields.push(Arc::new(Field::new("length", DataType::UInt64, false)));
        columns.push(Arc::new(UInt64Array::from_iter_values(files.iter().map(|file| file.size))));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(files.len()));
    Ok(RecordBatch::try_new_with_options(Arc::new(Schema::new(fields)), columns, &options)?)
}

fn not_a_partition(error: DataFusionError, table: &Table) -> QueryError {
    let root = error.find_root();
    let DataFusionError::SchemaError(schema, _) = root else {
        return error.into();
    };
    let SchemaError::FieldNotFound { field, valid_fields } = schema.as_ref() else {
        return error.into();
    };
    let names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
    if table.schema.field_with_name(&field.name).is_ok() {
        let there = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        return QueryError::invalid(format!(
            "column `{}` is not a partition column of `{}`; filter it in the step's SQL \
             (`partition_filter` supports {there})",
            field.name, table.name
        ));
    }
    let place = format!(" among the partition columns of `{}`", table.name);
    QueryError::invalid(column_not_found(&field.name, &place, &names))
}

/// Rejects functions with another result in each call: a filter is evaluated for all files at once, and a query may be planned again.
fn check_stable(expr: &Expr) -> Result<()> {
    let mut found = None;
    expr.each(&mut |expr| {
        found = match expr {
            Expr::ScalarFunction(call) if call.func.signature().volatility == Volatility::Volatile => {
                Some(call.name().to_string())
            }
            _ => None,
        };
        Ok(if found.is_some() { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    match found {
        Some(name) => Err(QueryError::invalid(format!(
            "it cannot contain `{name}()`, which has another result in each call; filter in the step's SQL"
        ))),
        None => Ok(()),
    }
}

fn text_means_value(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>, DataFusionError> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.supports_propagation() => {
            let (left, right) = same_type(*left, *right, schema)?;
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))))
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_text_operator(op) => {
            let left = as_text(*left, schema)?;
            Ok(Transformed::yes(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, right))))
        }
        Expr::Like(like) => Ok(Transformed::yes(Expr::Like(text_like(like, schema)?))),
        Expr::SimilarTo(like) => Ok(Transformed::yes(Expr::SimilarTo(text_like(like, schema)?))),
        Expr::Between(Between { expr, negated, low, high }) => {
            let (_, low) = same_type((*expr).clone(), *low, schema)?;
            let (expr, high) = same_type(*expr, *high, schema)?;
            let between = Between::new(Box::new(expr), negated, Box::new(low), Box::new(high));
            Ok(Transformed::yes(Expr::Between(between)))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let typed = |item| Ok::<_, DataFusionError>(same_type((*expr).clone(), item, schema)?.1);
            let list = list.into_iter().map(typed).collect::<Result<Vec<_>, _>>()?;
            Ok(Transformed::yes(Expr::InList(InList::new(expr, list, negated))))
        }
        other => Ok(Transformed::no(other)),
    }
}

fn is_text_operator(op: Operator) -> bool {
    use Operator::{
        ILikeMatch, LikeMatch, NotILikeMatch, NotLikeMatch, RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch,
    };
    matches!(
        op,
        RegexMatch
            | RegexIMatch
            | RegexNotMatch
            | RegexNotIMatch
            | LikeMatch
            | ILikeMatch
            | NotLikeMatch
            | NotILikeMatch
    )
}

fn text_like(like: Like, schema: &DFSchema) -> Result<Like, DataFusionError> {
    let expr = Box::new(as_text(*like.expr, schema)?);
    Ok(Like { expr, ..like })
}

fn as_text(expr: Expr, schema: &DFSchema) -> Result<Expr, DataFusionError> {
    if is_text(&expr.get_type(schema)?) { Ok(expr) } else { Ok(cast(expr, DataType::Utf8)) }
}

fn is_text(data_type: &DataType) -> bool {
    matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
}

/// Returns both sides. A text literal next to a value of another type is cast to that type.
fn same_type(left: Expr, right: Expr, schema: &DFSchema) -> Result<(Expr, Expr), DataFusionError> {
    let (left_type, right_type) = (left.get_type(schema)?, right.get_type(schema)?);
    match (is_text(&left_type), is_text(&right_type)) {
        (false, true) => Ok((left, literal_as(right, &left_type)?)),
        (true, false) => Ok((literal_as(left, &right_type)?, right)),
        _ => Ok((left, right)),
    }
}

fn literal_as(expr: Expr, data_type: &DataType) -> Result<Expr, DataFusionError> {
    match expr {
        Expr::Literal(value, metadata) if !value.is_null() => {
            let text = value.to_string();
            let typed = value.cast_to(data_type).map_err(|_| {
                let message = format!("'{text}' is not a value of type {data_type}");
                QueryError::invalid(message).into_datafusion()
            })?;
            Ok(Expr::Literal(typed, metadata))
        }
        other => Ok(other),
    }
}
