//! Small objects under the stack's results prefix, which outlive an invocation.
//!
//! ```text
//! queries/<query id>/request.json     event of an asynchronous query
//! queries/<query id>/asked           hash of the request whose caller chose the id
//! queries/<query id>/progress.json    its latest progress report
//! queries/<query id>/answer.json      its answer or failure
//! queries/<query id>/started          exists once an invocation answers it
//! queries/<query id>/cancel           exists once its cancellation is requested
//! queries/<query id>/result.<format>  its rows, if they do not fit into an answer
//! queries/<query id>/tasks/…          a task that does not fit into an invocation
//! queries/<run id>/tasks/ended        exists once no outcome of a run counts any more
//! combs/<fleet>/<slot>.json           current generation of a slot
//! combs/certificates/<token>.json     fingerprint of the certificate of the comb that was started by a token
//! names.json                          the stack's registry of names
//! answers/<key>                       an answer, or the rows of a task, that are kept for other queries
//! ```

use std::sync::Arc;
use std::time::Duration;

use buzz_protocol::{QueryError, QueryId, Requests, Result};
use buzz_storage::{Location, QueryStores};
use bytes::Bytes;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, UpdateVersion};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// The result objects of one stack.
#[derive(Debug, Clone)]
pub struct Results {
    stores: Arc<QueryStores>,
    root: Location,
}

/// The stored state of a slot of combs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Slot {
    generation: u64,
}

impl Results {
    /// Creates the results below `root`.
    pub fn new(stores: Arc<QueryStores>, root: Location) -> Self {
        Self { stores, root }
    }

    /// Returns the location of object `name` of a query.
    ///
    /// # Errors
    /// `Internal` if `name` is not a valid path.
    pub fn of_query(&self, query: QueryId, name: &str) -> Result<Location> {
        self.place(&format!("queries/{query}/{name}"))
    }

    /// Returns the location of the stack's registry of names.
    ///
    /// # Errors
    /// `Internal` if it is not a valid path.
    pub fn names(&self) -> Result<Location> {
        self.place("names.json")
    }

    /// Returns the location below which answers are kept.
    ///
    /// # Errors
    /// `Internal` if it is not a valid path.
    pub fn answers(&self) -> Result<Location> {
        self.place("answers")
    }

    /// Returns the location in which the comb that is started by `token` records its certificate.
    ///
    /// # Errors
    /// `Internal` if `token` is not a valid name.
    pub fn certificate(&self, token: &str) -> Result<Location> {
        self.place(&format!("combs/certificates/{token}.json"))
    }

    fn place(&self, key: &str) -> Result<Location> {
        self.root.join(key).map_err(|error| QueryError::internal(error.to_string()))
    }

    /// Returns the store of `place`, configured from the environment.
    ///
    /// # Errors
    /// `Invalid` if the settings of the store are incomplete.
    pub fn store(&self, place: &Location) -> Result<Arc<dyn ObjectStore>> {
        self.stores.store(&place.store)
    }

    /// Returns the requests to buckets through this value and its clones so far.
    pub fn requests(&self) -> Requests {
        self.stores.requests()
    }

    /// Checks that the result of a query may be written to `place`.
    ///
    /// # Errors
    /// `Invalid` if it may not.
    pub fn check_output(&self, place: &Location) -> Result<()> {
        self.stores.check_write(place)
    }

    /// Writes an object.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer, `Data` if it denies the write.
    pub async fn put(&self, place: &Location, bytes: impl Into<Bytes>) -> Result<()> {
        let written = self.store(place)?.put(&place.path, PutPayload::from(bytes.into())).await;
        written.map(|_| ()).map_err(|error| not_written(place, error))
    }

    /// Writes `value` as JSON.
    ///
    /// # Errors
    /// As for [`Results::put`].
    pub async fn put_json(&self, place: &Location, value: &impl Serialize) -> Result<()> {
        let json = serde_json::to_vec(value)
            .map_err(|error| QueryError::internal(format!("object {place} cannot be serialized: {error}")))?;
        self.put(place, json).await
    }

    /// Returns true for exactly one of all callers that claim `place`: the first to write its object.
    ///
    /// # Errors
    /// As for [`Results::put`].
    pub async fn claim(&self, place: &Location) -> Result<bool> {
        let claim = Bytes::from(json!({"claim": uuid::Uuid::new_v4()}).to_string());
        // This caller may have written the object itself and lost the answer, and the store client retried.
        Ok(self.first(place, claim.clone()).await? == claim)
    }

