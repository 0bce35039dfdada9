//! Object stores: made once, shared between queries, bounded in number.
//!
//! [`Stores`] belongs to a process. A store is found by its root *and* the options with which it is reached, so two
//! queries that reach one bucket name at two endpoints have two stores. [`QueryStores`] belongs to one query or task and
//! holds the options that its catalogs give.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use buzz_protocol::{BucketOptions, QueryError, Requests, Result, StoreRoot, human_bytes};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::object_store::ObjectStoreRegistry;
use http::Method;
use lru::LruCache;
use object_store::aws::AwsCredentialProvider;
use object_store::limit::LimitStore;
use object_store::local::LocalFileSystem;
use object_store::signer::Signer;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use url::Url;

use crate::access::{Access, AllowedStore};
use crate::counting::{Counted, CountingStore};
use crate::several::{self, SeveralStores};
use crate::steady::{Patience, SteadyStore};
use crate::{Location, region, s3};

/// Requests to one bucket at the same time. Each has a connection of its own, and a function has 1,024 file descriptors; a
/// log of many small commits would use more.
const REQUESTS_AT_ONCE: usize = 256;

/// Stores that a process keeps open. The least recently used one is dropped beyond it; queries that hold it go on.
const STORES_MAX: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// Values that are kept from one query to the next.
const KEPT_MAX: NonZeroUsize = NonZeroUsize::new(32).unwrap();

type Wrap = dyn Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync;

/// A store's identity: its root, such as `s3://bucket`, and the options with which it is reached.
type StoreKey = (String, BucketOptions);

/// All stores of a process.
pub struct Stores {
    open: Mutex<LruCache<StoreKey, Arc<dyn ObjectStore>>>,
    /// Stores that were put in place of those that would be made.
    replaced: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    /// Regions of buckets, from settings and from S3 itself.
    regions: Mutex<HashMap<String, String>>,
    /// Values that readers keep from one query to the next.
    kept: Mutex<LruCache<String, Arc<dyn Any + Send + Sync>>>,
    region_host: String,
    credentials: Option<AwsCredentialProvider>,
    /// Limits queries; `None` for a process on its user's machine.
    access: Option<Arc<Access>>,
    /// Changes each store that is made.
    wrap: Option<Box<Wrap>>,
    /// True if files are read as objects of a remote store are.
    steady_files: bool,
}

impl fmt::Debug for Stores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stores").field("open", &self.open.lock().len()).finish_non_exhaustive()
    }
}

impl Default for Stores {
    fn default() -> Self {
        Self {
            open: Mutex::new(LruCache::new(STORES_MAX)),
            replaced: Mutex::default(),
            regions: Mutex::default(),
            kept: Mutex::new(LruCache::new(KEPT_MAX)),
            region_host: region::default_host(),
            credentials: None,
            access: None,
            wrap: None,
            steady_files: false,
        }
    }
}

impl Stores {
    /// Makes stores that each go through `wrap`, which may add a limit, a delay or a fault.
    pub fn with_wrapper(wrap: impl Fn(Arc<dyn ObjectStore>) -> Arc<dyn ObjectStore> + Send + Sync + 'static) -> Self {
        Self { wrap: Some(Box::new(wrap)), ..Self::default() }
    }

    /// Reads files as objects of a remote store: late reads are repeated, and responses that stop are resumed. For a wrapper
    /// that makes the file system behave as such a store.
    #[must_use]
    pub fn with_steady_files(mut self) -> Self {
        self.steady_files = true;
        self
    }

    /// Sets the host that returns the regions of buckets, instead of S3.
    #[must_use]
    pub fn with_region_host(mut self, host: impl Into<String>) -> Self {
        self.region_host = host.into();
        self
    }

    /// Sets the source of keys for buckets that are not anonymous, instead of the `AWS_` variables.
    #[must_use]
    pub fn with_credentials(mut self, credentials: AwsCredentialProvider) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Limits what queries may read and write to `access`, as on a deployed stack.
    #[must_use]
    pub fn with_access(mut self, access: Access) -> Self {
        self.access = Some(Arc::new(access));
        self
    }

