//! Derives the columns and the event time of a source from its declaration.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, IntervalMonthDayNano, Schema, SchemaRef};
use buzz_plan::dialect;
use buzz_protocol::{QueryError, Result};
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable, cast, lit};
use datafusion::prelude::SessionContext;

use super::source::{Source, SourceInput, is_changing};
use super::views::{declared_columns, quoted};
use crate::lower::{SourceScan, TIME};
use crate::script::TableDefinition;
use crate::window::{duration, time_type};

/// A source that is ready to read rows, what lowering knows about it, and the columns that statements can name.
pub(super) struct Prepared {
    pub(super) source: Source,
    pub(super) scan: SourceScan,
    pub(super) visible: SchemaRef,
}

/// Prepares source `name` from its declaration and the columns of its connector.
///
/// # Errors
/// `Invalid` if an expression is wrong, or the event time is not a column or not a time.
pub(super) async fn prepare(
    context: &SessionContext,
    name: &str,
    table: Option<&TableDefinition>,
    input: &SourceInput,
) -> Result<Prepared> {
    let declared = match table {
        Some(table) => declared_columns(table).await?,
        None => None,
    };
    Declaration::new(context, name, table, input, declared)?.source()
}

/// The declaration of a source.
struct Declaration<'a> {
    context: &'a SessionContext,
    name: &'a str,
    table: Option<&'a TableDefinition>,
    input: &'a SourceInput,
    /// The columns of the connector.
    raw: DFSchema,
    /// The columns that statements can name, each computed from `raw`.
    columns: Vec<(Expr, Field)>,
    /// The positions of those that are declared as NOT NULL.
    required: Vec<usize>,
}

impl<'a> Declaration<'a> {
    fn new(
        context: &'a SessionContext,
        name: &'a str,
        table: Option<&'a TableDefinition>,
        input: &'a SourceInput,
        declared: Option<Schema>,
    ) -> Result<Self> {
        let raw = DFSchema::try_from_qualified_schema(quoted(name), &input.schema)?;
        let is_required = |(_, field): &(usize, &FieldRef)| !field.is_nullable();
        let required = declared.iter().flat_map(|columns| columns.fields().iter().enumerate().filter(is_required));
        let required = required.map(|(index, _)| index).collect();
        let visible = match declared {
            Some(columns) => columns,
            None if is_changing(&input.schema) => {
                Schema::new(input.schema.fields()[..input.schema.fields().len().saturating_sub(1)].to_vec())
            }
            None => input.schema.as_ref().clone(),
        };
        let mut columns: Vec<(Expr, Field)> = Vec::new();
        for field in visible.fields() {
            let expr = match table.and_then(|table| table.generated.get(field.name())) {
                Some(text) => cast(dialect::expression(&context.state(), text, &raw)?, field.data_type().clone()),
                None => Expr::Column(Column::new(Some(name), field.name())),
            };
            columns.push((expr, field.as_ref().clone().with_nullable(true)));
        }
        Ok(Self { context, name, table, input, raw, columns, required })
    }

    fn option(&self, keys: &[&str]) -> Option<&str> {
        self.table.and_then(|table| keys.iter().find_map(|key| table.option(key)))
    }

    fn column(&self, wanted: &str) -> Result<Expr> {
        let found = self.columns.iter().find(|(_, field)| field.name() == wanted);
        found.map(|(expr, _)| expr.clone()).ok_or_else(|| {
            QueryError::invalid(format!(
                "the event time `{wanted}` is not a column of `{}`; declare it as TIMESTAMP",
                self.name
            ))
        })
    }

    /// Returns the column that an option names: as it is written, or in lower case, as names without quotes are.
    fn named(&self, written: &str) -> String {
        let known = self.columns.iter().any(|(_, field)| field.name() == written)
            || self.raw.has_column_with_unqualified_name(written);
        if known { written.to_string() } else { written.to_lowercase() }
    }

    /// Returns true if the connector has a column that no statement can name.
    fn is_hidden(&self, column: &str) -> bool {
        !self.columns.iter().any(|(_, field)| field.name() == column)
            && self.raw.has_column_with_unqualified_name(column)
    }

