//! Events of the Fuse function.
//!
//! A bare query JSON is answered synchronously, as it has always been. The envelope adds options, an output location
//! and asynchronous queries:
//!
//! ```json
//! {"query": {"sql": "…", "catalogs": []}, "options": {"tasks": 64}, "async": true,
//!  "output": {"uri": "s3://bucket/x.parquet", "format": "parquet"}}
//! ```

use buzz_answer::Format;
use buzz_protocol::{Options, Query, QueryError, QueryId, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// An event of the Fuse function.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Run a query.
    Ask(Box<Ask>),
    /// Return the progress of a query, or its answer.
    Watch(QueryId),
    /// Cancel a query.
    Cancel(QueryId),
    /// Answer the query that is stored under this id. Fuse sends this event to itself.
    Resume(QueryId),
}

/// Name of a query from an envelope, in warnings and errors.
pub const IN_ENVELOPE: &str = "event in `query`";

/// A query with its settings.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The query.
    pub query: Query,
    /// Options of the query.
    pub options: Options,
    /// True for an asynchronous query: the caller does not wait.
    pub later: bool,
    /// Destination of the rows; `None` returns them in the answer.
    pub output: Option<Output>,
    /// Encoding of rows in the answer.
    pub encoding: Encoding,
    /// True to return the plan without running it.
    pub explain: bool,
    /// Warnings for the caller.
    pub warnings: Vec<String>,
}

/// The destination of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// `s3://bucket/key`; `None` for a location under the stack's results.
    pub uri: Option<String>,
    /// Format of the rows.
    pub format: Format,
}

/// The encoding of rows in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// An array of objects.
    #[default]
    Json,
    /// An Arrow IPC file in base64, which keeps all types.
    Arrow,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    query: Value,
    #[serde(default)]
    options: Map<String, Value>,
    #[serde(default, rename = "async")]
    later: bool,
    #[serde(default)]
    output: Option<RawOutput>,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    explain: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOutput {
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    format: Option<String>,
}

/// Formats of a result in storage.
const OUTPUT_FORMATS: &str = "parquet, csv, json, ndjson or arrow";

impl Event {
    /// Parses an event.
    ///
    /// # Errors
    /// `Invalid`, naming the field, if the event has none of the accepted forms.
    pub fn parse(event: &Value) -> Result<Event> {
        let Value::Object(fields) = event else {
            return Err(QueryError::invalid(format!("event: {FORMS}")));
        };
        for (name, make) in
            [("watch", Event::Watch as fn(QueryId) -> Event), ("cancel", Event::Cancel), ("resume", Event::Resume)]
        {
            if let Some(id) = fields.get(name) {
                let id = serde_json::from_value(id.clone());
                let id = id.map_err(|_| QueryError::invalid(format!("event in `{name}`: not a query id")))?;
                return Ok(make(id));
            }
        }
        if fields.contains_key("query") {
            let envelope: Envelope = serde_json::from_value(event.clone())
                .map_err(|error| QueryError::invalid(format!("event: {error}; {FORMS}")))?;
            return Ok(Event::Ask(Box::new(envelope.checked()?)));
        }
        let (query, warnings) = Query::parse(&event.to_string(), "event")?;
        Ok(Event::Ask(Box::new(Ask {
            query,
            options: Options::default(),
            later: false,
            output: None,
            encoding: Encoding::Json,
            explain: false,
            warnings,
        })))
    }
}

const FORMS: &str = "send the query's JSON, or {\"query\": …, \"options\": {…}, \"async\": …, \"output\": {…}}, or \
                     {\"watch\": \"query id\"}, or {\"cancel\": \"query id\"}";

impl Envelope {
    fn checked(self) -> Result<Ask> {
        let (query, warnings) = Query::parse(&self.query.to_string(), IN_ENVELOPE)?;
        let mut options = Options::default();
        for (key, value) in &self.options {
            let text = match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            options.set(&format!("{key}={text}")).map_err(|error| error.at("event in `options`"))?;
        }
        let output = self.output.map(RawOutput::checked).transpose()?;
        Ok(Ask { query, options, later: self.later, output, encoding: self.encoding, explain: self.explain, warnings })
    }
}

