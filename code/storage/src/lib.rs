//! The only place where object stores are created.
//!
//! A [`Location`] is a store and a path within it. [`Storage`] creates each store once, caches it, and provides it to
//! DataFusion as an [`ObjectStoreRegistry`]. No other part of Buzz names a kind of storage.

mod footer;

mod region;

mod s3;

mod several;

mod unchanged;

pub mod text;

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use buzz_protocol::{BucketOptions, QueryError, Result, StoreRoot};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::object_store::ObjectStoreRegistry;
use http::Method;
use object_store::aws::{AmazonS3, AwsCredentialProvider};
use object_store::limit::LimitStore;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::signer::Signer;
use object_store::{ObjectStore, ObjectStoreExt};
use url::Url;

use self::several::SeveralStores;
pub use footer::{INT96_UNIT, footer, footer_schema, panic_message, reader_panicked, unpanicked};
pub use several::{SEVERAL_STORES, several_stores};
pub use unchanged::UnchangedStore;

/// Maximum number of retries of a request before the store counts as unavailable.
const RETRIES: usize = 4;

/// Maximum duration of a request with its retries.
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum number of concurrent requests to one bucket. Each uses its own connection, and a function has 1,024
/// descriptors. A log of many small commits would exceed them.
const REQUESTS_AT_ONCE: usize = 256;

/// Maximum number of values that [`Storage::keep`] caches.
const KEPT_MAX: usize = 32;

/// A place in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Root of the store, such as `file:///` or `s3://bucket/`.
    pub store: Url,
    /// Path within the store; empty for its root.
    pub path: Path,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&full_path(&self.store, self.path.as_ref()))
    }
}

/// Returns the full path of `path` within `store`, such as `/data/x.parquet` or `s3://bucket/x.parquet`.
pub fn full_path(store: &Url, path: &str) -> String {
    match store.scheme() {
        "file" => format!("/{path}"),
        several::SCHEME => match several::among_stores(path) {
            Some((store, path)) => format!("{}/{path}", store.trim_start_matches("file://")),
            None => path.to_string(),
        },
        _ => format!("{store}{path}"),
    }
}

impl Location {
    /// Parses `uri`: an `s3://` or `file://` URI, or a path, relative to `base` if it is not absolute. Opens nothing.
    ///
    /// # Errors
    /// `Invalid` if the scheme is not supported or the path is malformed.
    pub fn parse(uri: &str, base: &FilePath) -> Result<Location> {
        let bad = |why: String| QueryError::invalid(format!("`{uri}` cannot be read: {why}"));
        match uri.split_once("://") {
            Some(("file", path)) => Self::local(FilePath::new(path)).map_err(bad),
            Some(("s3" | "s3a", rest)) => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(bad("the bucket is missing; write s3://bucket/path".to_string()));
                }
                let store = Url::parse(&format!("s3://{bucket}/")).map_err(|error| bad(error.to_string()))?;
                let path = Path::parse(key.trim_end_matches('/')).map_err(|error| bad(error.to_string()))?;
                Ok(Location { store, path })
            }
            Some((scheme, _)) => Err(bad(format!("scheme `{scheme}://` is not supported; use a path or s3://"))),
            None if uri.is_empty() => Err(bad("it is empty; use a path or s3://".to_string())),
            None => Self::local(&base.join(uri)).map_err(bad),
        }
    }

    fn local(path: &FilePath) -> Result<Location, String> {
        let absolute = std::path::absolute(path).map_err(|error| error.to_string())?;
        let mut clean = PathBuf::new();
        for part in absolute.components() {
            match part {
                Component::ParentDir => {
                    clean.pop();
                }
                Component::CurDir => {}
                part => clean.push(part),
            }
        }
        let text = clean.to_str().ok_or("it is not valid UTF-8")?;
        let path = Path::parse(text.trim_matches('/')).map_err(|error| error.to_string())?;
        Ok(Location { store: Url::parse("file:///").expect("a constant URL parses"), path })
    }

    /// Returns the place `relative` below this one.
    ///
    /// # Errors
    /// `Data` if `relative` is not a path.
    pub fn join(&self, relative: &str) -> Result<Location> {
        // Parsed as one text for speed: a log may name many files.
        let path = match (self.path.as_ref(), relative.trim_matches('/')) {
            (folder, "") => Path::parse(folder),
            ("", relative) => Path::parse(relative),
            (folder, relative) => Path::parse(format!("{folder}/{relative}")),
        };
        let path = path.map_err(|error| QueryError::data(format!("`{relative}` is not a path: {error}")))?;
        Ok(Location { store: self.store.clone(), path })
    }

    /// Returns the folder that contains this place.
    #[must_use]
    pub fn parent(&self) -> Location {
        let parts: Vec<_> = self.path.parts().collect();
        let path = parts[..parts.len().saturating_sub(1)].iter().cloned().collect();
        Location { store: self.store.clone(), path }
    }

    /// Returns the URL of this place with a final slash, as Delta's reader requires it.
    pub fn directory_url(&self) -> Url {
        let mut url = self.store.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(self.path.parts().map(|part| part.as_ref().to_string())).push("");
        }
        url
    }
}

