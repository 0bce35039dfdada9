//! An engine that knows the names of a registry.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use async_trait::async_trait;
use buzz_engine::{
    Answer, Content, Engine, Existing, NameChange, NameChanged, NameKind, Names, Progress, Question, RowSink, Rows,
    Running, Summary, TableDescription, Want,
};
use buzz_protocol::query::name_help;
use buzz_protocol::{
    CatalogEntry, CatalogType, ColumnSpec, Place, Query, QueryBody, QueryError, QueryId, Result, nearest,
};

use crate::document::Changed;
use crate::reads::{Lists, Reads, reads, statement};
use crate::{Registry, ddl};

/// An engine whose statements can name the tables and views of a registry, and change them. Entries of a query come before
/// those of the registry.
#[derive(Debug, Clone)]
pub struct Named {
    engine: Arc<dyn Engine>,
    registry: Arc<Registry>,
    knows_others: bool,
}

impl Named {
    /// Makes an engine that finds names in `registry` and answers with `engine`.
    pub fn new(engine: Arc<dyn Engine>, registry: Arc<Registry>) -> Self {
        Self { engine, registry, knows_others: false }
    }

    /// Leaves names that the registry lacks to the inner engine, which has a registry of its own.
    #[must_use]
    pub fn before_other_names(self) -> Self {
        Self { knows_others: true, ..self }
    }

    /// Adds the entries of the names that the query reads and has no entry for.
    ///
    /// # Errors
    /// `Invalid` if a name does not exist, and the errors of reading the registry. The registry is read only if a name
    /// requires it.
    async fn resolved(&self, question: Question) -> Result<(Question, Vec<String>)> {
        if !Wanted::of(&question.query).is_any() {
            return Ok((question, Vec::new()));
        }
        let (entries, warnings) = self.registry.read().await?;
        self.resolved_in(question, entries, warnings)
    }

    fn resolved_in(
        &self,
        mut question: Question,
        entries: Vec<CatalogEntry>,
        warnings: Vec<String>,
    ) -> Result<(Question, Vec<String>)> {
        let wanted = Wanted::of(&question.query);
        let lists = wanted.reads.lists;
        let mut resolving = Resolving { query: &mut question.query, entries: &entries, lists, added: HashSet::new() };
        let unknown = resolving.add(&wanted.reads);
        resolving.list();
        let added = resolving.added;
        if let Some((view, name)) = unknown.first().filter(|_| !self.knows_others && !entries.is_empty()) {
            return Err(missing(name, view.as_deref(), &question.query.catalogs, &entries));
        }
        for entry in question.query.catalogs.iter_mut().filter(|entry| added.contains(&entry.name)) {
            *entry = self.registry.within(entry.clone(), &question.base);
        }
        let used = |warning: &String| added.iter().any(|name| warning.contains(&format!("`{name}`")));
        Ok((question, warnings.into_iter().filter(used).collect()))
    }

    /// Answers `question`, counting in `progress`.
    async fn answer(&self, question: Question, progress: &Arc<Progress>) -> Result<Answer> {
        if let (QueryBody::Sql(sql), Want::Rows(_)) = (&question.query.body, question.want)
            && let Some(mut change) = ddl::change(sql).await?
        {
            if let NameChange::Add { entry, .. } = &mut change {
                **entry = self.registry.taken_from((**entry).clone(), &question.base);
            }
            let changed = progress.unless_stopped(self.change(change)).await?;
            progress.warn(changed.warnings.iter().cloned());
            return told(question.id, &changed.message, progress);
        }
        let (question, warnings) = progress.unless_stopped(self.resolved(question)).await?;
        progress.warn(warnings);
        self.engine.start_with(question, Arc::clone(progress)).answer().await
    }

    /// Returns a question for `sql` over `entry`.
    async fn about(&self, sql: String, entry: &CatalogEntry) -> Result<Question> {
        let query =
            Query { body: QueryBody::Sql(sql), zones: 1, catalogs: vec![entry.clone()], params: Default::default() };
        // Applies the checks of a query's entries.
        let (query, _) = Query::parse(&query.to_json().to_string(), "the registry of names")?;
        let (entries, warnings) = self.registry.read_if_any().await?;
        Ok(self.resolved_in(Question::new(query, self.registry.base()), entries, warnings)?.0)
    }

