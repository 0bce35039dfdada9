//! Statements that change names: CREATE EXTERNAL TABLE, CREATE VIEW and DROP.

use buzz_engine::{Existing, NameChange, NameKind};
use buzz_protocol::query::name_help;
use buzz_protocol::{CatalogEntry, CatalogType, ColumnSpec, QueryError, Result};
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{CreateExternalTable, Statement};
use datafusion::sql::sqlparser::ast::{
    CreateTableOptions, CreateView, ObjectName, ObjectType, Statement as SqlStatement, Value as SqlValue,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Location, Token, Tokenizer};
use serde_json::{Map, Value, json};

use crate::reads::{own_name, statement};

/// Maximum number of bytes of a statement that changes names.
const BYTES_MAX: usize = 1 << 20;

/// Formats of STORED AS.
const FORMATS: [(&str, CatalogType); 11] = [
    ("AUTO", CatalogType::Auto),
    ("PARQUET", CatalogType::Parquet),
    ("CSV", CatalogType::Csv),
    ("JSON", CatalogType::Json),
    ("NDJSON", CatalogType::Json),
    ("JSONL", CatalogType::Json),
    ("DELTA", CatalogType::DeltaLake),
    ("DELTATABLE", CatalogType::DeltaLake),
    ("DELTALAKE", CatalogType::DeltaLake),
    ("STATIC", CatalogType::Static),
    ("STREAM", CatalogType::Stream),
];

/// Options of CREATE EXTERNAL TABLE: their names and the fields of an entry that they set.
const OPTIONS: [(&str, &str); 15] = [
    ("version", "version"),
    ("timestamp", "timestamp"),
    ("has_header", "header"),
    ("header", "header"),
    ("delimiter", "delimiter"),
    ("quote", "quote"),
    ("escape", "escape"),
    ("comment", "comment"),
    ("null", "null"),
    ("newlines_in_values", "newlines_in_values"),
    ("encoding", "encoding"),
    ("compression", "compression"),
    ("region", "storage.region"),
    ("anonymous", "storage.anonymous"),
    ("requester_pays", "storage.requester_pays"),
];

/// Returns the change that `sql` makes; `None` if it is not a statement about names.
///
/// # Errors
/// `Invalid` if the statement is wrong, or has a part that is not supported.
pub(crate) async fn change(sql: &str) -> Result<Option<NameChange>> {
    if !may_change_names(sql) {
        return Ok(None);
    }
    if sql.len() > BYTES_MAX {
        return Err(QueryError::limit(format!("a statement that changes names has at most {BYTES_MAX} bytes")));
    }
    match statement(sql)? {
        Statement::CreateExternalTable(create) => table(create).await.map(Some),
        Statement::Statement(sql_statement) => match *sql_statement {
            SqlStatement::CreateView(create) => view(sql, create).map(Some),
            SqlStatement::Drop { object_type, if_exists, names, cascade, purge, .. } => {
                if cascade || purge {
                    return Err(unsupported("CASCADE or PURGE", "drop one name after the other"));
                }
                dropped(object_type, if_exists, &names)
            }
            _ => Ok(None),
        },
        _ => Ok(None),
    }
}

/// Returns true if `sql` may change names: if its first word is CREATE or DROP. No other statement does.
pub fn may_change_names(sql: &str) -> bool {
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else { return false };
    let first = tokens.iter().find(|token| !matches!(token, Token::Whitespace(_)));
    matches!(first, Some(Token::Word(word)) if matches!(word.keyword, Keyword::CREATE | Keyword::DROP))
}

fn unsupported(what: &str, remedy: &str) -> QueryError {
    QueryError::invalid(format!("{what} is not supported; {remedy}"))
}

/// Returns the name of a table or a view.
fn own(name: &ObjectName) -> Result<String> {
    own_name(name).filter(|name| !name.is_empty()).ok_or_else(|| {
        QueryError::invalid(format!("`{name}` is in another schema; all names are in `public`, so write one name"))
    })
}

fn dropped(object: ObjectType, if_exists: bool, names: &[ObjectName]) -> Result<Option<NameChange>> {
    let kind = match object {
        ObjectType::Table => NameKind::Table,
        ObjectType::View => NameKind::View,
        _ => return Ok(None),
    };
    match names {
        [name] => Ok(Some(NameChange::Drop { name: own(name)?, kind: Some(kind), if_exists })),
        _ => Err(unsupported("a DROP of several names", "drop one name after the other")),
    }
}

