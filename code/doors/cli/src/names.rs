//! The registry of names: the engine that knows it, and the commands that change and list it.

use std::path::Path;
use std::sync::Arc;

use buzz_client::StackEngine;
use buzz_engine::{Engine, Existing, NameChange, Names};
use buzz_protocol::query::name_help;
use buzz_protocol::{CatalogEntry, Options, QueryError, Result};
use buzz_registry::{FILE, Named, Registry};

use crate::args::{NamesCommand, NamesPlace, StackArguments};
use crate::terminal::{note, print, warn};
use crate::{compose, question, tables};

/// Characters of a view's query in a list of names.
const QUERY_CHARACTERS: usize = 60;

/// Returns the registry in `file`, or in the file of the working directory.
pub(crate) fn registry(file: Option<&Path>) -> Registry {
    match file {
        Some(file) => Registry::of_file(file).that_exists(),
        None => Registry::of_file(FILE),
    }
}

/// Makes the engine of `stack`, or the one in this process, that knows the names in `file`. A stack knows its own names.
///
/// # Errors
/// As [`compose::local_engine`] and [`compose::stack_engine`].
pub(crate) async fn engine(
    stack: &StackArguments,
    file: Option<&Path>,
    options: &Options,
    threads: usize,
) -> Result<Arc<dyn Engine>> {
    Ok(engine_and_names(stack, file, options, threads).await?.0)
}

/// Makes an engine as [`engine`] does. Returns it with the names that its statements change.
///
/// # Errors
/// As [`engine`].
pub(crate) async fn engine_and_names(
    stack: &StackArguments,
    file: Option<&Path>,
    options: &Options,
    threads: usize,
) -> Result<(Arc<dyn Engine>, Arc<dyn Names>)> {
    if !stack.is_named() {
        let named = Arc::new(Named::new(compose::local_engine(options, threads)?, Arc::new(registry(file))));
        return Ok((Arc::clone(&named) as Arc<dyn Engine>, named));
    }
    let engine = Arc::new(compose::stack_engine(stack).await?);
    if file.is_none() {
        return Ok((Arc::clone(&engine) as Arc<dyn Engine>, engine));
    }
    let named = Arc::new(Named::new(engine, Arc::new(registry(file))).before_other_names());
    Ok((Arc::clone(&named) as Arc<dyn Engine>, named))
}

/// Reads the names of a server once, to report at its start what is wrong with them. Returns them.
///
/// # Errors
/// As [`Registry::read`]. A stack that does not tell its names is a warning.
pub(crate) async fn at_start(
    stack: &StackArguments,
    file: Option<&Path>,
    names: &dyn Names,
) -> Result<Vec<CatalogEntry>> {
    if stack.is_named() && file.is_none() {
        return Ok(names.list().await.unwrap_or_else(|error| {
            warn(&format!("the names of the stack are not known: {error}"));
            Vec::new()
        }));
    }
    let (entries, warnings) = registry(file).read().await?;
    warnings.iter().for_each(|warning| warn(warning));
    Ok(entries)
}

/// Carries out a command about names.
///
/// # Errors
/// `Invalid` if a name exists already or does not exist, and the errors of the registry and of an added table.
pub(crate) async fn carry_out(command: NamesCommand, threads: usize) -> Result<()> {
    match command {
        NamesCommand::Add { table: (name, text), replace, place } => {
            let base = question::working_directory()?;
            let mut entry = tables::entry_of_registry(&name, &text)?;
            if !place.stack.is_named() {
                entry = registry(place.file.as_deref()).taken_from(entry, &base);
            }
            let existing = if replace { Existing::Replace } else { Existing::Fail };
            change(&place, NameChange::Add { entry: Box::new(entry), existing }, threads).await
        }
        NamesCommand::Drop { name, if_exists, place } => {
            change(&place, NameChange::Drop { name, kind: None, if_exists }, threads).await
        }
        NamesCommand::List { place } => print(&list(&entries(&place).await?)),
        NamesCommand::Show { name, place } => {
            let entries = entries(&place).await?;
            let exact = entries.iter().find(|entry| entry.name == name);
            let found = exact.or_else(|| entries.iter().find(|entry| entry.name.to_lowercase() == name.to_lowercase()));
            let found = found.ok_or_else(|| {
                let help = name_help(&name, entries.iter().map(|entry| entry.name.as_str()));
                QueryError::invalid(format!("table `{name}` does not exist{help}"))
            })?;
            print(&shown(found))
        }
    }
}

async fn change(place: &NamesPlace, change: NameChange, threads: usize) -> Result<()> {
    let names: Arc<dyn Names> = match place.stack.is_named() {
        true => Arc::new(compose::stack_engine(&place.stack).await?),
        false => {
            let engine = compose::local_engine(&Options::default(), threads)?;
            Arc::new(Named::new(engine, Arc::new(registry(place.file.as_deref()))))
        }
    };
    let changed = names.change(change).await?;
    changed.warnings.iter().for_each(|warning| warn(warning));
    note(&changed.message);
    Ok(())
}

/// Returns the entries of the registry, sorted by name. Opens no table.
async fn entries(place: &NamesPlace) -> Result<Vec<CatalogEntry>> {
    if place.stack.is_named() {
        let engine: StackEngine = compose::stack_engine(&place.stack).await?;
        return engine.list().await;
    }
    let (entries, warnings) = registry(place.file.as_deref()).read().await?;
    warnings.iter().for_each(|warning| warn(warning));
    Ok(entries)
}

/// Formats `entries` as lines of name, type, number of columns and place.
pub(crate) fn list(entries: &[CatalogEntry]) -> String {
    let width = |text: fn(&CatalogEntry) -> usize| entries.iter().map(text).max().unwrap_or_default();
    let name_width = width(|entry| entry.name.chars().count());
    let kind_width = width(|entry| entry.kind.to_string().len());
    let line = |entry: &CatalogEntry| {
        let columns = match entry.columns.as_ref().map(Vec::len) {
            None => "? columns".to_string(),
            Some(1) => "1 column".to_string(),
            Some(count) => format!("{count} columns"),
        };
        let (name, kind) = (&entry.name, entry.kind.to_string());
        format!("{name:name_width$}  {kind:kind_width$}  {columns:11}  {}\n", place_of(entry))
    };
    entries.iter().map(line).collect()
}

/// Returns the place of a table, or the start of the query of a view.
fn place_of(entry: &CatalogEntry) -> String {
    let Some(sql) = &entry.sql else { return entry.uri.clone() };
    let words: Vec<&str> = sql.split_whitespace().collect();
    let text = words.join(" ");
    match text.char_indices().nth(QUERY_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// Formats `entry` with all its fields.
fn shown(entry: &CatalogEntry) -> String {
    let place = if entry.is_view() { String::new() } else { format!(": {}", entry.uri) };
    let mut text = format!("{} ({}){place}\n", entry.name, entry.kind);
    let fields = serde_json::to_value(entry).unwrap_or_default();
    for (field, value) in fields.as_object().into_iter().flatten() {
        if ["name", "type", "uri", "columns"].contains(&field.as_str()) {
            continue;
        }
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_string);
        text.push_str(&format!("  {field}: {}\n", value.replace('\n', "\n    ")));
    }
    match &entry.columns {
        None => text.push_str("  columns: not recorded; add the table with `buzz tables add --replace`\n"),
        Some(columns) => {
            text.push_str("  columns:\n");
            for column in columns {
                text.push_str(&format!("    {}: {}\n", column.name, column.data_type));
            }
        }
    }
    text
}