    /// Opens the table of `entry` and records its columns and its type. Returns warnings.
    async fn with_table_columns(&self, entry: &mut CatalogEntry) -> Result<(usize, Vec<String>)> {
        entry.columns = None;
        let question = self.about("SELECT 1".to_string(), entry).await?;
        let described = self.engine.describe(&question).await?.into_iter().next();
        let described = described.ok_or_else(|| QueryError::internal("a table has no description"))?;
        let kinds = [
            CatalogType::DeltaLake,
            CatalogType::Parquet,
            CatalogType::Csv,
            CatalogType::Json,
            CatalogType::Static,
            CatalogType::Stream,
        ];
        if let Some(kind) = kinds.into_iter().find(|kind| kind.to_string() == described.kind) {
            entry.kind = kind;
        }
        let count = described.columns.len();
        let columns = described.columns.into_iter().map(|(name, data_type)| ColumnSpec { name, data_type });
        entry.columns = readable(columns.collect());
        Ok((count, described.warnings))
    }

    /// Plans the query of the view `entry` and records its columns. Returns their number and warnings.
    async fn with_view_columns(&self, entry: &mut CatalogEntry) -> Result<(usize, Vec<String>)> {
        entry.columns = None;
        let name = entry.name.replace('"', "\"\"");
        check_view(entry)?;
        let question = self.about(format!("SELECT * FROM \"{name}\" LIMIT 0"), entry).await?;
        let mut running = self.engine.start(question);
        let answer = running.answer().await?;
        let warnings = running.progress().warnings();
        let schema = answer.into_rows().schema();
        let fields = schema.fields().iter();
        // View types are an encoding in memory.
        let plain =
            |data_type: &DataType| data_type.to_string().replace("Utf8View", "Utf8").replace("BinaryView", "Binary");
        let columns =
            fields.map(|field| ColumnSpec { name: field.name().clone(), data_type: plain(field.data_type()) });
        entry.columns = readable(columns.collect());
        Ok((schema.fields().len(), warnings))
    }

    async fn add(&self, entry: &CatalogEntry, change: NameChange) -> Result<NameChanged> {
        let NameChange::Add { existing, .. } = change else {
            return Err(QueryError::internal("a change that adds no name was added"));
        };
        entry.check()?;
        if entry.name.is_empty() {
            return Err(QueryError::invalid("the name is empty; write NAME=PLACE"));
        }
        if existing == Existing::Keep
            && let (known, _) = self.registry.read_if_any().await?
            && known.iter().any(|known| known.name.to_lowercase() == entry.name.to_lowercase())
        {
            // Its definition is not opened, as it is not used.
            return Ok(NameChanged { message: kept(&entry.name), warnings: Vec::new() });
        }
        let mut entry = entry.clone();
        let (count, warnings) = match NameKind::of(&entry) {
            NameKind::Table => self.with_table_columns(&mut entry).await?,
            NameKind::View => self.with_view_columns(&mut entry).await?,
        };
        let (name, kind) = (entry.name.clone(), NameKind::of(&entry));
        let changed = self.registry.change(NameChange::Add { entry: Box::new(entry), existing }).await?;
        let columns = if count == 1 { "1 column".to_string() } else { format!("{count} columns") };
        let message = match changed {
            Changed::Added => format!("{kind} `{name}` was added: {columns}"),
            Changed::Replaced => format!("{kind} `{name}` was replaced: {columns}"),
            Changed::Nothing | Changed::Dropped(_) => kept(&name),
        };
        Ok(NameChanged { message, warnings })
    }

