//! Events: requests to Fuse's function.
//!
//! The bare query JSON is answered by the invocation itself. The envelope adds options, a place for the result, and
//! asynchronous answers:
//!
//! ```json
//! {"query": {"sql": "…", "catalogs": []}, "options": {"tasks": 64}, "async": true,
//!  "output": {"uri": "s3://bucket/x.parquet", "format": "parquet"}}
//! ```

use buzz_protocol::{Format, NO_USER_INFO, Options, Place, Query, QueryError, QueryId, Result, without_user_info};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{NameChange, Question, Want};

/// A request to Fuse's function.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Answers a query.
    Ask(Box<Ask>),
    /// Describes the tables of a query.
    Describe(Box<Ask>),
    /// Returns the progress of a query, or its answer.
    Watch(QueryId),
    /// Cancels a query.
    Cancel(QueryId),
    /// Answers the query that was stored under this id. Fuse sends it to itself.
    Resume(QueryId),
    /// Lists or changes the names of the stack.
    Names(NamesAsk),
}

/// A request about names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NamesAsk {
    /// Lists all names.
    List,
    /// Changes one name.
    #[serde(untagged)]
    Change(NameChange),
}

/// Place named in warnings and errors about a query that came in an envelope.
pub const IN_ENVELOPE: &str = "event in `query`";

/// A query and how it is to be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Ask {
    /// The id that the caller chose. Events with one id are answered by one run of the query.
    pub id: Option<QueryId>,
    /// The query.
    pub query: Query,
    /// Limits and settings.
    pub options: Options,
    /// True if the caller does not wait for the answer.
    pub later: bool,
    /// Place for the rows, if they should not be in the answer.
    pub output: Option<OutputRequest>,
    /// Encoding of rows in the answer.
    pub encoding: Encoding,
    /// Format in which the caller will write the rows. The query is refused if they cannot be written so.
    pub format: Option<Format>,
    /// True if only the plan is wanted.
    pub explain: bool,
    /// Warnings about the request.
    pub warnings: Vec<String>,
    /// The W3C `traceparent` of the caller, whose trace the query continues.
    pub traceparent: Option<String>,
}

/// Place and format of a result in storage.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputRequest {
    /// `s3://bucket/key`; None for a place under the stack's results.
    pub uri: Option<String>,
    /// Format of the object.
    pub format: Format,
}

/// Encoding of rows in an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// An array of objects.
    #[default]
    Json,
    /// An Arrow IPC file in base64, which keeps all types.
    Arrow,
}

impl Encoding {
    /// Returns the format in which rows are stored if they do not fit into the answer.
    pub fn format(self) -> Format {
        match self {
            Encoding::Json => Format::Json,
            Encoding::Arrow => Format::Arrow,
        }
    }
}

/// Form in which Fuse's function reports the failure of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureForm {
    /// The invocation fails with `errorType` and `errorMessage`.
    #[default]
    Lambda,
    /// The invocation answers with a [`FailureMessage`](crate::wire::FailureMessage), which has all fields of the error.
    Json,
}

