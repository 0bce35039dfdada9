//! Plans a statement in this process without its tables' files: to learn the columns of its rows and the types of its
//! parameters before it runs, and which tables it reads.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_protocol::{ErrorKind, Options, QueryError, Result, SqlLength};
use datafusion::common::{SchemaError, TableReference};
use datafusion::datasource::empty::EmptyTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::Tokenizer;

use crate::desk::without_catalog;
use crate::names::Names;

/// Maximum number of operators that can form chains, of a statement that is parsed here, and of one that is planned here:
/// the tree of a chain is as deep as the chain is long, and planning takes time that grows with the square of its depth.
const PARSED_MAX: usize = SqlLength::OPERATORS_MAX;
const PLANNED_MAX: usize = 1000;

/// The columns and parameters of a statement.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// The columns, all nullable, without views and dictionaries.
    pub(crate) schema: SchemaRef,
    /// Types of the parameters by name, such as `$1`, as far as the statement determines them.
    pub(crate) params: BTreeMap<String, Option<DataType>>,
}

/// Checks that `sql` is short enough.
fn check_length(sql: &str, operators_max: usize) -> Result<()> {
    // The parser reports what cannot be divided into words.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return Ok(()) };
    let length = SqlLength::of(&tokens);
    length.check()?;
    if length.operators > operators_max {
        return Err(QueryError::limit(format!(
            "the statement has {} operators, which is too long to be described before it runs",
            length.operators
        )));
    }
    Ok(())
}

/// Checks if `sql` is too long to be planned here.
pub(crate) fn is_long(sql: &str) -> bool {
    check_length(sql, PLANNED_MAX).is_err()
}

/// Returns the statement, if it can be parsed as one.
///
/// # Errors
/// `Invalid` if it is none or several, `Limit` if it is too long to be parsed here.
pub(crate) fn parsed(sql: &str) -> Result<Statement> {
    check_length(sql, PARSED_MAX)?;
    let mut statements = DFParser::parse_sql_with_dialect(sql, &GenericDialect {})?;
    match (statements.pop_front(), statements.is_empty()) {
        (Some(statement), true) => Ok(statement),
        (None, _) => Err(QueryError::invalid("the SQL is empty")),
        (Some(_), false) => Err(QueryError::invalid("the SQL contains several statements; send one at a time")),
    }
}

/// Returns the relations that `statement` reads, without common table expressions and table functions.
pub(crate) fn relations(statement: &Statement) -> Result<Vec<TableReference>> {
    let (relations, _) = datafusion::sql::resolve::resolve_table_references(statement, true)?;
    Ok(relations.into_iter().filter(|relation| !["generate_series", "range"].contains(&relation.table())).collect())
}

/// Checks if `statement` is EXPLAIN.
pub(crate) fn is_explain(statement: &Statement) -> bool {
    matches!(statement, Statement::Explain(_))
}

/// The part of a statement that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It cannot be parsed.
    Syntax,
    /// A table does not exist.
    Table,
    /// A column does not exist.
    Column,
    /// Something else.
    Other,
}

/// Finds out what is wrong with `sql`, which failed.
pub(crate) async fn fault(names: &Names, sql: &str) -> Fault {
    if buzz_registry::may_change_names(sql) {
        return Fault::Other;
    }
    let statement = match parsed(&without_catalog(sql)) {
        Ok(statement) => statement,
        Err(error) if error.kind == ErrorKind::Limit => return Fault::Other,
        Err(_) => return Fault::Syntax,
    };
    let relations = relations(&statement).unwrap_or_default();
    let entries = names.last_entries();
    if relations.iter().any(|relation| entries.entry(relation.table()).is_err()) {
        return Fault::Table;
    }
    let Ok(state) = session(names, &statement, &Options::default()).await else { return Fault::Other };
    match state.statement_to_plan(statement).await {
        Err(error) if is_missing_column(&error) => Fault::Column,
        _ => Fault::Other,
    }
}

/// Plans `sql`.
///
/// # Errors
/// `Invalid` if the statement is wrong, `Limit` if it is too long to be planned here; the error of a table that cannot be opened.
pub(crate) async fn plan(names: &Names, sql: &str, options: &Options) -> Result<Planned> {
    check_length(sql, PLANNED_MAX)?;
    let statement = parsed(&without_catalog(sql))?;
    let state = session(names, &statement, options).await?;
    let plan = state.statement_to_plan(statement).await?;
    let params: BTreeMap<String, Option<DataType>> = plan.get_parameter_types()?.into_iter().collect();
    // Analysis can change types; it needs values for all parameters.
    let plan = if params.is_empty() { state.optimize(&plan)? } else { plan };
    let schema = plain_schema(plan.schema().as_arrow());
    Ok(Planned { schema, params })
}

fn is_missing_column(error: &DataFusionError) -> bool {
    match error.find_root() {
        DataFusionError::SchemaError(cause, _) => matches!(cause.as_ref(), SchemaError::FieldNotFound { .. }),
        // Of several, the first.
        DataFusionError::Collection(errors) => errors.first().is_some_and(is_missing_column),
        _ => false,
    }
}