    async fn drop_name(&self, name: &str, change: NameChange) -> Result<NameChanged> {
        let changed = self.registry.change(change).await?;
        let Changed::Dropped(kind) = changed else {
            return Ok(NameChanged { message: format!("`{name}` does not exist"), warnings: Vec::new() });
        };
        let (entries, _) = self.registry.read().await?;
        let reads_it = |view: &&CatalogEntry| {
            let names = view.sql.as_deref().map(reads).filter(|reads| reads.are_tables).unwrap_or_default().names;
            names.iter().any(|read| read.eq_ignore_ascii_case(name))
        };
        let readers = entries.iter().filter(|entry| entry.is_view()).filter(reads_it);
        let warning =
            |view: &CatalogEntry| format!("view `{}` reads `{name}` and fails from now on; drop it too", view.name);
        Ok(NameChanged { message: format!("{kind} `{name}` was dropped"), warnings: readers.map(warning).collect() })
    }
}

#[async_trait]
impl Engine for Named {
    async fn describe(&self, question: &Question) -> Result<Vec<TableDescription>> {
        let (question, _) = self.resolved(question.clone()).await?;
        self.engine.describe(&question).await
    }

    fn start_with(&self, question: Question, progress: Arc<Progress>) -> Running {
        let (named, counted) = (self.clone(), Arc::clone(&progress));
        Running::spawn(progress, async move { named.answer(question, &counted).await })
    }
}

#[async_trait]
impl Names for Named {
    async fn list(&self) -> Result<Vec<CatalogEntry>> {
        let entries = self.registry.read().await?.0;
        Ok(entries.into_iter().map(|entry| self.registry.within(entry, Path::new("/"))).collect())
    }

    async fn change(&self, change: NameChange) -> Result<NameChanged> {
        match &change {
            NameChange::Add { entry, .. } => self.add(&entry.clone(), change).await,
            NameChange::Drop { name, .. } => self.drop_name(&name.clone(), change).await,
        }
    }
}

/// Returns `columns` if all of their types can be read back. A table without recorded columns is opened to list them.
fn readable(columns: Vec<ColumnSpec>) -> Option<Vec<ColumnSpec>> {
    columns.iter().all(|column| column.field().is_ok()).then_some(columns)
}

fn kept(name: &str) -> String {
    format!("`{name}` exists already and was not changed")
}

/// Checks that the view `entry` is one statement without parameters.
fn check_view(entry: &CatalogEntry) -> Result<()> {
    let sql = entry.sql.as_deref().unwrap_or_default();
    let at = |error: QueryError| error.at(Place::Other(format!("view `{}`", entry.name)));
    statement(sql).map_err(at)?;
    if has_parameter(sql) {
        return Err(at(QueryError::invalid("a view has no parameters; write values instead of $name")));
    }
    Ok(())
}

fn has_parameter(sql: &str) -> bool {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().unwrap_or_default();
    tokens.iter().any(|token| matches!(token, Token::Placeholder(_)))
}

/// Makes the answer to a statement that changed a name: one row, `(result: Utf8)`.
fn told(id: QueryId, message: &str, progress: &Progress) -> Result<Answer> {
    let schema = Arc::new(Schema::new(vec![Field::new("result", DataType::Utf8, false)]));
    let column: ArrayRef = Arc::new(StringArray::from(vec![message]));
    let mut rows = Rows::new();
    rows.start(Arc::clone(&schema))?;
    rows.write(RecordBatch::try_new(schema, vec![column])?)?;
    let summary = Summary { rows: 1, total: progress.elapsed(), ..Summary::default() };
    Ok(Answer { id, content: Content::Rows(rows), summary })
}

/// Returns the error for the unknown table `name`, which the statement or `view` names.
fn missing(name: &str, view: Option<&str>, own: &[CatalogEntry], entries: &[CatalogEntry]) -> QueryError {
    let names = own.iter().chain(entries).map(|entry| entry.name.as_str());
    let names = names.filter(|name| Some(*name) != view);
    // A long list is not a help.
    let help = match nearest(name, names.clone()) {
        None if names.clone().count() > 20 => "; `buzz tables list` lists the names".to_string(),
        _ => {
            let distinct: HashSet<&str> = names.collect();
            let mut distinct: Vec<&str> = distinct.into_iter().collect();
            distinct.sort_unstable();
            name_help(name, distinct.into_iter())
        }
    };
    let error = QueryError::invalid(format!("table `{name}` does not exist{help}"));
    match view {
        Some(view) => error.at(Place::Other(format!("view `{view}`"))),
        None => error,
    }
}

