//! Pipelines that a server runs: at its address, or in the folder or bucket of its state.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use buzz_protocol::{QueryError, Result};
use buzz_streamd::Process;
use buzz_streamd::jobs::{self, Change, New, Registry, Stop};
use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde_json::{Value, json};

use super::server::{Client, Event};
use super::{name_of, read_script};
use crate::terminal::{note, print, print_line};

/// The place of pipelines.
#[derive(Debug, Args)]
pub struct Place {
    /// The address of a server, such as http://127.0.0.1:8642. Its key is in BUZZ_KEY.
    #[arg(long, value_name = "URL", required_unless_present = "state")]
    server: Option<String>,

    /// The folder or s3:// uri of the state, which servers look at every few seconds.
    #[arg(long, value_name = "URI", conflicts_with = "server")]
    state: Option<String>,
}

/// Commands about pipelines of servers.
#[derive(Debug, Subcommand)]
pub enum PipelinesCommand {
    /// List the pipelines of a server (`buzz serve --state`).
    List {
        /// The place of the pipelines.
        #[command(flatten)]
        place: Place,
    },
    /// Create a pipeline of a script, replace its script, or start it again.
    Start {
        /// The name of the pipeline [default: the name of the script].
        #[arg(required_unless_present = "file")]
        name: Option<String>,
        /// The script, or - for standard input. A script that differs from that of the pipeline is a new version, which
        /// starts without state and reads its sources from the start, unless --continue is given.
        #[arg(long, short)]
        file: Option<PathBuf>,
        /// Another script goes on after the rows that were read of sources that it declares alike. Statements that have not
        /// changed keep their state.
        #[arg(long = "continue", requires = "file")]
        continues: bool,
        /// Number of workers that hold state.
        #[arg(long, value_name = "N")]
        parallelism: Option<NonZeroUsize>,
        /// The place of the pipelines.
        #[command(flatten)]
        place: Place,
    },
    /// Stop a pipeline. Its next start goes on without losing or repeating rows.
    Stop {
        /// The name.
        name: String,
        /// When it stops: after its epoch, or at once.
        #[arg(long, value_enum, default_value_t = Mode::Checkpoint)]
        mode: Mode,
        /// The place of the pipelines.
        #[command(flatten)]
        place: Place,
    },
    /// Print the rows of a pipeline as JSON lines, from the last epochs on, until it ends.
    Tail {
        /// The name.
        name: String,
        /// The first epoch. Rows of at least the last 16 epochs are kept.
        #[arg(long, value_name = "N")]
        from_epoch: Option<u64>,
        /// The place of the pipelines.
        #[command(flatten)]
        place: Place,
    },
    /// Change the number of workers of a pipeline, also while it runs.
    Rescale {
        /// The name.
        name: String,
        /// The number of workers.
        parallelism: NonZeroUsize,
        /// The place of the pipelines.
        #[command(flatten)]
        place: Place,
    },
    /// Stop a pipeline and delete its state and its epochs. Rows in sinks stay.
    Drop {
        /// The name.
        name: String,
        /// The place of the pipelines.
        #[command(flatten)]
        place: Place,
    },
}

/// The moment at which a pipeline stops.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Mode {
    /// After the epoch that runs.
    Checkpoint,
    /// As checkpoint.
    Graceful,
    /// At once: the epoch that runs is abandoned, and repeated by the next start.
    Immediate,
    /// As immediate.
    Force,
}

/// Pipelines, by either way.
enum Pipelines {
    Server(Client),
    State(Arc<Registry>, Process),
}

