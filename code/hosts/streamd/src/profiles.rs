//! Connection profiles: settings of a server that people keep under a name, and that tables refer to by
//! `connection_profile = 'name'`.
//!
//! ```text
//! <root>/profiles/<name>.json
//! ```
//!
//! A script has only the name, so its text has no secrets. Settings are looked up whenever a table is opened.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use buzz_connect::{PROFILE, check_connection, profile_options};
use buzz_epoch::read_object;
use buzz_protocol::{QueryError, Result, now_ms};
use buzz_stream::TableDefinition;
use object_store::path::Path;
use object_store::{Error, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::jobs::encode;

/// Maximum number of profiles in a state.
const PROFILES_MAX: usize = 1000;

/// Maximum length of the name of a profile.
const NAME_BYTES_MAX: usize = 63;

/// Maximum length of the settings of a profile.
const CONFIG_BYTES_MAX: usize = 64 << 10;

/// A connection profile. Some of its options are secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The connector of the tables that may refer to it.
    pub connector: String,
    /// Options of these tables.
    pub options: BTreeMap<String, String>,
    /// The time of its creation, in milliseconds since 1970.
    pub created_ms: u64,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.options.keys().collect();
        f.debug_struct("Profile").field("name", &self.name).field("options", &names).finish_non_exhaustive()
    }
}

impl Profile {
    /// Makes a profile of the settings of `connector`, in the JSON of Arroyo or with the names of options.
    ///
    /// # Errors
    /// `Invalid`, without values, if the name or a setting is wrong; `Limit` if the settings are too long.
    pub fn new(name: &str, connector: &str, config: &Value) -> Result<Self> {
        check_name(name)?;
        let bytes = config.to_string().len();
        if bytes > CONFIG_BYTES_MAX {
            return Err(QueryError::limit(format!(
                "the config of profile `{name}` has {bytes} bytes, more than the {CONFIG_BYTES_MAX} allowed"
            )));
        }
        let options = profile_options(connector, config).map_err(|error| error.at(format!("profile {name}")))?;
        Ok(Self { name: name.to_string(), connector: connector.to_string(), options, created_ms: now_ms() })
    }

    /// Connects once, as a table with these options would. Returns what answered.
    ///
    /// # Errors
    /// `Unavailable` or `Data` if the server does not answer or refuses, `Invalid` if an option is wrong.
    pub async fn check(&self) -> Result<String> {
        check_connection(&self.connector, &self.options).await
    }
}

fn check_name(name: &str) -> Result<()> {
    let is_plain = |char: char| char.is_ascii_alphanumeric() || char == '_' || char == '-';
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_plain) {
        return Ok(());
    }
    Err(QueryError::invalid(format!(
        "`{}` is not a valid name of a connection profile; use 1 to {NAME_BYTES_MAX} letters, digits, `_` and `-`",
        name.chars().take(NAME_BYTES_MAX).collect::<String>()
    )))
}

/// The connection profiles of a state.
#[derive(Clone)]
pub struct Profiles {
    store: Arc<dyn ObjectStore>,
    folder: Path,
}

