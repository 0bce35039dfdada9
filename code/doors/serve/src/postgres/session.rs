//! Settings of a session: those that clients set and read, and the options of its queries.

use std::collections::BTreeMap;
use std::time::Duration;

use arrow::array::timezone::Tz;
use buzz_protocol::Options;

use crate::postgres::error::PgError;

/// The version of PostgreSQL whose catalog the server has.
pub(crate) const VERSION: &str = "15.0";
pub(crate) const VERSION_NUMBER: &str = "150000";

/// Settings that a client receives at its start and whenever they change, by the names in which it receives them.
const REPORTED: [&str; 14] = [
    "application_name",
    "client_encoding",
    "DateStyle",
    "default_transaction_read_only",
    "in_hot_standby",
    "integer_datetimes",
    "IntervalStyle",
    "is_superuser",
    "server_encoding",
    "server_version",
    "session_authorization",
    "standard_conforming_strings",
    "TimeZone",
    "search_path",
];

/// Maximum number of settings of a session, and bytes of the name and value of one. A reported value is one short message.
const SETTINGS_MAX: usize = 1000;
const SETTING_BYTES_MAX: usize = 10_000;

/// Settings and their values at the start.
const DEFAULTS: [(&str, &str); 36] = [
    ("application_name", ""),
    ("bytea_output", "hex"),
    ("client_encoding", "UTF8"),
    ("client_min_messages", "notice"),
    ("datestyle", "ISO, MDY"),
    ("default_transaction_isolation", "read committed"),
    ("default_transaction_read_only", "on"),
    ("extra_float_digits", "1"),
    ("idle_in_transaction_session_timeout", "0"),
    ("in_hot_standby", "off"),
    ("integer_datetimes", "on"),
    ("intervalstyle", "postgres"),
    ("is_superuser", "off"),
    ("jit", "off"),
    ("lc_collate", "C"),
    ("lc_ctype", "C"),
    ("lc_messages", "C"),
    ("lc_monetary", "C"),
    ("lock_timeout", "0"),
    ("max_identifier_length", "63"),
    ("max_index_keys", "32"),
    ("row_security", "on"),
    ("search_path", "\"$user\", public"),
    ("server_encoding", "UTF8"),
    ("server_version", VERSION),
    ("server_version_num", VERSION_NUMBER),
    ("session_authorization", ""),
    ("standard_conforming_strings", "on"),
    ("statement_timeout", "0"),
    ("synchronous_commit", "on"),
    ("timezone", "UTC"),
    ("transaction_isolation", "read committed"),
    ("transaction_read_only", "on"),
    ("escape_string_warning", "on"),
    ("backslash_quote", "safe_encoding"),
    ("default_tablespace", ""),
];

/// Settings that keep their value.
const FIXED: [&str; 8] = [
    "in_hot_standby",
    "integer_datetimes",
    "is_superuser",
    "max_identifier_length",
    "max_index_keys",
    "server_encoding",
    "server_version",
    "server_version_num",
];

/// Settings that are accepted with one value only, because values are always written in this way.
const ONLY: [(&str, &str); 5] = [
    ("bytea_output", "hex"),
    ("client_encoding", "utf8"),
    ("datestyle", "iso"),
    ("intervalstyle", "postgres"),
    ("standard_conforming_strings", "on"),
];

/// Returns the settings that the sessions of `user` begin with.
pub(crate) fn defaults(user: &str) -> BTreeMap<String, String> {
    let mut settings: BTreeMap<String, String> =
        DEFAULTS.iter().map(|(name, value)| ((*name).to_string(), (*value).to_string())).collect();
    settings.insert("session_authorization".to_string(), user.to_string());
    settings
}

/// The settings of a session.
#[derive(Debug)]
pub(super) struct Settings {
    values: BTreeMap<String, String>,
    /// Values at the start of the session, which `RESET` restores.
    initial: BTreeMap<String, String>,
    base: Options,
    /// Options of the session's queries.
    pub(super) options: Options,
    /// Zone in which timestamps are written.
    pub(super) zone: Tz,
    /// Maximum time of a statement, until its first row.
    pub(super) timeout: Option<Duration>,
}