/// Connection settings of buckets, by bucket name.
#[derive(Debug, Default)]
struct Buckets {
    /// Regions, valid for all queries.
    regions: HashMap<String, String>,
    /// Settings of the current query.
    said: HashMap<String, BucketOptions>,
}

impl Buckets {
    fn options(&self, bucket: &str) -> BucketOptions {
        let mut options = self.said.get(bucket).cloned().unwrap_or_default();
        options.region = options.region.or_else(|| self.regions.get(bucket).cloned());
        options
    }
}

type Wrap = dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync;

/// Creates object stores and caches them.
pub struct Storage {
    stores: Arc<Mutex<HashMap<String, Arc<dyn ObjectStore>>>>,
    buckets: Mutex<Buckets>,
    /// Values that readers of tables cache from one query to the next.
    kept: Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>,
    /// URL of S3 for lookups of a bucket's region.
    region_host: String,
    /// Provider of keys for buckets, instead of the `AWS_` variables.
    credentials: Option<AwsCredentialProvider>,
    wrap: Box<Wrap>,
}

impl fmt::Debug for Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Storage").finish_non_exhaustive()
    }
}

impl Default for Storage {
    fn default() -> Self {
        Self::with_wrapper(|store| store)
    }
}

impl Storage {
    /// Creates a storage that passes each new store through `wrap`, to add a limit, a delay or a fault.
    pub fn with_wrapper(wrap: impl Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync + 'static) -> Self {
        let region_host = region::default_host().to_string();
        Self {
            stores: Arc::default(),
            buckets: Mutex::default(),
            kept: Mutex::default(),
            region_host,
            credentials: None,
            wrap: Box::new(wrap),
        }
    }

    /// Returns this storage with `host` instead of S3 for lookups of a bucket's region.
    #[must_use]
    pub fn with_region_host(mut self, host: impl Into<String>) -> Self {
        self.region_host = host.into();
        self
    }

    /// Returns this storage with `credentials` as the provider of keys for buckets that are not anonymous.
    #[must_use]
    pub fn with_credentials(mut self, credentials: AwsCredentialProvider) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Sets the region of `bucket`, for all queries.
    pub fn know_region(&self, bucket: &str, region: &str) {
        self.change(bucket, |buckets| buckets.regions.insert(bucket.to_string(), region.to_string()));
    }

    /// Sets the connection settings of the bucket at `url` for the current query, and replaces earlier ones. Unset
    /// options fall back to the environment.
    pub fn know_bucket(&self, url: &Url, options: &BucketOptions) {
        if let Some(bucket) = bucket_name(url) {
            self.change(bucket, |buckets| match options.is_empty() {
                true => buckets.said.remove(bucket),
                false => buckets.said.insert(bucket.to_string(), options.clone()),
            });
        }
    }

    /// Removes the connection settings of all queries.
    pub fn forget_buckets(&self) {
        let said: Vec<String> = {
            let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.said.keys().cloned().collect()
        };
        for bucket in said {
            self.change(&bucket, |buckets| buckets.said.remove(&bucket));
        }
    }