fn existing(or_replace: bool, if_not_exists: bool) -> Result<Existing> {
    match (or_replace, if_not_exists) {
        (true, true) => Err(QueryError::invalid("OR REPLACE and IF NOT EXISTS contradict each other; remove one")),
        (true, false) => Ok(Existing::Replace),
        (false, true) => Ok(Existing::Keep),
        (false, false) => Ok(Existing::Fail),
    }
}

fn view(sql: &str, create: CreateView) -> Result<NameChange> {
    let others = [
        (create.materialized, "MATERIALIZED"),
        (create.temporary, "TEMPORARY"),
        (create.secure, "SECURE"),
        (create.or_alter, "OR ALTER"),
        (create.with_no_schema_binding, "WITH NO SCHEMA BINDING"),
        (!create.cluster_by.is_empty(), "CLUSTER BY"),
        (create.comment.is_some(), "COMMENT"),
        (create.options != CreateTableOptions::None, "a list of options"),
        (create.to.is_some(), "TO"),
    ];
    if let Some((_, part)) = others.iter().find(|(is_set, _)| *is_set) {
        return Err(unsupported(&format!("{part} of a view"), "write CREATE [OR REPLACE] VIEW v AS SELECT …"));
    }
    if !create.columns.is_empty() {
        return Err(unsupported("a list of columns of a view", "name the columns in its SELECT, with AS"));
    }
    let existing = existing(create.or_replace, create.if_not_exists)?;
    // The text as it was written, if it is the same query.
    let written = query_text(sql).filter(|text| match statement(text) {
        Ok(Statement::Statement(read)) => *read == SqlStatement::Query(create.query.clone()),
        _ => false,
    });
    let text = written.unwrap_or_else(|| create.query.to_string());
    Ok(NameChange::Add { entry: Box::new(CatalogEntry::view(own(&create.name)?, text)), existing })
}

/// Returns the text after the first AS, without the semicolon at the end.
fn query_text(sql: &str) -> Option<String> {
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().ok()?;
    let is_as =
        |token: &Token| matches!(token, Token::Word(word) if word.keyword == Keyword::AS && word.quote_style.is_none());
    let start = offset(sql, tokens.iter().find(|token| is_as(&token.token))?.span.end)?;
    let end = tokens.iter().rev().find(|token| !matches!(token.token, Token::Whitespace(_) | Token::EOF));
    let end = match end {
        Some(end) if end.token == Token::SemiColon => offset(sql, end.span.start)?,
        _ => sql.len(),
    };
    sql.get(start..end).map(|text| text.trim().to_string())
}

/// Returns the byte at `place`, whose lines and columns count from 1, columns by character.
fn offset(text: &str, place: Location) -> Option<usize> {
    let line = usize::try_from(place.line).ok()?.checked_sub(1)?;
    let column = usize::try_from(place.column).ok()?.checked_sub(1)?;
    let start = if line == 0 { 0 } else { text.match_indices('\n').nth(line - 1)?.0 + 1 };
    let rest = &text[start..];
    Some(start + rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at))
}

async fn table(create: CreateExternalTable) -> Result<NameChange> {
    let others = [
        (create.temporary, "TEMPORARY"),
        (create.unbounded, "UNBOUNDED"),
        (!create.order_exprs.is_empty(), "WITH ORDER"),
        (!create.constraints.is_empty(), "a constraint"),
        (create.columns.iter().any(|column| !column.options.is_empty()), "a constraint of a column"),
        (create.locations.len() > 1, "more than one LOCATION"),
    ];
    if let Some((_, part)) = others.iter().find(|(is_set, _)| *is_set) {
        return Err(unsupported(
            &format!("{part} of an external table"),
            "write CREATE EXTERNAL TABLE t [(columns)] STORED AS format LOCATION '…'",
        ));
    }
    let existing = existing(create.or_replace, create.if_not_exists)?;
    let (name, kind) = (own(&create.name)?, format(&create.file_type)?);
    let location = create.locations.first().cloned().unwrap_or_default();
    let mut fields = options(&create)?;
    fields.insert("name".to_string(), json!(name));
    fields.insert("type".to_string(), json!(kind));
    fields.insert("uri".to_string(), json!(location));
    let (columns, partitions) = columns(create, kind).await?;
    let entry: CatalogEntry = serde_json::from_value(Value::Object(fields))
        .map_err(|error| QueryError::invalid(format!("table `{name}`: {error}")))?;
    let entry = CatalogEntry {
        schema: Some(columns).filter(|columns| !columns.is_empty()),
        partition_columns: Some(partitions).filter(|columns| !columns.is_empty()),
        ..entry
    };
    Ok(NameChange::Add { entry: Box::new(entry), existing })
}