impl Settings {
    /// Makes the settings of a session of `user`.
    pub(super) fn new(user: &str, base: Options) -> Self {
        let mut initial = defaults(user);
        let utc: Tz = "+00:00".parse().expect("no offset is an offset");
        let zone = base.time_zone.as_deref().and_then(|zone| zone.parse().ok()).unwrap_or(utc);
        if let Some(zone) = &base.time_zone {
            initial.insert("timezone".to_string(), zone.clone());
        }
        Self { values: initial.clone(), initial, options: base.clone(), base, zone, timeout: None }
    }

    /// Returns the settings that are reported, with their values.
    pub(super) fn reported(&self) -> impl Iterator<Item = (&'static str, &str)> {
        REPORTED.iter().filter_map(|name| Some((*name, self.values.get(&name.to_lowercase())?.as_str())))
    }

    /// Takes the settings that the client sent at its start for those to which RESET returns.
    pub(super) fn started(&mut self) {
        self.initial = self.values.clone();
    }

    /// Returns all settings.
    pub(super) fn all(&self) -> &BTreeMap<String, String> {
        &self.values
    }

    /// Returns the value of `name`.
    ///
    /// # Errors
    /// If the setting does not exist.
    pub(super) fn show(&self, name: &str) -> Result<String, PgError> {
        let name = name.to_lowercase();
        if let Some(option) = name.strip_prefix("buzz.") {
            let options = self.options.changed().unwrap_or_default();
            if let Some(value) = options.get(option) {
                return Ok(value.as_str().map_or_else(|| value.to_string(), str::to_string));
            }
            let defaults = serde_json::to_value(Options::default()).unwrap_or_default();
            if let Some(value) = defaults.get(option) {
                return Ok(value.as_str().map_or_else(|| value.to_string(), str::to_string));
            }
        }
        let missing = || PgError::new("42704", format!("unrecognized configuration parameter \"{name}\""));
        self.values.get(&name).cloned().ok_or_else(missing)
    }

    /// Returns all settings to their values at the start.
    pub(super) fn reset_all(&mut self) -> Result<(), PgError> {
        self.options = self.base.clone();
        let initial = self.initial.clone();
        let names: Vec<String> = self.values.keys().cloned().collect();
        for name in names {
            match initial.get(&name) {
                Some(value) if ["timezone", "statement_timeout"].contains(&name.as_str()) => {
                    self.set(&name, Some(value))?
                }
                Some(value) => drop(self.values.insert(name, value.clone())),
                None => drop(self.values.remove(&name)),
            }
        }
        Ok(())
    }