    /// Records that `bucket` is in `region`, for all queries. For settings of the process, never for a query's words.
    pub fn set_region(&self, bucket: &str, region: &str) {
        self.regions.lock().insert(bucket.to_string(), region.to_string());
    }

    /// Puts `store` in place of the one that would be made for the root of `url`, whatever its options.
    pub fn replace(&self, url: &Url, store: Arc<dyn ObjectStore>) {
        self.replaced.lock().insert(root_key(url), store);
    }

    /// Returns a view of the stores for one query or task.
    pub fn for_query(self: &Arc<Self>) -> Arc<QueryStores> {
        self.view(self.access.clone())
    }

    /// Returns a view of the stores for the stack's own objects, which no query may read.
    pub fn for_stack(self: &Arc<Self>) -> Arc<QueryStores> {
        self.view(None)
    }

    fn view(self: &Arc<Self>, access: Option<Arc<Access>>) -> Arc<QueryStores> {
        Arc::new(QueryStores {
            shared: Arc::clone(self),
            access,
            options: Mutex::default(),
            read_max: AtomicU64::new(u64::MAX),
            used: Arc::default(),
            counted: Arc::default(),
        })
    }

    fn check_write(&self, place: &Location) -> Result<()> {
        self.access.as_ref().map_or(Ok(()), |access| access.check_write(place))
    }

    /// Returns the number of stores that are open.
    pub fn open_count(&self) -> usize {
        self.open.lock().len()
    }

    /// Returns the store at the root of `url` that is reached with `options`.
    fn store(&self, url: &Url, options: BucketOptions) -> Result<Arc<dyn ObjectStore>> {
        let root = root_key(url);
        if let Some(store) = self.replaced.lock().get(&root) {
            return Ok(Arc::clone(store));
        }
        let key = (root, options);
        let mut open = self.open.lock();
        if let Some(store) = open.get(&key) {
            return Ok(Arc::clone(store));
        }
        let store = self.make(url, &key.1)?;
        let store = match self.wrap.as_ref() {
            Some(wrap) => wrap(store),
            None => store,
        };
        // The file system needs no repeats, and reads ranges itself.
        let steady = url.scheme() != "file" || self.steady_files;
        let store: Arc<dyn ObjectStore> =
            if steady { Arc::new(SteadyStore::new(store, Patience::default())) } else { store };
        open.put(key, Arc::clone(&store));
        Ok(store)
    }

    fn make(&self, url: &Url, options: &BucketOptions) -> Result<Arc<dyn ObjectStore>> {
        match url.scheme() {
            "file" => Ok(Arc::new(LocalFileSystem::new())),
            "s3" => {
                let bucket = s3::bucket(url.host_str().unwrap_or_default(), options, self.credentials.clone())?;
                Ok(Arc::new(LimitStore::new(bucket, REQUESTS_AT_ONCE)))
            }
            scheme => {
                Err(QueryError::invalid(format!("the scheme `{scheme}://` is not supported; use a path or s3://")))
            }
        }
    }
}

/// One query's view of the stores: the options that its catalogs give for buckets, and the stores that it uses. They
/// stay open as long as the query.
pub struct QueryStores {
    shared: Arc<Stores>,
    /// Limits this view; `None` for a view without limits.
    access: Option<Arc<Access>>,
    /// Options by bucket.
    options: Mutex<HashMap<String, BucketOptions>>,
    /// Maximum size of an object that is read as a whole.
    read_max: AtomicU64,
    /// Stores that this query uses, by root.
    used: several::UsedStores,
    /// Requests through this view.
    counted: Arc<Counted>,
}

impl fmt::Debug for QueryStores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryStores").field("options", &*self.options.lock()).finish_non_exhaustive()
    }
}

