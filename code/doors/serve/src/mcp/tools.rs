//! The tools: their arguments, which also make the schemas that clients receive, and their answers.

use std::sync::Arc;

use arrow::array::AsArray;
use buzz_protocol::query::name_help;
use buzz_protocol::{CatalogType, Format, QueryError, QueryId, Result, human_bytes};
use rmcp::handler::server::common::schema_for_input;
use rmcp::model::{CallToolResult, ContentBlock, JsonObject, Tool, ToolAnnotations};
use rmcp::schemars::{self, JsonSchema};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{limited, rows};
use crate::desk::{self, Answered, Desk};

const LIST_TABLES: &str = "list_tables";
const DESCRIBE_TABLE: &str = "describe_table";
const ESTIMATE: &str = "estimate";
const QUERY: &str = "query";

/// Maximum number of rows of an answer.
const ROWS_MAX: usize = 200;

/// Maximum bytes of the text of an answer.
const BYTES_MAX: usize = 100_000;

/// Maximum number of warnings in an answer.
const WARNINGS_MAX: usize = 10;

/// Arguments of `list_tables`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ListTables {
    /// List only tables whose name contains this text, in upper or lower case.
    contains: Option<String>,
}

/// Arguments of `describe_table`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DescribeTable {
    /// Name of the table.
    name: String,
}

/// Arguments of `estimate`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Estimate {
    /// One SQL statement, as for `query`.
    sql: String,
    /// Return the operators of the plan too. Default: false.
    #[serde(default)]
    operators: bool,
}

/// Arguments of `query`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Query {
    /// One SQL statement: SELECT, WITH, VALUES, DESCRIBE, SHOW TABLES or EXPLAIN.
    sql: String,
    /// Format of the rows: an array of objects, or a header and lines. Default: json.
    #[serde(default)]
    format: RowFormat,
    /// Maximum number of rows, 1 to 200. Default: 200.
    rows_max: Option<usize>,
    /// Maximum bytes of the rows, 1 to 100000. Default: 100000.
    bytes_max: Option<usize>,
}

/// Format of rows.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum RowFormat {
    #[default]
    Json,
    Csv,
}

/// Returns the tools.
pub(super) fn all() -> Vec<Tool> {
    vec![
        tool::<ListTables>(LIST_TABLES, "Lists the tables: name, type and place. Opens none of them."),
        tool::<DescribeTable>(
            DESCRIBE_TABLE,
            "Describes a table: its columns with their Arrow types, partition columns, files and bytes.",
        ),
        tool::<Estimate>(
            ESTIMATE,
            "Plans a query without running it. Returns the files of each step, and an estimate: tasks, bytes, requests, \
             seconds and, on a stack, US dollars.",
        ),
        tool::<Query>(
            QUERY,
            "Runs one SQL statement that reads, and returns its rows. At most 200 rows and 100000 bytes are returned; the \
             answer says if it was cut, and of how many rows if that is known.",
        ),
    ]
}

fn tool<A: JsonSchema + 'static>(name: &'static str, description: &'static str) -> Tool {
    let schema: Arc<JsonObject> = schema_for_input::<A>().expect("arguments are a struct");
    Tool::new(name, description, schema).with_annotations(ToolAnnotations::new().read_only(true).open_world(false))
}

/// Runs the tool `name`.
///
/// # Errors
/// `Invalid` if the tool does not exist or its arguments are wrong, and the errors of the desk.
pub(super) async fn call(
    desk: &Desk,
    user: String,
    name: &str,
    arguments: Option<JsonObject>,
) -> Result<CallToolResult> {
    let arguments = Value::Object(arguments.unwrap_or_default());
    match name {
        LIST_TABLES => list_tables(desk, &parsed(name, arguments)?).await,
        DESCRIBE_TABLE => describe_table(desk, &parsed(name, arguments)?).await,
        ESTIMATE => estimate(desk, user, parsed(name, arguments)?).await,
        QUERY => query(desk, user, parsed(name, arguments)?).await,
        _ => Err(QueryError::invalid(format!(
            "tool `{name}` does not exist{}",
            name_help(name, [LIST_TABLES, DESCRIBE_TABLE, ESTIMATE, QUERY].into_iter())
        ))),
    }
}

