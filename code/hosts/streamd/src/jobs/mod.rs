//! The jobs of a server: pipelines that are kept in a state, and run by one of the servers that use it.
//!
//! - `wanted` is what people want of a pipeline, `status` what it does, and `registry` keeps both in the state.
//! - `keeper` takes pipelines that no server runs; `job` is one run.
//! - `tail` returns rows of pipelines, from the files of their epochs; `preview` runs a script that keeps nothing.
//! - `sources` keeps the statements of tables that people want to read in pipelines.
//! - `view` makes the JSON of the REST interface.

mod job;
mod keeper;
mod preview;
mod registry;
mod sources;
mod status;
mod tail;
mod view;
mod wanted;

use std::sync::Arc;
use std::time::Duration;

use buzz_connect::Blackhole;
use buzz_epoch::Record;
use buzz_protocol::{QueryError, Result};
use buzz_stream::Script;
use serde_json::Value;
use tokio_util::task::TaskTracker;

pub use self::preview::Preview;
pub(crate) use self::registry::token;
pub use self::registry::{Pipeline, Registry, taken};
pub use self::sources::SavedSource;
pub use self::status::{JobState, Level, Message, Status};
pub use self::tail::{Event, Tail};
pub use self::view::{
    checkpoint_groups, checkpoints, connectors, job, job_id, messages, metric_groups, pipeline, source,
};
pub use self::wanted::{Change, New, Stop, Wanted, id_of};

use self::keeper::Keeper;
use self::preview::Previews;
use crate::graph::graph;
use crate::live::Figures;
use crate::notes::Silent;
use crate::plan::plan;
use crate::process::{Printed, Process};
use crate::thread;

/// Interval of signs of life, with state in a folder and in a bucket.
const BEAT: Duration = Duration::from_secs(1);
const BEAT_REMOTE: Duration = Duration::from_secs(5);

/// Interval and number of looks if a pipeline is deleted. A server that has been killed is replaced within them.
const REMOVE_LOOK_EVERY: Duration = Duration::from_millis(100);
const REMOVE_LOOKS: u32 = 150;

/// The jobs of a server.
#[derive(Debug, Clone)]
pub struct Jobs {
    keeper: Arc<Keeper>,
    previews: Arc<Previews>,
    tracker: TaskTracker,
}

/// Figures of one pipeline of this server.
#[derive(Debug, Clone)]
pub struct JobFigures {
    /// The pipeline.
    pub id: String,
    /// It runs here.
    pub runs: bool,
    /// Its figures since this server runs it.
    pub figures: Figures,
}

impl Jobs {
    /// Opens the state at `uri`, a folder or an s3:// uri, and starts the pipelines in it that no server runs. `process` has the
    /// place of files; rows that scripts print are kept in the state and can be followed. Must be called in a runtime.
    ///
    /// # Errors
    /// `Invalid` if the uri or the settings of its bucket are wrong, `Data` if the folder cannot be used.
    pub async fn start(uri: &str, process: Process) -> Result<Self> {
        let registry = Arc::new(Registry::open(uri, &process.place).await?);
        let beat = if registry.is_remote { BEAT_REMOTE } else { BEAT };
        let process = Process {
            notes: Arc::new(Silent),
            // Epochs keep the rows of all sinks, so nothing else is to do.
            printed: Printed::Elsewhere(Arc::new(|_| Arc::new(Blackhole))),
            ..process
        };
        let keeper = Arc::new(Keeper::new(registry, process, registry::token(), beat));
        // Before anything is taken: others must not think that this server is silent.
        keeper.registry.beat(&keeper.server).await?;
        let tracker = TaskTracker::new();
        let alive = Arc::clone(&keeper);
        tracker.spawn(async move { alive.live().await });
        tracker.spawn(Arc::clone(&keeper).keep());
        Ok(Self { keeper, previews: Arc::default(), tracker })
    }

    /// Ends the runs of this server within about `within`, after their epochs if these are short enough, and gives the
    /// pipelines back, so that another server, or the next start of this one, goes on with them.
    pub async fn stop(&self, within: Duration) {
        self.keeper.stopping.cancel();
        self.previews.end();
        self.tracker.close();
        // A part for looking after pipelines to end, one for their epochs, and one to give them back.
        let within = within * 3 / 10;
        if tokio::time::timeout(within, self.tracker.wait()).await.is_err() {
            tracing::warn!("the state does not answer; other servers take the pipelines when signs of life stop");
        }
        self.keeper.give_back(within).await;
    }