impl QueryStores {
    /// Sets how this query reaches the bucket at `url`. Options that are None are taken from the environment.
    pub fn set_bucket(&self, url: &Url, options: &BucketOptions) {
        let Some(bucket) = bucket_name(url) else { return };
        if self.known_options(url) == self.with_region(bucket, options.clone()) {
            return;
        }
        self.options.lock().insert(bucket.to_string(), options.clone());
        self.used.lock().remove(&root_key(url));
    }

    /// Sets the region of the bucket at `url` for this query, unless it is known already.
    ///
    /// # Errors
    /// `Data` if `region` is not the name of a region: it becomes part of a host name.
    pub fn suggest_region(&self, url: &Url, region: &str) -> Result<()> {
        if !region::is_name(region) {
            return Err(QueryError::data(region::not_a_name(region)));
        }
        let known = self.known_options(url);
        if known.region.is_none() {
            self.set_bucket(url, &BucketOptions { region: Some(region.to_string()), ..known });
        }
        Ok(())
    }

    /// Opens the stores at `roots`, so that they can be read through the combined store
    /// [`crate::SEVERAL_STORES`].
    ///
    /// # Errors
    /// As [`QueryStores::store`].
    pub fn open_all(&self, roots: &[StoreRoot]) -> Result<()> {
        roots.iter().try_for_each(|root| {
            self.set_bucket(&root.url, &root.bucket);
            self.store(&root.url).map(|_| ())
        })
    }

    /// Returns how the bucket at `url` is reached, including its region, which S3 returns if no setting names it. Returns
    /// empty options for other stores, and no region if S3 does not respond within 5 seconds.
    pub async fn bucket_options(&self, url: &Url) -> BucketOptions {
        let Some(bucket) = bucket_name(url) else {
            return BucketOptions::default();
        };
        let known = self.known_options(url);
        if known.region.is_some() || s3::has_endpoint(&known) {
            return known;
        }
        if let Some(region) = region::find(&self.shared.region_host, bucket).await {
            self.shared.set_region(bucket, &region);
            // A store that was opened without the region is not used any more.
            self.used.lock().remove(&root_key(url));
            return BucketOptions { region: Some(region), ..known };
        }
        known
    }

    /// Returns how the bucket at `url` is reached, as far as it is known without a request.
    pub fn known_options(&self, url: &Url) -> BucketOptions {
        let Some(bucket) = bucket_name(url) else {
            return BucketOptions::default();
        };
        let options = self.options.lock().get(bucket).cloned().unwrap_or_default();
        self.with_region(bucket, options)
    }

    /// Adds the bucket's region, if `options` has none. A bucket at another endpoint is not S3's bucket of that name.
    fn with_region(&self, bucket: &str, mut options: BucketOptions) -> BucketOptions {
        if options.region.is_none() && options.endpoint.is_none() {
            options.region = self.shared.regions.lock().get(bucket).cloned();
        }
        options
    }

    /// Checks that the query may reach the store at the root of `url`, before any request is sent.
    ///
    /// # Errors
    /// `Invalid` if it may not.
    pub fn check(&self, url: &Url) -> Result<()> {
        self.access.as_ref().map_or(Ok(()), |access| access.check_store(url, &self.known_options(url)))
    }

    /// Checks that the query may read `place`, before any request is sent.
    ///
    /// # Errors
    /// `Invalid` if it may not.
    pub fn check_read(&self, place: &Location) -> Result<()> {
        self.access.as_ref().map_or(Ok(()), |access| access.check_read(place))
    }

    /// Checks that the result of a query may be written to `place`.
    ///
    /// # Errors
    /// `Invalid` if it may not.
    pub fn check_write(&self, place: &Location) -> Result<()> {
        self.shared.check_write(place)
    }

