//! The state of the shell: its engine, tables and settings.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use buzz_engine::{Content, Engine, Question, TableDescription, Want};
use buzz_protocol::options::OPTION_HELP;
use buzz_protocol::{CatalogEntry, Format, Options, Param, Place, Query, QueryError, Result, identifier};

use super::command::{self, Command, Pager};
use super::interrupts::Interrupts;
use super::names::Names;
use super::show::Show;
use super::split::{Piece, split};
use crate::args::{ShellArguments, StackArguments};
use crate::ask::{CANCEL_TIMEOUT_LOCAL, CANCEL_TIMEOUT_STACK, one_line};
use crate::terminal::{note, print, warn};
use crate::{names, question, watch};

/// Maximum number of files that `.read` opens within each other.
const DEPTH_MAX: usize = 16;

/// The decision to go on, or to end the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Continue,
    Quit,
}

/// The state of the shell. One engine answers all its queries.
pub(super) struct Session {
    engine: Arc<dyn Engine>,
    stack: StackArguments,
    tables_file: Option<PathBuf>,
    threads: usize,
    base: PathBuf,
    /// Entries of the registry of names, as they were when the shell started or a name was changed.
    named: Vec<CatalogEntry>,
    /// Place and description of each table.
    tables: Vec<(String, TableDescription)>,
    options: Options,
    params: BTreeMap<String, Param>,
    zones: usize,
    format: Format,
    rows_max: usize,
    pager: Pager,
    timing: bool,
    is_interactive: bool,
    interrupts: Interrupts,
    depth: usize,
}

impl Session {
    /// Makes a session and its engine, without tables.
    ///
    /// # Errors
    /// `Invalid` if an option or the format is wrong, or the stack is not reachable.
    pub(super) async fn new(
        arguments: &ShellArguments,
        threads: usize,
        is_interactive: bool,
        interrupts: Interrupts,
    ) -> Result<Self> {
        let mut options = Options::default();
        for assignment in &arguments.sets {
            options.set(assignment)?;
        }
        let (stack, tables_file) = (arguments.stack.clone(), arguments.tables_file.clone());
        let mut session = Self {
            engine: names::engine(&stack, tables_file.as_deref(), &options, threads).await?,
            stack,
            tables_file,
            threads,
            base: question::working_directory()?,
            named: Vec::new(),
            tables: Vec::new(),
            options,
            params: BTreeMap::new(),
            zones: 1,
            format: Format::Table,
            rows_max: 40,
            pager: Pager::Usual,
            timing: false,
            is_interactive,
            interrupts,
            depth: 0,
        };
        session.set_zones(arguments.zones)?;
        session.set_format(arguments.format)?;
        if is_interactive {
            session.read_names().await;
        }
        Ok(session)
    }

    /// Returns the names that can be completed.
    pub(super) fn names(&self) -> Names {
        let named: Vec<TableDescription> = self.named.iter().map(TableDescription::recorded).collect();
        Names::of(self.tables.iter().map(|(_, description)| description).chain(&named))
    }

    /// Reads the registry of names in this process, for completion and `.tables`. A statement reports what is wrong with it.
    async fn read_names(&mut self) {
        if !self.stack.is_named() || self.tables_file.is_some() {
            let read = names::registry(self.tables_file.as_deref()).read().await;
            self.named = read.map(|(entries, _)| entries).unwrap_or_default();
            self.named.retain(|entry| !self.tables.iter().any(|(_, own)| own.name.eq_ignore_ascii_case(&entry.name)));
        }
    }

    /// Opens a table and adds it, or replaces the table of this name.
    ///
    /// # Errors
    /// As [`Engine::describe`].
    pub(super) async fn add_table(&mut self, name: &str, uri: &str) -> Result<()> {
        let query = question::query_of("SELECT 1".to_string(), &[(name.to_string(), uri.to_string())], 1)?;
        let question = Question::new(query, &self.base).with_options(self.options.clone());
        let described = self.interruptible(self.engine.describe(&question)).await?;
        let description = described.into_iter().next();
        let description = description.ok_or_else(|| QueryError::internal("a table has no description"))?;
        description.warnings.iter().for_each(|warning| warn(warning));
        self.tables.retain(|(_, table)| !table.name.eq_ignore_ascii_case(name));
        self.tables.push((uri.to_string(), description));
        Ok(())
    }

