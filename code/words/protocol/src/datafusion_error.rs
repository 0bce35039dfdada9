//! Conversions between [`QueryError`] and DataFusion's errors.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use crate::QueryError;
use crate::dialects::explained;
use crate::error::{column_not_found, from_arrow, from_external, from_io};
use crate::store_error::from_object_store;

impl QueryError {
    /// Converts this error into one of DataFusion's, to pass it through streams. [`QueryError::from`] restores it
    /// unchanged. Between combs, `datafusion-distributed` keeps only the texts of errors and of their contexts, so the
    /// error is also sent as a context, in JSON.
    pub fn into_datafusion(self) -> DataFusionError {
        let json = serde_json::to_string(&self).expect("an error of strings and numbers has a JSON");
        DataFusionError::External(Box::new(self)).context(format!("{CARRIED}{json}"))
    }
}

/// Prefix of an error in JSON, in a DataFusion context.
const CARRIED: &str = "buzz error ";

/// Returns the first error that [`QueryError::into_datafusion`] wrote into `text`: a context, or the text of an error
/// with a context.
pub(crate) fn carried(text: &str) -> Option<QueryError> {
    let (_, json) = text.split_once(CARRIED)?;
    serde_json::Deserializer::from_str(json).into_iter().next()?.ok()
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        from_datafusion(&error)
    }
}

pub(crate) fn from_datafusion(error: &DataFusionError) -> QueryError {
    match error {
        DataFusionError::Context(context, inner) => carried(context).unwrap_or_else(|| from_datafusion(inner)),
        DataFusionError::Diagnostic(_, inner) => from_datafusion(inner),
        DataFusionError::Shared(inner) => from_datafusion(inner),
        DataFusionError::Collection(errors) => {
            errors.first().map_or_else(|| QueryError::internal("DataFusion returned no error"), from_datafusion)
        }
        DataFusionError::External(source) => from_external(source.as_ref()),
        DataFusionError::SchemaError(schema, _) => from_schema_error(schema),
        #[cfg(feature = "sql")]
        DataFusionError::SQL(parser, _) => QueryError::invalid(format!(
            "SQL syntax: {}",
            plain(&parser.to_string()).trim_start_matches("sql parser error: ")
        )),
        DataFusionError::Plan(message) | DataFusionError::Configuration(message) => {
            QueryError::invalid(explained(&plain(message), message.lines().skip(1)))
        }
        DataFusionError::NotImplemented(message) => {
            let message = explained(&plain(message), std::iter::empty());
            QueryError::invalid(format!("not supported by the SQL engine: {message}"))
        }
        DataFusionError::ResourcesExhausted(message) => QueryError::out_of_memory(exhausted(message)),
        DataFusionError::ParquetError(source) => QueryError::data(format!("not readable Parquet: {source}")),
        DataFusionError::ObjectStore(source) => from_object_store(source),
        DataFusionError::IoError(source) => from_io(source),
        DataFusionError::ArrowError(source, _) => from_arrow(source),
        DataFusionError::Execution(message) => from_execution_text(&plain(message)),
        DataFusionError::ExecutionJoin(source) if source.is_cancelled() => {
            QueryError::cancelled("a task was cancelled")
        }
        other => QueryError::internal(plain(&other.strip_backtrace())),
    }
}

/// Returns the part of DataFusion's message that helps a user. Removes the backtrace, the list of all signatures tried
/// and the request to report a bug.
fn plain(message: &str) -> String {
    let useful = message.find("No function matches").map_or(message, |at| &message[at..]);
    let mut lines = useful.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    let whole =
        if first.ends_with(':') { format!("{first} {}", lines.next().unwrap_or_default()) } else { first.into() };
    let mut line = whole.as_str();
    for prefix in ["Internal error: ", "Error during planning: ", "Execution error: "] {
        line = line.trim_start_matches(prefix);
    }
    if line.starts_with("Physical plan does not support logical expression WindowFunction") {
        return "a window function stands in SELECT, QUALIFY and ORDER BY only; write QUALIFY instead of WHERE, or a subquery"
            .to_string();
    }
    let line = without_dump(line);
    match line.strip_prefix("Physical plan does not support logical expression OuterReferenceColumn") {
        Some(_) => "this use of a column of the outer query in a subquery or after LATERAL; write it as a join, or with a window \
                    function such as `row_number() OVER (PARTITION BY …)`"
            .to_string(),
        None => line.trim_end_matches('.').to_string(),
    }
}

/// Cuts a message where the parts of a parsed statement begin: `Collate { expr: Identifier(Ident { …`. The names in front say what
/// it is.
fn without_dump(line: &str) -> &str {
    let has_dump = ["Span(Location", "OuterReferenceColumn(Field {"].iter().any(|mark| line.contains(mark));
    match line.find(['(', '{']).filter(|_| has_dump) {
        Some(start) => line[..start].trim_end(),
        None => line,
    }
}

/// Returns one line of the message about a bound of operators. That of the memory pool lists consumers first, on lines of
/// their own, and names neither the option nor the remedy.
fn exhausted(message: &str) -> String {
    let line = message.lines().find_map(|line| line.trim().strip_prefix("Error: "));
    let line = plain(line.unwrap_or(message));
    match line.find("memory pool") {
        Some(_) => {
            format!("the operators reached the bound `memory_bytes`: {line}; raise it with --set memory_bytes=…")
        }
        None => line,
    }
}

