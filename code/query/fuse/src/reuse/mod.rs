//! Uses the results of earlier queries again, with the option `reuse`: whole answers (`answers`), and the partial aggregates
//! of tasks (`parts`).
//!
//! Both are kept under a hash of everything that their rows depend on: the build, the query or the task, and each file by
//! the tag that its store gives to this version of it (`tags`). So nothing is ever out of date, and nothing has to be
//! invalidated: what is not asked for again is removed in the end.

mod answers;
mod parts;
mod tags;

use std::sync::{Arc, LazyLock};

use buzz_catalog::Table;
use buzz_engine::{Question, Rows, Want};
use buzz_host::{Host, KeyHash, ResultCache};
use buzz_plan::{NormalText, PartReuse, QueryPlan, changing_word, normal_text};
use buzz_protocol::{BUILD_ID, Overflow, Result};
use buzz_storage::QueryStores;

pub(crate) use self::answers::CachedAnswer;
pub(crate) use self::parts::{Part, Parts, to_fuse};
use self::tags::{Tags, add_tags};

/// Maximum bytes of the rows of an answer that is kept.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The decision about the results of earlier queries.
#[derive(Debug)]
pub(crate) enum Decision {
    /// The option is not set.
    Off,
    /// Nothing is used or kept, for this reason.
    Not(String),
    /// Results are used.
    On(Reuse),
}

/// The place and the key of the answer of a question.
#[derive(Debug)]
pub(crate) struct Reuse {
    place: Arc<ResultCache>,
    /// Key of the answer.
    key: String,
    /// False if a file was written just now: it may be written again without a new tag.
    may_keep: bool,
    /// True if the question is about the plan.
    explains: bool,
    /// Maximum bytes of an answer that is kept.
    answer_bytes_max: u64,
    /// Maximum bytes of all that is kept.
    bytes_max: u64,
}

impl Decision {
    /// Decides for `question` over its opened `tables`. Adds the tags to the files that have none.
    pub(crate) async fn of(host: &Host, question: &Question, tables: &mut [Table], stores: &QueryStores) -> Self {
        if !question.options.reuse {
            return Self::Off;
        }
        let Some(place) = &host.cache else {
            return Self::Not("there is no folder for it; set BUZZ_ANSWERS to one".to_string());
        };
        if let Some(word) = changing_word(&question.query) {
            return Self::Not(format!("the query has `{word}`, which may change its rows at any time"));
        }
        let Some(text) = normal_text(&question.query) else {
            return Self::Not("the query cannot be parsed".to_string());
        };
        let may_keep = match add_tags(tables, stores).await {
            Tags::Missing(why) => return Self::Not(why),
            Tags::Fresh => false,
            Tags::Settled => true,
        };
        let Ok(key) = answer_key(question, &text, tables) else {
            return Self::Not("the query has no JSON".to_string());
        };
        let bytes_max = question.options.reuse_bytes;
        Self::On(Reuse {
            place: Arc::clone(place),
            key,
            may_keep,
            explains: text.explains || question.want == Want::Plan,
            answer_bytes_max: ANSWER_BYTES_MAX.min(bytes_max),
            bytes_max,
        })
    }

    /// Returns the kept answer, if there is one and the question asks for rows.
    pub(crate) async fn answer(&self) -> Option<CachedAnswer> {
        match self {
            Self::On(reuse) if !reuse.explains => CachedAnswer::decoded(&reuse.place.get(&reuse.key).await?),
            _ => None,
        }
    }

    /// Returns the use of the partial aggregates of tasks.
    pub(crate) fn parts(&self) -> PartReuse {
        match self {
            Self::On(Reuse { may_keep: true, .. }) => PartReuse::UseAndKeep,
            Self::On(_) => PartReuse::Use,
            _ => PartReuse::Off,
        }
    }

    /// Returns the maximum bytes of an answer that is kept.
    pub(crate) fn answer_bytes_max(&self) -> u64 {
        match self {
            Self::On(Reuse { may_keep: true, answer_bytes_max, .. }) => *answer_bytes_max,
            _ => 0,
        }
    }

