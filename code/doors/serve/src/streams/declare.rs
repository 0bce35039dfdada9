//! The declaration of a stream: `CREATE TABLE name (columns) WITH (connector = 'http', …)`.

use std::collections::BTreeMap;

use buzz_connect::parse_duration;
use buzz_epoch::{RETENTION, SourceColumn};
use buzz_protocol::{QueryError, Result};
use datafusion::arrow::datatypes::{DataType, TimeUnit};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::sqlparser::ast::{
    ColumnDef, ColumnOption, CreateTable, CreateTableOptions, Expr, Ident, SqlOption, Statement, Value,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;

/// Maximum bytes of a declaration.
pub(super) const DECLARATION_BYTES_MAX: usize = 256 << 10;

/// Maximum depth of parentheses and types.
const DEPTH_MAX: usize = 50;

/// Options that a declaration may have. `connector` and `type` say what it is, those of time are the pipelines'.
const OPTIONS: [&str; 4] = ["connector", "type", "bad_data", RETENTION];

/// A stream as it is declared. The default declares nothing.
#[derive(Debug, Default)]
pub(super) struct Declared {
    /// The statement.
    pub(super) ddl: String,
    pub(super) columns: Vec<SourceColumn>,
    pub(super) options: BTreeMap<String, String>,
}

impl Declared {
    /// Reads the statement that declares stream `name`.
    ///
    /// # Errors
    /// `Invalid` if it declares something else, or in a way that is not understood.
    pub(super) async fn parse(name: &str, sql: &str) -> Result<Self> {
        let ddl = sql.trim().trim_end_matches(';').trim_end().to_string();
        check_size(&ddl)?;
        let parsed = Parser::new(&GenericDialect {}).with_recursion_limit(DEPTH_MAX).try_with_sql(&ddl);
        let statements = parsed.and_then(|mut parser| parser.parse_statements()).map_err(|error| {
            QueryError::invalid(format!(
                "the declaration is not understood: {error}; send CREATE TABLE {name} (columns) WITH (connector = 'http'), \
                 and leave WATERMARK FOR to the scripts that read the stream"
            ))
        })?;
        let Ok([Statement::CreateTable(table)]) = <[Statement; 1]>::try_from(statements) else {
            return Err(QueryError::invalid(format!(
                "a stream is declared with one statement: CREATE TABLE {name} (columns) WITH (connector = 'http')"
            )));
        };
        check_name(name, &table)?;
        let options = options(&table.table_options)?;
        let columns = columns(&table.columns).await?;
        Ok(Self { ddl, columns, options })
    }
}

/// Refuses chains of operators and of `[]`, which are parsed into trees as deep as they are long.
fn check_size(sql: &str) -> Result<()> {
    if crate::planner::is_long(sql) || sql.matches('[').count() > DEPTH_MAX {
        return Err(QueryError::limit(
            "the declaration has too many operators or `[`; columns need only names and types",
        ));
    }
    Ok(())
}

/// Returns an identifier as a name: in lower case, unless it is quoted.
fn normal(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

fn check_name(name: &str, table: &CreateTable) -> Result<()> {
    let named: Vec<String> = table.name.0.iter().filter_map(|part| part.as_ident()).map(normal).collect();
    if named != [name] {
        return Err(QueryError::invalid(format!(
            "the statement declares `{}` and the path names `{name}`; use one name, in quotes if it has capital letters",
            table.name
        )));
    }
    if table.columns.is_empty() {
        return Err(QueryError::invalid(format!(
            "the declaration of `{name}` has no columns; name them, or push rows without declaring the stream"
        )));
    }
    let has_more = table.query.is_some() || table.like.is_some() || table.clone.is_some();
    if has_more || table.external || table.temporary || table.or_replace || !table.constraints.is_empty() {
        return Err(QueryError::invalid(format!(
            "the declaration of `{name}` has more than columns and options; send CREATE TABLE {name} (columns) WITH \
             (connector = 'http')"
        )));
    }
    Ok(())
}

/// Returns the options of WITH.
fn options(given: &CreateTableOptions) -> Result<BTreeMap<String, String>> {
    let given: &[SqlOption] = match given {
        CreateTableOptions::None => &[],
        CreateTableOptions::With(options) => options,
        other => return Err(QueryError::invalid(format!("`{other}` is not understood; use WITH (key = 'value')"))),
    };
    let mut options = BTreeMap::new();
    for option in given {
        let SqlOption::KeyValue { key, value } = option else {
            return Err(QueryError::invalid(format!("option `{option}` is not understood; use WITH (key = 'value')")));
        };
        let text = match value {
            Expr::Value(value) => match &value.value {
                Value::SingleQuotedString(text) => text.clone(),
                other => other.to_string(),
            },
            other => other.to_string(),
        };
        let key = key.value.to_lowercase();
        if !OPTIONS.contains(&key.as_str()) {
            return Err(QueryError::invalid(format!(
                "option `{key}` is not one of a stream's declaration, which has {}; other options belong to the scripts that \
                 read the stream",
                OPTIONS.join(", ")
            )));
        }
        if options.insert(key.clone(), text).is_some() {
            return Err(QueryError::invalid(format!("option `{key}` is given twice; remove one of them")));
        }
    }
    let allowed: [(&str, &[&str]); 3] =
        [("connector", &["http"]), ("type", &["source"]), ("bad_data", &["fail", "drop", "side"])];
    for (key, values) in allowed {
        if let Some(value) = options.get(key).filter(|value| !values.contains(&value.as_str())) {
            return Err(QueryError::invalid(format!("option `{key}` is `{value}`; use {}", values.join(" or "))));
        }
    }
    if let Some(text) = options.get(RETENTION)
        && parse_duration(text).is_none_or(|nanos| nanos <= 0)
    {
        return Err(QueryError::invalid(format!("option `{RETENTION}` is `{text}`; use a duration such as '30 days'")));
    }
    Ok(options)
}

/// Returns the columns with their types, as scripts of continuous queries read them.
async fn columns(given: &[ColumnDef]) -> Result<Vec<SourceColumn>> {
    let mut config = SessionConfig::new().set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
    config.options_mut().execution.time_zone = Some("UTC".to_string());
    let state = SessionContext::new_with_config(config).state();
    let mut columns: Vec<SourceColumn> = Vec::with_capacity(given.len());
    for column in given {
        let name = normal(&column.name);
        if columns.iter().any(|other| other.name == name) {
            return Err(QueryError::invalid(format!("column `{name}` is declared twice; remove one of them")));
        }
        let mut required = false;
        for option in &column.options {
            match &option.option {
                ColumnOption::NotNull => required = true,
                ColumnOption::Null => {}
                other => {
                    return Err(QueryError::invalid(format!(
                        "`{other}` of column `{name}` is not supported: rows are kept as they come; remove it"
                    )));
                }
            }
        }
        let written = column.data_type.to_string();
        let written = if written.eq_ignore_ascii_case("json") { "VARCHAR".to_string() } else { written };
        let select = format!("SELECT CAST(NULL AS {written})");
        check_size(&select)?;
        let plan = state.create_logical_plan(&select).await;
        let plan = plan.map_err(|error| {
            QueryError::invalid(format!("column `{name}` has type {written}, which is not known: {error}"))
        })?;
        let data_type = match plan.schema().field(0).data_type() {
            DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Nanosecond, zone.clone()),
            other => other.clone(),
        };
        columns.push(SourceColumn { name, data_type: data_type.to_string(), required });
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn columns_have_the_types_of_scripts() {
        let sql = "CREATE TABLE clicks (user_id BIGINT NOT NULL, \"Page\" TEXT, price DECIMAL(10, 2), ts TIMESTAMP, \
                   z TIMESTAMPTZ) WITH (connector = 'http', bad_data = 'drop');";
        let declared = Declared::parse("clicks", sql).await.unwrap();
        let columns: Vec<_> =
            declared.columns.iter().map(|c| (c.name.as_str(), c.data_type.as_str(), c.required)).collect();
        let expected = [
            ("user_id", "Int64", true),
            ("Page", "Utf8", false),
            ("price", "Decimal128(10, 2)", false),
            ("ts", "Timestamp(ns)", false),
            ("z", "Timestamp(ns, \"UTC\")", false),
        ];
        assert_eq!(columns, expected);
        assert_eq!(declared.options["bad_data"], "drop");
        assert!(declared.ddl.ends_with(')'));
    }

    #[tokio::test]
    async fn other_statements_are_refused_with_the_reason() {
        let cases = [
            ("SELECT 1", "one statement"),
            ("CREATE TABLE clicks (a INT); CREATE TABLE b (a INT)", "one statement"),
            ("CREATE TABLE other (a INT)", "the path names `clicks`"),
            ("CREATE TABLE clicks (a INT) WITH (connector = 'kafka')", "`connector` is `kafka`"),
            ("CREATE TABLE clicks (a INT) WITH (late = 'side')", "option `late`"),
            ("CREATE TABLE clicks (a INT) WITH (retention = 'long')", "option `retention` is `long`"),
            ("CREATE TABLE clicks (a INT) WITH (retention = '0s')", "option `retention` is `0s`"),
            ("CREATE TABLE clicks (a NONSENSE)", "column `a` has type NONSENSE"),
            ("CREATE TABLE clicks (a INT DEFAULT 3)", "`DEFAULT 3` of column `a`"),
            ("CREATE TABLE clicks (a INT, A TEXT)", "column `a` is declared twice"),
            ("CREATE TABLE clicks (ts TIMESTAMP, WATERMARK FOR ts AS ts)", "WATERMARK FOR"),
            ("CREATE TABLE clicks AS SELECT 1", "no columns"),
        ];
        for (sql, message) in cases {
            let error = Declared::parse("clicks", sql).await.unwrap_err();
            assert!(error.message.contains(message), "{sql}: {error}");
        }
    }
}
