//! Settings of a server that several tables share: the options of a connection profile.

use std::collections::BTreeMap;

use buzz_protocol::{QueryError, Result};
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;
use url::Url;

use crate::web::{CONNECT_MAX, shown};

/// The option of a table that refers to a profile.
pub const PROFILE: &str = "connection_profile";

/// Stands for a value that is secret.
const HIDDEN: &str = "********";

/// Prefix of settings of librdkafka.
const CLIENT: &str = "client_configs.";

/// An option of a server: its name, the object and the name that Arroyo has for it, and true if its value may be shown.
type Setting = (&'static str, &'static str, &'static str, bool);

/// Options of Kafka's servers.
const KAFKA: [Setting; 9] = [
    ("bootstrap_servers", "", "bootstrapServers", true),
    ("auth.type", "authentication", "type", true),
    ("auth.protocol", "authentication", "protocol", true),
    ("auth.mechanism", "authentication", "mechanism", true),
    ("auth.username", "authentication", "username", true),
    ("auth.password", "authentication", "password", false),
    ("schema_registry.url", "schemaRegistryEnum", "endpoint", true),
    ("schema_registry.user", "schemaRegistryEnum", "apiKey", true),
    ("schema_registry.password", "schemaRegistryEnum", "apiSecret", false),
];

/// Options of servers that speak HTTP.
const WEB: [Setting; 2] = [("endpoint", "", "endpoint", true), ("headers", "", "headers", false)];

fn known(connector: &str) -> Result<&'static [Setting]> {
    match connector {
        "kafka" => Ok(&KAFKA),
        "sse" | "websocket" | "polling_http" | "webhook" => Ok(&WEB),
        other => Err(QueryError::invalid(format!(
            "connector `{other}` has no connection profiles; use kafka, sse, websocket, polling_http or webhook"
        ))),
    }
}

/// Returns the options of tables with `connector` that `config` sets, in the JSON of Arroyo or with the names of options.
///
/// # Errors
/// `Invalid`, without the value, if a setting is not known or no text.
pub fn profile_options(connector: &str, config: &Value) -> Result<BTreeMap<String, String>> {
    let known = known(connector)?;
    let config = config.as_object().ok_or_else(|| {
        QueryError::invalid("the config is no object; send one with the options of the connector".to_string())
    })?;
    let mut options = BTreeMap::new();
    for (name, value) in config {
        let group = match name.as_str() {
            // Older versions of Arroyo have this name.
            "schemaRegistry" => "schemaRegistryEnum",
            name => name,
        };
        match value {
            Value::Null => {}
            Value::Object(values) if connector == "kafka" && group == "connectionProperties" => {
                for (name, value) in values {
                    add(&mut options, &format!("{CLIENT}{name}"), value)?;
                }
            }
            Value::Object(values) if known.iter().any(|(_, of, _, _)| *of == group && !of.is_empty()) => {
                for (name, value) in values.iter().filter(|(_, value)| !value.is_null()) {
                    let found = known.iter().find(|(_, of, key, _)| *of == group && key == name);
                    let (option, ..) = found.ok_or_else(|| unknown(&format!("{group}.{name}"), known))?;
                    add(&mut options, option, value)?;
                }
            }
            value if connector == "kafka" && name.starts_with(CLIENT) => add(&mut options, name, value)?,
            value => {
                let found = known.iter().find(|(option, of, key, _)| option == name || (of.is_empty() && key == name));
                add(&mut options, found.ok_or_else(|| unknown(name, known))?.0, value)?;
            }
        }
    }
    if options.contains_key("auth.protocol") {
        options.entry("auth.type".to_string()).or_insert_with(|| "sasl".to_string());
    }
    Ok(options)
}

fn add(options: &mut BTreeMap<String, String>, option: &str, value: &Value) -> Result<()> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        _ => return Err(QueryError::invalid(format!("setting `{option}` is no text"))),
    };
    match options.insert(option.to_string(), text) {
        None => Ok(()),
        Some(_) => Err(QueryError::invalid(format!("setting `{option}` is given twice; remove one"))),
    }
}

fn unknown(name: &str, known: &[Setting]) -> QueryError {
    let names: Vec<&str> = known.iter().map(|(option, ..)| *option).collect();
    QueryError::invalid(format!("setting `{name}` is unknown; known are: {}", names.join(", ")))
}

/// Returns the settings of a profile in the JSON of Arroyo. Secret values are hidden.
pub fn profile_config(connector: &str, options: &BTreeMap<String, String>) -> Value {
    let known = known(connector).unwrap_or_default();
    let mut config = Map::new();
    for (option, value) in options {
        let found = known.iter().find(|(name, ..)| name == option);
        let (group, key, is_shown) = match (found, option.strip_prefix(CLIENT)) {
            (Some((_, group, key, is_shown)), _) => (*group, *key, *is_shown),
            (None, Some(key)) => ("connectionProperties", key, false),
            (None, None) => continue,
        };
        // A URL may have a password, and a token in its query.
        let text = match (is_shown, Url::parse(value)) {
            (false, _) => HIDDEN.to_string(),
            (true, Ok(url)) if url.has_host() => shown(&url),
            (true, _) if ["endpoint", "schema_registry.url"].contains(&option.as_str()) => HIDDEN.to_string(),
            (true, _) => value.clone(),
        };
        if group.is_empty() {
            config.insert(key.to_string(), json!(text));
        } else if let Some(values) = config.entry(group).or_insert_with(|| json!({})).as_object_mut() {
            values.insert(key.to_string(), json!(text));
        }
    }
    Value::Object(config)
}

