//! Materialized views of pipelines: their files are those that the record of the newest epoch names.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use buzz_epoch::{EpochLog, StateFile};
use buzz_protocol::{CatalogEntry, ErrorKind, QueryError, Result};
use buzz_storage::{Location, QueryStores, full_path};
use futures::{StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use object_store::path::Path as StorePath;
use percent_encoding::percent_decode_str;

use crate::merge::merge;
use crate::parquet_files::{FOOTERS_AT_ONCE, read_footer};
use crate::statistics::FileStatistics;
use crate::table::{DataFile, Table};

/// The folders above the names of a pipeline and of a view.
const FOLDERS: [&str; 2] = ["pipelines", "views"];

/// The place of a view: the folder of the state, the pipeline, and the name of the view.
type Divided = (StorePath, String, String);

/// Parts of the path of a file below the folder of the state: `pipelines/<pipeline>/v<k>/state/<stage>/<file>`.
const FILE_PARTS: usize = 6;

/// Returns the path of a file that a record names as `path`, if the folder of the state is `root` here. Its writer may have opened
/// the folder itself, so that paths begin there.
fn rooted(root: &StorePath, path: &str) -> Result<StorePath> {
    let parsed = StorePath::parse(path).map_err(|error| QueryError::data(format!("`{path}` is no path: {error}")))?;
    let parts: Vec<_> = parsed.parts().collect();
    let above = parts.len().checked_sub(FILE_PARTS);
    let above = above.ok_or_else(|| QueryError::data(format!("`{path}` is no file of a pipeline")))?;
    Ok(root.parts().chain(parts.into_iter().skip(above)).collect())
}

/// Returns the parts of `path`, `<state>/pipelines/<pipeline>/views/<view>`; `None` if it has another form.
fn divided(path: &StorePath) -> Option<Divided> {
    let mut parts: VecDeque<_> = path.parts().collect();
    let name = |part: object_store::path::PathPart<'_>| {
        percent_decode_str(part.as_ref()).decode_utf8().ok().map(Cow::into_owned)
    };
    let view = name(parts.pop_back()?)?;
    let views = parts.pop_back()?;
    let pipeline = name(parts.pop_back()?)?;
    let pipelines = parts.pop_back()?;
    ([pipelines.as_ref(), views.as_ref()] == FOLDERS).then(|| (parts.into_iter().collect(), pipeline, view))
}

/// Opens the epochs of the pipeline with the view at `place`. Returns the folder of the state and the name of the view too; `None` if it
/// is no place of a view, or the pipeline does not exist.
async fn log(place: &Location, stores: &QueryStores) -> Result<Option<(EpochLog, StorePath, String)>> {
    let Some((root, pipeline, view)) = divided(&place.path) else { return Ok(None) };
    match EpochLog::existing(stores.store(&place.store)?, root.clone(), &pipeline).await {
        Ok(found) => Ok(found.map(|log| (log, root, view))),
        // The folder has a name that no pipeline can have.
        Err(error) if error.kind == ErrorKind::Invalid => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns true if `place` is that of a view of a pipeline that exists.
pub(crate) async fn is_view(place: &Location, stores: &QueryStores) -> Result<bool> {
    Ok(log(place, stores).await?.is_some())
}

/// Opens the view that `entry` names, as of the newest epoch; `None` if its place is not that of a view.
///
/// # Errors
/// `Data` if the pipeline does not have the view, or has had no epoch.
pub(crate) async fn open(entry: &CatalogEntry, base: &Path, stores: &QueryStores) -> Result<Option<Table>> {
    let place = Location::parse(&entry.uri, base)?;
    let Some((log, root, view)) = log(&place, stores).await? else { return Ok(None) };
    let newest = log.newest().await?;
    let newest = newest.ok_or_else(|| {
        QueryError::data(format!("the pipeline of `{}` has had no epoch; run it, and try again", entry.uri))
    })?;
    let files: Vec<&StateFile> = newest.view_files(&view).collect();
    if files.is_empty() {
        return Err(QueryError::data(format!(
            "the pipeline has no materialized view `{view}`; add CREATE MATERIALIZED VIEW {view} AS … to its script, or correct the \
             name"
        )));
    }
    let store = stores.store(&place.store)?;
    let opened = files.iter().map(|file| {
        let (store, place, path) = (Arc::clone(&store), place.clone(), rooted(&root, &file.path));
        async move {
            let object = store.head(&path?).await?;
            if object.size != file.bytes {
                return Err(QueryError::data(format!(
                    "`{}` has {} bytes, and {} were written; restore it, or go back with --from-epoch",
                    object.location, object.size, file.bytes
                )));
            }
            Ok::<_, QueryError>((object.clone(), read_footer(store, &place, object).await?))
        }
    });
    let opened: Vec<_> = opened.collect();
    let opened: Vec<_> = futures::stream::iter(opened).buffered(FOOTERS_AT_ONCE).try_collect().await?;
    let (objects, footers): (Vec<_>, Vec<_>) = opened.into_iter().unzip();
    let paths = objects.iter().map(|object| full_path(&place.store, object.location.as_ref()));
    let (schema, _) = merge(&paths.zip(footers.iter().map(|(schema, _)| schema)).collect::<Vec<_>>(), |_| true)?;
    let files = objects.into_iter().map(|object| DataFile::found(object, Vec::new())).collect();
    let mut table = Table::new(entry.uri.clone(), place.store, &schema, Vec::new(), files)?;
    table.statistics = Some(FileStatistics::of_footers(&table.file_schema(), &footers)?);
    table.version = Some(newest.epoch);
    Ok(Some(table))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_views_are_recognised() {
        let divided = |path: &str| divided(&StorePath::from(path)).map(|(root, of, view)| (root.to_string(), of, view));
        let expected = |root: &str| Some((root.to_string(), "top".to_string(), "v".to_string()));
        assert_eq!(divided("data/state/pipelines/top/views/v"), expected("data/state"));
        assert_eq!(divided("pipelines/top/views/v"), expected(""));
        assert_eq!(divided("data/top/views/v"), None);
        assert_eq!(divided("views/v"), None);
    }

    #[test]
    fn files_of_a_state_are_found_below_its_folder() {
        let file = "pipelines/top/v2/state/view-v/00000000000000000007-a.parquet";
        let rooted = |root: &str, path: &str| rooted(&StorePath::from(root), path).map(|path| path.to_string());
        for written in [file.to_string(), format!("lake/state/{file}")] {
            assert_eq!(rooted("data/state", &written).expect("it is a path"), format!("data/state/{file}"));
        }
        assert_eq!(rooted("", file).expect("it is a path"), file);
        assert!(rooted("data", "view-v/a.parquet").is_err());
    }
}
