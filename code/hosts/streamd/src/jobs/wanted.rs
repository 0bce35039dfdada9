//! The settings that people want of a pipeline. Each change is a new document in a sequence, so of two changes at once none is lost.

use std::num::NonZeroUsize;

use buzz_epoch::SCRIPT_BYTES_MAX;
use buzz_protocol::{QueryError, Result};
use serde::{Deserialize, Serialize};

use crate::run::Order;

/// Maximum length of the name of a pipeline.
const NAME_BYTES_MAX: usize = 100;

/// Maximum number of workers of a pipeline. There are 64 key groups.
const PARALLELISM_MAX: usize = 1024;

/// Bounds of the length of an epoch in microseconds: 10 ms to a day.
const EPOCH_MICROS: std::ops::RangeInclusive<u64> = 10_000..=86_400_000_000;

/// The mode in which a pipeline is stopped, or that it is not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stop {
    /// It runs.
    #[default]
    None,
    /// After the epoch that runs, whose record is the checkpoint.
    Checkpoint,
    /// As [`Stop::Checkpoint`]: every epoch ends with a record, so there is nothing to drain.
    Graceful,
    /// At once. The epoch that runs is abandoned, and repeated by the next start.
    Immediate,
    /// As [`Stop::Immediate`].
    Force,
}

impl Stop {
    /// Returns the mode of `text`.
    ///
    /// # Errors
    /// `Invalid` if there is none of this name.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "none" => Stop::None,
            "checkpoint" => Stop::Checkpoint,
            "graceful" => Stop::Graceful,
            "immediate" => Stop::Immediate,
            "force" => Stop::Force,
            _ => {
                return Err(QueryError::invalid(format!(
                    "stop `{text}` is unknown; use none, checkpoint, graceful, immediate or force"
                )));
            }
        })
    }

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Stop::None => "none",
            Stop::Checkpoint => "checkpoint",
            Stop::Graceful => "graceful",
            Stop::Immediate => "immediate",
            Stop::Force => "force",
        }
    }
}

/// The wanted settings of a pipeline.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Wanted {
    /// The name that was given.
    pub name: String,
    /// The script.
    pub script: String,
    /// The name of its epochs in the state. A pipeline that is created again after it was deleted has another one, so a
    /// process that still runs the deleted one cannot write into it.
    pub log: String,
    /// Replaces the number of workers of the script.
    pub parallelism: Option<NonZeroUsize>,
    /// Replaces the length of an epoch of the script.
    pub epoch_micros: Option<u64>,
    /// The mode in which it is stopped, or that it runs.
    pub stop: Stop,
    /// The run before ends at once.
    pub abandons: bool,
    /// The script goes on after the offsets of the one before.
    pub continues: bool,
    /// The pipeline, its state and its epochs are deleted.
    pub deleted: bool,
    /// The time of its creation, in milliseconds since 1970.
    pub created_ms: u64,
    /// Makes the document unique.
    pub token: String,
}

/// A new pipeline.
#[derive(Debug, Clone, Default)]
pub struct New {
    /// Its name.
    pub name: String,
    /// Its script.
    pub script: String,
    /// Replaces the number of workers of the script.
    pub parallelism: Option<u64>,
    /// Replaces the length of an epoch of the script, in microseconds.
    pub epoch_micros: Option<u64>,
}

/// A change of a pipeline. What is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// Another script: a new version of the pipeline, which starts without state, unless it continues.
    pub script: Option<String>,
    /// The other script goes on after the offsets of sources that it declares like the one before, with the state of
    /// statements that have not changed.
    pub continues: bool,
    /// Another number of workers.
    pub parallelism: Option<u64>,
    /// Another length of an epoch, in microseconds.
    pub epoch_micros: Option<u64>,
    /// Stops or starts it.
    pub stop: Option<Stop>,
    /// Ends the run before at once, not after its epoch.
    pub abandons: bool,
}

impl Wanted {
    /// Returns what is wanted after `change`.
    pub(crate) fn changed(&self, change: &Change) -> Result<Self> {
        let mut wanted = Self { abandons: change.abandons, ..self.clone() };
        if let Some(script) = &change.script {
            wanted.script = checked_script(script)?;
            wanted.continues = change.continues;
        } else if change.continues {
            return Err(QueryError::invalid("only another script can continue; set `query` too"));
        }
        if let Some(parallelism) = change.parallelism {
            wanted.parallelism = Some(checked_parallelism(parallelism)?);
        }
        if let Some(epoch_micros) = change.epoch_micros {
            wanted.epoch_micros = Some(checked_epoch(epoch_micros)?);
        }
        if let Some(stop) = change.stop {
            wanted.stop = stop;
        }
        Ok(wanted)
    }

    /// Returns the first document of a pipeline that is number `n` of its sequence.
    pub(crate) fn new(new: &New, id: &str, n: u64, created_ms: u64) -> Result<Self> {
        Ok(Self {
            name: new.name.clone(),
            script: checked_script(&new.script)?,
            log: if n == 1 && !is_numbered(id) { id.to_string() } else { format!("{id}.{n}") },
            parallelism: new.parallelism.map(checked_parallelism).transpose()?,
            epoch_micros: new.epoch_micros.map(checked_epoch).transpose()?,
            created_ms,
            ..Self::default()
        })
    }

