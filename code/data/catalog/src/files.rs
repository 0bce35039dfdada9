//! Finds the files of a URI that has no log: one file, a folder, or a glob.

use std::path::Path;

use buzz_protocol::{Compression, QueryError, Result};
use buzz_storage::{Location, QueryStores};
use futures::TryStreamExt;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};

/// The files of a URI, sorted by path, and the root that contains them.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) root: Location,
    /// Number of leading path parts that are not searched for partition values: those of the folder, or of a glob up to
    /// its first `name=value`.
    pub(crate) depth: usize,
    pub(crate) files: Vec<ObjectMeta>,
    /// Warning about files of the folder that are not part of the table.
    pub(crate) warning: Option<String>,
}

/// Finds the files of `uri`. In a folder, these are the files with one of the extensions `ends`, which may be followed
/// by that of a compression; `.txt` counts only if the folder has no other of them. Objects of 0 bytes that stand for a
/// folder or a Parquet file are skipped. A file or glob may have any extension.
///
/// # Errors
/// `Data` if no file is found, `Unavailable` if the store does not respond.
pub(crate) async fn find(uri: &str, ends: &[&str], base: &Path, stores: &QueryStores) -> Result<Found> {
    let (root, pattern) = split_glob(uri)?;
    let root = Location::parse(root, base)?;
    let store = stores.store(&root.store)?;
    let mut warning = None;
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
                warning = skipped;
                files
            }
        },
    };
    files.sort_by(|a, b| a.location.cmp(&b.location));
    let parts = root.path.parts().count();
    let named = root.path.parts().position(|part| part.as_ref().contains('='));
    let depth = if pattern.is_some() { named.unwrap_or(parts) } else { parts };
    Ok(Found { root, depth, files, warning })
}

/// Returns at most `count` of `files`, which must not be empty: the first, the last, and files evenly spaced between
/// them.
pub(crate) fn some_of(files: &[ObjectMeta], count: usize) -> Vec<&ObjectMeta> {
    let mut chosen: Vec<usize> = (0..count).map(|n| n * (files.len() - 1) / (count - 1).max(1)).collect();
    chosen.dedup();
    chosen.into_iter().map(|index| &files[index]).collect()
}

/// Returns the extension of a file name in lower case, ignoring that of a compression.
pub(crate) fn ending(path: &str) -> Option<String> {
    let lower = path.to_lowercase();
    let (_, name) = Compression::by_name(&lower);
    let name = name.rsplit('/').next().unwrap_or(name);
    name.rsplit_once('.').map(|(_, end)| end.to_string())
}

/// Splits `a/b*/c.parquet` into `a/` and the pattern `b*/c.parquet`. Without a pattern, returns the whole `uri`.
fn split_glob(uri: &str) -> Result<(&str, Option<glob::Pattern>)> {
    let Some(first) = uri.find(['*', '?', '[']) else {
        return Ok((uri, None));
    };
    let cut = uri[..first].rfind('/').map_or(0, |slash| slash + 1);
    let pattern = glob::Pattern::new(&uri[cut..])
        .map_err(|error| QueryError::invalid(format!("`{uri}` is not a valid glob: {error}")))?;
    let root = if cut == 0 { "." } else { &uri[..cut] };
    Ok((root, Some(pattern)))
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
        return Err(QueryError::data(format!("no file below {root} matches `{pattern}`")));
    }
    Ok(kept)
}

/// Returns the files of a folder that have one of the extensions `ends`, and a warning about the others.
async fn in_folder(
    root: &Location,
    ends: &[&str],
    store: &dyn ObjectStore,
) -> Result<(Vec<ObjectMeta>, Option<String>)> {
    let all = visible(root, store).await?;
    let end = |object: &ObjectMeta| ending(object.location.as_ref()).filter(|end| ends.contains(&end.as_str()));
    let only_text = all.iter().filter_map(end).all(|end| end == TEXT_END);
    let is_kept = |object: &ObjectMeta| end(object).is_some_and(|end| only_text || end != TEXT_END);
    let (kept, others): (Vec<ObjectMeta>, Vec<ObjectMeta>) = all.into_iter().partition(is_kept);
    if kept.is_empty() {
        return Err(QueryError::data(format!("folder {root} contains no .{} file", ends[0])));
    }
    let warning = others.first().map(|first| {
        let (count, name) = (others.len(), first.location.filename().unwrap_or_default());
        let kind = end(&kept[0]).unwrap_or_default();
        format!("{count} of the files in {root} are not .{kind} files and are skipped, such as `{name}`")
    });
    Ok((kept, warning))
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
    let all: Vec<ObjectMeta> = store.list(Some(&root.path)).try_collect().await?;
    if all.iter().all(|object| is_placeholder(&root.path, object)) {
        return Err(QueryError::data(format!("file or folder {root} does not exist or is empty")));
    }
    let depth = root.path.parts().count();
    let hidden = |part: &str| part.starts_with('.') || (part.starts_with('_') && !part.contains('='));
    let is_hidden = |object: &ObjectMeta| object.location.parts().skip(depth).any(|part| hidden(part.as_ref()));
    Ok(all.into_iter().filter(|object| !is_hidden(object) && !is_placeholder(&root.path, object)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glob_is_split_before_its_first_pattern_part() {
        let split = |uri| split_glob(uri).map(|(root, pattern)| (root, pattern.map(|p| p.to_string()))).unwrap();
        assert_eq!(split("s3://b/t/2009/*/x-?.parquet"), ("s3://b/t/2009/", Some("*/x-?.parquet".to_string())));
        assert_eq!(split("*.parquet"), (".", Some("*.parquet".to_string())));
        assert_eq!(split("dir/file.parquet"), ("dir/file.parquet", None));
    }

    #[test]
    fn extension_of_compression_is_ignored() {
        assert_eq!(ending("a.b/x.CSV.gz").as_deref(), Some("csv"));
        assert_eq!(ending("x.parquet").as_deref(), Some("parquet"));
        assert_eq!(ending("a.b/x"), None);
    }
}
