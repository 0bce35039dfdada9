//! The bodies of requests.

use buzz_protocol::{QueryError, Result};
use buzz_streamd::jobs::{Change, New, Stop};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Number, Value};

/// A new pipeline.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PostPipeline {
    name: String,
    query: String,
    #[serde(default)]
    udfs: Option<Vec<Value>>,
    #[serde(default, deserialize_with = "whole")]
    parallelism: Option<u64>,
    #[serde(default, deserialize_with = "whole")]
    checkpoint_interval_micros: Option<u64>,
    #[serde(default)]
    preview: Option<bool>,
}

/// A script to plan.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PostScript {
    query: String,
    #[serde(default)]
    udfs: Option<Vec<Value>>,
}

/// A script to run for a preview.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PostPreview {
    query: String,
    #[serde(default)]
    udfs: Option<Vec<Value>>,
    /// Writes into the script's sinks too. Otherwise, rows are only returned.
    #[serde(default)]
    pub(super) enable_sinks: Option<bool>,
}

/// A source to keep.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PostSource {
    pub(super) name: String,
    /// CREATE TABLE of this name.
    pub(super) statement: String,
}

/// A change of a pipeline.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PatchPipeline {
    #[serde(default, deserialize_with = "whole")]
    parallelism: Option<u64>,
    #[serde(default, deserialize_with = "whole")]
    checkpoint_interval_micros: Option<u64>,
    #[serde(default)]
    stop: Option<String>,
    /// Another script.
    #[serde(default)]
    query: Option<String>,
    /// The other script goes on after the offsets of the one before.
    #[serde(default, rename = "continue")]
    continues: Option<bool>,
}

/// A restart.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PostRestart {
    /// Abandons the epoch that runs.
    #[serde(default)]
    pub(super) force: Option<bool>,
    #[serde(default, deserialize_with = "whole")]
    pub(super) parallelism: Option<u64>,
}

impl PostPipeline {
    pub(super) fn checked(self) -> Result<New> {
        check_udfs(self.udfs)?;
        if self.preview == Some(true) {
            return Err(QueryError::invalid("a preview is not kept; send it to /api/v1/pipelines/preview"));
        }
        Ok(New {
            name: self.name,
            script: self.query,
            parallelism: self.parallelism,
            epoch_micros: self.checkpoint_interval_micros,
        })
    }
}

impl PostScript {
    pub(super) fn checked(self) -> Result<String> {
        check_udfs(self.udfs)?;
        Ok(self.query)
    }
}

impl PostPreview {
    pub(super) fn checked(self) -> Result<String> {
        check_udfs(self.udfs)?;
        Ok(self.query)
    }
}

impl PatchPipeline {
    pub(super) fn checked(self) -> Result<Change> {
        let stop = self.stop.as_deref().map(Stop::parse).transpose()?;
        let change = Change {
            script: self.query,
            continues: self.continues.unwrap_or_default(),
            parallelism: self.parallelism,
            epoch_micros: self.checkpoint_interval_micros,
            stop,
            abandons: false,
        };
        let is_empty = change.script.is_none()
            && change.parallelism.is_none()
            && change.epoch_micros.is_none()
            && change.stop.is_none();
        if is_empty {
            return Err(QueryError::invalid(
                "nothing is to change; set parallelism, checkpointIntervalMicros, stop or query (and continue)",
            ));
        }
        Ok(change)
    }
}

fn check_udfs(udfs: Option<Vec<Value>>) -> Result<()> {
    match udfs.unwrap_or_default().len() {
        0 => Ok(()),
        count => Err(QueryError::invalid(format!(
            "the request has {count} udfs, which are not supported; write them as SQL, with CREATE FUNCTION"
        ))),
    }
}

/// Reads a whole number, which JSON may also write as `3.0` or `1e6`.
fn whole<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<Option<u64>, D::Error> {
    /// The largest number below which each whole number has a double of its own.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    let Some(number) = Option::<Number>::deserialize(from)? else { return Ok(None) };
    let of_double = || {
        let double = number.as_f64().filter(|double| double.fract() == 0.0 && (0.0..EXACT_MAX).contains(double))?;
        format!("{double:.0}").parse().ok()
    };
    match number.as_u64().or_else(of_double) {
        Some(number) => Ok(Some(number)),
        None => Err(D::Error::custom(format!("`{number}` is not a whole number from 0 on"))),
    }
}

/// Parses the body of a request.
///
/// # Errors
/// `Invalid`, with the place and the field.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| QueryError::invalid(format!("the body is not valid: {error}")))
}

/// Parses the body of a request that may have none.
///
/// # Errors
/// As [`read`].
pub(super) fn read_or_default<T: DeserializeOwned + Default>(body: &[u8]) -> Result<T> {
    if body.iter().all(u8::is_ascii_whitespace) { Ok(T::default()) } else { read(body) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_may_be_written_as_doubles() {
        let parallelism = |text: &str| {
            let asked = read::<PostRestart>(format!("{{\"parallelism\": {text}}}").as_bytes());
            asked.map(|asked| asked.parallelism).map_err(|error| error.message)
        };
        for (text, number) in
            [("716", 716), ("716.0", 716), ("1e3", 1000), ("0", 0), ("18446744073709551615", u64::MAX)]
        {
            assert_eq!(parallelism(text), Ok(Some(number)), "{text}");
        }
        assert_eq!(parallelism("null"), Ok(None));
        for text in ["1.5", "-1", "1e300"] {
            assert!(parallelism(text).unwrap_err().contains("not a whole number"), "{text}");
        }
    }

    #[test]
    fn only_another_script_continues() {
        let change = read::<PatchPipeline>(br#"{"query": "SELECT 1", "continue": true}"#).unwrap().checked().unwrap();
        assert!(change.continues && change.script.is_some());
    }
}