    /// Returns the name and the expression of the event time; `None` if rows have the time of their arrival.
    fn time(&self) -> Result<Option<(String, Expr)>> {
        let declared = self.table.and_then(|table| table.watermark.as_ref()).map(|(column, _)| column.clone());
        let declared =
            declared.or_else(|| self.option(&["event_time_field", "event_time"]).map(|written| self.named(written)));
        let connector = || {
            let time = self.input.time_column.clone()?;
            let known = self.columns.iter().any(|(_, field)| *field.name() == time);
            (known || self.raw.has_column_with_unqualified_name(&time)).then_some(time)
        };
        let Some(time) = declared.or_else(connector) else { return Ok(None) };
        let expr = match self.is_hidden(&time) {
            true => Expr::Column(Column::new(Some(self.name), &time)),
            false => self.column(&time)?,
        };
        let type_of = expr.get_type(&self.raw)?;
        if !matches!(type_of, DataType::Timestamp(..) | DataType::Date32 | DataType::Date64) {
            return Err(QueryError::invalid(format!(
                "the event time `{time}` has type {type_of}; declare it as TIMESTAMP"
            )));
        }
        Ok(Some((time, expr)))
    }

    /// Returns the watermark of a row with the event time `time`, and its text.
    fn mark(&self, name: &str, time: &Expr) -> Result<(Expr, String)> {
        if let Some((_, Some(text))) = self.table.and_then(|table| table.watermark.as_ref()) {
            // The expression names columns of the table, of which some may be generated.
            let visible: Vec<Field> = self.columns.iter().map(|(_, field)| field.clone()).collect();
            let visible = DFSchema::try_from_qualified_schema(quoted(self.name), &Schema::new(visible))?;
            let parsed = dialect::expression(&self.context.state(), text, &visible)?;
            return Ok((inlined(parsed, &self.columns)?, text.clone()));
        }
        if let Some(field) = self.option(&["watermark_field"]) {
            return Ok((self.column(&self.named(field))?, field.to_string()));
        }
        let nanos = self.input.delay;
        if nanos == 0 {
            return Ok((time.clone(), name.to_string()));
        }
        let delay = lit(ScalarValue::IntervalMonthDayNano(Some(IntervalMonthDayNano::new(0, 0, nanos))));
        Ok((cast(time.clone(), time_type()) - delay, format!("{name} - {}", duration(nanos))))
    }

    /// Checks that rows that change have no event time: the row before a change would have one that has passed.
    fn check_untimed(&self) -> Result<()> {
        let declares = self.table.is_some_and(|table| table.watermark.is_some())
            || self.option(&["event_time_field", "event_time", "watermark_field"]).is_some();
        if declares {
            return Err(QueryError::invalid(format!(
                "table `{}` has rows that change, so it cannot have an event time: a window closes once, and its rows could \
                 change later; remove WATERMARK FOR, event_time_field and watermark_field",
                self.name
            )));
        }
        Ok(())
    }

    fn source(&self) -> Result<Prepared> {
        let state = self.context.state();
        let physical = |expr: Expr| dialect::physical_expression(&state, expr, &self.raw);
        let mut columns = self.columns.iter().map(|(expr, _)| physical(expr.clone())).collect::<Result<Vec<_>>>()?;
        let mut fields: Vec<Field> = self.columns.iter().map(|(_, field)| field.clone()).collect();
        let visible = Arc::new(Schema::new(fields.clone()));
        fields.push(Field::new(TIME, time_type(), true));
        let schema = Arc::new(Schema::new(fields));
        let (mut mark, mut mark_text, mut time_column) = (None, "time of arrival".to_string(), None);
        let changing = is_changing(&self.input.schema);
        if changing {
            self.check_untimed()?;
            let place =
                self.raw.fields().last().ok_or_else(|| QueryError::internal("rows that change have no place"))?;
            columns.push(physical(Expr::Column(Column::new(Some(self.name), place.name())))?);
        } else if let Some((name, time)) = self.time()? {
            let (expr, text) = self.mark(&name, &time)?;
            columns.push(physical(cast(time, time_type()))?);
            (mark, mark_text, time_column) = (Some(physical(cast(expr, time_type()))?), text, Some(name));
        }
        let time_name = time_column.clone().unwrap_or_default();
        let scan = SourceScan { schema: Arc::clone(&schema), time_column, is_lookup: false, changing };
        let required = self.required.clone();
        let first_place = changing.then_some(0);
        let source = Source { columns, schema, required, mark, mark_text, time_name, reach: 0, first_place };
        Ok(Prepared { source, scan, visible })
    }
}

/// Replaces the columns of `expr` by their expressions over the raw columns.
fn inlined(expr: Expr, exprs: &[(Expr, Field)]) -> Result<Expr> {
    let replaced = expr.transform(|node| match &node {
        Expr::Column(column) => {
            let found = exprs.iter().find(|(_, field)| *field.name() == column.name);
            Ok(found.map_or(Transformed::no(node.clone()), |(expr, _)| Transformed::yes(expr.clone())))
        }
        _ => Ok(Transformed::no(node)),
    });
    Ok(replaced.data()?)
}