fn format(written: &str) -> Result<CatalogType> {
    let found = FORMATS.iter().find(|(name, _)| name.eq_ignore_ascii_case(written));
    found.map(|(_, kind)| *kind).ok_or_else(|| {
        let help = name_help(written, FORMATS.iter().map(|(name, _)| *name));
        QueryError::invalid(format!("format `{written}` of STORED AS does not exist{help}"))
    })
}

/// Returns the fields of an entry that the options of `create` set.
fn options(create: &CreateExternalTable) -> Result<Map<String, Value>> {
    let mut fields = Map::new();
    for (key, value) in &create.options {
        let key = key.to_lowercase();
        let short = ["format.", "storage.", "aws."].iter().find_map(|prefix| key.strip_prefix(prefix)).unwrap_or(&key);
        let Some((_, field)) = OPTIONS.iter().find(|(name, _)| *name == short) else {
            let help = name_help(short, OPTIONS.iter().map(|(name, _)| *name));
            return Err(QueryError::invalid(format!("option `{key}` of an external table does not exist{help}")));
        };
        let text = match value {
            SqlValue::SingleQuotedString(text) | SqlValue::DoubleQuotedString(text) => text.clone(),
            value => value.to_string(),
        };
        let wrong = |wanted: &str| QueryError::invalid(format!("option `{key}` is `{text}`; set it to {wanted}"));
        let value = match *field {
            "header" | "newlines_in_values" | "storage.anonymous" | "storage.requester_pays" => {
                json!(text.to_lowercase().parse::<bool>().map_err(|_| wrong("true or false"))?)
            }
            "version" => json!(text.parse::<u64>().map_err(|_| wrong("a number"))?),
            "compression" => json!(text.to_lowercase()),
            _ => json!(text),
        };
        match field.strip_prefix("storage.") {
            Some(field) => {
                let storage = fields.entry("storage").or_insert_with(|| json!({}));
                storage[field] = value;
            }
            None => _ = fields.insert((*field).to_string(), value),
        }
    }
    Ok(fields)
}

