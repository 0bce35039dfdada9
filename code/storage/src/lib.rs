//! The one place where object stores are made.
//!
//! A [`Location`] is a store and a path within it. [`Storage`] makes each store once, keeps it, and serves it to
//! DataFusion as an [`ObjectStoreRegistry`]: nothing else in Buzz names a kind of storage.

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

/// How often and how long a store is asked again before it counts as unavailable.
const RETRIES: usize = 4;
const RETRY_TIMEOUT: Duration = Duration::from_secs(30);

/// Requests to one bucket at the same time. Each has a connection of its own, and a function has 1,024 descriptors; a log of
/// many small commits would have more.
const REQUESTS_AT_ONCE: usize = 256;

/// Things that are kept from one query to the next.
const KEPT_MAX: usize = 32;

/// A place in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Root of the store, as `file:///` or `s3://bucket/`.
    pub store: Url,
    /// Path within the store; empty for its root.
    pub path: Path,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&full_path(&self.store, self.path.as_ref()))
    }
}

/// `path` within `store` as its user knows it: `/data/x.parquet` or `s3://bucket/x.parquet`.
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
    /// Finds the place that `uri` names: an `s3://` or `file://` URI, or a path, relative to `base` if it is not
    /// absolute. Nothing is opened.
    ///
    /// # Errors
    /// `Invalid` for a scheme without a store, or a path that cannot be one.
    pub fn parse(uri: &str, base: &FilePath) -> Result<Location> {
        let bad = |why: String| QueryError::invalid(format!("`{uri}` is not a place to read from: {why}"));
        match uri.split_once("://") {
            Some(("file", path)) => Self::local(FilePath::new(path)).map_err(bad),
            Some(("s3" | "s3a", rest)) => {
                let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
                if bucket.is_empty() {
                    return Err(bad("the bucket is missing".to_string()));
                }
                let store = Url::parse(&format!("s3://{bucket}/")).map_err(|error| bad(error.to_string()))?;
                let path = Path::parse(key.trim_end_matches('/')).map_err(|error| bad(error.to_string()))?;
                Ok(Location { store, path })
            }
            Some((scheme, _)) => Err(bad(format!("there is no storage for `{scheme}://`; use a path or s3://"))),
            None if uri.is_empty() => Err(bad("it is empty".to_string())),
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

    /// The place `relative` below this one.
    ///
    /// # Errors
    /// `Data` when it is not a path.
    pub fn join(&self, relative: &str) -> Result<Location> {
        // As one text: a log may name very many files.
        let path = match (self.path.as_ref(), relative.trim_matches('/')) {
            (folder, "") => Path::parse(folder),
            ("", relative) => Path::parse(relative),
            (folder, relative) => Path::parse(format!("{folder}/{relative}")),
        };
        let path = path.map_err(|error| QueryError::data(format!("`{relative}` is not a path: {error}")))?;
        Ok(Location { store: self.store.clone(), path })
    }

    /// The folder that holds this place.
    #[must_use]
    pub fn parent(&self) -> Location {
        let parts: Vec<_> = self.path.parts().collect();
        let path = parts[..parts.len().saturating_sub(1)].iter().cloned().collect();
        Location { store: self.store.clone(), path }
    }

    /// The URL of this place, as Delta's reader wants it: with a slash at the end.
    pub fn directory_url(&self) -> Url {
        let mut url = self.store.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(self.path.parts().map(|part| part.as_ref().to_string())).push("");
        }
        url
    }
}

/// What is known of buckets, by their names.
#[derive(Debug, Default)]
struct Buckets {
    /// Where they are, whoever asks.
    regions: HashMap<String, String>,
    /// How the query at hand says that they are reached.
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

/// Makes object stores and keeps them.
pub struct Storage {
    stores: Arc<Mutex<HashMap<String, Arc<dyn ObjectStore>>>>,
    buckets: Mutex<Buckets>,
    /// What readers keep of tables from one query to the next.
    kept: Mutex<HashMap<String, Arc<dyn Any + Send + Sync>>>,
    /// Where S3 is asked in which region a bucket is.
    region_host: String,
    /// What gives keys for buckets, instead of the `AWS_` variables.
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
    /// Storage whose every store goes through `wrap`: a limit, a delay, a fault.
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

    /// This storage, which asks `host` instead of S3 in which region a bucket is.
    #[must_use]
    pub fn with_region_host(mut self, host: impl Into<String>) -> Self {
        self.region_host = host.into();
        self
    }

    /// This storage, whose buckets are read with keys of `credentials` where they are not anonymous.
    #[must_use]
    pub fn with_credentials(mut self, credentials: AwsCredentialProvider) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Says that `bucket` is in `region`.
    pub fn know_region(&self, bucket: &str, region: &str) {
        self.change(bucket, |buckets| buckets.regions.insert(bucket.to_string(), region.to_string()));
    }