    /// Returns the pipelines, by id.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn list(&self) -> Result<Vec<Pipeline>> {
        let mut pipelines = self.keeper.registry.list().await?;
        for pipeline in &mut pipelines {
            self.refresh(pipeline);
        }
        Ok(pipelines)
    }

    /// Returns a pipeline; `None` if it does not exist.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn get(&self, id: &str) -> Result<Option<Pipeline>> {
        let mut pipeline = self.keeper.registry.get(id).await?;
        if let Some(pipeline) = &mut pipeline {
            self.refresh(pipeline);
        }
        Ok(pipeline)
    }

    /// Enters what this server knows about its own run.
    fn refresh(&self, pipeline: &mut Pipeline) {
        if let Some(status) = self.keeper.status(&pipeline.id) {
            pipeline.enter(status);
        }
    }

    /// Checks the script, and creates a pipeline, which a server starts.
    ///
    /// # Errors
    /// `Invalid` if the script cannot run, or the name is wrong or taken.
    pub async fn create(&self, new: New) -> Result<Pipeline> {
        id_of(&new.name)?;
        let (script, _) = crate::script_of(new.script)?;
        let new = New { script, ..new };
        self.validate(&new.script).await?;
        let created = self.keeper.registry.create(&new).await?;
        self.keeper.changed.notify_one();
        Ok(created)
    }

    /// Changes what is wanted of a pipeline, also if another server runs it; `None` if it does not exist.
    ///
    /// # Errors
    /// `Invalid` if a value is out of its bounds, or a new script cannot run.
    pub async fn change(&self, id: &str, change: Change) -> Result<Option<Pipeline>> {
        let script = change.script.map(crate::script_of).transpose()?.map(|(script, _)| script);
        if let Some(script) = &script {
            self.validate(script).await?;
        }
        let changed = self.keeper.registry.change(id, &Change { script, ..change }).await?;
        self.keeper.changed.notify_one();
        Ok(changed)
    }

    /// Stops a pipeline and deletes its state and its epochs, and waits for that up to 15 seconds. Rows in sinks stay. Returns
    /// false if it does not exist.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn remove(&self, id: &str) -> Result<bool> {
        if !self.keeper.registry.remove(id).await? {
            return Ok(false);
        }
        for _ in 0..REMOVE_LOOKS {
            self.keeper.changed.notify_one();
            if self.keeper.registry.is_removed(id).await? {
                break;
            }
            tokio::time::sleep(REMOVE_LOOK_EVERY).await;
        }
        Ok(true)
    }

    /// Plans a script, and returns its graph.
    ///
    /// # Errors
    /// `Invalid` if it cannot run.
    pub async fn validate(&self, script: &str) -> Result<Value> {
        let (script, process) = (crate::script_of(script.to_string())?.0, self.keeper.process.clone());
        thread::run("validate", move || async move {
            let planned = plan(&script, None, &process, "check").await?;
            Ok(graph(&planned))
        })
        .await
    }

    /// Returns the saved sources, by name.
    ///
    /// # Errors
    /// Errors of the store, and of a document that is not readable.
    pub async fn sources(&self) -> Result<Vec<SavedSource>> {
        self.keeper.registry.sources().await
    }

    /// Checks that `statement` declares table `name`, and saves it; `None` if there is a source of that name.
    ///
    /// # Errors
    /// `Invalid` if it declares something else, or a table that cannot be read.
    pub async fn save_source(&self, name: &str, statement: &str) -> Result<Option<SavedSource>> {
        let statement = sources::checked(name, statement)?;
        let script = format!("{statement};\nSELECT * FROM {name};");
        self.validate(&script).await?;
        let source = SavedSource::new(name, statement, &Script::parse(&script)?)?;
        Ok(self.keeper.registry.save_source(&source).await?.then_some(source))
    }

    /// Removes source `name`; pipelines that read it go on. Returns false if it does not exist.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn remove_source(&self, name: &str) -> Result<bool> {
        self.keeper.registry.remove_source(name).await
    }

    /// Returns the newest records of a pipeline, the newest first.
    ///
    /// # Errors
    /// Errors of the store.
    pub async fn records(&self, pipeline: &Pipeline, newest: usize) -> Result<Vec<Record>> {
        match self.keeper.registry.log(pipeline).await? {
            Some(log) => log.list(newest).await,
            None => Ok(Vec::new()),
        }
    }

    /// Returns the rows of a pipeline's epochs, from those that are still kept or behind `after`, and follows them.
    pub fn tail(&self, pipeline: &Pipeline, after: Option<&str>) -> Tail {
        Tail::new(Arc::clone(&self.keeper.registry), pipeline.id.clone(), after)
    }

    /// Runs a script that keeps nothing: its rows can be followed for 10 minutes. With `sinks`, it writes into its sinks too.
    ///
    /// # Errors
    /// `Invalid` if the script cannot run; `Limit` if too many previews run.
    pub async fn preview(&self, script: String, sinks: bool) -> Result<Arc<Preview>> {
        let (script, _) = crate::script_of(script)?;
        self.validate(&script).await?;
        self.previews.start(script, sinks, &self.keeper.process)
    }

    /// Returns a preview that was started before; `None` if it does not exist or has expired.
    pub fn previewed(&self, id: &str) -> Option<Arc<Preview>> {
        self.previews.get(id)
    }

    /// Returns the figures of the pipelines that this server runs or has run.
    pub fn figures(&self) -> Vec<JobFigures> {
        let figures = self.keeper.figures().into_iter();
        figures.map(|(id, runs, figures)| JobFigures { id, runs, figures }).collect()
    }
}

/// Returns the error of a pipeline that does not exist.
pub fn unknown(id: &str) -> QueryError {
    QueryError::invalid(format!("pipeline `{id}` does not exist"))
}
