//! The places that queries of a deployed stack may read and write.
//!
//! The check is in the store itself, so it covers every path on which a file is named: a catalog, a manifest, a log of
//! Delta Lake, a deletion vector, a task.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use buzz_protocol::{BucketOptions, QueryError, Result};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error as StoreError, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};
use url::Url;

use crate::Location;

/// The places that queries of a deployed stack may read and write: `s3://` only, never the objects of the stack itself,
/// and only below the locations that the stack allows, if it has such a setting.
#[derive(Debug, Clone)]
pub struct Access {
    /// Location of the stack's own objects: results, requests, tasks, combs.
    own: Location,
    /// Locations below which queries may read; `None` for every bucket.
    read: Option<Vec<Location>>,
    /// Locations below which results may be written; `None` for every bucket.
    write: Option<Vec<Location>>,
}

impl Access {
    /// Allows every bucket, except for the objects below `own`.
    pub fn except(own: Location) -> Self {
        Self { own, read: None, write: None }
    }

    /// Allows queries to read below `locations` only.
    #[must_use]
    pub fn reading(mut self, locations: Vec<Location>) -> Self {
        self.read = Some(locations);
        self
    }

    /// Allows results to be written below `locations` only.
    #[must_use]
    pub fn writing(mut self, locations: Vec<Location>) -> Self {
        self.write = Some(locations);
        self
    }

    /// Checks that a query may read `place`.
    ///
    /// # Errors
    /// `Invalid` if it may not.
    pub fn check_read(&self, place: &Location) -> Result<()> {
        self.check_store(&place.store, &BucketOptions::default())?;
        self.check(place, self.read.as_deref(), "read", "DATA_LOCATIONS")
    }

    /// Checks that the result of a query may be written to `place`.
    ///
    /// # Errors
    /// `Invalid` if it may not.
    pub fn check_write(&self, place: &Location) -> Result<()> {
        self.check_store(&place.store, &BucketOptions::default())?;
        self.check(place, self.write.as_deref(), "written", "OUTPUT_LOCATIONS")
    }

    /// Checks that a query may reach the store at the root of `url` with `options`.
    ///
    /// # Errors
    /// `Invalid` if it may not.
    pub(crate) fn check_store(&self, url: &Url, options: &BucketOptions) -> Result<()> {
        if url.scheme() != "s3" {
            return Err(QueryError::invalid("a stack reads tables from s3:// only; upload the files to a bucket"));
        }
        if options.endpoint.is_some() {
            return Err(QueryError::invalid("`storage.endpoint` cannot be set on a stack, which reads from S3 only"));
        }
        let in_bucket =
            |locations: &[Location]| locations.iter().any(|location| location.store.host_str() == url.host_str());
        match &self.read {
            Some(read) if !in_bucket(read) && !self.write.as_deref().is_some_and(in_bucket) => {
                Err(not_allowed(url, "read", "DATA_LOCATIONS"))
            }
            _ => Ok(()),
        }
    }

    fn check(&self, place: &Location, allowed: Option<&[Location]>, verb: &str, setting: &str) -> Result<()> {
        if is_below(place, &self.own) {
            return Err(QueryError::invalid(format!(
                "{place} is among the stack's own objects, which cannot be {verb} by a query; use another location"
            )));
        }
        match allowed {
            Some(allowed) if !allowed.iter().any(|location| is_below(place, location)) => {
                Err(not_allowed(place, verb, setting))
            }
            _ => Ok(()),
        }
    }
}

fn not_allowed(place: impl fmt::Display, verb: &str, setting: &str) -> QueryError {
    QueryError::invalid(format!(
        "{place} is outside of the locations that can be {verb} through this stack; add it to `{setting}`"
    ))
}

fn is_below(place: &Location, folder: &Location) -> bool {
    place.store == folder.store && place.path.prefix_matches(&folder.path)
}

/// A store that queries only read, and only where [`Access`] allows it. Listings omit the stack's own objects.
#[derive(Debug)]
pub(crate) struct AllowedStore {
    pub(crate) inner: Arc<dyn ObjectStore>,
    /// Root of the store.
    pub(crate) root: Url,
    pub(crate) access: Arc<Access>,
}

impl AllowedStore {
    fn check(&self, path: &Path) -> StoreResult<()> {
        let place = Location { store: self.root.clone(), path: path.clone() };
        self.access.check_read(&place).map_err(refused)
    }

    fn check_listing(&self, prefix: Option<&Path>) -> StoreResult<()> {
        self.check(prefix.unwrap_or(&Path::ROOT))
    }

    fn is_allowed(&self, path: &Path) -> bool {
        self.check(path).is_ok()
    }

    /// Returns those of `objects`, which are below `prefix`, that may be read.
    fn listed(
        &self,
        prefix: Option<&Path>,
        objects: BoxStream<'static, StoreResult<ObjectMeta>>,
    ) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        if let Err(error) = self.check_listing(prefix) {
            return futures::stream::once(async move { Err(error) }).boxed();
        }
        let (access, root) = (Arc::clone(&self.access), self.root.clone());
        let allowed = move |object: &ObjectMeta| {
            let place = Location { store: root.clone(), path: object.location.clone() };
            futures::future::ready(access.check_read(&place).is_ok())
        };
        objects.try_filter(allowed).boxed()
    }
}

