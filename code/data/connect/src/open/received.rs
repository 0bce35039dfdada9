//! Opens sources without offsets, from the options of a table.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_epoch::Feed;
use buzz_protocol::{QueryError, Result};
use http::{HeaderMap, Method};
use object_store::memory::InMemory;
use serde_json::Value;
use url::Url;

use super::Connected;
use crate::options::Options;
use crate::place::Place;
use crate::received::polling::Polling;
use crate::received::sse::Sse;
use crate::received::websocket::WebSocket;
use crate::received::{MessageFormat, MessageStore, ReceivedSource};
use crate::source::BadData;
use crate::web::{client, parse_headers, shown};

/// Time for which messages are collected before they are kept, in a folder and in a bucket, where each batch is a request.
const LINGER: Duration = Duration::from_millis(50);
const LINGER_REMOTE: Duration = Duration::from_secs(1);

/// Time between two requests of `polling_http`, unless an option sets it.
const POLL_EVERY_MS: u64 = 1000;

/// Maximum number of messages that subscribe.
const SUBSCRIPTIONS_MAX: usize = 1000;

/// Opens an event stream, a WebSocket, or a server that is polled.
pub(super) fn received(
    options: &mut Options,
    connector: &str,
    columns: Option<Schema>,
    bad_data: BadData,
    place: &Place,
    offset: Option<&Value>,
) -> Result<Connected> {
    let schemes: [&str; 2] = if connector == "websocket" { ["ws", "wss"] } else { ["http", "https"] };
    let endpoint = endpoint(options, schemes)?;
    let headers = headers(options)?;
    let (format, schema) = message_format(options, columns)?;
    let store = message_store(options.table(), place);
    let mut source = match connector {
        "sse" => {
            let events = options.text(&["events"]).unwrap_or_default();
            let events = events.split(',').map(|event| event.trim().to_string()).filter(|event| !event.is_empty());
            let sse = Sse { client: client()?, endpoint, headers, events: events.collect() };
            ReceivedSource::new(sse, store, schema, format, bad_data)
        }
        "websocket" => {
            let subscribe = subscriptions(options)?;
            ReceivedSource::new(WebSocket { endpoint, headers, subscribe }, store, schema, format, bad_data)
        }
        _ => ReceivedSource::new(polling(options, endpoint, headers)?, store, schema, format, bad_data),
    };
    if let Some(offset) = offset {
        source.resume(offset)?;
    }
    Ok(Connected::plain(source))
}

/// Reads the option `endpoint`, a URL with one of `schemes`.
pub(super) fn endpoint(options: &mut Options, schemes: [&str; 2]) -> Result<Url> {
    let text = options.required(&["endpoint"])?;
    let parsed = Url::parse(text.trim()).ok();
    // A wrong one may have secrets too.
    let given = parsed.as_ref().map_or_else(|| "not a URL".to_string(), |url| format!("`{}`", shown(url)));
    let url = parsed.filter(|url| schemes.contains(&url.scheme()) && url.has_host());
    url.ok_or_else(|| {
        let [one, two] = schemes;
        QueryError::invalid(format!(
            "option `endpoint` of table `{}` is {given}; use a URL that begins with {one}:// or {two}://",
            options.table()
        ))
    })
}

/// Reads the option `headers`.
pub(super) fn headers(options: &mut Options) -> Result<HeaderMap> {
    let table = options.table().to_string();
    options.text(&["headers"]).map_or_else(|| Ok(HeaderMap::new()), |text| parse_headers(&text, &table))
}

/// Reads the option `format`, and returns it with the columns of the rows.
pub(super) fn message_format(options: &mut Options, columns: Option<Schema>) -> Result<(MessageFormat, SchemaRef)> {
    let table = options.table().to_string();
    match (options.text(&["format"]).as_deref(), columns) {
        (None | Some("json"), Some(columns)) if !columns.fields().is_empty() => {
            Ok((MessageFormat::Json, Arc::new(columns)))
        }
        (None | Some("json"), _) => Err(QueryError::invalid(format!(
            "table `{table}` has no columns; declare the keys of its JSON objects in CREATE TABLE, or set \
             format = 'raw_string'"
        ))),
        (Some("raw_string"), None) => {
            let value = Field::new("value", DataType::Utf8, true);
            Ok((MessageFormat::RawString, Arc::new(Schema::new(vec![value]))))
        }
        (Some("raw_string"), Some(columns)) => match columns.fields().as_ref() {
            [field] if field.data_type().is_string() => Ok((MessageFormat::RawString, Arc::new(columns))),
            _ => Err(QueryError::invalid(format!(
                "format raw_string of table `{table}` has one column, `value TEXT`; remove the others, or use json"
            ))),
        },
        (Some(other), _) => Err(QueryError::invalid(format!(
            "format `{other}` of table `{table}` is not supported for messages; use json or raw_string"
        ))),
    }
}