    /// Changes the settings of `bucket`. If they differ from the previous ones, its store is created again when needed.
    fn change<T>(&self, bucket: &str, change: impl FnOnce(&mut Buckets) -> T) {
        let changed = {
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            let before = buckets.options(bucket);
            change(&mut buckets);
            buckets.options(bucket) != before
        };
        // Locked after `buckets` is released: `store` locks both in the opposite order.
        if changed {
            self.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(&format!("s3://{bucket}"));
        }
    }

    /// Adds `roots` to the combined store, [`SEVERAL_STORES`].
    ///
    /// # Errors
    /// As [`Storage::store`].
    pub fn know_stores(&self, roots: &[StoreRoot]) -> Result<()> {
        roots.iter().try_for_each(|root| {
            self.know_bucket(&root.url, &root.bucket);
            self.store(&root.url).map(|_| ())
        })
    }

    /// Returns the connection settings of the bucket at `url`. If its region is not known and no endpoint is set, the
    /// region is requested from S3; it stays unset if S3 does not respond. Returns no settings for other stores.
    pub async fn bucket_options(&self, url: &Url) -> BucketOptions {
        let Some(bucket) = bucket_name(url) else {
            return BucketOptions::default();
        };
        let known = self.known_options(url);
        if known.region.is_some() || s3::has_endpoint(&known) {
            return known;
        }
        if let Some(region) = region::find(&self.region_host, bucket).await {
            self.know_region(bucket, &region);
            return BucketOptions { region: Some(region), ..known };
        }
        known
    }

    /// Returns the known connection settings of the bucket at `url`, without a lookup; no settings for other stores.
    pub fn known_options(&self, url: &Url) -> BucketOptions {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        bucket_name(url).map(|bucket| buckets.options(bucket)).unwrap_or_default()
    }

    /// Returns the store at the root of `url`, and creates it if necessary. S3's credentials, region and endpoint come
    /// from the usual `AWS_` variables.
    ///
    /// # Errors
    /// `Invalid` if the scheme is not supported or the settings are incomplete.
    pub fn store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        let key = store_key(url);
        let mut stores = self.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = stores.get(&key) {
            return Ok(Arc::clone(store));
        }
        let store: Arc<dyn ObjectStore> = match url.scheme() {
            several::SCHEME => Arc::new(SeveralStores { stores: Arc::clone(&self.stores) }),
            _ => (self.wrap)(self.make(url)?),
        };
        stores.insert(key, Arc::clone(&store));
        Ok(store)
    }

    fn make(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        match url.scheme() {
            "file" => Ok(Arc::new(LocalFileSystem::new())),
            "s3" => {
                let bucket = self.s3(url.host_str().unwrap_or_default())?;
                Ok(Arc::new(LimitStore::new(bucket, REQUESTS_AT_ONCE)))
            }
            scheme => Err(QueryError::invalid(format!("scheme `{scheme}://` is not supported; use file:// or s3://"))),
        }
    }

    fn s3(&self, bucket: &str) -> Result<AmazonS3> {
        let options = self.buckets.lock().unwrap_or_else(PoisonError::into_inner).options(bucket);
        s3::bucket(bucket, &options, self.credentials.clone())
    }

    /// Returns a signed link to the object at `place`, which allows reading without keys for `valid`. Returns `None` if
    /// the store does not support such links.
    ///
    /// # Errors
    /// `Invalid` if the settings of the store are incomplete, `Unavailable` without credentials.
    pub async fn signed_link(&self, place: &Location, valid: Duration) -> Result<Option<String>> {
        match place.store.scheme() {
            "s3" => {
                let bucket = self.s3(place.store.host_str().unwrap_or_default())?;
                Ok(Some(bucket.signed_url(Method::GET, &place.path, valid).await?.to_string()))
            }
            _ => Ok(None),
        }
    }

    /// Returns the value cached by [`Storage::keep`] under `key`, if its type is `T`.
    pub fn kept<T: Any + Send + Sync>(&self, key: &str) -> Option<Arc<T>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(kept.get(key)?).downcast().ok()
    }

    /// Caches `what` under `key` for later queries. If the cache is full, it is cleared first.
    pub fn keep<T: Any + Send + Sync>(&self, key: &str, what: T) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX && !kept.contains_key(key) {
            kept.clear();
        }
        kept.insert(key.to_string(), Arc::new(what));
    }

    /// Returns the size of the object at `place`, in bytes.
    ///
    /// # Errors
    /// `Data` if the object does not exist or may not be read, `Unavailable` if the store does not respond.
    pub async fn size(&self, place: &Location) -> Result<u64> {
        Ok(self.store(&place.store)?.head(&place.path).await?.size)
    }

    /// Reads the bytes of the object at `place`.
    ///
    /// # Errors
    /// As [`Storage::size`].
    pub async fn read(&self, place: &Location) -> Result<Vec<u8>> {
        Ok(self.store(&place.store)?.get(&place.path).await?.bytes().await?.to_vec())
    }
}

