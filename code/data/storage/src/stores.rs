//! Object stores: made once, shared between queries, bounded in number.
//!
//! [`Stores`] belongs to a process. A store is found by its root *and* the options with which it is reached, so two
//! queries that reach one bucket name at two endpoints have two stores. [`QueryStores`], in `query`, belongs to one query or
//! task.

mod query;

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;

use buzz_protocol::{BucketOptions, QueryError, Result};
use lru::LruCache;
use object_store::ObjectStore;
use object_store::aws::AwsCredentialProvider;
use object_store::limit::LimitStore;
use object_store::local::LocalFileSystem;
use parking_lot::Mutex;
use url::Url;

pub use self::query::QueryStores;
use crate::access::Access;
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
        Arc::new(QueryStores::new(Arc::clone(self), access))
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

fn root_key(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.authority())
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