    /// Keeps the answer of a run of `plan`, which has `rows`, if it may be kept, and removes what is too much. A failure is
    /// logged: the answer does not need it.
    pub(crate) async fn keep(&self, plan: &QueryPlan, rows: Option<&Rows>) {
        let Self::On(reuse) = self else { return };
        let kept = async {
            // An answer without tasks is planned as fast as it is found.
            if let Some(rows) = rows.filter(|_| reuse.may_keep && !plan.stages.is_empty()) {
                let answer = CachedAnswer::of(rows, plan.warnings.clone())?;
                reuse.place.put(&reuse.key, &answer.encoded()?).await?;
            }
            reuse.place.trim(reuse.bytes_max).await
        };
        if let Err(error) = kept.await {
            tracing::warn!(%error, "the answer was not kept");
        }
    }

    /// Returns a line about what a run of `plan` would use again; empty if the option is not set.
    ///
    /// # Errors
    /// `Internal` if the tasks of the plan cannot be made.
    pub(crate) async fn explained(&self, plan: &QueryPlan) -> Result<String> {
        let reuse = match self {
            Self::Off => return Ok(String::new()),
            Self::Not(why) => return Ok(format!("reuse: nothing, since {why}\n")),
            Self::On(reuse) => reuse,
        };
        if reuse.place.has(&reuse.key).await {
            return Ok("reuse: the answer\n".to_string());
        }
        let stages = parts::found(&reuse.place, plan).await?;
        let found: Vec<String> =
            stages.iter().map(|(step, found, tasks)| format!("{found} of {tasks} tasks of {step}")).collect();
        Ok(match found.as_slice() {
            [] => "reuse: nothing yet\n".to_string(),
            found => format!("reuse: {}\n", found.join(", ")),
        })
    }
}

/// Returns a hash with the build. What one build keeps is not used by another: its functions may return other values.
fn hash_of_build() -> KeyHash {
    // On one machine, builds of one version have one name. The program file tells them apart.
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        let file = std::env::current_exe().and_then(std::fs::metadata);
        file.map_or_else(|_| String::new(), |file| format!("{} {:?}", file.len(), file.modified().ok()))
    });
    let mut hash = KeyHash::default();
    hash.add("build", BUILD_ID);
    hash.add("program", PROGRAM.as_str());
    hash
}

/// Returns the key of the answer of `question`: a hash of everything that determines its rows.
fn answer_key(question: &Question, text: &NormalText, tables: &[Table]) -> Result<String, serde_json::Error> {
    let mut hash = hash_of_build();
    hash.add("kind", "answer");
    hash.add("text", &text.text);
    hash.add("params", serde_json::to_string(&question.query.params)?);
    hash.add("time_zone", question.options.time_zone.as_deref().unwrap_or_default());
    hash.add("overflow", if question.options.overflow == Overflow::Wrap { "wrap" } else { "error" });
    for entry in &question.query.catalogs {
        hash.add("entry", serde_json::to_string(entry)?);
    }
    for table in tables.iter().filter(|table| table.is_open()) {
        add_table(&mut hash, table)?;
    }
    Ok(hash.key())
}

fn add_table(hash: &mut KeyHash, table: &Table) -> Result<(), serde_json::Error> {
    hash.add("table", &table.name);
    hash.add("place", format!("{} {} {:?}", table.uri, table.store, table.version));
    hash.add("buckets", serde_json::to_string(&(&table.bucket, &table.stores))?);
    hash.add("columns", format!("{:?} {:?}", table.schema, table.partition_columns));
    hash.add("format", serde_json::to_string(&(&table.format, &table.mapping))?);
    for file in &table.files {
        hash.add("path", &file.path);
        hash.add("version", format!("{} {:?}", file.size, file.e_tag));
        hash.add("values", format!("{:?}", file.partition_values));
        hash.add("deleted", serde_json::to_string(&file.deletion_vector)?);
    }
    Ok(())
}