fn parsed<A: DeserializeOwned>(name: &str, arguments: Value) -> Result<A> {
    serde_json::from_value(arguments)
        .map_err(|error| QueryError::invalid(format!("arguments of the tool `{name}`: {error}")))
}

async fn list_tables(desk: &Desk, asked: &ListTables) -> Result<CallToolResult> {
    let contains = asked.contains.as_deref().unwrap_or_default().to_lowercase();
    let known = desk.names.entries().await?;
    let entries: Vec<Value> = known
        .all()
        .iter()
        .filter(|entry| entry.name.to_lowercase().contains(&contains))
        .map(|entry| match entry.kind {
            CatalogType::Auto => json!({"name": entry.name, "uri": entry.uri}),
            kind => json!({"name": entry.name, "type": kind, "uri": entry.uri}),
        })
        .collect();
    let found = entries.len();
    let tables = fitting(entries);
    let mut answer = json!({"tables_found": found});
    if tables.len() < found {
        answer["note"] = json!(format!("the first {} tables; narrow them with `contains`", tables.len()));
    }
    answer["tables"] = json!(tables);
    Ok(CallToolResult::structured(answer))
}

async fn describe_table(desk: &Desk, asked: &DescribeTable) -> Result<CallToolResult> {
    let table = desk.names.table(&asked.name).await?;
    let description = table.description?;
    let columns = description.columns.iter();
    let columns: Vec<Value> = columns.map(|(name, data_type)| json!({"name": name, "type": data_type})).collect();
    let found = columns.len();
    let columns = fitting(columns);
    let mut answer = json!({
        "name": table.name, "type": description.kind, "uri": description.uri, "files": description.files,
        "bytes": description.bytes, "partition_columns": description.partition_columns, "columns_found": found,
    });
    if let Some(version) = description.version {
        answer["version"] = json!(version);
    }
    if !description.warnings.is_empty() {
        answer["warnings"] = json!(description.warnings.iter().take(WARNINGS_MAX).collect::<Vec<_>>());
    }
    if columns.len() < found {
        let text = "query information_schema.columns for the others";
        answer["note"] = json!(format!("the first {} columns; {text}", columns.len()));
    }
    answer["columns"] = json!(columns);
    Ok(CallToolResult::structured(answer))
}

/// Returns the first of `items` whose text has at most [`BYTES_MAX`].
fn fitting(mut items: Vec<Value>) -> Vec<Value> {
    let mut bytes = 0;
    let fitting = items.iter().take_while(|item| {
        bytes += item.to_string().len() + 1;
        bytes <= BYTES_MAX
    });
    items.truncate(fitting.count());
    items
}

async fn estimate(desk: &Desk, user: String, asked: Estimate) -> Result<CallToolResult> {
    limited::check_reads(&asked.sql)?;
    let answered = desk.plan(request(desk, user, asked.sql, Format::Csv)).await?;
    let mut text = String::new();
    for batch in answered.rows.batches()? {
        for line in batch?.column(0).as_string::<i32>().iter().flatten() {
            // Lines of operators are indented by four blanks.
            if !asked.operators && line.starts_with("    ") {
                continue;
            }
            if text.len() + line.len() >= BYTES_MAX {
                text.push_str(&format!("… (cut at {})\n", human_bytes(BYTES_MAX as u64)));
                return Ok(texts(vec![text, warnings(&answered)]));
            }
            text.push_str(line);
            text.push('\n');
        }
    }
    if !text.contains("(HBee)") {
        text.push_str("no file of a table is scanned\n");
    }
    Ok(texts(vec![text, warnings(&answered)]))
}