/// Makes a session with the tables that `statement` reads, without rows.
async fn session(names: &Names, statement: &Statement, options: &Options) -> Result<SessionState> {
    let mut config = SessionConfig::new().with_information_schema(false);
    if let Some(zone) = &options.time_zone {
        config.options_mut().set("datafusion.execution.time_zone", zone)?;
    }
    let state = SessionStateBuilder::new().with_default_features().with_config(config).build();
    for relation in relations(statement)? {
        let table = names.table(relation.table()).await?;
        let provider = Arc::new(EmptyTable::new(table.schema()?));
        let reference = TableReference::bare(relation.table());
        state.schema_for_ref(reference)?.register_table(relation.table().to_string(), provider)?;
    }
    Ok(state)
}

/// Returns the schema in which rows of `schema` are sent: nullable columns without metadata, views and dictionaries,
/// and texts instead of nulls.
pub(crate) fn plain_schema(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter();
    Arc::new(Schema::new(fields.map(|field| plain_field(field, true)).collect::<Vec<_>>()))
}

/// Checks that a cast from `from` to `to` changes no value. It may fail for one that does not fit.
pub(crate) fn keeps_values(from: &DataType, to: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Dictionary, FixedSizeBinary, FixedSizeList, LargeBinary, LargeList, LargeListView,
        LargeUtf8, List, ListView, Map, Null, RunEndEncoded, Struct, Timestamp, Utf8, Utf8View,
    };
    let same = |one: &Arc<Field>, other: &Arc<Field>| keeps_values(one.data_type(), other.data_type());
    if from == to || *from == Null {
        return true;
    }
    match (from, to) {
        (Dictionary(_, values), to) => keeps_values(values, to),
        (RunEndEncoded(_, values), to) => keeps_values(values.data_type(), to),
        (Utf8 | LargeUtf8 | Utf8View, Utf8 | LargeUtf8 | Utf8View)
        | (Binary | LargeBinary | BinaryView | FixedSizeBinary(_), Binary | LargeBinary | BinaryView) => true,
        (Timestamp(one, zone), Timestamp(other, other_zone)) => one <= other && zone.is_some() == other_zone.is_some(),
        (
            List(one) | LargeList(one) | ListView(one) | LargeListView(one) | FixedSizeList(one, _),
            List(other) | LargeList(other),
        ) => same(one, other),
        (FixedSizeList(one, length), FixedSizeList(other, other_length)) => length == other_length && same(one, other),
        (Map(one, _), Map(other, _)) => same(one, other),
        (Struct(ones), Struct(others)) => {
            let is_same = |(one, other): (&Arc<Field>, &Arc<Field>)| one.name() == other.name() && same(one, other);
            ones.len() == others.len() && ones.iter().zip(others).all(is_same)
        }
        _ => is_wider(from, to),
    }
}

/// Checks that `to` has all numbers of `from`, which are whole or decimal.
fn is_wider(from: &DataType, to: &DataType) -> bool {
    if from.is_integer() && to.is_integer() {
        let (from_bits, to_bits) = (from.primitive_width(), to.primitive_width());
        return match (from.is_signed_integer(), to.is_signed_integer()) {
            (true, false) => false,
            (false, true) => from_bits < to_bits,
            _ => from_bits <= to_bits,
        };
    }
    match (decimal_digits(from), decimal_digits(to)) {
        (Some((whole, fraction)), Some((other_whole, other_fraction))) => {
            whole <= other_whole && fraction <= other_fraction
        }
        _ => false,
    }
}

/// Returns the digits of a decimal type before and after the point.
fn decimal_digits(data_type: &DataType) -> Option<(i16, i16)> {
    match data_type {
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            Some((i16::from(*precision) - i16::from(*scale), i16::from(*scale)))
        }
        _ => None,
    }
}

fn plain_field(field: &Field, nullable: bool) -> Field {
    Field::new(field.name(), plain_type(field.data_type()), nullable)
}

fn plain_type(data_type: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| Arc::new(plain_field(field, field.is_nullable()));
    match data_type {
        // A column of nulls only, or a parameter whose type is not known, is announced as a text.
        DataType::Utf8View | DataType::Null => DataType::Utf8,
        DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::List(field) | DataType::ListView(field) => DataType::List(inner(field)),
        DataType::LargeList(field) | DataType::LargeListView(field) => DataType::LargeList(inner(field)),
        DataType::FixedSizeList(field, size) => DataType::FixedSizeList(inner(field), *size),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        DataType::Map(field, sorted) => DataType::Map(inner(field), *sorted),
        other => other.clone(),
    }
}

/// Returns the columns of EXPLAIN: one line of the plan per row.
pub(crate) fn explained() -> Planned {
    let schema = Arc::new(Schema::new(vec![Field::new("QUERY PLAN", DataType::Utf8, true)]));
    Planned { schema, params: BTreeMap::new() }
}