    /// Returns the store at the root of `url`. Credentials, region and endpoint that the query does not set come from
    /// the usual `AWS_` variables.
    ///
    /// # Errors
    /// `Invalid` if the scheme is not supported, the settings are incomplete, or the query may not reach the store.
    pub fn store(&self, url: &Url) -> Result<Arc<dyn ObjectStore>> {
        if url.scheme() == several::SCHEME {
            return Ok(Arc::new(SeveralStores { used: Arc::clone(&self.used) }));
        }
        let root = root_key(url);
        if let Some(store) = self.used.lock().get(&root) {
            return Ok(Arc::clone(store));
        }
        self.check(url)?;
        let store = self.shared.store(url, self.known_options(url))?;
        let store: Arc<dyn ObjectStore> = match bucket_name(url) {
            Some(_) => Arc::new(CountingStore::new(store, Arc::clone(&self.counted))),
            None => store,
        };
        let store: Arc<dyn ObjectStore> = match &self.access {
            Some(access) => Arc::new(AllowedStore { inner: store, root: root_url(url), access: Arc::clone(access) }),
            None => store,
        };
        self.used.lock().insert(root, Arc::clone(&store));
        Ok(store)
    }

    /// Returns the requests to buckets through this view so far.
    pub fn requests(&self) -> Requests {
        self.counted.requests()
    }

    /// Returns a presigned link to the object at `place` that is `valid` for so long. None if the store cannot
    /// make links.
    ///
    /// # Errors
    /// `Invalid` if the settings of the store are incomplete, `Unavailable` without credentials.
    pub async fn signed_link(&self, place: &Location, valid: Duration) -> Result<Option<String>> {
        let Some(bucket) = bucket_name(&place.store) else {
            return Ok(None);
        };
        let bucket = s3::bucket(bucket, &self.known_options(&place.store), self.shared.credentials.clone())?;
        Ok(Some(bucket.signed_url(Method::GET, &place.path, valid).await?.to_string()))
    }

    /// Returns the value that [`QueryStores::keep`] was last given under `key`, by any query, if it is a `T`.
    pub fn kept<T: Any + Send + Sync>(&self, key: &str) -> Option<Arc<T>> {
        Arc::clone(self.shared.kept.lock().get(key)?).downcast().ok()
    }

    /// Keeps `value` for later queries under `key`. Beyond 32 values, the least recently used one is dropped.
    pub fn keep<T: Any + Send + Sync>(&self, key: &str, value: T) {
        self.shared.kept.lock().put(key.to_string(), Arc::new(value));
    }

    /// Returns the size in bytes of the object at `place`.
    ///
    /// # Errors
    /// `Data` if it does not exist or cannot be read, `Unavailable` if the store does not respond.
    pub async fn size(&self, place: &Location) -> Result<u64> {
        Ok(self.store(&place.store)?.head(&place.path).await?.size)
    }

    /// Sets the maximum size of an object for [`QueryStores::read`]: the option `max_manifest_bytes`.
    pub fn set_read_max(&self, bytes: u64) {
        self.read_max.store(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes of the object at `place`.
    ///
    /// # Errors
    /// As [`QueryStores::size`], and `Limit` if it is too large.
    pub async fn read(&self, place: &Location) -> Result<Vec<u8>> {
        let found = self.store(&place.store)?.get(&place.path).await?;
        let (size, most) = (found.meta.size, self.read_max.load(Ordering::Relaxed));
        if size > most {
            let (size, most) = (human_bytes(size), human_bytes(most));
            return Err(QueryError::limit(format!("it has {size}, more than {most}; raise `max_manifest_bytes`")));
        }
        Ok(found.bytes().await?.to_vec())
    }
}

fn root_key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.authority())
}

/// Returns the URL of the root of the store of `url`, as [`Location::store`] has it.
fn root_url(url: &Url) -> Url {
    let mut root = url.clone();
    root.set_path("/");
    root
}

fn bucket_name(url: &Url) -> Option<&str> {
    (url.scheme() == "s3").then(|| url.host_str()).flatten()
}

