//! Sources that people keep beside pipelines: statements that declare a table, under its name.
//!
//! ```text
//! <root>/sources/<name>.json
//! ```
//!
//! A pipeline has the statements of its sources in its own script, so nothing that runs depends on a source that is kept.

use buzz_epoch::read_object;
use buzz_protocol::{QueryError, Result, now_ms};
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::jobs::registry::{Registry, encode};

/// Maximum number of sources in a state.
const SOURCES_MAX: usize = 1000;

/// Maximum length of the name of a source.
const NAME_BYTES_MAX: usize = 63;

/// Maximum length of the statement of a source.
const STATEMENT_BYTES_MAX: usize = 64 << 10;

/// A source that is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptSource {
    /// The name of the table.
    pub name: String,
    /// Its connector.
    pub connector: String,
    /// The statement that declares it.
    pub statement: String,
    /// The time of its creation, in milliseconds since 1970.
    pub created_ms: u64,
}

impl KeptSource {
    /// Makes a source of `statement`. `graph` is the graph of the statement and `SELECT *` of the table.
    ///
    /// # Errors
    /// `Invalid` if the statement declares something else.
    pub(crate) fn new(name: &str, statement: String, graph: &Value) -> Result<Self> {
        let nodes = graph.get("nodes").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        let text = |node: &Value, key: &str| node.get(key).and_then(Value::as_str).map(str::to_string);
        let found = nodes.iter().find(|node| text(node, "description").as_deref() == Some(name));
        let connector = found.and_then(|node| text(node, "operator")?.strip_prefix("source:").map(str::to_string));
        // A source, a statement and what it prints to.
        let (Some(connector), 3) = (connector, nodes.len()) else {
            return Err(QueryError::invalid(format!(
                "a source is one statement CREATE TABLE {name} with a connector that is read; leave out others"
            )));
        };
        Ok(Self { name: name.to_string(), connector, statement, created_ms: now_ms() })
    }
}

/// Checks the name and the length of the statement of a source, and returns the statement without `;` at its end.
///
/// # Errors
/// `Invalid` if the name would need quotes, `Limit` if the statement is too long.
pub(crate) fn checked(name: &str, statement: &str) -> Result<String> {
    let is_plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
    if name.is_empty()
        || name.len() > NAME_BYTES_MAX
        || !name.chars().all(is_plain)
        || name.starts_with(|char: char| char.is_ascii_digit())
    {
        return Err(QueryError::invalid(format!(
            "`{}` is no name of a source; use 1 to {NAME_BYTES_MAX} lower-case letters, digits and `_`, and no digit at the start",
            name.chars().take(NAME_BYTES_MAX).collect::<String>()
        )));
    }
    let bytes = statement.len();
    if bytes > STATEMENT_BYTES_MAX {
        return Err(QueryError::limit(format!(
            "the statement of source `{name}` has {bytes} bytes, more than the {STATEMENT_BYTES_MAX} allowed"
        )));
    }
    Ok(statement.trim().trim_end_matches(';').trim_end().to_string())
}

impl Registry {
    /// Returns the sources, by name.
    ///
    /// # Errors
    /// Errors of the store, and of a document that is not readable.
    pub async fn sources(&self) -> Result<Vec<KeptSource>> {
        let listed = self.store.list_with_delimiter(Some(&self.root.clone().join("sources"))).await?;
        let mut sources: Vec<KeptSource> = Vec::new();
        for object in listed.objects {
            let Some(bytes) = read_object(&self.store, &object.location).await? else { continue };
            let source = serde_json::from_slice(&bytes).map_err(|error| {
                QueryError::data(format!("source `{}` is not readable: {error}; restore or remove it", object.location))
            })?;
            sources.push(source);
        }
        sources.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(sources)
    }

    /// Keeps `source`. Returns false if there is one of its name.
    ///
    /// # Errors
    /// Errors of the store; `Limit` if there are too many.
    pub async fn keep_source(&self, source: &KeptSource) -> Result<bool> {
        let folder = self.root.clone().join("sources");
        if self.store.list_with_delimiter(Some(&folder)).await?.objects.len() >= SOURCES_MAX {
            return Err(QueryError::limit(format!("the state has {SOURCES_MAX} sources, the maximum; remove some")));
        }
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.source(&source.name), encode(source)?.into(), options).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes source `name`. Returns false if it does not exist.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn remove_source(&self, name: &str) -> Result<bool> {
        // Anything else is no name of a file.
        if checked(name, "").is_err() || read_object(&self.store, &self.source(name)).await?.is_none() {
            return Ok(false);
        }
        match self.store.delete(&self.source(name)).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn source(&self, name: &str) -> Path {
        self.root.clone().join("sources").join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph(more: &[&str]) -> Value {
        let node = |operator: &str, description: &str| json!({"operator": operator, "description": description});
        let mut nodes = vec![node("source:nexmark", "bids"), node("sink:stdout", "stdout"), node("map", "statement 1")];
        nodes.extend(more.iter().map(|name| node("sink:single_file", name)));
        json!({"nodes": nodes, "edges": []})
    }

    #[test]
    fn source_is_one_declaration() {
        let source = KeptSource::new("bids", "CREATE TABLE bids …".into(), &graph(&[])).unwrap();
        assert_eq!((source.name.as_str(), source.connector.as_str()), ("bids", "nexmark"));
        for (name, graph) in [("bids", graph(&["out"])), ("other", graph(&[])), ("bids", Value::Null)] {
            let error = KeptSource::new(name, String::new(), &graph).unwrap_err();
            assert!(error.message.contains(&format!("CREATE TABLE {name}")), "{error}");
        }
    }

    #[test]
    fn names_are_those_without_quotes() {
        assert_eq!(
            checked("nexmark_100", " CREATE TABLE nexmark_100 (a INT) ;; ").unwrap(),
            "CREATE TABLE nexmark_100 (a INT)"
        );
        for name in ["", "1a", "A", "a b", "../a", "é", &"a".repeat(64)] {
            assert!(checked(name, "").unwrap_err().message.contains("no name of a source"), "{name}");
        }
        assert!(checked("a", &"x".repeat((64 << 10) + 1)).is_err());
    }
}
