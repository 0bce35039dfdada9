//! Sources that people save beside pipelines: statements that declare a table, under its name.
//!
//! ```text
//! <root>/sources/<name>.json
//! ```
//!
//! A pipeline has the statements of its sources in its own script, so nothing that runs depends on a saved source.

use buzz_epoch::read_object;
use buzz_protocol::{QueryError, Result, now_ms};
use buzz_stream::Script;
use object_store::path::Path;
use object_store::{Error, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};

use crate::jobs::registry::{Registry, encode};

/// Maximum number of sources in a state.
const SOURCES_MAX: usize = 1000;

/// Maximum length of the name of a source.
const NAME_BYTES_MAX: usize = 63;

/// Maximum length of the statement of a source.
const STATEMENT_BYTES_MAX: usize = 64 << 10;

/// A saved source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSource {
    /// The name of the table.
    pub name: String,
    /// Its connector.
    pub connector: String,
    /// The statement that declares it.
    pub statement: String,
    /// The time of its creation, in milliseconds since 1970.
    pub created_ms: u64,
}

impl SavedSource {
    /// Makes a source of `statement`. `script` is the statement and `SELECT *` of the table.
    ///
    /// # Errors
    /// `Invalid` if the statement declares something else.
    pub(crate) fn new(name: &str, statement: String, script: &Script) -> Result<Self> {
        let connector = script.only_table(name).and_then(|table| table.option("connector"));
        // A second statement would be another SELECT or INSERT.
        let Some(connector) = connector.filter(|_| script.statements.len() == 1) else {
            return Err(QueryError::invalid(format!(
                "a source is one statement CREATE TABLE {name} with a connector that is read; leave out others"
            )));
        };
        Ok(Self { name: name.to_string(), connector: connector.to_string(), statement, created_ms: now_ms() })
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
            "`{}` is not a valid name of a source; use 1 to {NAME_BYTES_MAX} lower-case letters, digits and `_`, and no digit at the start",
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
    pub async fn sources(&self) -> Result<Vec<SavedSource>> {
        let listed = self.store.list_with_delimiter(Some(&self.root.clone().join("sources"))).await?;
        let mut sources: Vec<SavedSource> = Vec::new();
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

    /// Saves `source`. Returns false if there is one of its name.
    ///
    /// # Errors
    /// Errors of the store; `Limit` if there are too many.
    pub async fn save_source(&self, source: &SavedSource) -> Result<bool> {
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
        // Anything else is not the name of a file.
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
    use super::*;

    fn source(name: &str, statement: &str) -> Result<SavedSource> {
        let script = Script::parse(&format!("{statement};\nSELECT * FROM {name};")).unwrap();
        SavedSource::new(name, statement.to_string(), &script)
    }

    #[test]
    fn source_is_one_declaration() {
        let declared = "CREATE TABLE bids (a INT) WITH (connector = 'nexmark', type = 'source')";
        let found = source("bids", declared).unwrap();
        assert_eq!((found.name.as_str(), found.connector.as_str()), ("bids", "nexmark"));
        assert_eq!(found.statement, declared);
        let other = "CREATE TABLE out WITH (connector = 'stdout', type = 'sink')";
        for (name, statement) in [
            ("bids", format!("{declared}; {other}")),
            ("bids", format!("{declared}; {other}; INSERT INTO out SELECT a FROM bids")),
            ("bids", format!("{declared}; SELECT a FROM bids")),
            ("bids", format!("{declared}; CREATE VIEW v AS SELECT a FROM bids")),
            ("bids", format!("{declared}; SET parallelism = '2'")),
            ("bids", "CREATE TABLE bids (a INT)".to_string()),
            ("other", declared.to_string()),
        ] {
            let error = source(name, &statement).expect_err(&statement);
            assert!(error.message.contains(&format!("CREATE TABLE {name}")), "{statement}: {error}");
        }
    }

    #[test]
    fn names_are_those_without_quotes() {
        assert_eq!(
            checked("nexmark_100", " CREATE TABLE nexmark_100 (a INT) ;; ").unwrap(),
            "CREATE TABLE nexmark_100 (a INT)"
        );
        for name in ["", "1a", "A", "a b", "../a", "é", &"a".repeat(64)] {
            assert!(checked(name, "").unwrap_err().message.contains("not a valid name of a source"), "{name}");
        }
        assert!(checked("a", &"x".repeat((64 << 10) + 1)).is_err());
    }
}