    /// Says how the query at hand reaches the bucket at `url`: as `options` say, and as the environment does where they
    /// say nothing. What was said before is forgotten.
    pub fn know_bucket(&self, url: &Url, options: &BucketOptions) {
        if let Some(bucket) = bucket_name(url) {
            self.change(bucket, |buckets| match options.is_empty() {
                true => buckets.said.remove(bucket),
                false => buckets.said.insert(bucket.to_string(), options.clone()),
            });
        }
    }

    /// Forgets what queries have said of buckets.
    pub fn forget_buckets(&self) {
        let said: Vec<String> = {
            let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            buckets.said.keys().cloned().collect()
        };
        for bucket in said {
            self.change(&bucket, |buckets| buckets.said.remove(&bucket));
        }
    }

    /// Changes what is known of `bucket`. Its store is made anew if it would be another one.
    fn change<T>(&self, bucket: &str, change: impl FnOnce(&mut Buckets) -> T) {
        let changed = {
            let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
            let before = buckets.options(bucket);
            change(&mut buckets);
            buckets.options(bucket) != before
        };
        // Not while the other is locked: making a store locks them the other way round.
        if changed {
            self.stores.lock().unwrap_or_else(PoisonError::into_inner).remove(&format!("s3://{bucket}"));
        }
    }

    /// Makes `roots` part of the store of all stores, [`SEVERAL_STORES`].
    ///
    /// # Errors
    /// As [`Storage::store`].
    pub fn know_stores(&self, roots: &[StoreRoot]) -> Result<()> {
        roots.iter().try_for_each(|root| {
            self.know_bucket(&root.url, &root.bucket);
            self.store(&root.url).map(|_| ())
        })
    }

    /// How the bucket at `url` is reached, with its region: S3 is asked where nothing says it. Nothing for another store,
    /// or when S3 does not answer.
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

    /// What is known by now of how the bucket at `url` is reached; nothing of another store.
    pub fn known_options(&self, url: &Url) -> BucketOptions {
        let buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        bucket_name(url).map(|bucket| buckets.options(bucket)).unwrap_or_default()
    }

    /// The store at the root of `url`. S3 takes its credentials, region and endpoint from the usual `AWS_` variables.
    ///
    /// # Errors
    /// `Invalid` when there is no store for the scheme, or its settings are incomplete.
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
            scheme => Err(QueryError::invalid(format!("there is no storage for `{scheme}://`"))),
        }
    }

    fn s3(&self, bucket: &str) -> Result<AmazonS3> {
        let options = self.buckets.lock().unwrap_or_else(PoisonError::into_inner).options(bucket);
        s3::bucket(bucket, &options, self.credentials.clone())
    }

    /// A link by which anybody can read the object at `place` for as long as `valid`; None where there are no such links.
    ///
    /// # Errors
    /// `Invalid` when the settings of the store are incomplete, `Unavailable` without credentials.
    pub async fn signed_link(&self, place: &Location, valid: Duration) -> Result<Option<String>> {
        match place.store.scheme() {
            "s3" => {
                let bucket = self.s3(place.store.host_str().unwrap_or_default())?;
                Ok(Some(bucket.signed_url(Method::GET, &place.path, valid).await?.to_string()))
            }
            _ => Ok(None),
        }
    }

    /// What [`Storage::keep`] was last given under `key`, if it is a `T`.
    pub fn kept<T: Any + Send + Sync>(&self, key: &str) -> Option<Arc<T>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(kept.get(key)?).downcast().ok()
    }

    /// Keeps `what` for the next query, under `key`. Of too many things, some are forgotten.
    pub fn keep<T: Any + Send + Sync>(&self, key: &str, what: T) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX && !kept.contains_key(key) {
            kept.clear();
        }
        kept.insert(key.to_string(), Arc::new(what));
    }

    /// Size in bytes of the object at `place`.
    ///
    /// # Errors
    /// `Data` when it is not there or not readable, `Unavailable` when the store does not answer.
    pub async fn size(&self, place: &Location) -> Result<u64> {
        Ok(self.store(&place.store)?.head(&place.path).await?.size)
    }

    /// The bytes of the object at `place`.
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
    fn a_uri_names_a_store_and_a_path() {
        let base = FilePath::new("/lake/queries");
        let place = |uri: &str| Location::parse(uri, base).map(|place| place.to_string()).map_err(|e| e.to_string());
        assert_eq!(place("taxi.parquet").unwrap(), "/lake/queries/taxi.parquet");
        assert_eq!(place("../taxi/").unwrap(), "/lake/taxi");
        assert_eq!(place("/data/a=b%2Fc/x").unwrap(), "/data/a=b%2Fc/x");
        assert_eq!(place("file:///data/t").unwrap(), "/data/t");
        assert_eq!(place("s3://bucket/a/b/").unwrap(), "s3://bucket/a/b");
        assert!(place("ftp://host/x").unwrap_err().contains("no storage for `ftp://`"));
        assert!(place("").unwrap_err().contains("it is empty"));
    }

    #[tokio::test]
    async fn a_bucket_is_asked_once_for_its_region_and_keeps_what_is_said_of_it() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let storage = Storage::default().with_region_host(format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // What is closed with something unread is reset.
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
    fn what_one_query_says_of_a_bucket_is_not_for_the_next() {
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
