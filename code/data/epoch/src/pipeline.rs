//! Versions of a pipeline. A version is a folder with a manifest, `pipeline.json`, that is created once.
//!
//! A version ends with a closing record (`Record::moved`), created like every record: an owner that is still running
//! loses the race for that epoch and learns that the pipeline has moved. The closing record contains the manifest and
//! the first record of the next version, so any process can finish a move that was interrupted.

use std::collections::{BTreeMap, BTreeSet};

use buzz_protocol::{QueryError, Result};
use serde::{Deserialize, Serialize};

use crate::record::Record;

/// Maximum size of a script.
pub const SCRIPT_BYTES_MAX: usize = 1 << 20;

/// Maximum number of key groups.
pub const KEY_GROUPS_MAX: u32 = 1 << 15;

/// Maximum number of versions of a pipeline.
pub const VERSIONS_MAX: u64 = 10_000;

/// A pipeline as its owner starts it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PipelineSpec {
    /// The name for people.
    pub name: String,
    /// The script. Another script makes another version.
    pub script: String,
    /// The statements of the script in a form that white space and comments do not change. If both specs have one, it
    /// decides whether their scripts differ.
    pub statements: String,
    /// Options of the start, such as the parallelism. They do not make another version.
    pub options: BTreeMap<String, String>,
    /// Number of key groups, fixed for the life of a version.
    pub key_groups: u32,
    /// The build that created the version.
    pub build: String,
    /// Fingerprints of what a build could change under stored state: fields of each stage's state, the hash of keys.
    pub fingerprints: BTreeMap<String, String>,
}

/// `pipeline.json`: the start of a version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// The number of the version, from 1.
    pub version: u64,
    /// The pipeline.
    pub spec: PipelineSpec,
    /// The number of the version's first record.
    pub first: u64,
    /// The epochs of earlier versions that this version continues, in ascending order.
    pub lineage: Vec<Span>,
}

/// The parts of the newest record with which a version for another script starts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Continued {
    /// Sources that go on after the offsets of the record. Others begin at their start.
    pub sources: BTreeSet<String>,
    /// Stages that keep their state, if their fingerprints agree. Others start without state.
    pub stages: BTreeSet<String>,
}

impl Continued {
    /// Leaves out stages whose state `start` cannot read from `stored`.
    pub(crate) fn that_fit(&self, stored: &PipelineSpec, start: &PipelineSpec) -> Self {
        let fits = |stage: &&String| {
            stored.key_groups == start.key_groups
                && stored.fingerprints.get(*stage).is_some_and(|known| start.fingerprints.get(*stage) == Some(known))
        };
        Self { stages: self.stages.iter().filter(fits).cloned().collect(), ..self.clone() }
    }

    /// Returns what `record` has of these.
    pub(crate) fn of(&self, record: Record) -> Record {
        let is_kept = |name: &String| self.sources.contains(name) || self.stages.contains(name);
        let mut kept =
            Record { at_ms: record.at_ms, epoch: record.epoch, generation: record.generation, ..Record::default() };
        kept.sources = record.sources.into_iter().filter(|(name, _)| self.sources.contains(name)).collect();
        kept.watermarks = record.watermarks.into_iter().filter(|(name, _)| is_kept(name)).collect();
        kept.state = record.state.into_iter().filter(|file| self.stages.contains(&file.stage)).collect();
        kept.timers = record.timers.into_iter().filter(|timer| self.stages.contains(&timer.stage)).collect();
        kept
    }
}

/// A run of epochs of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    /// The version.
    pub version: u64,
    /// The first epoch.
    pub from: u64,
    /// The last epoch.
    pub through: u64,
}

/// The relation of a spec to the newest version.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// The version can be continued.
    None,
    /// The script is another one: a new version is needed.
    Script,
    /// The state of the version cannot be read by this build.
    State(Vec<String>),
}

impl PipelineSpec {
    /// Checks the bounds.
    pub(crate) fn check(&self) -> Result<()> {
        if self.script.len() > SCRIPT_BYTES_MAX {
            let bytes = self.script.len();
            return Err(QueryError::limit(format!(
                "the script has {bytes} bytes, more than the {SCRIPT_BYTES_MAX} allowed; divide it into pipelines"
            )));
        }
        if !(1..=KEY_GROUPS_MAX).contains(&self.key_groups) {
            let groups = self.key_groups;
            return Err(QueryError::invalid(format!(
                "a pipeline cannot have {groups} key groups; use 1 to {KEY_GROUPS_MAX}"
            )));
        }
        Ok(())
    }

    /// Compares `self`, the spec of a stored version, with the spec of a start.
    pub(crate) fn change(&self, start: &PipelineSpec) -> Change {
        if self.has_other_script(start) {
            return Change::Script;
        }
        let differences = self.state_differences(start);
        if differences.is_empty() { Change::None } else { Change::State(differences) }
    }

    /// Returns true if `start` has another script than `self`, the spec of a stored version.
    pub fn has_other_script(&self, start: &PipelineSpec) -> bool {
        // One text is one script, also if its statements were written down by another build.
        self.script != start.script
            && (self.statements.is_empty() || start.statements.is_empty() || self.statements != start.statements)
    }

    /// Returns what keeps `start` from reading the state of `self`, one sentence part each.
    pub fn state_differences(&self, start: &PipelineSpec) -> Vec<String> {
        let mut differences = Vec::new();
        if self.key_groups != start.key_groups {
            differences.push(format!("{} key groups instead of {}", start.key_groups, self.key_groups));
        }
        let names: BTreeSet<&String> = self.fingerprints.keys().chain(start.fingerprints.keys()).collect();
        for name in names {
            match (self.fingerprints.get(name), start.fingerprints.get(name)) {
                (Some(stored), Some(now)) if stored == now => {}
                (Some(stored), Some(now)) => differences.push(format!("`{name}` is `{now}` instead of `{stored}`")),
                (Some(_), None) => differences.push(format!("`{name}` is missing")),
                (None, _) => differences.push(format!("`{name}` is new")),
            }
        }
        differences
    }
}