impl ObjectStoreRegistry for QueryStores {
    fn register_store(&self, url: &Url, store: Arc<dyn ObjectStore>) -> Option<Arc<dyn ObjectStore>> {
        self.used.lock().insert(root_key(url), store)
    }

    fn get_store(&self, url: &Url) -> DataFusionResult<Arc<dyn ObjectStore>> {
        self.store(url).map_err(|error| DataFusionError::External(Box::new(error)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lake() -> Url {
        Url::parse("s3://lake/").unwrap()
    }

    fn at(endpoint: &str) -> BucketOptions {
        BucketOptions { endpoint: Some(endpoint.to_string()), ..BucketOptions::default() }
    }

    #[tokio::test]
    async fn region_is_asked_once_and_joined_with_the_options_of_the_query() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = format!("http://{}", listener.local_addr().unwrap());
        let stores = Arc::new(Stores::default().with_region_host(host));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // A socket that is closed with unread bytes is reset.
            tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await.unwrap();
            let answer = "HTTP/1.1 301 Moved\r\nx-amz-bucket-region: eu-west-1\r\ncontent-length: 0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
        });
        let query = stores.for_query();
        let anonymous = BucketOptions { anonymous: Some(true), ..BucketOptions::default() };
        query.set_bucket(&lake(), &anonymous);
        let found = BucketOptions { region: Some("eu-west-1".to_string()), ..anonymous };
        assert_eq!(query.bucket_options(&lake()).await, found);
        assert_eq!(query.bucket_options(&lake()).await, found);
        assert!(query.store(&lake()).is_ok());
        assert!(query.bucket_options(&Url::parse("file:///").unwrap()).await.is_empty());
    }

    #[test]
    fn queries_reach_one_bucket_name_each_by_its_own_options() {
        let stores = Arc::new(Stores::default());
        stores.set_region("lake", "eu-west-1");
        let (here, there) = (stores.for_query(), stores.for_query());
        there.set_bucket(&lake(), &at("http://localhost:9"));
        let (one, two) = (here.store(&lake()).unwrap(), there.store(&lake()).unwrap());
        assert!(!Arc::ptr_eq(&one, &two));
        assert!(Arc::ptr_eq(&one, &here.store(&lake()).unwrap()));
        assert_eq!(here.known_options(&lake()).region.as_deref(), Some("eu-west-1"));
        assert_eq!(there.known_options(&lake()).region, None, "another endpoint has no bucket of S3");
        let again = stores.for_query();
        again.set_bucket(&lake(), &at("http://localhost:9"));
        again.store(&lake()).unwrap();
        assert_eq!(stores.open.lock().len(), 2, "equal options share a store");
    }

    #[test]
    fn number_of_open_stores_is_bounded_and_queries_keep_theirs() {
        let stores = Arc::new(Stores::default());
        let first = stores.for_query();
        first.set_bucket(&lake(), &at("http://localhost:1"));
        let held = first.store(&lake()).unwrap();
        for port in 2..200 {
            let query = stores.for_query();
            query.set_bucket(&lake(), &at(&format!("http://localhost:{port}")));
            query.store(&lake()).unwrap();
        }
        assert_eq!(stores.open_count(), STORES_MAX.get());
        assert!(Arc::ptr_eq(&held, &first.store(&lake()).unwrap()));
    }

    #[test]
    fn region_from_a_table_is_checked_and_overrides_no_setting() {
        let stores = Arc::new(Stores::default());
        let query = stores.for_query();
        for wrong in ["", "attacker.com/", "x@127.0.0.1:80/", "US-EAST-1"] {
            assert!(query.suggest_region(&lake(), wrong).is_err(), "{wrong}");
        }
        query.suggest_region(&lake(), "us-east-2").unwrap();
        query.suggest_region(&lake(), "eu-west-1").unwrap();
        assert_eq!(query.known_options(&lake()).region.as_deref(), Some("us-east-2"));
        assert_eq!(stores.for_query().known_options(&lake()).region, None, "it is for one query");
    }
}