    /// Waits for `work`, up to an interrupt.
    async fn interruptible<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let before = self.interrupts.so_far();
        tokio::select! {
            done = work => done,
            () = self.interrupts.after(before) => Err(QueryError::cancelled("interrupted")),
        }
    }

    /// Runs the statements in `text`, up to the first that fails. A statement at the end needs no semicolon.
    ///
    /// # Errors
    /// The error of the statement.
    pub(super) async fn run_all(&mut self, text: &str) -> Result<()> {
        for piece in split(text) {
            let (Piece::Statement(sql) | Piece::Open(sql)) = piece;
            self.ask(sql).await?;
        }
        Ok(())
    }

    /// Runs one statement and shows its rows.
    async fn ask(&mut self, sql: &str) -> Result<()> {
        let tables: Vec<(String, String)> =
            self.tables.iter().map(|(uri, table)| (table.name.clone(), uri.clone())).collect();
        let named = |name: &str| sql.contains(&format!("${name}"));
        let params = self.params.iter().filter(|(name, _)| named(name));
        let params = params.map(|(name, value)| (name.clone(), value.clone())).collect();
        let query = Query { params, ..question::query_of(sql.to_string(), &tables, self.zones)? };
        let question = Question::new(query, &self.base);
        let question = question.with_options(self.options.clone()).with_want(Want::Rows(self.format));

        let (id, before) = (question.id, self.interrupts.so_far());
        let mut running = self.engine.start(question);
        let progress = Arc::clone(running.progress());
        let answering = async {
            tokio::select! {
                answer = running.answer() => return answer,
                () = self.interrupts.after(before) => running.cancel(),
            }
            // Waits until the query's tasks and combs are released. A second Ctrl-C does not wait.
            tokio::select! {
                _ = tokio::time::timeout(self.cancel_timeout(), running.answer()) => {}
                () = self.interrupts.after(before + 1) => {}
            }
            Err(QueryError::cancelled("the query was cancelled"))
        };
        let answer = watch::while_running(&progress, id, answering).await?;
        if self.is_interactive && changes_names(sql) {
            self.read_names().await;
        }

        let printing = self.interrupts.so_far();
        let is_interrupted = || self.interrupts.so_far() > printing;
        let show =
            Show { format: self.format, rows_max: self.rows_max, pager: &self.pager, is_interrupted: &is_interrupted };
        match &answer.content {
            Content::Plan(text) => print(&ended(text))?,
            Content::Rows(rows) => tokio::task::block_in_place(|| show.rows(rows, answer.summary.rows))?,
            Content::Passed => return Err(QueryError::internal("the rows were passed to no output")),
        }
        if self.timing {
            note(&one_line(&answer.summary));
        } else if self.is_interactive && matches!(answer.content, Content::Rows(_)) {
            note(&format!("rows: {}, time: {:.2} s", answer.summary.rows, answer.summary.total.as_secs_f64()));
        }
        Ok(())
    }

    fn cancel_timeout(&self) -> Duration {
        if self.stack.is_named() { CANCEL_TIMEOUT_STACK } else { CANCEL_TIMEOUT_LOCAL }
    }

    /// Runs a command.
    ///
    /// # Errors
    /// `Invalid` if it does not exist or its argument is wrong, and the errors of tables and statements.
    pub(super) async fn command(&mut self, text: &str) -> Result<Next> {
        match command::parse(text)? {
            Command::Help => print(command::HELP)?,
            Command::Quit => return Ok(Next::Quit),
            Command::Tables => {
                self.read_names().await;
                print(&self.table_list())?;
            }
            Command::Schema(table) => self.schema(table).await?,
            Command::Table(name, uri) => self.add_table(&name, &uri).await?,
            Command::Format(format) => self.set_format(format.unwrap_or(self.format))?,
            Command::MaxRows(rows) => self.rows_max = rows.unwrap_or(self.rows_max),
            Command::Set(None) => print(&option_list())?,
            Command::Set(Some(assignment)) => self.set(&assignment).await?,
            Command::Param(None) => print(&self.param_list())?,
            Command::Param(Some((name, value))) => _ = self.params.insert(name, value),
            Command::Zones(zones) => self.set_zones(zones.unwrap_or(self.zones))?,
            Command::Timing(timing) => {
                self.timing = timing.unwrap_or(!self.timing);
                if timing.is_none() {
                    note(if self.timing { "timing is on" } else { "timing is off" });
                }
            }
            Command::Pager(None) => note(&format!("the pager is {}", self.pager)),
            Command::Pager(Some(pager)) => self.pager = pager,
            Command::Read(file) => {
                let text = question::read_text(&file, "SQL")?;
                return self.script(&text).await;
            }
        }
        Ok(Next::Continue)
    }

    /// Runs the statements and commands of a script, up to the first that fails.
    async fn script(&mut self, text: &str) -> Result<Next> {
        if self.depth == DEPTH_MAX {
            return Err(QueryError::invalid(format!("more than {DEPTH_MAX} files read each other")));
        }
        self.depth += 1;
        let mut lines = Lines::default();
        let mut done = Ok(Next::Continue);
        for line in text.lines().map(Some).chain([None]) {
            done = Box::pin(self.line(&mut lines, line)).await;
            if !matches!(done, Ok(Next::Continue)) {
                break;
            }
        }
        self.depth -= 1;
        done
    }

    /// Takes one line of a script, or its end, and runs what is complete.
    ///
    /// # Errors
    /// The error of the statement or command, with the number of the line at which it starts.
    pub(super) async fn line(&mut self, lines: &mut Lines, line: Option<&str>) -> Result<Next> {
        lines.number += 1;
        if lines.pending.is_empty() {
            lines.start = lines.number;
            if let Some(line) = line.filter(|line| command::is_command(line)) {
                return self.command(line).await.map_err(|error| at_line(error, lines.number));
            }
        }
        if let Some(line) = line {
            lines.pending.push_str(line);
            lines.pending.push('\n');
            // Comments and blank lines before a statement are not part of it.
            if !line.contains(';') && !split(&lines.pending).is_empty() {
                return Ok(Next::Continue);
            }
        }
        let (text, start) = (std::mem::take(&mut lines.pending), lines.start);
        for piece in split(&text) {
            let (Piece::Statement(sql) | Piece::Open(sql)) = piece;
            // The pieces are parts of `text`.
            let offset = sql.as_ptr() as usize - text.as_ptr() as usize;
            let first = start + text[..offset].matches('\n').count();
            if matches!(piece, Piece::Open(_)) && line.is_some() {
                (lines.pending, lines.start) = (format!("{sql}\n"), first);
            } else {
                self.ask(sql).await.map_err(|error| at_line(error, first))?;
            }
        }
        Ok(Next::Continue)
    }

    fn set_zones(&mut self, zones: usize) -> Result<()> {
        question::query_of("SELECT 1".to_string(), &[], zones)?;
        self.zones = zones;
        Ok(())
    }

    fn set_format(&mut self, format: Format) -> Result<()> {
        if matches!(format, Format::Arrow | Format::Parquet) {
            return Err(QueryError::invalid(format!(
                "the format {format} is binary; write a file with `buzz sql … --output rows.{format}`"
            )));
        }
        self.format = format;
        Ok(())
    }

    /// Sets an option. The engine is made again, since some options belong to it.
    async fn set(&mut self, assignment: &str) -> Result<()> {
        let mut options = self.options.clone();
        options.set(assignment)?;
        self.engine = names::engine(&self.stack, self.tables_file.as_deref(), &options, self.threads).await?;
        self.options = options;
        Ok(())
    }

    async fn schema(&mut self, table: Option<String>) -> Result<()> {
        let names = match table {
            Some(name) => vec![name],
            None => self.tables.iter().map(|(_, table)| identifier(&table.name)).collect(),
        };
        for name in names {
            if self.tables.len() > 1 {
                print(&format!("{name}\n"))?;
            }
            self.ask(&format!("DESCRIBE {name}")).await?;
        }
        Ok(())
    }

    fn table_list(&self) -> String {
        if self.tables.is_empty() && self.named.is_empty() {
            return "there is no table; add one with .table NAME=PLACE\n".to_string();
        }
        let widest = |text: fn(&TableDescription) -> &str| {
            self.tables.iter().map(|(_, table)| text(table).chars().count()).max().unwrap_or_default()
        };
        let (name, kind) = (widest(|table| &table.name), widest(|table| &table.kind));
        let line = |(uri, table): &(String, TableDescription)| {
            format!(
                "{:name$}  {:kind$}  {} columns, {} files  {uri}\n",
                table.name,
                table.kind,
                table.columns.len(),
                table.files
            )
        };
        self.tables.iter().map(line).collect::<String>() + &names::list(&self.named)
    }

    fn param_list(&self) -> String {
        let value = |param: &Param| serde_json::to_string(param).unwrap_or_default();
        self.params.iter().map(|(name, param)| format!("{name}={}\n", value(param))).collect()
    }
}

/// The lines of a script that were read.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pending: String,
    number: usize,
    /// Line at which the pending statement starts.
    start: usize,
}

fn at_line(error: QueryError, line: usize) -> QueryError {
    error.at(Place::from(format!("line {line}").as_str()))
}

/// Checks if the first word of `sql` is that of a statement that changes names.
fn changes_names(sql: &str) -> bool {
    let first = sql.split_whitespace().next().unwrap_or_default();
    ["create", "drop"].iter().any(|word| word.eq_ignore_ascii_case(first))
}

fn option_list() -> String {
    let width = OPTION_HELP.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    OPTION_HELP.iter().map(|(key, help)| format!("  {key:width$}  {help}\n")).collect()
}

/// Returns `text` with the end of its last line.
fn ended(text: &str) -> String {
    if text.ends_with('\n') { text.to_string() } else { format!("{text}\n") }
}