/// Executes a command.
pub(super) async fn carry_out(command: PipelinesCommand, process: Process) -> Result<()> {
    match command {
        PipelinesCommand::List { place } => print(&listed(&open(place, process).await?.list().await?)),
        PipelinesCommand::Start { name, file, continues, parallelism, place } => {
            let script = file.as_deref().map(read_script).transpose()?;
            let (script, of_query) = script.map_or((None, None), |(script, name)| (Some(script), name));
            let name = match (name, &file) {
                (Some(name), _) => name,
                (None, file) => name_of(file.as_deref().unwrap_or(std::path::Path::new("-")), None, of_query),
            };
            let parallelism = parallelism.map(|number| number.get() as u64);
            let change = Change { script, continues, parallelism, stop: Some(Stop::None), ..Change::default() };
            print(&shown(&open(place, process).await?.start(name, change).await?))
        }
        PipelinesCommand::Stop { name, mode, place } => {
            let stop = match mode {
                Mode::Checkpoint => Stop::Checkpoint,
                Mode::Graceful => Stop::Graceful,
                Mode::Immediate => Stop::Immediate,
                Mode::Force => Stop::Force,
            };
            let change = Change { stop: Some(stop), ..Change::default() };
            print(&shown(&open(place, process).await?.change(&name, change).await?))
        }
        PipelinesCommand::Rescale { name, parallelism, place } => {
            let change = Change { parallelism: Some(parallelism.get() as u64), ..Change::default() };
            print(&shown(&open(place, process).await?.change(&name, change).await?))
        }
        PipelinesCommand::Drop { name, place } => {
            open(place, process).await?.remove(&name).await?;
            print(&format!("{name} is deleted\n"))
        }
        PipelinesCommand::Tail { name, from_epoch, place } => open(place, process).await?.tail(&name, from_epoch).await,
    }
}

async fn open(place: Place, process: Process) -> Result<Pipelines> {
    match (place.server, place.state) {
        (Some(url), _) => Ok(Pipelines::Server(Client::new(&url)?)),
        (None, Some(uri)) => {
            buzz_streamd::store::check_exists(&uri)?;
            Ok(Pipelines::State(Arc::new(Registry::open(&uri, &process.place).await?), process))
        }
        (None, None) => Err(QueryError::invalid("name the server with --server, or its state with --state")),
    }
}

/// Returns the path of a pipeline. Ids have no character that a path must escape.
fn path(name: &str) -> Result<String> {
    Ok(format!("/pipelines/{}", jobs::id_of(name)?))
}

impl Pipelines {
    async fn list(&self) -> Result<Vec<Value>> {
        match self {
            Pipelines::Server(client) => {
                let mut listed = client.call(Method::GET, "/pipelines", None).await?;
                Ok(listed["data"].as_array_mut().map(std::mem::take).unwrap_or_default())
            }
            Pipelines::State(registry, _) => Ok(registry.list().await?.iter().map(jobs::pipeline).collect()),
        }
    }

    /// Returns a pipeline; `None` if it does not exist.
    async fn get(&self, name: &str) -> Result<Option<Value>> {
        let id = jobs::id_of(name)?;
        match self {
            Pipelines::Server(_) => Ok(self.list().await?.into_iter().find(|pipeline| pipeline["id"] == id.as_str())),
            Pipelines::State(registry, _) => Ok(registry.get(&id).await?.as_ref().map(jobs::pipeline)),
        }
    }

    /// Creates a pipeline, changes its script, or starts it again.
    async fn start(&self, name: String, change: Change) -> Result<Value> {
        let exists = self.get(&name).await?.is_some();
        match change.script {
            _ if exists => self.change(&name, change).await,
            Some(script) => {
                let (parallelism, epoch_micros) = (change.parallelism, None);
                self.create(New { name, script, parallelism, epoch_micros }).await
            }
            None => Err(QueryError::invalid(format!(
                "pipeline `{name}` does not exist; create it with --file SCRIPT, or list those that do with `buzz stream list`"
            ))),
        }
    }

    async fn create(&self, new: New) -> Result<Value> {
        match self {
            Pipelines::Server(client) => {
                let body = json!({"name": new.name, "query": new.script, "parallelism": new.parallelism});
                client.call(Method::POST, "/pipelines", Some(&body)).await
            }
            Pipelines::State(registry, process) => {
                buzz_streamd::describe(&new.script, false, process).await?;
                note("a server that uses this state starts it (`buzz serve --state`)");
                Ok(jobs::pipeline(&registry.create(&new).await?))
            }
        }
    }

