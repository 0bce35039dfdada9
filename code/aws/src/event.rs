//! What Fuse as a function is asked.
//!
//! The bare query JSON is asked and answered at once, as it always was. The envelope adds options, a place for the
//! result, and asking now to be answered later:
//!
//! ```json
//! {"query": {"sql": "…", "catalogs": []}, "options": {"tasks": 64}, "async": true,
//!  "output": {"uri": "s3://bucket/x.parquet", "format": "parquet"}}
//! ```

use buzz_answer::Format;
use buzz_protocol::{Options, Query, QueryError, QueryId, Result};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a caller wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An answer.
    Ask(Box<Ask>),
    /// How far a query is, or its answer.
    Watch(QueryId),
    /// That a query stops.
    Cancel(QueryId),
    /// From Fuse to itself: the query that was written down under this id.
    Resume(QueryId),
}

/// What warnings and errors call a query that came in an envelope.
pub const IN_ENVELOPE: &str = "event in `query`";

/// A question.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The query.
    pub query: Query,
    /// Bounds and choices.
    pub options: Options,
    /// Whether the caller does not wait.
    pub later: bool,
    /// Where the rows should go, if not into the answer.
    pub output: Option<Output>,
    /// How the rows are written in an answer.
    pub encoding: Encoding,
    /// Whether only the plan is asked for.
    pub explain: bool,
    /// What the caller should know.
    pub warnings: Vec<String>,
}

/// Where rows go.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// `s3://bucket/key`; None for a place under the stack's results.
    pub uri: Option<String>,
    /// Their form.
    pub format: Format,
}

/// How rows are written in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// An array of objects.
    #[default]
    Json,
    /// An Arrow IPC file in base64, which loses no type.
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

/// The forms in which a result can be put into storage.
const OUTPUT_FORMATS: &str = "parquet, csv, json, ndjson or arrow";

impl Event {
    /// Reads an event.
    ///
    /// # Errors
    /// `Invalid`, naming the place, when it is none of the forms.
    pub fn parse(event: &Value) -> Result<Event> {
        let Value::Object(fields) = event else {
            return Err(QueryError::invalid(format!("event: {FORMS}")));
        };
        for (name, make) in
            [("watch", Event::Watch as fn(QueryId) -> Event), ("cancel", Event::Cancel), ("resume", Event::Resume)]
        {
            if let Some(id) = fields.get(name) {
                let id = serde_json::from_value(id.clone());
                let id = id.map_err(|_| QueryError::invalid(format!("event in `{name}`: it is not a query id")))?;
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
    QueryError::invalid(format!("event in `output.format`: it can be {OUTPUT_FORMATS}"))
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
    fn a_bare_query_and_an_envelope_ask_the_same() {
        let bare = asked(query()).unwrap();
        assert_eq!(bare, asked(json!({"query": query()})).unwrap());
        assert!(!bare.later && bare.output.is_none());
    }

    #[test]
    fn options_are_those_of_the_command_line() {
        let ask =
            asked(json!({"query": query(), "options": {"tasks": 7, "task_bytes": "64MiB"}, "async": true})).unwrap();
        assert_eq!((ask.options.tasks, ask.options.task_bytes, ask.later), (7, 64 << 20, true));
        let wrong = asked(json!({"query": query(), "options": {"task": 7}})).unwrap_err().to_string();
        assert_eq!(wrong, "event in `options`: there is no option `task`; the nearest is `tasks`");
    }

    #[test]
    fn an_output_has_a_place_and_a_form() {
        let output = |output: Value| asked(json!({"query": query(), "output": output})).map(|ask| ask.output.unwrap());
        assert_eq!(output(json!({})).unwrap(), Output { uri: None, format: Format::Parquet });
        let csv = Output { uri: Some("s3://b/x.csv".to_string()), format: Format::Csv };
        assert_eq!(output(json!({"uri": "s3://b/x.csv"})).unwrap(), csv);
        assert_eq!(output(json!({"uri": "s3://b/x.csv", "format": "arrow"})).unwrap().format, Format::Arrow);
        assert!(output(json!({"uri": "/tmp/x"})).unwrap_err().to_string().contains("`/tmp/x` is not of the form"));
        for format in ["table", "xml"] {
            let error = output(json!({"format": format})).unwrap_err().to_string();
            assert_eq!(error, "event in `output.format`: it can be parquet, csv, json, ndjson or arrow");
        }
    }

    #[test]
    fn what_is_no_event_says_what_is() {
        let id = QueryId::fresh();
        assert_eq!(Event::parse(&json!({"watch": id})).unwrap(), Event::Watch(id));
        assert_eq!(Event::parse(&json!({"cancel": id.to_string()})).unwrap(), Event::Cancel(id));
        let error = |event: Value| Event::parse(&event).unwrap_err().to_string();
        assert_eq!(error(json!({"watch": 7})), "event in `watch`: it is not a query id");
        assert!(error(json!("x")).starts_with("event: send the query's JSON"));
        assert!(error(json!({"query": query(), "asynch": true})).contains("unknown field `asynch`"));
        assert!(error(json!({"query": {"sql": "x"}})).starts_with("event in `query`: missing field `catalogs`"));
    }
}
