//! A store that rejects reads of an object that has changed since the query was planned.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use buzz_protocol::QueryError;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// Rejects reads of the planned object if its size, or its tag if known, has changed. Otherwise a query could mix rows
/// of two versions of a file, or look for a footer at the wrong position. Every response of a store contains both, so
/// the check needs no extra request.
#[derive(Debug)]
pub struct UnchangedStore {
    inner: Arc<dyn ObjectStore>,
    planned: ObjectMeta,
}

impl UnchangedStore {
    /// Creates a store that reads from `inner` and checks `planned`.
    pub fn new(inner: Arc<dyn ObjectStore>, planned: ObjectMeta) -> Self {
        Self { inner, planned }
    }

    fn check(&self, found: &ObjectMeta) -> Result<()> {
        let planned = &self.planned;
        let why = if found.size != planned.size {
            format!("it has {} bytes, but its table lists {}", found.size, planned.size)
        } else if planned.e_tag.is_some() && found.e_tag.is_some() && planned.e_tag != found.e_tag {
            "it was replaced while the query ran; run the query again".to_string()
        } else {
            return Ok(());
        };
        let source = Box::new(QueryError::data(format!("the file is not the one that was planned: {why}")));
        Err(Error::Generic { store: "planned", source })
    }
}

impl fmt::Display for UnchangedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnchangedStore({})", self.inner)
    }
}

#[async_trait]
impl ObjectStore for UnchangedStore {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let result = self.inner.get_opts(location, options).await;
        match result {
            Ok(result) if *location == self.planned.location => {
                self.check(&result.meta)?;
                Ok(result)
            }
            Err(Error::NotFound { .. }) if *location == self.planned.location => {
                let why = "the file does not exist although its table lists it; it may have been removed since, for example \
                           by VACUUM, so read a newer version of the table";
                Err(Error::Generic { store: "planned", source: Box::new(QueryError::data(why)) })
            }
            // The range may be beyond the end of an object that is now smaller.
            Err(Error::Generic { .. }) if *location == self.planned.location => {
                let head = GetOptions { head: true, ..GetOptions::default() };
                self.check(&self.inner.get_opts(location, head).await?.meta)?;
                result
            }
            result => result,
        }
    }

    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