impl fmt::Debug for Profiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profiles").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl Profiles {
    /// Finds the profiles of the state at `root` of `store`.
    pub(crate) fn new(store: Arc<dyn ObjectStore>, root: &Path) -> Self {
        Self { store, folder: root.clone().join("profiles") }
    }

    fn path(&self, name: &str) -> Path {
        self.folder.clone().join(format!("{name}.json"))
    }

    /// Returns the profiles, by name.
    ///
    /// # Errors
    /// Errors of the store, and of a document that is not readable.
    pub async fn list(&self) -> Result<Vec<Profile>> {
        let listed = self.store.list_with_delimiter(Some(&self.folder)).await?;
        let mut profiles = Vec::new();
        for object in listed.objects {
            profiles.extend(self.read(&object.location).await?);
        }
        profiles.sort_by(|one: &Profile, other| one.name.cmp(&other.name));
        Ok(profiles)
    }

    /// Returns profile `name`; `None` if it does not exist.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub async fn get(&self, name: &str) -> Result<Option<Profile>> {
        // Anything else is no name of a file.
        if check_name(name).is_err() { Ok(None) } else { self.read(&self.path(name)).await }
    }

    async fn read(&self, path: &Path) -> Result<Option<Profile>> {
        let Some(bytes) = read_object(&self.store, path).await? else { return Ok(None) };
        // The text of the error could have a secret.
        let broken =
            |_| QueryError::data(format!("connection profile `{path}` is not readable; restore it, or remove it"));
        serde_json::from_slice(&bytes).map(Some).map_err(broken)
    }

    /// Keeps `profile`. Returns false if there is one of its name.
    ///
    /// # Errors
    /// Errors of the store; `Limit` if there are too many.
    pub async fn keep(&self, profile: &Profile) -> Result<bool> {
        if self.store.list_with_delimiter(Some(&self.folder)).await?.objects.len() >= PROFILES_MAX {
            return Err(QueryError::limit(format!(
                "the state has {PROFILES_MAX} connection profiles, the maximum; remove some"
            )));
        }
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&self.path(&profile.name), encode(profile)?.into(), options).await {
            Ok(_) => Ok(true),
            Err(Error::AlreadyExists { .. } | Error::Precondition { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes profile `name`. Returns false if it does not exist.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn remove(&self, name: &str) -> Result<bool> {
        if check_name(name).is_err() || read_object(&self.store, &self.path(name)).await?.is_none() {
            return Ok(false);
        }
        match self.store.delete(&self.path(name)).await {
            Ok(()) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the options of `table` with those of the connection profile that it refers to.
///
/// # Errors
/// `Invalid` if the profile does not exist, is one of another connector, or has another value of an option of the table; errors
/// of the store.
pub(crate) async fn options_of(
    profiles: Option<&Profiles>,
    table: &TableDefinition,
) -> Result<BTreeMap<String, String>> {
    let Some(name) = table.option(PROFILE) else { return Ok(table.options.clone()) };
    let of =
        |text: String| QueryError::invalid(format!("connection profile `{name}` of table `{}` {text}", table.name));
    let profiles = profiles.ok_or_else(|| {
        of("is not known without a state; run with --state, or write its options into CREATE TABLE".to_string())
    })?;
    let profile = profiles.get(name).await?;
    let profile =
        profile.ok_or_else(|| of("does not exist; create it with POST /api/v1/connection_profiles".into()))?;
    let connector = table.option("connector").unwrap_or_default();
    if profile.connector != connector {
        return Err(of(format!("is one of connector {}, and the table has {connector}", profile.connector)));
    }
    let mut options = table.options.clone();
    options.remove(PROFILE);
    for (option, value) in profile.options {
        if table.options.get(&option).is_some_and(|own| *own != value) {
            return Err(of(format!(
                "sets `{option}`, and so does the table, which could send the secrets of the profile to another server; remove \
                 the option from one of them"
            )));
        }
        options.entry(option).or_insert(value);
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use object_store::memory::InMemory;
    use serde_json::json;

    use super::*;

    fn profiles() -> Profiles {
        Profiles::new(Arc::new(InMemory::new()), &Path::from("state"))
    }

    fn table(options: &[(&str, &str)]) -> TableDefinition {
        let options = options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        TableDefinition { name: "t".into(), options, ..TableDefinition::default() }
    }

    #[tokio::test]
    async fn table_has_its_options_and_those_of_its_profile() {
        let profiles = profiles();
        let config = json!({"endpoint": "http://h/", "headers": "Authorization: Bearer abc"});
        let profile = Profile::new("api", "sse", &config).unwrap();
        assert!(profiles.keep(&profile).await.unwrap() && !profiles.keep(&profile).await.unwrap());
        assert_eq!(profiles.list().await.unwrap(), std::slice::from_ref(&profile));
        let own = table(&[("connector", "sse"), ("connection_profile", "api"), ("idle_timeout", "10s")]);
        let found = options_of(Some(&profiles), &own).await.unwrap();
        let expected = table(&[
            ("connector", "sse"),
            ("endpoint", "http://h/"),
            ("headers", "Authorization: Bearer abc"),
            ("idle_timeout", "10s"),
        ]);
        let other = table(&[("connector", "sse"), ("connection_profile", "api"), ("endpoint", "http://other/")]);
        assert_eq!(found, expected.options);
        let plain = table(&[("connector", "sse")]);
        assert_eq!(options_of(None, &plain).await.unwrap(), plain.options);
        for (profiles, table, reason) in [
            (None, &own, "is not known without a state"),
            (Some(&profiles), &other, "sets `endpoint`, and so does the table"),
            (Some(&profiles), &table(&[("connector", "sse"), ("connection_profile", "../x")]), "does not exist"),
            (Some(&profiles), &table(&[("connector", "webhook"), ("connection_profile", "api")]), "of connector sse"),
        ] {
            let error = options_of(profiles, table).await.unwrap_err().message;
            assert!(error.contains(reason) && error.contains("of table `t`"), "{error}");
        }
        assert!(profiles.remove("api").await.unwrap() && !profiles.remove("api").await.unwrap());
        assert!(profiles.list().await.unwrap().is_empty());
    }

    #[test]
    fn wrong_profiles_are_errors_without_their_values() {
        let config = json!({"headers": "A: secret", "more": "secret"});
        let cases = [
            ("a b", "sse", json!({}), "not a valid name of a connection profile"),
            ("", "sse", json!({}), "not a valid name of a connection profile"),
            ("a", "nexmark", json!({}), "connector `nexmark`"),
            ("a", "sse", config, "`more`"),
            ("a", "sse", json!({"headers": ["secret"]}), "`headers`"),
            ("a", "sse", json!("secret"), "object"),
        ];
        for (name, connector, config, reason) in cases {
            let error = Profile::new(name, connector, &config).unwrap_err().to_string();
            assert!(error.contains(reason) && !error.contains("secret"), "{error}");
        }
        let profile = Profile::new("a", "sse", &json!({"headers": "A: secret"})).unwrap();
        assert!(!format!("{profile:?}").contains("secret"));
    }
}