/// Returns the place of the messages of `table`: the inbox of the pipeline, or memory if it has no state.
fn message_store(table: &str, place: &Place) -> MessageStore {
    match &place.inbox {
        Some(inbox) => MessageStore {
            feed: Feed::new(Arc::clone(&inbox.store), inbox.folder(table)),
            outlives: true,
            linger: if inbox.remote { LINGER_REMOTE } else { LINGER },
        },
        None => {
            MessageStore { feed: Feed::new(Arc::new(InMemory::new()), table.into()), outlives: false, linger: LINGER }
        }
    }
}

/// Reads `subscription_message`, or `subscription_messages[0]` and so on.
fn subscriptions(options: &mut Options) -> Result<Vec<String>> {
    let one = options.text(&["subscription_message"]);
    let mut messages: Vec<String> = one.into_iter().collect();
    if let Some(list) = options.text(&["subscription_messages"]) {
        let list: Vec<String> = serde_json::from_str(&list).map_err(|error| {
            QueryError::invalid(format!(
                "option `subscription_messages` of table `{}` is not a JSON array of texts: {error}; write several as \
                 `subscription_messages[0]`, `subscription_messages[1]`",
                options.table()
            ))
        })?;
        messages.extend(list);
    }
    for index in 0..SUBSCRIPTIONS_MAX {
        let Some(message) = options.text(&[format!("subscription_messages[{index}]").as_str()]) else { break };
        messages.push(message);
    }
    Ok(messages)
}

fn polling(options: &mut Options, endpoint: Url, headers: HeaderMap) -> Result<Polling> {
    let table = options.table().to_string();
    let wrong = |option: &str, text: &str, required: &str| {
        QueryError::invalid(format!("option `{option}` of table `{table}` is `{text}`; use {required}"))
    };
    let method = match options.text(&["method"]) {
        None => Method::GET,
        Some(text) => match text.to_ascii_uppercase().as_str() {
            "GET" => Method::GET,
            "POST" => Method::POST,
            "PUT" => Method::PUT,
            "PATCH" => Method::PATCH,
            _ => return Err(wrong("method", &text, "GET, POST, PUT or PATCH")),
        },
    };
    let changed = match options.text(&["emit_behavior"]).as_deref() {
        None | Some("all") => false,
        Some("changed") => true,
        Some(other) => return Err(wrong("emit_behavior", other, "all or changed")),
    };
    let every = options.number::<u64>(&["poll_interval_ms"])?.unwrap_or(POLL_EVERY_MS);
    if every == 0 {
        return Err(wrong("poll_interval_ms", "0", "a number of milliseconds above zero"));
    }
    let (body, every) = (options.text(&["body"]), Duration::from_millis(every));
    Ok(Polling { client: client()?, endpoint, headers, method, body, every, changed })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use buzz_storage::Stores;

    use super::*;

    /// The error of a table with `connector` and `options`, as `name=value`.
    fn error(connector: &str, options: &[&str]) -> String {
        let options = options.iter().filter_map(|option| option.split_once('='));
        let values: BTreeMap<String, String> =
            options.map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let mut options = Options::new("t", &values);
        let stores = Arc::new(Stores::default()).for_query();
        let place = Place { base: PathBuf::from("/"), stores, until_end: false, inbox: None };
        let columns = Some(Schema::new(vec![Field::new("n", DataType::Int64, true)]));
        let opened = received(&mut options, connector, columns, BadData::Fail, &place, None);
        opened
            .map(|_| options.finish())
            .map_or_else(|error| error.message, |finished| finished.expect_err("an option is wrong").message)
    }

    #[test]
    fn wrong_options_are_named() {
        let url = "endpoint=http://h/";
        let cases: [(&str, &[&str], &str); 10] = [
            ("sse", &[], "no option `endpoint`"),
            (
                "sse",
                &["endpoint=ws://h/"],
                "option `endpoint` of table `t` is `ws://h/`; use a URL that begins with http://",
            ),
            ("websocket", &["endpoint=http://h/"], "begins with ws:// or wss://"),
            ("sse", &[url, "headers=x"], "option `headers` of table `t`"),
            ("sse", &[url, "format=csv"], "format `csv` of table `t`"),
            ("sse", &[url, "format=raw_string"], "has one column, `value TEXT`"),
            ("sse", &[url, "method=GET"], "option `method` of table `t` is unknown"),
            ("polling_http", &[url, "method=DELETE"], "option `method` of table `t` is `DELETE`"),
            ("polling_http", &[url, "emit_behavior=new"], "use all or changed"),
            ("polling_http", &[url, "poll_interval_ms=0"], "`poll_interval_ms`"),
        ];
        for (connector, options, message) in cases {
            let error = error(connector, options);
            assert!(error.contains(message), "{options:?}: {error}");
        }
    }
}