/// The names that a query reads and has no entry for.
struct Wanted {
    reads: Reads,
}

impl Wanted {
    fn of(query: &Query) -> Self {
        let mut reads = match &query.body {
            QueryBody::Sql(sql) => reads(sql),
            QueryBody::Steps(steps) => {
                let mut all = Reads { are_tables: true, ..Reads::default() };
                for step in steps {
                    let read = reads(&step.sql);
                    all.are_tables &= read.are_tables;
                    all.names.extend(read.names);
                }
                let is_step = |name: &String| steps.iter().any(|step| step.name.eq_ignore_ascii_case(name));
                all.names.retain(|name| !is_step(name));
                all
            }
        };
        // Views of the query can read names that it has no entry for.
        let has_views = query.catalogs.iter().any(CatalogEntry::is_view);
        reads.names.retain(|name| has_views || find(&query.catalogs, name).is_none());
        Self { reads }
    }

    /// Returns true if the registry must be read for the query.
    fn is_any(&self) -> bool {
        !self.reads.names.is_empty() || self.reads.lists != Lists::Nothing
    }
}

fn find<'a>(entries: &'a [CatalogEntry], name: &str) -> Option<&'a CatalogEntry> {
    let exact = entries.iter().find(|entry| entry.name == name);
    exact.or_else(|| entries.iter().find(|entry| entry.name.to_lowercase() == name.to_lowercase()))
}

/// Adds entries to a query.
struct Resolving<'a> {
    query: &'a mut Query,
    entries: &'a [CatalogEntry],
    /// The list of tables that the query reads, also through views.
    lists: Lists,
    added: HashSet<String>,
}

impl Resolving<'_> {
    /// Adds the entries of `wanted` and of what the views among them read. Returns the names without entries, each with the
    /// view that names it, if any.
    fn add(&mut self, wanted: &Reads) -> Vec<(Option<String>, String)> {
        let mut unknown = Vec::new();
        // Names are visited once, so views that read each other end here. Planning reports them.
        let mut open: Vec<(Option<String>, String, bool)> =
            wanted.names.iter().map(|name| (None, name.clone(), wanted.are_tables)).collect();
        let mut visited = HashSet::new();
        while let Some((view, name, is_table)) = open.pop() {
            if !visited.insert(name.to_lowercase()) {
                continue;
            }
            let own = find(&self.query.catalogs, &name).cloned();
            let Some(entry) = own.clone().or_else(|| find(self.entries, &name).cloned()) else {
                if is_table && !is_other(&name) {
                    unknown.push((view, name));
                }
                continue;
            };
            if let Some(sql) = entry.sql.as_deref().filter(|_| entry.is_view()) {
                let read = reads(sql);
                self.lists = self.lists.max(read.lists);
                let names = read.names.into_iter();
                open.extend(names.map(|name| (Some(entry.name.clone()), name, read.are_tables)));
            }
            if own.is_none() {
                self.added.insert(entry.name.clone());
                self.query.catalogs.push(entry);
            }
        }
        unknown
    }

    /// Adds all entries that the statement lists.
    fn list(&mut self) {
        if self.lists == Lists::Nothing {
            return;
        }
        for entry in self.entries {
            if find(&self.query.catalogs, &entry.name).is_some() {
                continue;
            }
            let mut entry = entry.clone();
            if self.lists == Lists::Names {
                // Without columns, the table would be opened for a list that does not show them.
                entry.columns.get_or_insert_default();
            }
            self.added.insert(entry.name.clone());
            self.query.catalogs.push(entry);
        }
    }
}

/// Checks if `name` looks like a file, or a function that reads one. The planner has a better message for these.
fn is_other(name: &str) -> bool {
    name.contains(['/', '.']) || name.starts_with("read_") || name.ends_with("_scan")
}
