//! The process that runs scripts: places, threads, and where printed rows go.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use buzz_connect::{Inbox, PRINTED, Place, Sink, open_sink};
use buzz_protocol::{QueryError, Result};
use buzz_storage::QueryStores;
use buzz_stream::TableDefinition;

use crate::notes::Notes;
use crate::profiles::{Profiles, options_of};

/// Makes the sink of a table, from its name.
pub type MakeSink = Arc<dyn Fn(&str) -> Arc<dyn Sink> + Send + Sync>;

/// The place of rows that a script prints.
#[derive(Clone)]
pub enum Printed {
    /// Standard output.
    Terminal,
    /// Other sinks.
    Elsewhere(MakeSink),
    /// Other sinks, which also get the rows of the tables that the script writes to.
    Everything(MakeSink),
}

impl fmt::Debug for Printed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Printed::Terminal => "Terminal",
            Printed::Elsewhere(_) => "Elsewhere",
            Printed::Everything(_) => "Everything",
        })
    }
}

/// The process that runs scripts.
#[derive(Debug, Clone)]
pub struct Process {
    /// The place of files.
    pub place: Place,
    /// Number of workers of a script that sets none.
    pub threads: usize,
    /// Receives notes of runs.
    pub notes: Arc<dyn Notes>,
    /// The place of rows that are printed.
    pub printed: Printed,
    /// The connection profiles of the state, if there is one.
    pub(crate) profiles: Option<Profiles>,
}

impl Process {
    /// Makes a process that prints rows on standard output. Paths of scripts are relative to the working directory. With
    /// `until_end`, folders are read once and not followed.
    ///
    /// # Errors
    /// `Invalid` if there is no working directory.
    pub fn of_terminal(
        stores: &Arc<QueryStores>,
        until_end: bool,
        threads: usize,
        notes: Arc<dyn Notes>,
    ) -> Result<Self> {
        let base = std::env::current_dir()
            .map_err(|error| QueryError::invalid(format!("the working directory is not available: {error}")))?;
        let place = Place { base, stores: Arc::clone(stores), until_end, inbox: None };
        Ok(Self { place, threads, notes, printed: Printed::Terminal, profiles: None })
    }

    /// Returns this process with the place of the messages that sources of a pipeline receive, and with the connection profiles of
    /// its state.
    pub(crate) fn with_inbox(&self, inbox: Inbox) -> Self {
        let mut process = self.clone();
        process.profiles = Some(Profiles::new(Arc::clone(&inbox.store), &inbox.root));
        process.place.inbox = Some(inbox);
        process
    }

    /// Returns the number of workers: the one that is given, that of the script, or that of threads.
    pub(crate) fn workers(&self, given: Option<NonZeroUsize>, of_script: Option<usize>) -> usize {
        given.map(NonZeroUsize::get).or(of_script).unwrap_or(self.threads).max(1)
    }

    /// Opens the sink of `table`. `pipeline_id` identifies the pipeline that writes.
    pub(crate) async fn sink(&self, table: &TableDefinition, pipeline_id: &str) -> Result<Arc<dyn Sink>> {
        // Opened even if another one takes its place, since its options may be wrong.
        let options = options_of(self.profiles.as_ref(), table).await?;
        let sink = open_sink(&table.name, &options, &self.place, pipeline_id).await?;
        let is_printed = table.option("connector").is_some_and(|connector| PRINTED.contains(&connector));
        Ok(match &self.printed {
            Printed::Everything(make) => make(&table.name),
            Printed::Elsewhere(make) if is_printed => make(&table.name),
            Printed::Terminal | Printed::Elsewhere(_) => sink,
        })
    }
}
