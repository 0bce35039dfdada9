//! Finds the files of a URI that has no log: one file, a folder, or a glob.

use std::path::Path;

use buzz_protocol::{Compression, QueryError, Result};
use buzz_storage::{Location, QueryStores};
use futures::{StreamExt, TryStreamExt};
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::text_files::{CSV_ENDS, JSON_ENDS};

/// The files of a URI, sorted by path, and the root that contains them.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) root: Location,
    /// Number of leading path parts that are not searched for partition values: those of the folder, or of a glob up to
    /// its first `name=value`.
    pub(crate) depth: usize,
    pub(crate) files: Vec<ObjectMeta>,
    /// Warnings about files of the folder that are not part of the table, and about a Delta table around the files.
    pub(crate) warnings: Vec<String>,
}

/// Finds the files of `uri`. In a folder, these are the files with one of the extensions `ends`, which may be followed
/// by that of a compression; `.txt` counts only if the folder has no other of them. If no file of the folder has an
/// extension of any type, these are the files without an extension. Objects of 0 bytes that stand for a folder or a
/// Parquet file are skipped. A file or glob may have any extension.
///
/// # Errors
/// `Data` if no file is found, `Unavailable` if the store does not respond.
pub(crate) async fn find(uri: &str, ends: &[&str], base: &Path, stores: &QueryStores) -> Result<Found> {
    let Target { root, pattern } = target(uri, base, stores).await?;
    let store = stores.store(&root.store)?;
    let mut warnings = Vec::new();
    let mut files = match &pattern {
        Some(pattern) => matching(&root, pattern, store.as_ref()).await?,
        None => match store.head(&root.path).await {
            Ok(object) => vec![object],
            // For a folder, S3 returns NotFound and a file system another error. Listing shows whether it has files.
            Err(error) => {
                let is_certain = root.store.scheme() == "file" || matches!(error, StoreError::NotFound { .. });
                if !is_certain && store.list(Some(&root.path)).try_next().await.is_ok_and(|first| first.is_none()) {
                    return Err(error.into());
                }
                let (files, skipped) = in_folder(&root, ends, store.as_ref()).await?;
                warnings.extend(skipped);
                files
            }
        },
    };
    files.sort_by(|a, b| a.location.cmp(&b.location));
    warnings.extend(delta_around(&root, store.as_ref()).await);
    let parts = root.path.parts().count();
    let named = root.path.parts().position(|part| part.as_ref().contains('='));
    let depth = if pattern.is_some() { named.unwrap_or(parts) } else { parts };
    Ok(Found { root, depth, files, warnings })
}

/// The place that a URI names: a file or folder, or the files below `root` that match `pattern`.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) root: Location,
    pub(crate) pattern: Option<glob::Pattern>,
}

/// Determines if `uri` is a glob. A part of its path that exists as it is written, such as `data[1]`, is not a pattern.
///
/// # Errors
/// `Invalid` if the URI or the glob is invalid.
pub(crate) async fn target(uri: &str, base: &Path, stores: &QueryStores) -> Result<Target> {
    let mut literal = 0;
    loop {
        let Some(special) = uri[literal..].find(GLOB_CHARS).map(|at| literal + at) else {
            return Ok(Target { root: Location::parse(uri, base)?, pattern: None });
        };
        let end = uri[special..].find('/').map_or(uri.len(), |slash| special + slash);
        let exists = match Location::parse(&uri[..end], base) {
            Ok(place) => exists(&place, stores).await?,
            Err(_) => false,
        };
        if exists {
            literal = end;
            continue;
        }
        let cut = uri[..special].rfind('/').map_or(0, |slash| slash + 1);
        let pattern = glob::Pattern::new(&uri[cut..])
            .map_err(|error| QueryError::invalid(format!("`{uri}` is not a valid glob: {error}")))?;
        let root = if cut == 0 { "." } else { &uri[..cut] };
        return Ok(Target { root: Location::parse(root, base)?, pattern: Some(pattern) });
    }
}