/// Connects once to the server of a profile, and returns what answered.
///
/// # Errors
/// `Invalid` if an option is wrong or missing; `Unavailable` or `Data` if the server does not answer or refuses.
pub async fn check_connection(connector: &str, options: &BTreeMap<String, String>) -> Result<String> {
    known(connector)?;
    if connector == "kafka" {
        return super::kafka::check(options).await;
    }
    let endpoint = options.get("endpoint").ok_or_else(|| {
        QueryError::invalid("the profile has no `endpoint`, so there is nothing to connect to; tables name theirs")
    })?;
    let url = Url::parse(endpoint).ok().filter(Url::has_host);
    let url = url.ok_or_else(|| QueryError::invalid("`endpoint` is not a URL with a host"))?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_or_known_default().unwrap_or(80);
    match timeout(CONNECT_MAX, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Ok(format!("{host}:{port} accepts connections")),
        Ok(Err(error)) => Err(QueryError::unavailable(format!("{host}:{port} does not answer: {error}"))),
        Err(_) => {
            Err(QueryError::unavailable(format!("{host}:{port} does not answer within {} s", CONNECT_MAX.as_secs())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_arroyo_are_options_and_secrets_are_hidden() {
        let config = json!({
            "bootstrapServers": "a:9092,b:9092",
            "authentication": {"protocol": "SASL_SSL", "mechanism": "SCRAM-SHA-256", "username": "me", "password": "word"},
            "schemaRegistryEnum": {"endpoint": "https://me:word@registry/", "apiKey": "k", "apiSecret": "word"},
            "connectionProperties": {"ssl.ca.pem": "word", "socket.timeout.ms": 500},
        });
        let options = profile_options("kafka", &config).expect("it is a profile of Arroyo");
        let found: Vec<(&str, &str)> = options.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let expected = [
            ("auth.mechanism", "SCRAM-SHA-256"),
            ("auth.password", "word"),
            ("auth.protocol", "SASL_SSL"),
            ("auth.type", "sasl"),
            ("auth.username", "me"),
            ("bootstrap_servers", "a:9092,b:9092"),
            ("client_configs.socket.timeout.ms", "500"),
            ("client_configs.ssl.ca.pem", "word"),
            ("schema_registry.password", "word"),
            ("schema_registry.url", "https://me:word@registry/"),
            ("schema_registry.user", "k"),
        ];
        assert_eq!(found, expected);
        let shown = profile_config("kafka", &options);
        let text = shown.to_string();
        assert!(!text.contains("\"word\"") && !text.contains("word@"), "{text}");
        assert_eq!(shown["authentication"]["username"], "me");
        assert_eq!(shown["authentication"]["password"], HIDDEN);
        assert_eq!(shown["connectionProperties"]["ssl.ca.pem"], HIDDEN);
        assert_eq!(shown["schemaRegistryEnum"]["endpoint"], "https://registry/");
        assert_eq!(profile_options("kafka", &json!(options)).expect("options have their names"), options);
        let none = json!({"bootstrapServers": "a:9092", "authentication": {}, "schemaRegistryEnum": {}});
        assert_eq!(profile_options("kafka", &none).expect("nothing else is set").len(), 1);
    }

    #[test]
    fn wrong_settings_are_named() {
        let both = json!({"bootstrap_servers": "a", "bootstrapServers": "b"});
        for (connector, config, reason) in [
            ("kafka", json!({"authentication": {"token": "x"}}), "`authentication.token` is unknown"),
            ("kafka", json!({"topic": "x"}), "`topic` is unknown; known are: bootstrap_servers"),
            ("kafka", both, "`bootstrap_servers` is given twice"),
            ("sse", json!({"client_configs.a": "x"}), "`client_configs.a` is unknown"),
            ("delta", json!({}), "connector `delta` has no connection profiles"),
        ] {
            let error = profile_options(connector, &config).expect_err("it is wrong").message;
            assert!(error.contains(reason), "{error}");
        }
    }

    #[tokio::test]
    async fn connection_is_tried() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let options = |endpoint: String| BTreeMap::from([("endpoint".to_string(), endpoint)]);
        let there = check_connection("sse", &options(format!("http://{address}/?token=secret"))).await;
        assert_eq!(there.expect("it listens"), format!("{address} accepts connections"));
        drop(listener);
        let gone = check_connection("sse", &options(format!("http://{address}/"))).await.expect_err("it is closed");
        assert!(gone.message.contains(&format!("{address} does not answer")), "{gone}");
        let none = check_connection("webhook", &BTreeMap::new()).await.expect_err("there is no address").message;
        assert!(none.contains("no `endpoint`"), "{none}");
    }
}
