//! Parquet files: one, a folder of them, or a glob. The schema is that of all footers together.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use buzz_protocol::{QueryError, Result};
use buzz_storage::{Location, Storage, full_path};
use futures::{StreamExt, TryStreamExt};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::table::{DataFile, Table};

/// Footers that are read at the same time.
const FOOTERS_AT_ONCE: usize = 32;

pub(crate) async fn open(uri: &str, base: &Path, storage: &Storage) -> Result<Table> {
    let (root, pattern) = split_glob(uri)?;
    let root = Location::parse(root, base)?;
    let store = storage.store(&root.store)?;

    let mut found = match &pattern {
        Some(pattern) => matching(&root, pattern, store.as_ref()).await?,
        None => match store.head(&root.path).await {
            Ok(object) => vec![object],
            // A folder answers NotFound on S3 and something else on a file system; what counts is what is in it.
            Err(_) => in_folder(&root, store.as_ref()).await?,
        },
    };
    found.sort_by(|a, b| a.location.cmp(&b.location));

    let footers: Vec<_> = found.iter().map(|object| footer_schema(Arc::clone(&store), &root, object.clone())).collect();
    let schemas: Vec<(String, Arc<Schema>)> =
        futures::stream::iter(footers).buffered(FOOTERS_AT_ONCE).try_collect().await?;
    let schema = merge(&schemas)?;

    let files = found
        .into_iter()
        .map(|object| DataFile {
            path: object.location.to_string(),
            size: object.size,
            partition_values: Vec::new(),
            deletion_vector: None,
        })
        .collect();
    Table::new(uri.to_string(), root.store, &schema, Vec::new(), files)
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

async fn in_folder(root: &Location, store: &dyn ObjectStore) -> Result<Vec<ObjectMeta>> {
    let all: Vec<ObjectMeta> = store.list(Some(&root.path)).try_collect().await?;
    if all.is_empty() {
        return Err(QueryError::data(format!("there is no file or folder {root}, or nothing is in it")));
    }
    let depth = root.path.parts().count();
    let hidden =
        |object: &ObjectMeta| object.location.parts().skip(depth).any(|part| part.as_ref().starts_with(['_', '.']));
    let parquet = |object: &ObjectMeta| {
        object.location.extension().is_some_and(|end| ["parquet", "parq", "pq"].contains(&&*end.to_lowercase()))
    };
    let kept: Vec<ObjectMeta> = all.into_iter().filter(|object| parquet(object) && !hidden(object)).collect();
    if kept.is_empty() {
        return Err(QueryError::data(format!("the folder {root} holds no .parquet file")));
    }
    Ok(kept)
}

async fn footer_schema(
    store: Arc<dyn ObjectStore>,
    root: &Location,
    object: ObjectMeta,
) -> Result<(String, Arc<Schema>)> {
    let path = full_path(&root.store, object.location.as_ref());
    match buzz_storage::footer_schema(store.as_ref(), &object).await {
        Ok(schema) => Ok((path, Arc::new(schema))),
        Err(error) => Err(error.at(format!("file `{path}`"))),
    }
}

/// All columns of all files; one that a file lacks is null there.
fn merge(schemas: &[(String, Arc<Schema>)]) -> Result<Schema> {
    let mut merged: Vec<(FieldRef, &str)> = Vec::new();
    for (path, schema) in schemas {
        for field in schema.fields() {
            match merged.iter().find(|(known, _)| known.name() == field.name()) {
                None => merged.push((Arc::clone(field), path)),
                Some((known, first)) if known.data_type() != field.data_type() => {
                    return Err(QueryError::data(format!(
                        "column `{}` is {} in `{first}` and {} in `{path}`",
                        field.name(),
                        known.data_type(),
                        field.data_type()
                    )));
                }
                Some(_) => {}
            }
        }
    }
    Ok(Schema::new(merged.into_iter().map(|(field, _)| field).collect::<Vec<_>>()))
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
}
