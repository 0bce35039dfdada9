//! The bodies of requests.

use buzz_protocol::{QueryError, Result};
use buzz_streamd::jobs::{Change, New, Stop};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A new pipeline.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PostPipeline {
    name: String,
    query: String,
    #[serde(default)]
    udfs: Option<Vec<Value>>,
    #[serde(default)]
    parallelism: Option<u64>,
    #[serde(default)]
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
    #[serde(default)]
    parallelism: Option<u64>,
    #[serde(default)]
    checkpoint_interval_micros: Option<u64>,
    #[serde(default)]
    stop: Option<String>,
    /// Another script.
    #[serde(default)]
    query: Option<String>,
}

/// A restart.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PostRestart {
    /// Abandons the epoch that runs.
    #[serde(default)]
    pub(super) force: Option<bool>,
    #[serde(default)]
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
                "nothing is to change; set parallelism, checkpointIntervalMicros, stop or query",
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
