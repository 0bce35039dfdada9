//! Several stores combined into one, for tables whose files are in different stores.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use parking_lot::Mutex;
use url::Url;

use crate::Location;

/// Root of the combined store. Its paths begin with the underlying store: `file/data/x` is `/data/x` and `s3/bucket/x`
/// is `s3://bucket/x`.
pub const SEVERAL_STORES: &str = "several:///";

/// The scheme of [`SEVERAL_STORES`].
pub(crate) const SCHEME: &str = "several";

/// Stores of a query, by `scheme://authority`.
pub(crate) type UsedStores = Arc<Mutex<HashMap<String, Arc<dyn ObjectStore>>>>;

/// Returns the path of `place` in the combined store, [`SEVERAL_STORES`].
pub fn path_among_stores(place: &Location) -> String {
    match place.store.host_str() {
        Some(host) => format!("{}/{host}/{}", place.store.scheme(), place.path),
        None => format!("{}/{}", place.store.scheme(), place.path),
    }
}

/// Returns `path` within `store` as its user writes it: `/data/x.parquet` or `s3://bucket/x.parquet`.
pub fn full_path(store: &Url, path: &str) -> String {
    match store.scheme() {
        "file" => format!("/{path}"),
        SCHEME => match among_stores(path) {
            Some((store, path)) => format!("{}/{path}", store.trim_start_matches("file://")),
            None => path.to_string(),
        },
        _ => format!("{store}{path}"),
    }
}

/// Returns true if the object at `path` within `store` is in a bucket, whose requests are billed.
pub fn is_in_bucket(store: &Url, path: &str) -> bool {
    match store.scheme() {
        SCHEME => among_stores(path).is_some_and(|(store, _)| store.starts_with("s3://")),
        scheme => scheme == "s3",
    }
}

/// Splits a path of [`path_among_stores`] into the key of the store (`scheme://authority`) and the path
/// within it.
pub(crate) fn among_stores(path: &str) -> Option<(String, &str)> {
    match path.split_once('/')? {
        ("s3", rest) => {
            let (bucket, path) = rest.split_once('/')?;
            Some((format!("s3://{bucket}"), path))
        }
        ("file", path) => Some(("file://".to_string(), path)),
        _ => None,
    }
}

/// The combined store: every store that the query has opened so far.
#[derive(Debug)]
pub(crate) struct SeveralStores {
    pub(crate) used: UsedStores,
}

impl SeveralStores {
    fn find(&self, path: &Path) -> Result<(Arc<dyn ObjectStore>, Path)> {
        let unknown = || Error::Generic { store: SCHEME, source: format!("no store for `{path}`").into() };
        let (key, within) = among_stores(path.as_ref()).ok_or_else(unknown)?;
        let used = self.used.lock();
        let store = used.get(&key).ok_or_else(unknown)?;
        Ok((Arc::clone(store), Path::parse(within)?))
    }
}

impl fmt::Display for SeveralStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SCHEME)
    }
}

/// Returns the error of every operation that does not read a file by its path.
fn only_read() -> Error {
    Error::NotSupported { source: "the combined store only reads files".into() }
}

#[async_trait]
impl ObjectStore for SeveralStores {
    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (store, within) = self.find(location)?;
        let mut got = store.get_opts(&within, options).await?;
        got.meta.location = location.clone();
        Ok(got)
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        let (store, within) = self.find(location)?;
        store.get_ranges(&within, ranges).await
    }

    async fn put_opts(&self, _: &Path, _: PutPayload, _: PutOptions) -> Result<PutResult> {
        Err(only_read())
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(only_read())
    }

    fn delete_stream(&self, _: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        futures::stream::once(async { Err(only_read()) }).boxed()
    }

    fn list(&self, _: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        futures::stream::once(async { Err(only_read()) }).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(only_read())
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(only_read())
    }
}

/// Returns [`SEVERAL_STORES`] as a URL.
pub fn several_stores() -> Url {
    Url::parse(SEVERAL_STORES).expect("a constant URL parses")
}

#[cfg(test)]
mod tests {
    use buzz_protocol::{BucketOptions, StoreRoot};
    use object_store::memory::InMemory;
    use object_store::{ObjectStoreExt, PutPayload};

    use crate::{Location, Stores, full_path, path_among_stores, several_stores};

    #[tokio::test]
    async fn path_selects_the_store_to_read_from() {
        let stores = std::sync::Arc::new(Stores::default());
        let place = |uri: &str| Location::parse(uri, std::path::Path::new("/")).unwrap();
        let (ours, theirs) = (place("s3://ours/t/a b.parquet"), place("s3://theirs/t/a b.parquet"));
        for (index, place) in [&ours, &theirs].into_iter().enumerate() {
            let memory = InMemory::new();
            memory.put(&place.path, PutPayload::from(vec![0; index + 1])).await.unwrap();
            stores.replace(&place.store, std::sync::Arc::new(memory));
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "abc").unwrap();
        let local = place(file.path().to_str().unwrap());
        let root = |place: &Location| StoreRoot { url: place.store.clone(), bucket: BucketOptions::default() };
        let query = stores.for_query();
        query.open_all(&[root(&ours), root(&theirs), root(&local)]).unwrap();

        let several = query.store(&several_stores()).unwrap();
        for (place, size) in [(&ours, 1), (&theirs, 2), (&local, 3)] {
            let path = path_among_stores(place);
            assert_eq!(full_path(&several_stores(), &path), place.to_string());
            let path = object_store::path::Path::parse(path).unwrap();
            let found = several.head(&path).await.unwrap();
            assert_eq!((found.size, &found.location), (size, &path));
            assert_eq!(several.get_range(&path, 0..1).await.unwrap().len(), 1);
        }
        let unknown = several.head(&"s3/other/x".into()).await.unwrap_err().to_string();
        assert!(unknown.contains("no store for `s3/other/x`"), "{unknown}");
        assert!(several.put(&"file/x".into(), PutPayload::new()).await.is_err());
    }
}
