//! Conversions between [`QueryError`] and DataFusion's errors.

use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;

use crate::error::{column_not_found, from_arrow, from_external, from_io};
use crate::store_error::from_object_store;
use crate::{ErrorKind, QueryError};

impl QueryError {
    /// Converts this error into one of DataFusion's, to pass it through streams. Within a process,
    /// [`QueryError::from`] restores it unchanged. Between combs, `datafusion-distributed` keeps only the text and the
    /// contexts, so the kind is also sent as a context.
    pub fn into_datafusion(self) -> DataFusionError {
        match self.kind {
            ErrorKind::Limit => DataFusionError::ResourcesExhausted(self.to_string()),
            kind => DataFusionError::External(Box::new(self)).context(format!("{KIND}{kind}")),
        }
    }
}

/// Prefix of the kind of an error in a DataFusion context.
const KIND: &str = "buzz kind ";

/// Parses the kind that [`QueryError::into_datafusion`] wrote as `context`.
fn kind_of(context: &str) -> Option<ErrorKind> {
    let kind = context.strip_prefix(KIND)?;
    let kinds =
        [ErrorKind::Invalid, ErrorKind::Data, ErrorKind::Unavailable, ErrorKind::Cancelled, ErrorKind::Internal];
    kinds.into_iter().find(|known| known.to_string() == kind)
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        from_datafusion(&error)
    }
}

pub(crate) fn from_datafusion(error: &DataFusionError) -> QueryError {
    match error {
        DataFusionError::Context(context, inner) => {
            let known = from_datafusion(inner);
            match kind_of(context) {
                Some(kind) => QueryError { kind, ..known },
                None => known,
            }
        }
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
        DataFusionError::Plan(message) | DataFusionError::Configuration(message) => QueryError::invalid(plain(message)),
        DataFusionError::NotImplemented(message) => {
            QueryError::invalid(format!("not supported by the SQL engine: {}", plain(message)))
        }
        DataFusionError::ResourcesExhausted(message) => QueryError::limit(plain(message)),
        DataFusionError::ParquetError(source) => QueryError::data(format!("not readable Parquet: {source}")),
        DataFusionError::ObjectStore(source) => from_object_store(source),
        DataFusionError::IoError(source) => from_io(source),
        DataFusionError::ArrowError(source, _) => from_arrow(source),
        DataFusionError::Execution(message) => from_execution(&plain(message)),
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
    line.trim_end_matches('.').to_string()
}

/// Converts the message of an `Execution` error. DataFusion uses it for values that make a step impossible (a cast, an
/// overflow), and also for some errors of files and connections.
fn from_execution(message: &str) -> QueryError {
    // Only the start is compared: the rest of the message may contain values.
    let begins = |words: &[&str]| words.iter().any(|words| message.starts_with(words));
    if begins(&["Parquet", "Cannot cast column"]) {
        QueryError::data(message)
    } else if begins(&["transport error", "h2 protocol error", "connection ", "broken pipe"]) {
        QueryError::unavailable(message)
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
    use arrow::error::ArrowError;

    use super::*;

    #[test]
    fn query_error_survives_conversion_to_datafusion() {
        let born = QueryError::data("file `a.parquet` is truncated").at("task 3");
        let arrow = ArrowError::ExternalError(Box::new(born.clone().into_datafusion()));
        let wrapped = DataFusionError::ArrowError(Box::new(arrow), None).context("while scanning");
        assert_eq!(QueryError::from(wrapped), born);
    }

    #[test]
    fn error_kind_survives_transfer_between_combs() {
        // Converts an error the way datafusion-distributed does between combs.
        let over_the_wire = |error: DataFusionError| match error {
            DataFusionError::Context(context, inner) => {
                DataFusionError::External(inner.to_string().trim_start_matches("External error: ").into())
                    .context(context)
            }
            other => other,
        };
        let born = QueryError::unavailable("this comb is stopping");
        assert_eq!(QueryError::from(over_the_wire(born.clone().into_datafusion())), born);
        let nested = over_the_wire(QueryError::data("a file is cut off").into_datafusion()).context("Join Error");
        assert_eq!(QueryError::from(nested).kind, ErrorKind::Data);
    }

    #[test]
    fn value_in_a_message_does_not_change_the_kind() {
        let failed = |message: &str| QueryError::from(DataFusionError::Execution(message.to_string())).kind;
        assert_eq!(failed("Error parsing timestamp from 'connection 1'"), ErrorKind::Invalid);
        assert_eq!(failed("Date part 'Parquet' not supported"), ErrorKind::Invalid);
        assert_eq!(failed("connection reset by peer"), ErrorKind::Unavailable);
    }

    #[test]
    fn limit_error_keeps_its_kind() {
        let error = QueryError::limit("inbox is full").into_datafusion();
        assert_eq!(QueryError::from(error).kind, ErrorKind::Limit);
    }
}