async fn query(desk: &Desk, user: String, asked: Query) -> Result<CallToolResult> {
    let rows_max = at_most("rows_max", asked.rows_max, ROWS_MAX)?;
    let bytes_max = at_most("bytes_max", asked.bytes_max, BYTES_MAX)?;
    limited::check_reads(&asked.sql)?;
    // One row more shows that there are more.
    let limited = limited::limited(&asked.sql, rows_max + 1);
    let is_limited = limited.is_some();
    let format = match asked.format {
        RowFormat::Json => Format::Json,
        RowFormat::Csv => Format::Csv,
    };
    let answered = Arc::new(desk.answer(request(desk, user, limited.unwrap_or(asked.sql), format)).await?);
    let own = Arc::clone(&answered);
    let cut = tokio::task::spawn_blocking(move || rows::cut(&own.rows, format, rows_max, bytes_max)).await;
    let cut = cut.map_err(|ended| match ended.try_into_panic() {
        Ok(panic) => QueryError::panicked(panic.as_ref()),
        Err(_) => QueryError::unavailable("the server is stopping"),
    })??;
    let all = if is_limited && cut.found > rows_max { None } else { Some(cut.found) };
    let rows = match all {
        Some(all) if all == cut.shown => format!("rows: {all}"),
        _ => {
            let all = all.map_or_else(|| format!("more than {rows_max}"), |all| all.to_string());
            let because = match cut.shown == rows_max {
                true => format!("{rows_max} rows"),
                false => human_bytes(bytes_max as u64),
            };
            format!(
                "rows: {} of {all}, cut at {because}; aggregate, select less, or continue with ORDER BY, LIMIT and OFFSET",
                cut.shown
            )
        }
    };
    let note = format!("{rows}\n{}", work(&answered));
    Ok(texts(vec![cut.text, note, warnings(&answered)]))
}

/// Returns the value of an argument that lowers `most`.
fn at_most(name: &str, value: Option<usize>, most: usize) -> Result<usize> {
    match value {
        Some(0) => Err(QueryError::invalid(format!("`{name}` is 0; set it to 1 to {most}"))),
        Some(value) => Ok(value.min(most)),
        None => Ok(most),
    }
}

fn request(desk: &Desk, user: String, sql: String, format: Format) -> desk::Request {
    let options = desk.options.clone();
    desk::Request { id: QueryId::fresh(), user, sql, params: Default::default(), options, format }
}

fn work(answered: &Answered) -> String {
    let summary = &answered.summary;
    let cost = summary.cost_usd.map(|cost| format!(", cost: ${cost:.6}")).unwrap_or_default();
    let started = summary.started_note().map(|started| format!(", started: {started}")).unwrap_or_default();
    format!(
        "files: {} of {}, bytes: {}, tasks: {}, time: {:.2} s{cost}{started}",
        summary.files_read,
        summary.files_found,
        human_bytes(summary.bytes_read),
        summary.tasks,
        summary.total.as_secs_f64(),
    )
}

fn warnings(answered: &Answered) -> String {
    let lines: Vec<String> =
        answered.warnings.iter().take(WARNINGS_MAX).map(|warning| format!("warning: {warning}")).collect();
    lines.join("\n")
}

/// Makes an answer of the texts that are not empty.
fn texts(texts: Vec<String>) -> CallToolResult {
    CallToolResult::success(texts.into_iter().filter(|text| !text.is_empty()).map(ContentBlock::text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tools_have_schemas_with_descriptions() {
        for tool in all() {
            assert_eq!(tool.input_schema["additionalProperties"], false, "{}", tool.name);
            for (name, property) in tool.input_schema["properties"].as_object().unwrap() {
                assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{} {name}", tool.name);
            }
        }
        assert_eq!(all()[3].input_schema["required"], json!(["sql"]));
    }

    #[test]
    fn items_are_kept_up_to_the_bytes() {
        let items: Vec<Value> = (0..5000).map(|_| json!({"name": "x".repeat(88)})).collect();
        assert_eq!(fitting(items).len(), 1000);
        assert!(fitting(vec![json!("x".repeat(BYTES_MAX))]).is_empty());
    }
}