impl fmt::Display for AllowedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// Wraps `error` so that it keeps its kind.
fn refused(error: QueryError) -> StoreError {
    StoreError::Generic { store: "S3", source: Box::new(error) }
}

fn only_read() -> StoreError {
    refused(QueryError::internal("a query cannot write to the stores that it reads"))
}

#[async_trait]
impl ObjectStore for AllowedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.check(location)?;
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> StoreResult<Vec<Bytes>> {
        self.check(location)?;
        self.inner.get_ranges(location, ranges).await
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.listed(prefix, self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.listed(prefix, self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.check_listing(prefix)?;
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.objects.retain(|object| self.is_allowed(&object.location));
        listed.common_prefixes.retain(|folder| self.is_allowed(folder));
        Ok(listed)
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> StoreResult<PutResult> {
        Err(only_read())
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> StoreResult<Box<dyn MultipartUpload>> {
        Err(only_read())
    }

    fn delete_stream(&self, _: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        futures::stream::once(async { Err(only_read()) }).boxed()
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> StoreResult<()> {
        Err(only_read())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path as FilePath;

    use buzz_protocol::ErrorKind;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;
    use crate::Stores;

    fn place(uri: &str) -> Location {
        Location::parse(uri, FilePath::new("/")).unwrap()
    }

    fn access() -> Access {
        let read = ["s3://stack/sample/", "s3://lake/trips/", "s3://lake/rates", "s3://all"].map(place).to_vec();
        Access::except(place("s3://stack/results/")).reading(read).writing(vec![place("s3://reports/daily/")])
    }

    #[test]
    fn only_allowed_locations_are_read_and_written() {
        let access = access();
        for allowed in
            ["s3://stack/sample/x", "s3://lake/trips/a/b", "s3://lake/rates", "s3://lake/rates/1", "s3://all/x"]
        {
            access.check_read(&place(allowed)).unwrap();
        }
        let others = [
            "s3://stack/results/queries/1/request.json",
            "s3://stack/packages/fuse.zip",
            "s3://lake",
            "s3://lake/tripsy/a",
            "s3://lake/rates2",
            "s3://other/x",
            "s3://reports/daily/x",
            "/etc/passwd",
        ];
        for refused in others {
            assert_eq!(access.check_read(&place(refused)).unwrap_err().kind, ErrorKind::Invalid, "{refused}");
        }
        access.check_write(&place("s3://reports/daily/x.csv")).unwrap();
        for refused in ["s3://reports/x.csv", "s3://lake/trips/x.csv", "s3://stack/results/x.csv", "/tmp/x.csv"] {
            assert_eq!(access.check_write(&place(refused)).unwrap_err().kind, ErrorKind::Invalid, "{refused}");
        }
        let open = Access::except(place("s3://stack/results/"));
        open.check_read(&place("s3://anything/x")).unwrap();
        open.check_read(&place("s3://stack/results2/x")).unwrap();
        assert!(open.check_read(&place("s3://stack/results/combs/f/0.json")).is_err());
        assert!(open.check_write(&place("s3://stack/results/queries/1/answer.json")).is_err());
    }

    #[tokio::test]
    async fn stack_reads_its_own_objects_and_queries_do_not() {
        let memory: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        let (own, sample) = (place("s3://stack/results/queries/1/request.json"), place("s3://stack/sample/a"));
        for place in [&own, &sample] {
            memory.put(&place.path, PutPayload::from("x".to_string())).await.unwrap();
        }
        let stores = Arc::new(Stores::default().with_access(Access::except(place("s3://stack/results/"))));
        stores.replace(&own.store, memory);
        let (query, stack) = (stores.for_query(), stores.for_stack());
        assert_eq!(stack.read(&own).await.unwrap(), b"x");
        assert_eq!(query.read(&sample).await.unwrap(), b"x");
        let error = query.read(&own).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains("is among the stack's own objects"), "{error}");
        let store = query.store(&own.store).unwrap();
        assert!(store.get_range(&own.path, 0..1).await.is_err());
        assert!(store.list(Some(&own.path)).try_next().await.is_err());
        let all: Vec<_> = store.list(None).map_ok(|object| object.location).try_collect().await.unwrap();
        assert_eq!((all.len(), &all[0]), (1, &sample.path));
        assert_eq!(store.list_with_delimiter(None).await.unwrap().common_prefixes, ["sample".into()]);
        assert!(store.put(&sample.path, PutPayload::new()).await.is_err());
    }

    #[test]
    fn local_files_and_other_endpoints_are_refused() {
        let query = Arc::new(Stores::default().with_access(access())).for_query();
        assert!(query.store(&place("/etc/passwd").store).unwrap_err().message.contains("s3:// only"));
        let lake = place("s3://lake/trips").store;
        query
            .set_bucket(&lake, &BucketOptions { endpoint: Some("http://a:1".to_string()), ..BucketOptions::default() });
        assert!(query.store(&lake).unwrap_err().message.contains("`storage.endpoint` cannot be set"));
        assert!(query.store(&place("s3://other/x").store).unwrap_err().message.contains("outside of the locations"));
    }
}