    /// Creates the object at `place` with `contents`. Returns what it contains: that of the first caller.
    ///
    /// # Errors
    /// As for [`Results::put`] and [`Results::get`]; `Unavailable` if the object was removed meanwhile.
    pub async fn first(&self, place: &Location, contents: Bytes) -> Result<Bytes> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store(place)?.put_opts(&place.path, PutPayload::from(contents.clone()), options).await {
            Ok(_) => Ok(contents),
            Err(StoreError::AlreadyExists { .. } | StoreError::Precondition { .. }) => {
                let removed = || QueryError::unavailable(format!("`{place}` was removed while it was read; try again"));
                self.get(place).await?.ok_or_else(removed)
            }
            Err(error) => Err(not_written(place, error)),
        }
    }

    /// Reads an object. Returns `None` if it does not exist. The policy of the stack includes the right to list: without
    /// it, S3 would report a missing object as forbidden.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer, `Data` if it denies the read.
    pub async fn get(&self, place: &Location) -> Result<Option<Bytes>> {
        match self.store(place)?.get(&place.path).await {
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads a JSON object. Returns `None` if it does not exist.
    ///
    /// # Errors
    /// As for [`Results::get`], and `Internal` if the object does not parse as a `T`.
    pub async fn get_json<T: DeserializeOwned>(&self, place: &Location) -> Result<Option<T>> {
        let Some(bytes) = self.get(place).await? else {
            return Ok(None);
        };
        let value = serde_json::from_slice(&bytes);
        value.map(Some).map_err(|error| QueryError::internal(format!("object {place} is not readable: {error}")))
    }

    /// Creates a link that can read the object at `place` without credentials, for `valid` at most.
    ///
    /// # Errors
    /// `Unavailable` if there are no credentials to sign the link.
    pub async fn link(&self, place: &Location, valid: Duration) -> Result<Option<String>> {
        self.stores.signed_link(place, valid).await
    }

    /// Returns the current generation of `slot` of `fleet`, or 0 if none is stored.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer.
    pub async fn generation(&self, fleet: &str, slot: usize) -> Result<u64> {
        Ok(self.slot(fleet, slot).await?.0.generation)
    }

    async fn slot(&self, fleet: &str, slot: usize) -> Result<(Slot, Option<UpdateVersion>)> {
        let place = self.place(&format!("combs/{fleet}/{slot}.json"))?;
        match self.store(&place)?.get(&place.path).await {
            Ok(found) => {
                let version = UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
                let slot = serde_json::from_slice(&found.bytes().await?)
                    .map_err(|error| QueryError::internal(format!("object {place} is not readable: {error}")))?;
                Ok((slot, Some(version)))
            }
            Err(StoreError::NotFound { .. }) => Ok((Slot::default(), None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends generation `dead` of a slot by a conditional write of the next one. Concurrent calls increment it once.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer, `Data` if it denies the write.
    pub async fn end_generation(&self, fleet: &str, slot: usize, dead: u64) -> Result<()> {
        let (found, version) = self.slot(fleet, slot).await?;
        if found.generation != dead {
            return Ok(());
        }
        let place = self.place(&format!("combs/{fleet}/{slot}.json"))?;
        let next = serde_json::to_vec(&Slot { generation: dead + 1 }).expect("a number serializes as JSON");
        let mode = version.map_or(PutMode::Create, PutMode::Update);
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.store(&place)?.put_opts(&place.path, PutPayload::from(next), options).await {
            // Another caller ended the generation in the meantime.
            Ok(_) | Err(StoreError::Precondition { .. } | StoreError::AlreadyExists { .. }) => Ok(()),
            Err(error) => Err(not_written(&place, error)),
        }
    }
}

fn not_written(place: &Location, error: StoreError) -> QueryError {
    match error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            QueryError::data(format!("no permission to write {place}"))
        }
        StoreError::NotFound { .. } => QueryError::data(format!("cannot write {place}: the bucket does not exist")),
        error => QueryError::from(error).at(place.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Creates results in memory, where conditional writes are atomic, as on S3.
    fn results() -> Results {
        let stores = Arc::new(buzz_storage::Stores::default());
        let place = Location::parse("s3://bucket/results", Path::new("/")).unwrap();
        stores.replace(&place.store, Arc::new(object_store::memory::InMemory::new()));
        Results::new(stores.for_query(), place)
    }

    #[tokio::test]
    async fn written_objects_are_read_back() {
        let results = results();
        let place = results.of_query(QueryId::fresh(), "progress.json").unwrap();
        assert_eq!(results.get(&place).await.unwrap(), None);
        results.put_json(&place, &vec![1, 2]).await.unwrap();
        assert_eq!(results.get_json::<Vec<u32>>(&place).await.unwrap(), Some(vec![1, 2]));
        assert!(results.get_json::<String>(&place).await.unwrap_err().to_string().contains("is not readable"));
    }

    #[tokio::test]
    async fn one_of_several_callers_is_first() {
        let results = results();
        let place = results.of_query(QueryId::fresh(), "asked").unwrap();
        let asked: Vec<Bytes> = (0..8).map(|caller| Bytes::from(format!("request {caller}"))).collect();
        let found = asked.iter().map(|contents| results.first(&place, contents.clone()));
        let found = futures::future::try_join_all(found).await.unwrap();
        assert!(asked.contains(&found[0]));
        assert!(found.iter().all(|one| *one == found[0]));
        assert_eq!(results.get(&place).await.unwrap(), Some(found[0].clone()));
    }

    #[tokio::test]
    async fn concurrent_ends_increment_a_generation_once() {
        let results = results();
        assert_eq!(results.generation("f", 3).await.unwrap(), 0);
        let ends = (0..8).map(|_| results.end_generation("f", 3, 0));
        futures::future::try_join_all(ends).await.unwrap();
        assert_eq!(results.generation("f", 3).await.unwrap(), 1);
        results.end_generation("f", 3, 0).await.unwrap();
        assert_eq!(results.generation("f", 3).await.unwrap(), 1);
        results.end_generation("f", 3, 1).await.unwrap();
        assert_eq!(results.generation("f", 3).await.unwrap(), 2);
        assert_eq!(results.generation("f", 4).await.unwrap(), 0);
    }
}