    async fn change(&self, name: &str, change: Change) -> Result<Value> {
        match self {
            Pipelines::Server(client) => {
                let mut body = serde_json::Map::new();
                body.extend(change.script.map(|script| ("query".to_string(), json!(script))));
                body.extend(change.continues.then(|| ("continue".to_string(), json!(true))));
                body.extend(change.parallelism.map(|number| ("parallelism".to_string(), json!(number))));
                body.extend(change.stop.map(|stop| ("stop".to_string(), json!(stop.name()))));
                client.call(Method::PATCH, &path(name)?, Some(&Value::Object(body))).await
            }
            Pipelines::State(registry, process) => {
                if let Some(script) = &change.script {
                    buzz_streamd::describe(script, false, process).await?;
                }
                let id = jobs::id_of(name)?;
                let changed = registry.change(&id, &change).await?;
                Ok(jobs::pipeline(&changed.ok_or_else(|| jobs::unknown(&id))?))
            }
        }
    }

    async fn remove(&self, name: &str) -> Result<()> {
        match self {
            Pipelines::Server(client) => client.call(Method::DELETE, &path(name)?, None).await.map(drop),
            Pipelines::State(registry, _) => {
                let id = jobs::id_of(name)?;
                if registry.remove(&id).await? { Ok(()) } else { Err(jobs::unknown(&id)) }
            }
        }
    }

    async fn tail(&self, name: &str, from_epoch: Option<u64>) -> Result<()> {
        let id = jobs::id_of(name)?;
        match self {
            Pipelines::Server(client) => {
                let from = from_epoch.map(|epoch| format!("?fromEpoch={epoch}")).unwrap_or_default();
                let path = format!("{}/jobs/{}/output{from}", path(name)?, jobs::job_id(&id));
                client.follow(&path, |event| print_event(&event)).await
            }
            Pipelines::State(registry, _) => {
                registry.get(&id).await?.ok_or_else(|| jobs::unknown(&id))?;
                let mut tail = registry.tail(&id, from_epoch);
                while let Some(row) = tail.next().await? {
                    if row.missed > 0 {
                        note(&gap(row.missed));
                    }
                    if !print_line(&row.row)? {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Prints a row. Returns false at the end.
fn print_event(event: &Event) -> Result<bool> {
    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
    match event.kind.as_str() {
        "end" => Ok(false),
        "error" => Err(QueryError::data(data["error"].as_str().unwrap_or("the pipeline has failed").to_string())),
        "gap" => {
            note(&gap(data["epochs"].as_u64().unwrap_or_default()));
            Ok(true)
        }
        _ => print_line(data["value"].as_str().unwrap_or_default()),
    }
}

fn gap(epochs: u64) -> String {
    format!("warning: the rows of {epochs} epochs were deleted before they were read")
}

/// Returns a line for each pipeline.
fn listed(pipelines: &[Value]) -> String {
    let mut text = format!("{:32}  {:11}  {:>7}  error\n", "name", "state", "workers");
    for pipeline in pipelines {
        let field = |name: &str| pipeline[name].as_str().unwrap_or_default();
        let error = field("error").lines().next().unwrap_or_default();
        let line = format!("{:32}  {:11}  {:>7}  {error}", field("id"), field("state"), pipeline["parallelism"]);
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn shown(pipeline: &Value) -> String {
    let field = |name: &str| pipeline[name].as_str().unwrap_or_default();
    format!("{}: {}\n", field("id"), field("state"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_has_the_first_line_of_an_error() {
        let pipelines = [
            json!({"id": "a", "state": "Running", "parallelism": 2, "error": null}),
            json!({"id": "b", "state": "Failed", "parallelism": 1, "error": "no row\nmore"}),
        ];
        let lines: Vec<String> = listed(&pipelines).lines().map(str::to_string).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("a ") && lines[1].ends_with("Running      2"), "{lines:?}");
        assert!(lines[2].starts_with("b ") && lines[2].ends_with("1  no row"), "{lines:?}");
    }
}
