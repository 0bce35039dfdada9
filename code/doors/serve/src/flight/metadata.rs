//! Answers about the server and its types: SqlInfo, XDBC types, and the columns of keys, of which there are none.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow_flight::error::Result;
use arrow_flight::sql::metadata::{
    SqlInfoData, SqlInfoDataBuilder, XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder,
};
use arrow_flight::sql::{Nullable, Searchable, SqlInfo, XdbcDataType};

/// Words that are reserved beyond those of SQL:2003.
const KEYWORDS: [&str; 8] = ["ANALYZE", "EXPLAIN", "ILIKE", "LIMIT", "OFFSET", "QUALIFY", "SAMPLE", "UNNEST"];

const NUMERIC: [&str; 14] =
    ["ABS", "CEIL", "FLOOR", "ROUND", "TRUNC", "SQRT", "POWER", "EXP", "LN", "LOG", "SIN", "COS", "TAN", "RANDOM"];
const TEXTS: [&str; 12] =
    ["CONCAT", "LENGTH", "LOWER", "UPPER", "TRIM", "LTRIM", "RTRIM", "SUBSTR", "REPLACE", "STRPOS", "LEFT", "RIGHT"];
const TIMES: [&str; 6] = ["NOW", "CURRENT_DATE", "CURRENT_TIME", "DATE_TRUNC", "DATE_PART", "TO_TIMESTAMP"];