/// Converts the message of an `Execution` error, which is all that it has. DataFusion uses it for values that make a
/// step impossible (a cast, an overflow). These two texts are about a file instead:
///
/// - `Parquet …`: the Parquet reader rejects the file.
/// - `Cannot cast column …`: a column of the file has a type that does not cast to the type of the table's column.
///
/// Only the start is compared, because the rest may contain values. Errors of connections have types and do not come
/// here.
fn from_execution_text(message: &str) -> QueryError {
    if ["Parquet", "Cannot cast column"].iter().any(|words| message.starts_with(words)) {
        QueryError::data(message)
    } else {
        QueryError::invalid(message)
    }
}

fn from_schema_error(error: &SchemaError) -> QueryError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|column| column.name.as_str()).collect();
            let relation = field.relation.as_ref().or_else(|| {
                let first = valid_fields.first()?.relation.as_ref()?;
                valid_fields.iter().all(|column| column.relation.as_ref() == Some(first)).then_some(first)
            });
            let place = relation.map(|table| format!(" in table `{table}`")).unwrap_or_default();
            QueryError::invalid(column_not_found(&field.name, &place, &names))
        }
        other => QueryError::invalid(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use arrow::error::ArrowError;

    use super::*;
    use crate::{ErrorKind, Place, TaskIndex};

    #[test]
    fn parts_of_a_parsed_statement_are_not_shown() {
        let span = "Span(Location(1,8)..Location(1,9))";
        let dumped =
            format!("Unsupported ast node in sqltorel: Collate {{ expr: Ident {{ value: \"k\", span: {span} }} }}");
        assert_eq!(plain(&dumped), "Unsupported ast node in sqltorel: Collate");
        let dumped = format!("Unsupported JOIN operator Semi(On(Ident {{ span: {span} }}))");
        assert_eq!(plain(&dumped), "Unsupported JOIN operator Semi");
        let outer =
            "Physical plan does not support logical expression OuterReferenceColumn(Field { name: \"id\" }, Column {})";
        assert!(plain(outer).contains("write it as a join"));
        let window =
            "Physical plan does not support logical expression WindowFunction(WindowFunction { fun: RowNumber })";
        assert!(plain(window).contains("write QUALIFY"));
        assert_eq!(plain("a (b) {c}"), "a (b) {c}");
    }

    /// An error of `kind` with all fields.
    fn born(kind: ErrorKind) -> QueryError {
        let error = QueryError::new(kind, "a \"message\" with {braces}\nand lines");
        let error = error.retry_after(Some(Duration::from_secs(2)));
        error.at(Place::file_of("trips", "s3://lake/a.parquet")).at_task("m", TaskIndex(3))
    }

    const KINDS: [ErrorKind; 6] = [
        ErrorKind::Invalid,
        ErrorKind::Data,
        ErrorKind::Unavailable,
        ErrorKind::Limit,
        ErrorKind::Cancelled,
        ErrorKind::Internal,
    ];

    #[test]
    fn query_error_survives_conversion_to_datafusion() {
        for kind in KINDS {
            let arrow = ArrowError::ExternalError(Box::new(born(kind).into_datafusion()));
            let wrapped = DataFusionError::ArrowError(Box::new(arrow), None).context("while scanning");
            assert_eq!(QueryError::from(wrapped), born(kind));
            let shared = DataFusionError::Shared(Arc::new(born(kind).into_datafusion()));
            assert_eq!(QueryError::from(DataFusionError::Collection(vec![shared])), born(kind));
        }
    }

    #[test]
    fn query_error_survives_transfer_between_combs() {
        // Converts an error the way datafusion-distributed does between combs: texts remain.
        fn over_the_wire(error: DataFusionError) -> DataFusionError {
            match error {
                DataFusionError::Context(context, inner) => over_the_wire(*inner).context(context),
                DataFusionError::External(source) => DataFusionError::External(source.to_string().into()),
                DataFusionError::ArrowError(arrow, text) => match *arrow {
                    ArrowError::ExternalError(source) => {
                        let source = ArrowError::ExternalError(source.to_string().into());
                        DataFusionError::ArrowError(Box::new(source), text)
                    }
                    arrow => DataFusionError::ArrowError(Box::new(arrow), text),
                },
                other => other,
            }
        }
        for kind in KINDS {
            let nested = over_the_wire(born(kind).into_datafusion()).context("Join Error");
            assert_eq!(QueryError::from(nested), born(kind));
            let arrow = ArrowError::ExternalError(Box::new(born(kind).into_datafusion()));
            let arrow = over_the_wire(DataFusionError::ArrowError(Box::new(arrow), None));
            assert_eq!(QueryError::from(arrow), born(kind));
        }
        let exhausted = over_the_wire(DataFusionError::ResourcesExhausted("no memory".to_string()));
        assert_eq!(QueryError::from(exhausted), QueryError { out_of_memory: true, ..QueryError::limit("no memory") });
    }

    #[test]
    fn value_in_a_message_does_not_change_the_kind() {
        let failed = |message: &str| QueryError::from(DataFusionError::Execution(message.to_string())).kind;
        assert_eq!(failed("Parquet file has too few rows"), ErrorKind::Data);
        assert_eq!(failed("Cannot cast column 'a' from Utf8 to Int64"), ErrorKind::Data);
        assert_eq!(failed("Error parsing timestamp from 'connection 1'"), ErrorKind::Invalid);
        assert_eq!(failed("Date part 'Parquet' not supported"), ErrorKind::Invalid);
        assert_eq!(failed("connection reset by peer"), ErrorKind::Invalid);
    }
}