/// Characters that are special in a glob.
const GLOB_CHARS: [char; 3] = ['*', '?', '['];

async fn exists(place: &Location, stores: &QueryStores) -> Result<bool> {
    let store = stores.store(&place.store)?;
    let is_file = store.head(&place.path).await.is_ok();
    Ok(is_file || store.list(Some(&place.path)).next().await.is_some_and(|first| first.is_ok()))
}

/// Maximum number of folders above the files in which a Delta table is looked for.
const FOLDERS_ABOVE: usize = 6;

/// Returns a warning if `root` or a folder above it is a Delta table: some of its files may not belong to the table any
/// more.
async fn delta_around(root: &Location, store: &dyn ObjectStore) -> Option<String> {
    let folders =
        std::iter::successors(Some(root.clone()), |place| (!place.path.as_ref().is_empty()).then(|| place.parent()));
    let is_table = async |folder: Location| {
        let log = folder.join("_delta_log").ok()?;
        store.list(Some(&log.path)).next().await?.ok()?;
        Some(folder)
    };
    let found = futures::future::join_all(folders.take(FOLDERS_ABOVE).map(is_table)).await;
    let table = found.into_iter().flatten().next()?;
    Some(format!(
        "the files are in the Delta table {table}, but are read without its log, so that rows of removed files are read \
         as well; name {table} as the table, and select its partitions with WHERE"
    ))
}

/// Returns at most `count` of `files`, which must not be empty: the first, the last, and files evenly spaced between
/// them.
pub(crate) fn some_of(files: &[ObjectMeta], count: usize) -> Vec<&ObjectMeta> {
    let mut chosen: Vec<usize> = (0..count).map(|n| n * (files.len() - 1) / (count - 1).max(1)).collect();
    chosen.dedup();
    chosen.into_iter().map(|index| &files[index]).collect()
}

/// Returns the extension of a file name in lower case, ignoring that of a compression. An extension begins with a
/// letter and has up to 8 letters and digits, so that `part.0001` has none.
pub(crate) fn ending(path: &str) -> Option<String> {
    let lower = path.to_lowercase();
    let (_, name) = Compression::by_name(&lower);
    let name = name.rsplit('/').next().unwrap_or(name);
    let (_, end) = name.rsplit_once('.')?;
    let is_extension = end.len() <= 8
        && end.starts_with(|c: char| c.is_ascii_alphabetic())
        && end.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_extension.then(|| end.to_string())
}

/// Returns whether a file has an extension of one of the types of tables.
pub(crate) fn has_known_ending(path: &str) -> bool {
    ending(path).is_some_and(|end| [PARQUET_ENDS, CSV_ENDS, JSON_ENDS].iter().any(|ends| ends.contains(&&*end)))
}

async fn matching(root: &Location, pattern: &glob::Pattern, store: &dyn ObjectStore) -> Result<Vec<ObjectMeta>> {
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let prefix = format!("{}/", root.path);
    let all: Vec<ObjectMeta> = store.list(Some(&root.path)).try_collect().await?;
    let kept: Vec<ObjectMeta> = all
        .into_iter()
        .filter(|object| !is_placeholder(&root.path, object))
        .filter(|object| {
            let path = object.location.as_ref();
            let relative = if root.path.as_ref().is_empty() { Some(path) } else { path.strip_prefix(&prefix) };
            relative.is_some_and(|relative| pattern.matches_with(relative, options))
        })
        .collect();
    if kept.is_empty() {
        // As in `a.csv?delimeter=;`.
        let field = pattern.as_str().rsplit_once('?').and_then(|(_, field)| field.split_once('='));
        let hint =
            field.map(|(name, _)| format!("; a table has no field `{name}`, so that `?` stands for one character"));
        return Err(QueryError::data(format!("no file below {root} matches `{pattern}`{}", hint.unwrap_or_default())));
    }
    Ok(kept)
}