/// Returns the columns in the files and the partition columns of `create`.
async fn columns(create: CreateExternalTable, kind: CatalogType) -> Result<(Vec<ColumnSpec>, Vec<ColumnSpec>)> {
    if create.columns.is_empty() && create.table_partition_cols.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    if matches!(kind, CatalogType::DeltaLake | CatalogType::Static) {
        return Err(QueryError::invalid(format!(
            "a table of type {kind} knows its columns; remove the columns of `{}`",
            create.name
        )));
    }
    let partitions = create.table_partition_cols.clone();
    if let Some(name) = partitions.iter().find(|name| !create.columns.iter().any(|column| column.name.value == **name))
    {
        return Err(QueryError::invalid(format!(
            "partition column `{name}` has no type; write PARTITIONED BY ({name} INT), or leave out PARTITIONED BY, since \
             partitions are found in the paths"
        )));
    }
    let config = SessionConfig::new().set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
    let state = SessionContext::new_with_config(config).state();
    let plan = state.statement_to_plan(Statement::CreateExternalTable(create)).await?;
    let LogicalPlan::Ddl(DdlStatement::CreateExternalTable(planned)) = plan else {
        return Err(QueryError::internal("CREATE EXTERNAL TABLE was planned as another statement"));
    };
    let fields = planned.schema.fields().iter();
    let all = fields.map(|field| ColumnSpec { name: field.name().clone(), data_type: field.data_type().to_string() });
    Ok(all.partition(|column| !partitions.contains(&column.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn added(sql: &str) -> (CatalogEntry, Existing) {
        match change(sql).await {
            Ok(Some(NameChange::Add { entry, existing })) => (*entry, existing),
            other => panic!("{sql}: {other:?}"),
        }
    }

    async fn error(sql: &str) -> String {
        change(sql).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn external_table_becomes_an_entry() {
        let (entry, existing) = added(
            "CREATE EXTERNAL TABLE IF NOT EXISTS Rides (id BIGINT, name VARCHAR, at TIMESTAMP, price DECIMAL(10, 2), year INT) \
             STORED AS CSV PARTITIONED BY (year) LOCATION 's3://lake/rides/' \
             OPTIONS ('format.has_header' 'false', 'delimiter' ';', 'aws.region' 'eu-west-1', 'compression' 'GZIP')",
        )
        .await;
        assert_eq!(existing, Existing::Keep);
        let expected = json!({
            "name": "rides", "type": "Csv", "uri": "s3://lake/rides/", "header": false, "delimiter": ";",
            "compression": "gzip", "storage": {"region": "eu-west-1"},
            "partition_columns": [{"name": "year", "type": "Int32"}],
            "schema": [
                {"name": "id", "type": "Int64"}, {"name": "name", "type": "Utf8"},
                {"name": "at", "type": "Timestamp(ns)"}, {"name": "price", "type": "Decimal128(10, 2)"}
            ]
        });
        assert_eq!(entry, serde_json::from_value::<CatalogEntry>(expected).unwrap());
        let (entry, existing) = added(
            "create or replace external table \"Trips\" stored as delta location 'lake/t' options (version '3');",
        )
        .await;
        assert_eq!((entry.name.as_str(), entry.kind, entry.version), ("Trips", CatalogType::DeltaLake, Some(3)));
        assert_eq!(existing, Existing::Replace);
    }

    #[tokio::test]
    async fn view_keeps_its_text() {
        let sql = "CREATE OR REPLACE VIEW public.v AS\n  -- größer\n  SELECT a AS b, 'AS;' FROM t -- all\n ;  \n-- end";
        let (entry, existing) = added(sql).await;
        assert_eq!((entry.name.as_str(), existing), ("v", Existing::Replace));
        assert_eq!(entry.sql.as_deref(), Some("-- größer\n  SELECT a AS b, 'AS;' FROM t -- all"));
        let (entry, _) = added("CREATE VIEW \"as\" AS WITH x AS (SELECT 1) SELECT * FROM x").await;
        assert_eq!(entry.sql.as_deref(), Some("WITH x AS (SELECT 1) SELECT * FROM x"));
    }

    #[tokio::test]
    async fn drop_names_one_table_or_view() {
        let drop = |name: &str, kind, if_exists| {
            Some(NameChange::Drop { name: name.to_string(), kind: Some(kind), if_exists })
        };
        assert_eq!(change("DROP TABLE Trips").await.unwrap(), drop("trips", NameKind::Table, false));
        assert_eq!(change("/* x */ drop view if exists \"V\";").await.unwrap(), drop("V", NameKind::View, true));
        assert!(error("DROP TABLE a, b").await.contains("drop one name after the other"));
        assert!(error("DROP TABLE a CASCADE").await.contains("CASCADE or PURGE is not supported"));
        assert!(error("DROP TABLE other.a").await.contains("`other.a` is in another schema"));
        for sql in ["SELECT 1", "DROP SCHEMA s", "CREATE TABLE t AS SELECT 1", "", "'", "INSERT INTO t VALUES (1)"] {
            assert_eq!(change(sql).await.unwrap(), None, "{sql}");
        }
    }

    #[tokio::test]
    async fn unsupported_parts_are_named() {
        let table = |rest: &str| format!("CREATE EXTERNAL TABLE t {rest}");
        for (sql, words) in [
            (table("STORED AS ORC LOCATION 'x'"), "format `ORC` of STORED AS does not exist"),
            (table("STORED AS CSV LOCATION 'x' OPTIONS (delimeter ';')"), "did you mean `delimiter`?"),
            (table("STORED AS CSV LOCATION 'x' OPTIONS (has_header 'yes')"), "`has_header` is `yes`; set it to true"),
            (table("STORED AS CSV LOCATION 'x' OPTIONS (compression 'rar')"), "unknown variant `rar`"),
            (table("(id INT NOT NULL) STORED AS CSV LOCATION 'x'"), "a constraint of a column"),
            (table("(id INT) STORED AS DELTA LOCATION 'x'"), "knows its columns"),
            (table("STORED AS PARQUET PARTITIONED BY (year) LOCATION 'x'"), "`year` has no type"),
            (table("(id INT) STORED AS CSV WITH ORDER (id) LOCATION 'x'"), "WITH ORDER"),
            (table("STORED AS CSV"), "LOCATION"),
            ("CREATE MATERIALIZED VIEW v AS SELECT 1".to_string(), "MATERIALIZED of a view is not supported"),
            ("CREATE VIEW v (a) AS SELECT 1".to_string(), "name the columns in its SELECT"),
            ("CREATE OR REPLACE VIEW IF NOT EXISTS v AS SELECT 1".to_string(), "contradict each other"),
            ("CREATE VIEW v AS".to_string(), "Expected"),
            ("DROP TABLE a; DROP TABLE b".to_string(), "several statements"),
        ] {
            let error = error(&sql).await;
            assert!(error.contains(words), "{sql}: {error}");
        }
    }
}
