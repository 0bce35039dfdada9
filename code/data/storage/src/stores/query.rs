//! The stores of one query or task, with the options that its catalogs give.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use buzz_protocol::{BucketOptions, QueryError, Requests, Result, StoreRoot, human_bytes};
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::object_store::ObjectStoreRegistry;
use http::Method;
use object_store::signer::Signer;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use url::Url;

use super::{Stores, root_key};
use crate::access::{Access, AllowedStore};
use crate::counting::{Counted, CountingStore};
use crate::several::{self, SeveralStores};
use crate::{Location, region, s3};

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
    /// Makes a view of `shared` that is limited to `access`.
    pub(super) fn new(shared: Arc<Stores>, access: Option<Arc<Access>>) -> Self {
        Self {
            shared,
            access,
            options: Mutex::default(),
            read_max: AtomicU64::new(u64::MAX),
            used: Arc::default(),
            counted: Arc::default(),
        }
    }

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