/// Returns the files of a folder that have one of the extensions `ends`, with warnings about the others and about a log that
/// is not read.
async fn in_folder(root: &Location, ends: &[&str], store: &dyn ObjectStore) -> Result<(Vec<ObjectMeta>, Vec<String>)> {
    let all = listed(root, store).await?;
    let log = other_log(root, &all);
    let (kept, skipped) = of_table(root, ends, without_hidden(root, all))?;
    Ok((kept, log.into_iter().chain(skipped).collect()))
}

/// Returns a warning if the folder `root` is a table of a format with a log that Buzz does not read: some of its files may
/// not belong to the table any more.
fn other_log(root: &Location, all: &[ObjectMeta]) -> Option<String> {
    let depth = root.path.parts().count();
    let format = all.iter().find_map(|object| {
        let mut parts = object.location.parts().skip(depth);
        let (first, second) = (parts.next()?, parts.next()?);
        match first.as_ref() {
            ".hoodie" => Some("Hudi"),
            "metadata" if second.as_ref().ends_with(".metadata.json") => Some("Iceberg"),
            _ => None,
        }
    })?;
    Some(format!(
        "{root} is a table of {format}, whose log Buzz does not read, so that rows of removed or replaced files are read as \
         well; name a folder or a glob of files that are all part of the table"
    ))
}

/// Returns those of the files `all` of a folder that are part of the table, and a warning about the others.
fn of_table(root: &Location, ends: &[&str], all: Vec<ObjectMeta>) -> Result<(Vec<ObjectMeta>, Option<String>)> {
    if all.iter().all(|object| !has_known_ending(object.location.as_ref())) {
        return without_ending(root, ends, all);
    }
    let end = |object: &ObjectMeta| ending(object.location.as_ref()).filter(|end| ends.contains(&end.as_str()));
    let only_text = all.iter().filter_map(end).all(|end| end == TEXT_END);
    let is_kept = |object: &ObjectMeta| end(object).is_some_and(|end| only_text || end != TEXT_END);
    let (kept, others): (Vec<ObjectMeta>, Vec<ObjectMeta>) = all.into_iter().partition(is_kept);
    if kept.is_empty() {
        return Err(no_file(root, ends, &others));
    }
    let warning = others.first().map(|first| {
        let (count, name) = (others.len(), first.location.filename().unwrap_or_default());
        let kind = end(&kept[0]).unwrap_or_default();
        format!("{count} of the files in {root} are not .{kind} files and are skipped, such as `{name}`")
    });
    Ok((kept, warning))
}

/// Returns the files of a folder that have no extension, and a warning about the others. None of `all` has a known
/// extension.
fn without_ending(root: &Location, ends: &[&str], all: Vec<ObjectMeta>) -> Result<(Vec<ObjectMeta>, Option<String>)> {
    let has_none = |object: &ObjectMeta| ending(object.location.as_ref()).is_none();
    let (kept, others): (Vec<ObjectMeta>, Vec<ObjectMeta>) = all.into_iter().partition(has_none);
    if kept.is_empty() {
        return Err(no_file(root, ends, &others));
    }
    let warning = others.first().map(|first| {
        let (count, name) = (others.len(), first.location.filename().unwrap_or_default());
        format!("{count} of the files in {root} have another extension than none and are skipped, such as `{name}`")
    });
    Ok((kept, warning))
}

fn no_file(root: &Location, ends: &[&str], others: &[ObjectMeta]) -> QueryError {
    let text = format!("folder {root} contains no .{} file", ends[0]);
    let Some(first) = others.iter().min_by_key(|object| &object.location) else { return QueryError::data(text) };
    let name = first.location.filename().unwrap_or_default();
    let what = match others.len() {
        1 => format!("only `{name}`"),
        count => format!("only {count} others, such as `{name}`"),
    };
    QueryError::data(format!("{text}, {what}; to read them, name them by a glob such as `{root}/*`, and set `type`"))
}

/// Extension of files that are often not data, such as `README.txt`. A folder's table has them only if it has no other.
pub(crate) const TEXT_END: &str = "txt";

