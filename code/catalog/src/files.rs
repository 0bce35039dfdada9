//! Which files a uri without a log means: one file, a folder, or a glob; and what is written in their paths.

use std::path::Path;

use buzz_protocol::{Compression, QueryError, Result};
use buzz_storage::{Location, Storage};
use futures::TryStreamExt;
use object_store::{Error as StoreError, ObjectMeta, ObjectStore, ObjectStoreExt};

/// The files that a uri means, in the order of their paths, and the place that they are below.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) root: Location,
    /// Leading parts of the files' paths that tell no partition: those of the folder, or of a glob up to its first
    /// `name=value`.
    pub(crate) depth: usize,
    pub(crate) files: Vec<ObjectMeta>,
}

/// Finds the files of `uri`. In a folder, these are the ones whose names have one of `ends` (before an ending that says
/// how they are compressed); a file or glob is taken at its word.
///
/// # Errors
/// `Data` when there is none, `Unavailable` when the store does not answer.
pub(crate) async fn find(uri: &str, ends: &[&str], base: &Path, storage: &Storage) -> Result<Found> {
    let (root, pattern) = split_glob(uri)?;
    let root = Location::parse(root, base)?;
    let store = storage.store(&root.store)?;
    let mut files = match &pattern {
        Some(pattern) => matching(&root, pattern, store.as_ref()).await?,
        None => match store.head(&root.path).await {
            Ok(object) => vec![object],
            // A folder answers NotFound on S3 and something else on a file system; what counts is what is in it.
            Err(error) => {
                let is_certain = root.store.scheme() == "file" || matches!(error, StoreError::NotFound { .. });
                if !is_certain && store.list(Some(&root.path)).try_next().await.is_ok_and(|first| first.is_none()) {
                    return Err(error.into());
                }
                in_folder(&root, ends, store.as_ref()).await?
            }
        },
    };
    files.sort_by(|a, b| a.location.cmp(&b.location));
    let parts = root.path.parts().count();
    let named = root.path.parts().position(|part| part.as_ref().contains('='));
    let depth = if pattern.is_some() { named.unwrap_or(parts) } else { parts };
    Ok(Found { root, depth, files })
}

/// At most `count` of `files`, which are not none: the first, the last, and some between.
pub(crate) fn some_of(files: &[ObjectMeta], count: usize) -> Vec<&ObjectMeta> {
    let mut chosen: Vec<usize> = (0..count).map(|n| n * (files.len() - 1) / (count - 1).max(1)).collect();
    chosen.dedup();
    chosen.into_iter().map(|index| &files[index]).collect()
}

/// The ending of a file's name in lower case, before one that says how it is compressed.
pub(crate) fn ending(path: &str) -> Option<String> {
    let lower = path.to_lowercase();
    let (_, name) = Compression::by_name(&lower);
    let name = name.rsplit('/').next().unwrap_or(name);
    name.rsplit_once('.').map(|(_, end)| end.to_string())
}

/// Splits `a/b*/c.parquet` into `a` and the pattern, or gives the whole back without one.
fn split_glob(uri: &str) -> Result<(&str, Option<glob::Pattern>)> {
    let Some(first) = uri.find(['*', '?', '[']) else {
        return Ok((uri, None));
    };
    let cut = uri[..first].rfind('/').map_or(0, |slash| slash + 1);
    let pattern = glob::Pattern::new(&uri[cut..])
        .map_err(|error| QueryError::invalid(format!("`{uri}` is not a glob: {error}")))?;
    let root = if cut == 0 { "." } else { &uri[..cut] };
    Ok((root, Some(pattern)))
}

async fn matching(root: &Location, pattern: &glob::Pattern, store: &dyn ObjectStore) -> Result<Vec<ObjectMeta>> {
    let options = glob::MatchOptions { require_literal_separator: true, ..Default::default() };
    let prefix = format!("{}/", root.path);
    let all: Vec<ObjectMeta> = store.list(Some(&root.path)).try_collect().await?;
    let kept: Vec<ObjectMeta> = all
        .into_iter()
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

async fn in_folder(root: &Location, ends: &[&str], store: &dyn ObjectStore) -> Result<Vec<ObjectMeta>> {
    let all = visible(root, store).await?;
    let has_end = |object: &ObjectMeta| ending(object.location.as_ref()).is_some_and(|end| ends.contains(&&*end));
    let kept: Vec<ObjectMeta> = all.into_iter().filter(has_end).collect();
    if kept.is_empty() {
        return Err(QueryError::data(format!("the folder {root} holds no .{} file", ends[0])));
    }
    Ok(kept)
}

/// The files in the folder `root` that are not hidden by `_` or `.` in their path. A partition column may begin so:
/// `_year=2024` hides nothing.
///
/// # Errors
/// `Data` when there is no such folder.
pub(crate) async fn visible(root: &Location, store: &dyn ObjectStore) -> Result<Vec<ObjectMeta>> {
    let all: Vec<ObjectMeta> = store.list(Some(&root.path)).try_collect().await?;
    if all.is_empty() {
        return Err(QueryError::data(format!("there is no file or folder {root}, or nothing is in it")));
    }
    let depth = root.path.parts().count();
    let hidden = |part: &str| part.starts_with('.') || (part.starts_with('_') && !part.contains('='));
    let is_hidden = |object: &ObjectMeta| object.location.parts().skip(depth).any(|part| hidden(part.as_ref()));
    Ok(all.into_iter().filter(|object| !is_hidden(object)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_glob_is_split_at_its_first_special_part() {
        let split = |uri| split_glob(uri).map(|(root, pattern)| (root, pattern.map(|p| p.to_string()))).unwrap();
        assert_eq!(split("s3://b/t/2009/*/x-?.parquet"), ("s3://b/t/2009/", Some("*/x-?.parquet".to_string())));
        assert_eq!(split("*.parquet"), (".", Some("*.parquet".to_string())));
        assert_eq!(split("dir/file.parquet"), ("dir/file.parquet", None));
    }

    #[test]
    fn an_ending_is_the_one_before_that_of_the_compression() {
        assert_eq!(ending("a.b/x.CSV.gz").as_deref(), Some("csv"));
        assert_eq!(ending("x.parquet").as_deref(), Some("parquet"));
        assert_eq!(ending("a.b/x"), None);
    }
}