    /// Sets `name` to `value`, or to its value at the start.
    ///
    /// # Errors
    /// If the setting cannot have the value.
    pub(super) fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), PgError> {
        let name = name.to_lowercase();
        let invalid =
            |value: &str| PgError::new("22023", format!("invalid value for parameter \"{name}\": \"{value}\""));
        if let Some(option) = name.strip_prefix("buzz.") {
            return match value {
                Some(value) => Ok(self.options.set(&format!("{option}={value}"))?),
                None => {
                    let own = serde_json::to_value(&self.base).unwrap_or_default();
                    let value = own.get(option).cloned().unwrap_or_default();
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                    if value.is_null() { Ok(()) } else { Ok(self.options.set(&format!("{option}={text}"))?) }
                }
            };
        }
        let value = match value {
            Some(value) => value.to_string(),
            None => self.initial.get(&name).cloned().unwrap_or_default(),
        };
        if name.len() + value.len() > SETTING_BYTES_MAX {
            return Err(PgError::new(
                "22023",
                format!("a setting has more than {SETTING_BYTES_MAX} bytes; shorten it"),
            ));
        }
        if self.values.len() >= SETTINGS_MAX && !self.values.contains_key(&name) {
            return Err(PgError::new(
                "53400",
                format!("the session has {SETTINGS_MAX} settings, which is the maximum"),
            ));
        }
        if FIXED.contains(&name.as_str()) {
            return Err(PgError::new("55P02", format!("parameter \"{name}\" cannot be changed")));
        }
        // Some clients put quotes around a value at their start.
        let plain = value.trim_matches(['\'', '"']).to_lowercase().replace('-', "");
        if let Some((_, only)) = ONLY.iter().find(|(fixed, _)| *fixed == name) {
            let is_unicode = name == "client_encoding" && plain == "unicode";
            if !plain.starts_with(only) && !is_unicode {
                return Err(PgError::unsupported(format!("parameter \"{name}\" can only be \"{only}\"")));
            }
            return Ok(());
        }
        match name.as_str() {
            "timezone" => {
                let is_utc = ["utc", "gmt", "etc/utc", "z"].contains(&value.to_lowercase().as_str());
                let zone: Tz = if is_utc { "+00:00" } else { &value }.parse().map_err(|_| invalid(&value))?;
                self.zone = zone;
                // Without a zone, functions such as now() return what they return in UTC.
                self.options.time_zone = if is_utc { self.base.time_zone.clone() } else { Some(value.clone()) };
            }
            "statement_timeout" => {
                let milliseconds = duration_ms(&value).ok_or_else(|| invalid(&value))?;
                self.timeout = (milliseconds > 0).then(|| Duration::from_millis(milliseconds));
            }
            _ => {}
        }
        self.values.insert(name, value);
        Ok(())
    }

    /// Returns true if notices are sent, and not only warnings.
    pub(super) fn has_notices(&self) -> bool {
        let level = self.values.get("client_min_messages").map(String::as_str).unwrap_or_default();
        !["warning", "error", "fatal", "panic"].contains(&level.to_lowercase().as_str())
    }
}

/// Parses `1500`, `1500ms`, `30s`, `5min` or `1h` to milliseconds.
fn duration_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let count: u64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim() {
        "" | "ms" => 1,
        "s" => 1000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    count.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_change_the_options_of_queries() {
        let mut settings = Settings::new("ann", Options::default());
        settings.set("statement_timeout", Some("1500ms")).unwrap();
        settings.set("TimeZone", Some("Europe/Paris")).unwrap();
        settings.set("buzz.tasks", Some("7")).unwrap();
        assert_eq!((settings.timeout, settings.options.tasks), (Some(Duration::from_millis(1500)), 7));
        assert_eq!(settings.options.time_zone.as_deref(), Some("Europe/Paris"));
        assert_eq!(settings.show("buzz.tasks").unwrap(), "7");
        settings.reset_all().unwrap();
        assert_eq!((&settings.options, settings.timeout), (&Options::default(), None));
        assert_eq!(settings.show("timezone").unwrap(), "UTC");
        assert_eq!(settings.show("session_authorization").unwrap(), "ann");
    }

    #[test]
    fn values_that_would_not_be_kept_are_refused() {
        let mut settings = Settings::new("ann", Options::default());
        let mut code = |name: &str, value: &str| settings.set(name, Some(value)).map_err(|error| error.code);
        assert_eq!(code("client_encoding", "LATIN1"), Err("0A000"));
        assert_eq!(code("client_encoding", "'utf-8'"), Ok(()));
        assert_eq!(code("datestyle", "ISO, DMY"), Ok(()));
        assert_eq!(code("datestyle", "German"), Err("0A000"));
        assert_eq!(code("timezone", "Mars/Base"), Err("22023"));
        assert_eq!(code("server_version", "16"), Err("55P02"));
        assert_eq!(code("buzz.task", "1"), Err("42000"));
        assert_eq!(settings.show("nothing").unwrap_err().code, "42704");
        let long = settings.set("application_name", Some(&"x".repeat(SETTING_BYTES_MAX)));
        assert_eq!(long.unwrap_err().code, "22023");
        for number in 0..SETTINGS_MAX - DEFAULTS.len() {
            settings.set(&format!("my.setting{number}"), Some("x")).unwrap();
        }
        assert_eq!(settings.set("my.other", Some("x")).unwrap_err().code, "53400");
        settings.set("my.setting0", Some("y")).unwrap();
    }
}