/// Checks if an object of 0 bytes stands for the folder `root`, as the S3 console and Hadoop leave it, or for a Parquet
/// file, which has at least 12 bytes.
fn is_placeholder(root: &object_store::path::Path, object: &ObjectMeta) -> bool {
    let is_parquet = || ending(object.location.as_ref()).is_some_and(|end| PARQUET_ENDS.contains(&end.as_str()));
    object.size == 0 && (object.location == *root || is_parquet())
}

/// File name extensions of Parquet files.
pub(crate) const PARQUET_ENDS: &[&str] = &["parquet", "parq", "pq"];

/// Lists the files in the folder `root`, except those with a path part that starts with `.` or `_`. A partition folder
/// such as `_year=2024` is not hidden.
///
/// # Errors
/// `Data` if the folder does not exist or is empty.
pub(crate) async fn visible(root: &Location, store: &dyn ObjectStore) -> Result<Vec<ObjectMeta>> {
    Ok(without_hidden(root, listed(root, store).await?))
}

/// Lists all files in the folder `root`.
async fn listed(root: &Location, store: &dyn ObjectStore) -> Result<Vec<ObjectMeta>> {
    let all: Vec<ObjectMeta> = store.list(Some(&root.path)).try_collect().await?;
    if all.iter().all(|object| is_placeholder(&root.path, object)) {
        return Err(QueryError::data(format!("file or folder {root} does not exist or is empty")));
    }
    Ok(all)
}

fn without_hidden(root: &Location, all: Vec<ObjectMeta>) -> Vec<ObjectMeta> {
    let depth = root.path.parts().count();
    let hidden = |part: &str| part.starts_with('.') || (part.starts_with('_') && !part.contains('='));
    let is_hidden = |object: &ObjectMeta| object.location.parts().skip(depth).any(|part| hidden(part.as_ref()));
    all.into_iter().filter(|object| !is_hidden(object) && !is_placeholder(&root.path, object)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn glob_is_split_before_its_first_pattern_part() {
        let dir = tempfile::tempdir().unwrap();
        for folder in ["data[1]", "dir", "t/2009"] {
            std::fs::create_dir_all(dir.path().join(folder)).unwrap();
            std::fs::write(dir.path().join(folder).join("a.csv"), "a\n").unwrap();
        }
        let stores = std::sync::Arc::new(buzz_storage::Stores::default()).for_query();
        let base = Location::parse(".", dir.path()).unwrap().to_string();
        let split = async |uri: &str| {
            let Target { root, pattern } = target(uri, dir.path(), &stores).await.unwrap();
            (root.to_string().replacen(&base, ".", 1), pattern.map(|pattern| pattern.to_string()))
        };
        let pattern = |root: &str, pattern: &str| (root.to_string(), Some(pattern.to_string()));
        assert_eq!(split("t/2009/*/x-?.parquet").await, pattern("./t/2009", "*/x-?.parquet"));
        assert_eq!(split("*.parquet").await, pattern(".", "*.parquet"));
        assert_eq!(split("dir/file.parquet").await, ("./dir/file.parquet".to_string(), None));
        assert_eq!(split("data[1]").await, ("./data[1]".to_string(), None));
        assert_eq!(split("data[1]/a.csv").await, ("./data[1]/a.csv".to_string(), None));
        assert_eq!(split("data[1]/*.csv").await, pattern("./data[1]", "*.csv"));
        assert_eq!(split("data[2]/*.csv").await, pattern(".", "data[2]/*.csv"));
    }

    #[test]
    fn extension_of_compression_is_ignored() {
        assert_eq!(ending("a.b/x.CSV.gz").as_deref(), Some("csv"));
        assert_eq!(ending("x.parquet").as_deref(), Some("parquet"));
        assert_eq!(ending("a.b/x"), None);
        assert_eq!(ending("a/part.0001"), None);
        assert_eq!(ending("a/20240101_00012_9a.b3c4d5e6f7a8b9"), None);
    }
}