impl RawOutput {
    fn checked(self) -> Result<Output> {
        let ending = self.uri.as_deref().and_then(|uri| uri.rsplit_once('.')).map(|(_, ending)| ending.to_string());
        let format = self.format.or(ending.filter(|ending| ending.parse::<Format>().is_ok()));
        let format: Format = format.as_deref().unwrap_or("parquet").parse().map_err(|_| bad_format())?;
        if format == Format::Table {
            return Err(bad_format());
        }
        if let Some(uri) = &self.uri
            && !(uri.starts_with("s3://") && uri.len() > "s3://".len() && !uri.ends_with('/'))
        {
            return Err(QueryError::invalid(format!(
                "event in `output.uri`: `{uri}` is not of the form s3://bucket/key"
            )));
        }
        Ok(Output { uri: self.uri, format })
    }
}

fn bad_format() -> QueryError {
    QueryError::invalid(format!("event in `output.format`: the format must be {OUTPUT_FORMATS}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn query() -> Value {
        json!({"sql": "SELECT 1 AS one", "catalogs": []})
    }

    fn asked(event: Value) -> Result<Ask> {
        match Event::parse(&event)? {
            Event::Ask(ask) => Ok(*ask),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn bare_query_equals_envelope_with_defaults() {
        let bare = asked(query()).unwrap();
        assert_eq!(bare, asked(json!({"query": query()})).unwrap());
        assert!(!bare.later && bare.output.is_none());
    }

    #[test]
    fn envelope_accepts_the_options_of_the_command_line() {
        let ask =
            asked(json!({"query": query(), "options": {"tasks": 7, "task_bytes": "64MiB"}, "async": true})).unwrap();
        assert_eq!((ask.options.tasks, ask.options.task_bytes, ask.later), (7, 64 << 20, true));
        let wrong = asked(json!({"query": query(), "options": {"task": 7}})).unwrap_err().to_string();
        assert_eq!(wrong, "event in `options`: option `task` does not exist; did you mean `tasks`?");
    }

    #[test]
    fn output_has_a_location_and_a_format() {
        let output = |output: Value| asked(json!({"query": query(), "output": output})).map(|ask| ask.output.unwrap());
        assert_eq!(output(json!({})).unwrap(), Output { uri: None, format: Format::Parquet });
        let csv = Output { uri: Some("s3://b/x.csv".to_string()), format: Format::Csv };
        assert_eq!(output(json!({"uri": "s3://b/x.csv"})).unwrap(), csv);
        assert_eq!(output(json!({"uri": "s3://b/x.csv", "format": "arrow"})).unwrap().format, Format::Arrow);
        assert!(output(json!({"uri": "/tmp/x"})).unwrap_err().to_string().contains("`/tmp/x` is not of the form"));
        for format in ["table", "xml"] {
            let error = output(json!({"format": format})).unwrap_err().to_string();
            assert_eq!(error, "event in `output.format`: the format must be parquet, csv, json, ndjson or arrow");
        }
    }

    #[test]
    fn malformed_event_is_rejected_with_the_accepted_forms() {
        let id = QueryId::fresh();
        assert_eq!(Event::parse(&json!({"watch": id})).unwrap(), Event::Watch(id));
        assert_eq!(Event::parse(&json!({"cancel": id.to_string()})).unwrap(), Event::Cancel(id));
        let error = |event: Value| Event::parse(&event).unwrap_err().to_string();
        assert_eq!(error(json!({"watch": 7})), "event in `watch`: not a query id");
        assert!(error(json!("x")).starts_with("event: send the query's JSON"));
        assert!(error(json!({"query": query(), "asynch": true})).contains("unknown field `asynch`"));
        assert!(error(json!({"query": {"sql": "x"}})).starts_with("event in `query`: missing field `catalogs`"));
    }
}