/// Returns the error of a start whose build or script cannot read the state of `stored`.
pub(crate) fn refuse(pipeline: &str, stored: &Manifest, differences: &[String]) -> QueryError {
    QueryError::invalid(format!(
        "the state of pipeline `{pipeline}` was written by build {} and does not fit: {}; run that build until the \
         sources are drained, or start again from epoch 0 to replay them",
        stored.spec.build,
        differences.join(", ")
    ))
}

/// Returns the version whose record of `epoch` belongs to the history of `manifest`. Epochs that a rewind abandoned
/// belong to none.
pub(crate) fn version_of(manifest: &Manifest, epoch: u64) -> Option<u64> {
    if epoch >= manifest.first {
        return Some(manifest.version);
    }
    let span = manifest.lineage.iter().find(|span| (span.from..=span.through).contains(&epoch))?;
    Some(span.version)
}

/// Returns the history that ends with `epoch`: what a version that continues from there has before its own records.
pub(crate) fn lineage_through(manifest: &Manifest, epoch: u64) -> Vec<Span> {
    let own = Span { version: manifest.version, from: manifest.first, through: u64::MAX };
    let spans = manifest.lineage.iter().copied().chain([own]);
    let cut = spans.filter(|span| span.from <= epoch).map(|span| Span { through: span.through.min(epoch), ..span });
    cut.collect()
}

/// Returns the epochs in `from..=through` that belong to the history of `manifest`, as ascending runs.
pub(crate) fn visible(manifest: &Manifest, from: u64, through: u64) -> Vec<Span> {
    let mut spans = lineage_through(manifest, through);
    spans.retain(|span| span.through >= from);
    for span in &mut spans {
        span.from = span.from.max(from);
    }
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(script: &str, key_groups: u32, fingerprints: &[(&str, &str)]) -> PipelineSpec {
        let fingerprints = fingerprints.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        PipelineSpec { script: script.into(), key_groups, fingerprints, ..Default::default() }
    }

    #[test]
    fn options_and_build_do_not_make_a_version() {
        let stored = spec("a", 64, &[("count", "x")]);
        let mut start = stored.clone();
        start.options.insert("parallelism".into(), "3".into());
        start.build = "2".into();
        assert_eq!(stored.change(&start), Change::None);
        assert_eq!(stored.change(&spec("b", 1, &[])), Change::Script);
    }

    #[test]
    fn statements_decide_about_a_version_if_both_specs_have_them() {
        let with =
            |script: &str, statements: &str| PipelineSpec { statements: statements.into(), ..spec(script, 1, &[]) };
        assert_eq!(with("a -- b", "a;").change(&with("a", "a;")), Change::None);
        assert_eq!(with("a", "a;").change(&with("b", "b;")), Change::Script);
        // Another build may write down the statements of one script otherwise.
        assert_eq!(with("a", "a;").change(&with("a", "b;")), Change::None);
        // A version of an earlier build has only its script.
        assert_eq!(with("a", "").change(&with("a", "a;")), Change::None);
        assert_eq!(with("a -- b", "").change(&with("a", "a;")), Change::Script);
    }

    #[test]
    fn each_difference_of_state_is_named() {
        let stored = spec("a", 64, &[("hash", "1"), ("count", "x"), ("old", "x")]);
        let Change::State(differences) = stored.change(&spec("a", 32, &[("hash", "2"), ("count", "x"), ("new", "x")]))
        else {
            panic!("the state differs")
        };
        assert_eq!(
            differences,
            ["32 key groups instead of 64", "`hash` is `2` instead of `1`", "`new` is new", "`old` is missing"]
        );
        let manifest = Manifest { spec: PipelineSpec { build: "b1".into(), ..stored }, ..Default::default() };
        let error = refuse("p", &manifest, &differences);
        assert!(error.message.contains("build b1 and does not fit: 32 key groups"), "{error}");
    }

    #[test]
    fn abandoned_epochs_belong_to_no_history() {
        // Version 1 wrote epochs 1 to 9 and was closed by 10; version 2 goes back to 5; version 3 continues it from 12.
        let first = Manifest { version: 1, first: 1, ..Default::default() };
        let second = Manifest { version: 2, first: 10, lineage: lineage_through(&first, 5), ..Default::default() };
        let third = Manifest { version: 3, first: 13, lineage: lineage_through(&second, 12), ..Default::default() };
        let versions: Vec<_> = (1..=14).map(|epoch| version_of(&third, epoch).unwrap_or(0)).collect();
        assert_eq!(versions, [1, 1, 1, 1, 1, 0, 0, 0, 0, 2, 2, 2, 3, 3]);
        let runs = |from, through| {
            visible(&third, from, through).iter().map(|s| (s.version, s.from, s.through)).collect::<Vec<_>>()
        };
        assert_eq!(runs(4, 13), [(1, 4, 5), (2, 10, 12), (3, 13, 13)]);
        assert_eq!(runs(6, 9), []);
        assert_eq!(runs(11, 11), [(2, 11, 11)]);
        assert_eq!(lineage_through(&third, 0), []);
    }

    #[test]
    fn bounds_of_a_spec_are_checked() {
        assert!(spec("a", 64, &[]).check().is_ok());
        assert!(spec("a", 0, &[]).check().is_err());
        assert!(spec(&"x".repeat(SCRIPT_BYTES_MAX + 1), 64, &[]).check().unwrap_err().message.contains("divide"));
    }
}