fn store_key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.authority())
}

fn bucket_name(url: &Url) -> Option<&str> {
    (url.scheme() == "s3").then(|| url.host_str()).flatten()
}

impl ObjectStoreRegistry for Storage {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        let key = store_key(url);
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).insert(key, store)
    }

    fn get_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        self.store(url).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uri_is_parsed_into_store_and_path() {
        let base = FilePath::new("/lake/queries");
        let place = |uri: &str| Location::parse(uri, base).map(|place| place.to_string()).map_err(|e| e.to_string());
        assert_eq!(place("taxi.parquet").unwrap(), "/lake/queries/taxi.parquet");
        assert_eq!(place("../taxi/").unwrap(), "/lake/taxi");
        assert_eq!(place("/data/a=b%2Fc/x").unwrap(), "/data/a=b%2Fc/x");
        assert_eq!(place("file:///data/t").unwrap(), "/data/t");
        assert_eq!(place("s3://bucket/a/b/").unwrap(), "s3://bucket/a/b");
        assert!(place("ftp://host/x").unwrap_err().contains("scheme `ftp://` is not supported"));
        assert!(place("").unwrap_err().contains("it is empty"));
    }

    #[tokio::test]
    async fn region_lookup_runs_once_and_keeps_other_options() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let storage = Storage::default().with_region_host(format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Closing a connection with unread bytes resets it.
            tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await.unwrap();
            let answer = "HTTP/1.1 301 Moved\r\nx-amz-bucket-region: eu-west-1\r\ncontent-length: 0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
        });
        let url = Url::parse("s3://lake/").unwrap();
        let anonymous = BucketOptions { anonymous: Some(true), ..BucketOptions::default() };
        storage.know_bucket(&url, &anonymous);
        let found = BucketOptions { region: Some("eu-west-1".to_string()), ..anonymous };
        assert_eq!(storage.bucket_options(&url).await, found);
        assert_eq!(storage.bucket_options(&url).await, found);
        assert!(storage.store(&url).is_ok());
        assert!(storage.bucket_options(&Url::parse("file:///").unwrap()).await.is_empty());
    }

    #[test]
    fn bucket_options_of_one_query_do_not_apply_to_the_next() {
        let storage = Storage::default();
        storage.know_region("lake", "eu-west-1");
        let url = Url::parse("s3://lake/").unwrap();
        let here = storage.store(&url).unwrap();
        let elsewhere = BucketOptions { endpoint: Some("http://localhost:9".to_string()), ..BucketOptions::default() };
        storage.know_bucket(&url, &elsewhere);
        let there = storage.store(&url).unwrap();
        assert!(!Arc::ptr_eq(&here, &there));
        assert_eq!(storage.known_options(&url).region.as_deref(), Some("eu-west-1"));
        storage.know_bucket(&url, &storage.known_options(&url));
        assert!(Arc::ptr_eq(&there, &storage.store(&url).unwrap()), "nothing has changed");
        storage.forget_buckets();
        assert!(storage.known_options(&url).endpoint.is_none());
        assert!(!Arc::ptr_eq(&there, &storage.store(&url).unwrap()));
    }
}