impl FailureForm {
    /// Returns the form that `event` requests in its field `failure`. It is read before the rest of the event, so that
    /// the error of a malformed event has the requested form as well.
    pub fn of(event: &Value) -> FailureForm {
        event.get("failure").and_then(|form| FailureForm::deserialize(form).ok()).unwrap_or_default()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    /// Read by [`FailureForm::of`].
    #[serde(default, rename = "failure")]
    _failure: FailureForm,
    query: Value,
    #[serde(default)]
    query_id: Option<QueryId>,
    #[serde(default)]
    options: Map<String, Value>,
    #[serde(default, rename = "async")]
    later: bool,
    #[serde(default)]
    output: Option<RawOutput>,
    #[serde(default)]
    encoding: Encoding,
    #[serde(default)]
    format: Option<String>,
    #[serde(default)]
    explain: bool,
    #[serde(default)]
    traceparent: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawOutput {
    #[serde(default)]
    uri: Option<String>,
    #[serde(default)]
    format: Option<String>,
}

/// Formats in which a result can be stored.
const OUTPUT_FORMATS: &str = "parquet, csv, json, ndjson or arrow";

const FORMS: &str = "send the query's JSON, or {\"query\": …, \"options\": {…}, \"async\": …, \"output\": {…}}, or \
                     {\"watch\": \"query id\"}, or {\"cancel\": \"query id\"}, or {\"describe\": query}, or \
                     {\"names\": \"list\"}";

const NAMES_FORMS: &str = "send \"list\", {\"add\": {\"entry\": …}}, or {\"drop\": {\"name\": …}}";

impl Event {
    /// Parses an event.
    ///
    /// # Errors
    /// `Invalid`, naming the field, if it has none of the forms.
    pub fn parse(event: &Value) -> Result<Event> {
        let Value::Object(fields) = event else {
            return Err(QueryError::invalid(FORMS).at(Place::Query("event".to_string())));
        };
        for (name, make) in
            [("watch", Event::Watch as fn(QueryId) -> Event), ("cancel", Event::Cancel), ("resume", Event::Resume)]
        {
            if let Some(id) = fields.get(name) {
                let id = serde_json::from_value(id.clone());
                let place = Place::Query(format!("event in `{name}`"));
                let id = id.map_err(|_| QueryError::invalid("it is not a query id").at(place))?;
                return Ok(make(id));
            }
        }
        if let Some(query) = fields.get("describe") {
            return Ok(Event::Describe(Box::new(Ask::bare(query, "event in `describe`")?)));
        }
        if let Some(ask) = fields.get("names") {
            let ask = NamesAsk::deserialize(ask).map_err(|error| {
                QueryError::invalid(format!("{error}; {NAMES_FORMS}")).at(Place::Query("event in `names`".to_string()))
            })?;
            return Ok(Event::Names(ask));
        }
        if fields.contains_key("query") {
            let envelope: Envelope = serde_json::from_value(event.clone()).map_err(|error| {
                QueryError::invalid(format!("{error}; {FORMS}")).at(Place::Query("event".to_string()))
            })?;
            return Ok(Event::Ask(Box::new(envelope.checked()?)));
        }
        Ok(Event::Ask(Box::new(Ask::bare(event, "event")?)))
    }
}

impl Ask {
    fn bare(query: &Value, source: &str) -> Result<Ask> {
        let (query, warnings) = Query::parse(&query.to_string(), source)?;
        Ok(Ask {
            id: None,
            query,
            options: Options::default(),
            later: false,
            output: None,
            encoding: Encoding::Json,
            format: None,
            explain: false,
            warnings,
            traceparent: None,
        })
    }

    /// Makes the question under the id `id`. A function has no working directory, so relative URIs are resolved
    /// against the root.
    pub fn question(&self, id: QueryId) -> Question {
        let stored = self.output.as_ref().map_or(self.encoding.format(), |output| output.format);
        let format = self.format.unwrap_or(stored);
        Question {
            id,
            query: self.query.clone(),
            base: "/".into(),
            options: self.options.clone(),
            want: if self.explain { Want::Plan } else { Want::Rows(format) },
            sink: None,
        }
    }
}

/// Makes the event by which a client asks `question`, under the question's id, with rows in Arrow.
///
/// # Errors
/// `Internal` if the options have no JSON.
pub fn ask_event(question: &Question) -> Result<Value> {
    let format = match question.want {
        Want::Rows(format) => Some(format.name()),
        Want::Plan => None,
    };
    Ok(json!({
        "query": question.query.to_json(),
        "options": question.options.changed()?,
        "query_id": question.id,
        "encoding": Encoding::Arrow,
        "format": format,
        "explain": question.want == Want::Plan,
        "failure": FailureForm::Json,
    }))
}

/// Makes the event by which a client asks for the tables of `question`.
pub fn describe_event(question: &Question) -> Value {
    json!({"describe": question.query.to_json(), "failure": FailureForm::Json})
}

/// Makes the event by which a client asks for the progress or the answer of `query`.
pub fn watch_event(query: QueryId) -> Value {
    json!({"watch": query, "failure": FailureForm::Json})
}

/// Makes the event by which a client lists or changes the names of a stack.
pub fn names_event(ask: &NamesAsk) -> Value {
    json!({"names": ask, "failure": FailureForm::Json})
}

/// Makes the event by which a client cancels `query`.
pub fn cancel_event(query: QueryId) -> Value {
    json!({"cancel": query, "failure": FailureForm::Json})
}

impl Envelope {
    fn checked(self) -> Result<Ask> {
        let (query, warnings) = Query::parse(&self.query.to_string(), IN_ENVELOPE)?;
        let mut options = Options::default();
        for (key, value) in &self.options {
            let text = match value {
                Value::String(text) => text.clone(),
                value => value.to_string(),
            };
            options
                .set(&format!("{key}={text}"))
                .map_err(|error| error.at(Place::Query("event in `options`".to_string())))?;
        }
        let output = self.output.map(RawOutput::checked).transpose()?;
        let format = self.format.as_deref().map(str::parse).transpose();
        let format = format.map_err(|error: QueryError| error.at("event in `format`"))?;
        let Envelope { query_id, later, encoding, explain, traceparent, .. } = self;
        Ok(Ask { id: query_id, query, options, later, output, encoding, format, explain, warnings, traceparent })
    }
}

impl RawOutput {
    fn checked(self) -> Result<OutputRequest> {
        let ending = self.uri.as_deref().and_then(|uri| uri.rsplit_once('.')).map(|(_, ending)| ending.to_string());
        let format = self.format.or(ending.filter(|ending| ending.parse::<Format>().is_ok()));
        let format: Format = format.as_deref().unwrap_or("parquet").parse().map_err(|_| bad_format())?;
        if format == Format::Table {
            return Err(bad_format());
        }
        if let Some(redacted) = self.uri.as_deref().and_then(without_user_info) {
            let error = QueryError::invalid(format!("`{redacted}` {NO_USER_INFO}"));
            return Err(error.at(Place::Query("event in `output.uri`".to_string())));
        }
        if let Some(uri) = &self.uri
            && !(uri.starts_with("s3://") && uri.len() > "s3://".len() && !uri.ends_with('/'))
        {
            let wrong = QueryError::invalid(format!("`{uri}` is not of the form s3://bucket/key"));
            return Err(wrong.at(Place::Query("event in `output.uri`".to_string())));
        }
        Ok(OutputRequest { uri: self.uri, format })
    }
}

fn bad_format() -> QueryError {
    QueryError::invalid(format!("it can be {OUTPUT_FORMATS}")).at(Place::Query("event in `output.format`".to_string()))
}

#[cfg(test)]
mod tests {
    use buzz_protocol::CatalogEntry;

    use super::*;
    use crate::Existing;

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
    fn bare_query_and_envelope_are_equal() {
        let bare = asked(query()).unwrap();
        assert_eq!(bare, asked(json!({"query": query()})).unwrap());
        assert!(!bare.later && bare.output.is_none());
    }

    #[test]
    fn options_are_those_of_the_command_line() {
        let ask =
            asked(json!({"query": query(), "options": {"tasks": 7, "task_bytes": "64MiB"}, "async": true})).unwrap();
        assert_eq!((ask.options.tasks, ask.options.task_bytes, ask.later), (7, 64 << 20, true));
        let id = QueryId::fresh();
        assert_eq!(asked(json!({"query": query(), "query_id": id})).unwrap().id, Some(id));
        assert_eq!(ask.id, None);
        assert!(asked(json!({"query": query(), "query_id": "mine"})).is_err());
        let wrong = asked(json!({"query": query(), "options": {"task": 7}})).unwrap_err().to_string();
        assert!(wrong.starts_with("event in `options`: ") && wrong.contains("`tasks`"), "{wrong}");
    }

    #[test]
    fn question_survives_its_event() {
        let mut question = asked(query()).unwrap().question(QueryId::fresh());
        question.options.set("task_bytes=1MiB").unwrap();
        question.options.set("time_zone=Europe/Paris").unwrap();
        let received = asked(ask_event(&question).unwrap()).unwrap();
        assert_eq!((received.query, received.options), (question.query, question.options));
        assert_eq!((received.id, received.later), (Some(question.id), false));
        assert!(received.encoding == Encoding::Arrow && !received.explain);
    }

    #[test]
    fn event_chooses_the_form_of_its_failure() {
        let id = QueryId::fresh();
        assert_eq!(FailureForm::of(&json!({"watch": id})), FailureForm::Lambda);
        assert_eq!(FailureForm::of(&json!("x")), FailureForm::Lambda);
        for event in [watch_event(id), cancel_event(id), json!({"failure": "json"})] {
            assert_eq!(FailureForm::of(&event), FailureForm::Json);
        }
        assert_eq!(Event::parse(&watch_event(id)).unwrap(), Event::Watch(id));
        assert_eq!(Event::parse(&cancel_event(id)).unwrap(), Event::Cancel(id));
        assert!(Event::parse(&json!({"query": query(), "failure": "json"})).is_ok());
        let wrong = Event::parse(&json!({"query": query(), "failure": "xml"})).unwrap_err().to_string();
        assert!(wrong.contains("unknown variant `xml`"), "{wrong}");
    }

    #[test]
    fn output_has_a_place_and_a_format() {
        let output = |output: Value| asked(json!({"query": query(), "output": output})).map(|ask| ask.output.unwrap());
        assert_eq!(output(json!({})).unwrap(), OutputRequest { uri: None, format: Format::Parquet });
        let csv = OutputRequest { uri: Some("s3://b/x.csv".to_string()), format: Format::Csv };
        assert_eq!(output(json!({"uri": "s3://b/x.csv"})).unwrap(), csv);
        assert_eq!(output(json!({"uri": "s3://b/x.csv", "format": "arrow"})).unwrap().format, Format::Arrow);
        assert!(output(json!({"uri": "/tmp/x"})).unwrap_err().to_string().contains("`/tmp/x` is not of the form"));
        for format in ["table", "xml"] {
            let error = output(json!({"format": format})).unwrap_err().to_string();
            assert_eq!(error, "event in `output.format`: it can be parquet, csv, json, ndjson or arrow");
        }
    }

    #[test]
    fn names_are_listed_and_changed_by_events() {
        let drop = NameChange::Drop { name: "t".to_string(), kind: None, if_exists: false };
        let entry = Box::new(CatalogEntry::view("v", "SELECT 1"));
        let add = NameChange::Add { entry, existing: Existing::Replace };
        for ask in [NamesAsk::List, NamesAsk::Change(drop.clone()), NamesAsk::Change(add)] {
            assert_eq!(Event::parse(&names_event(&ask)).unwrap(), Event::Names(ask));
        }
        let short = Event::parse(&json!({"names": {"drop": {"name": "t"}}})).unwrap();
        assert_eq!(short, Event::Names(NamesAsk::Change(drop)));
        for wrong in [json!("lists"), json!({"drop": {}}), json!({"drop": {"name": "t", "if": true}}), json!(7)] {
            let error = Event::parse(&json!({"names": wrong})).unwrap_err().to_string();
            assert!(error.starts_with("event in `names`: ") && error.contains("send \"list\""), "{error}");
        }
    }

    #[test]
    fn malformed_event_lists_the_forms() {
        let id = QueryId::fresh();
        assert_eq!(Event::parse(&json!({"watch": id})).unwrap(), Event::Watch(id));
        assert_eq!(Event::parse(&json!({"cancel": id.to_string()})).unwrap(), Event::Cancel(id));
        assert!(matches!(Event::parse(&json!({"describe": query()})).unwrap(), Event::Describe(_)));
        let error = |event: Value| Event::parse(&event).unwrap_err().to_string();
        assert_eq!(error(json!({"watch": 7})), "event in `watch`: it is not a query id");
        assert!(error(json!("x")).starts_with("event: send the query's JSON"));
        assert!(error(json!({"query": query(), "asynch": true})).contains("unknown field `asynch`"));
        assert!(error(json!({"query": {"catalogs": []}})).starts_with("event in `query`: the query has neither"));
    }
}