    /// Returns the order to a run that has begun with another document.
    pub(crate) fn order(&self) -> Order {
        match self.stop {
            _ if self.deleted || self.abandons => Order::Abandon,
            Stop::Immediate | Stop::Force => Order::Abandon,
            Stop::None | Stop::Checkpoint | Stop::Graceful => Order::Finish,
        }
    }

    /// Returns true if the pipeline should run.
    pub fn is_running(&self) -> bool {
        !self.deleted && self.stop == Stop::None
    }
}

/// Returns the id of a pipeline named `name`: the name, with `-` for each character that a folder should not have.
///
/// # Errors
/// `Invalid` if the name is empty or too long.
pub fn id_of(name: &str) -> Result<String> {
    let name = name.trim();
    let is_plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '_' | '-' | '.');
    let id: String = name.chars().map(|char| if is_plain(char) { char } else { '-' }).collect();
    if id.is_empty() || id.len() > NAME_BYTES_MAX || !id.contains(|char: char| char.is_ascii_alphanumeric()) {
        return Err(QueryError::invalid(format!(
            "`{}` is not a valid name of a pipeline; use 1 to {NAME_BYTES_MAX} letters, digits, `_`, `-` and `.`",
            name.chars().take(NAME_BYTES_MAX).collect::<String>()
        )));
    }
    Ok(if id.starts_with('.') { format!("-{id}") } else { id })
}

fn checked_script(script: &str) -> Result<String> {
    if script.trim().is_empty() {
        return Err(QueryError::invalid("the pipeline has no script; write it into `query`"));
    }
    if script.len() > SCRIPT_BYTES_MAX {
        let bytes = script.len();
        return Err(QueryError::limit(format!(
            "the script has {bytes} bytes, more than the {SCRIPT_BYTES_MAX} allowed; divide it into pipelines"
        )));
    }
    Ok(script.to_string())
}

fn checked_parallelism(number: u64) -> Result<NonZeroUsize> {
    let number = usize::try_from(number).ok().filter(|number| *number <= PARALLELISM_MAX);
    number.and_then(NonZeroUsize::new).ok_or_else(|| {
        QueryError::invalid(format!("the parallelism of a pipeline is a number from 1 to {PARALLELISM_MAX}"))
    })
}

fn checked_epoch(micros: u64) -> Result<u64> {
    if EPOCH_MICROS.contains(&micros) {
        return Ok(micros);
    }
    Err(QueryError::invalid(format!(
        "an epoch of {micros} microseconds is not possible; use {} (10 ms) to {} (a day)",
        EPOCH_MICROS.start(),
        EPOCH_MICROS.end()
    )))
}

/// Returns true if `id` ends like the log of a pipeline that was created again.
fn is_numbered(id: &str) -> bool {
    id.rsplit_once('.').is_some_and(|(_, end)| !end.is_empty() && end.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_a_name_of_a_folder() {
        for (name, id) in [("top", "top"), (" my pipeline ", "my-pipeline"), ("a/../b", "a-..-b"), (".x", "-.x")] {
            assert_eq!(id_of(name).unwrap(), id);
        }
        for name in ["", " ", "..", "///", &"x".repeat(101)] {
            assert!(id_of(name).unwrap_err().message.contains("is not a valid name of a pipeline"), "{name}");
        }
    }

    #[test]
    fn bounds_of_a_change_are_checked() {
        let wanted = Wanted { script: "SELECT 1".into(), ..Default::default() };
        let changed = |change: Change| wanted.changed(&change).map_err(|error| error.message);
        let change = Change { parallelism: Some(3), epoch_micros: Some(200_000), ..Default::default() };
        let three = changed(change).unwrap();
        assert_eq!((three.parallelism.map(NonZeroUsize::get), three.epoch_micros), (Some(3), Some(200_000)));
        assert_eq!(three.script, "SELECT 1");
        for parallelism in [0, 1025, u64::MAX] {
            let error = changed(Change { parallelism: Some(parallelism), ..Default::default() }).unwrap_err();
            assert!(error.contains("from 1 to 1024"), "{error}");
        }
        let error = changed(Change { epoch_micros: Some(1), ..Default::default() }).unwrap_err();
        assert!(error.contains("an epoch of 1 microseconds"), "{error}");
        let error = changed(Change { script: Some(" ".into()), ..Default::default() }).unwrap_err();
        assert!(error.contains("has no script"), "{error}");
        let restart = Change { abandons: true, stop: Some(Stop::None), ..Default::default() };
        let restarted = wanted.changed(&restart).unwrap();
        assert_eq!((restarted.order(), restarted.is_running()), (Order::Abandon, true));
        let rescaled = restarted.changed(&Change { parallelism: Some(2), ..Default::default() }).unwrap();
        assert_eq!(rescaled.order(), Order::Finish, "a later change abandons nothing");
        assert!(Stop::parse("later").unwrap_err().message.contains("use none, checkpoint"));
    }
}