/// Returns what the server reports about itself.
pub(super) fn sql_info() -> Result<SqlInfoData> {
    let mut info = SqlInfoDataBuilder::new();
    info.append(SqlInfo::FlightSqlServerName, "Buzz");
    info.append(SqlInfo::FlightSqlServerVersion, env!("CARGO_PKG_VERSION"));
    info.append(SqlInfo::FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    let yes = [
        SqlInfo::FlightSqlServerReadOnly,
        SqlInfo::FlightSqlServerSql,
        SqlInfo::FlightSqlServerCancel,
        SqlInfo::SqlAllTablesAreSelectable,
        SqlInfo::SqlSupportsColumnAliasing,
        SqlInfo::SqlNullPlusNullIsNull,
        SqlInfo::SqlSupportsTableCorrelationNames,
        SqlInfo::SqlSupportsExpressionsInOrderBy,
        SqlInfo::SqlSupportsOrderByUnrelated,
        SqlInfo::SqlSupportsLikeEscapeClause,
        SqlInfo::SqlCatalogAtStart,
        SqlInfo::SqlCorrelatedSubqueriesSupported,
    ];
    let no = [
        SqlInfo::FlightSqlServerSubstrait,
        SqlInfo::FlightSqlServerBulkIngestion,
        SqlInfo::FlightSqlServerIngestTransactionsSupported,
        SqlInfo::SqlDdlCatalog,
        SqlInfo::SqlDdlSchema,
        SqlInfo::SqlDdlTable,
        SqlInfo::SqlSupportsDifferentTableCorrelationNames,
        SqlInfo::SqlSupportsNonNullableColumns,
        SqlInfo::SqlSupportsIntegrityEnhancementFacility,
        SqlInfo::SqlSelectForUpdateSupported,
        SqlInfo::SqlStoredProceduresSupported,
        SqlInfo::SqlTransactionsSupported,
        SqlInfo::SqlDataDefinitionCausesTransactionCommit,
        SqlInfo::SqlDataDefinitionsInTransactionsIgnored,
        SqlInfo::SqlBatchUpdatesSupported,
        SqlInfo::SqlSavepointsSupported,
        SqlInfo::SqlNamedParametersSupported,
        SqlInfo::SqlLocatorsUpdateCopy,
        SqlInfo::SqlStoredFunctionsUsingCallSyntaxSupported,
    ];
    yes.into_iter().for_each(|name| info.append(name, true));
    no.into_iter().for_each(|name| info.append(name, false));
    // No transactions; no timeout of statements and transactions.
    info.append(SqlInfo::FlightSqlServerTransaction, 0_i32);
    info.append(SqlInfo::FlightSqlServerStatementTimeout, 0_i32);
    info.append(SqlInfo::FlightSqlServerTransactionTimeout, 0_i32);
    // Names without quotes are in lower case; those in quotes keep theirs.
    info.append(SqlInfo::SqlIdentifierCase, 3_i32);
    info.append(SqlInfo::SqlQuotedIdentifierCase, 1_i32);
    info.append(SqlInfo::SqlIdentifierQuoteChar, "\"");
    info.append(SqlInfo::SqlSearchStringEscape, "\\");
    info.append(SqlInfo::SqlExtraNameCharacters, "");
    info.append(SqlInfo::SqlSchemaTerm, "schema");
    info.append(SqlInfo::SqlCatalogTerm, "catalog");
    info.append(SqlInfo::SqlProcedureTerm, "procedure");
    // In ascending order, nulls come last.
    info.append(SqlInfo::SqlNullOrdering, 0_i32);
    info.append(SqlInfo::SqlKeywords, &KEYWORDS[..]);
    info.append(SqlInfo::SqlNumericFunctions, &NUMERIC[..]);
    info.append(SqlInfo::SqlStringFunctions, &TEXTS[..]);
    info.append(SqlInfo::SqlSystemFunctions, &["COALESCE", "NULLIF"][..]);
    info.append(SqlInfo::SqlDatetimeFunctions, &TIMES[..]);
    // Bit masks: GROUP BY, grammar (all three levels), SQL-92 entry level, outer joins, subqueries and unions.
    info.append(SqlInfo::SqlSupportedGroupBy, 3_i32);
    info.append(SqlInfo::SqlSupportedGrammar, 7_i32);
    info.append(SqlInfo::SqlOuterJoinsSupportLevel, 6_i32);
    info.append(SqlInfo::SqlSupportedSubqueries, 15_i32);
    info.append(SqlInfo::SqlSupportedUnions, 3_i32);
    info.append(SqlInfo::SqlDefaultTransactionIsolation, 0_i32);
    info.build()
}

/// Returns the types in which columns can come.
pub(super) fn types() -> Result<XdbcTypeInfoData> {
    let mut types = XdbcTypeInfoDataBuilder::new();
    let mut add = |name: &str, data_type: XdbcDataType, size: Option<i32>, quote: bool| {
        let is_number = !quote && data_type != XdbcDataType::XdbcBit;
        types.append(XdbcTypeInfo {
            type_name: name.to_string(),
            data_type,
            column_size: size,
            literal_prefix: quote.then(|| "'".to_string()),
            literal_suffix: quote.then(|| "'".to_string()),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: data_type == XdbcDataType::XdbcVarchar,
            searchable: Searchable::Full,
            unsigned_attribute: is_number.then_some(false),
            local_type_name: Some(name.to_string()),
            sql_data_type: data_type,
            num_prec_radix: is_number.then_some(10),
            ..XdbcTypeInfo::default()
        });
    };
    add("BOOLEAN", XdbcDataType::XdbcBit, Some(1), false);
    add("TINYINT", XdbcDataType::XdbcTinyint, Some(3), false);
    add("SMALLINT", XdbcDataType::XdbcSmallint, Some(5), false);
    add("INTEGER", XdbcDataType::XdbcInteger, Some(10), false);
    add("BIGINT", XdbcDataType::XdbcBigint, Some(19), false);
    add("REAL", XdbcDataType::XdbcReal, Some(7), false);
    add("DOUBLE", XdbcDataType::XdbcDouble, Some(15), false);
    add("DECIMAL", XdbcDataType::XdbcDecimal, Some(76), false);
    add("VARCHAR", XdbcDataType::XdbcVarchar, None, true);
    add("BYTEA", XdbcDataType::XdbcVarbinary, None, true);
    add("DATE", XdbcDataType::XdbcDate, Some(10), true);
    add("TIME", XdbcDataType::XdbcTime, Some(15), true);
    add("TIMESTAMP", XdbcDataType::XdbcTimestamp, Some(29), true);
    add("INTERVAL", XdbcDataType::XdbcInterval, None, true);
    types.build()
}

fn schema(fields: &[(&str, DataType, bool)]) -> SchemaRef {
    let fields = fields.iter().map(|(name, data_type, nullable)| Field::new(*name, data_type.clone(), *nullable));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

/// Returns the columns of primary keys.
pub(super) fn primary_keys() -> SchemaRef {
    schema(&[
        ("catalog_name", DataType::Utf8, true),
        ("db_schema_name", DataType::Utf8, true),
        ("table_name", DataType::Utf8, false),
        ("column_name", DataType::Utf8, false),
        ("key_name", DataType::Utf8, true),
        ("key_sequence", DataType::Int32, false),
    ])
}

/// Returns the columns of foreign keys.
pub(super) fn foreign_keys() -> SchemaRef {
    schema(&[
        ("pk_catalog_name", DataType::Utf8, true),
        ("pk_db_schema_name", DataType::Utf8, true),
        ("pk_table_name", DataType::Utf8, false),
        ("pk_column_name", DataType::Utf8, false),
        ("fk_catalog_name", DataType::Utf8, true),
        ("fk_db_schema_name", DataType::Utf8, true),
        ("fk_table_name", DataType::Utf8, false),
        ("fk_column_name", DataType::Utf8, false),
        ("key_sequence", DataType::Int32, false),
        ("fk_key_name", DataType::Utf8, true),
        ("pk_key_name", DataType::Utf8, true),
        ("update_rule", DataType::UInt8, false),
        ("delete_rule", DataType::UInt8, false),
    ])
}
