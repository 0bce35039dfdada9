//! Queries that run while their client does something else, and whose answers are kept until they are fetched.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use buzz_protocol::{Format, QueryError, QueryId, Result};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use crate::desk::{Answered, Desk, Request};
use crate::http::rows::{error_json, summary};

/// Time for which an answer is kept after its last use.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// Maximum number of submitted queries of one user, with those that ended and are kept.
const OF_USER_MAX: usize = 16;

/// The submitted queries.
#[derive(Debug, Default)]
pub(crate) struct Submitted {
    queries: Arc<Mutex<HashMap<QueryId, Submission>>>,
}

#[derive(Debug)]
struct Submission {
    user: String,
    format: Format,
    used: Instant,
    outcome: Option<Result<Arc<Answered>>>,
    /// True if its rows were requested after its end.
    is_fetched: bool,
    /// Dropping it cancels the query.
    _work: Option<AbortOnDropHandle<()>>,
}

impl Submitted {
    /// Starts `request` and returns its id.
    ///
    /// # Errors
    /// `Limit` if the user has too many submitted queries.
    pub(crate) fn start(&self, desk: &Arc<Desk>, request: Request) -> Result<QueryId> {
        let (id, user, format) = (request.id, request.user.clone(), request.format);
        let mut queries = self.queries.lock();
        let count = queries.values().filter(|query| query.user == user).count();
        let mut gives_way = count >= OF_USER_MAX || desk.keeps_enough(&user);
        while gives_way && remove_fetched(&mut queries, &user) {
            gives_way = desk.keeps_enough(&user);
        }
        if queries.values().filter(|query| query.user == user).count() >= OF_USER_MAX {
            return Err(QueryError::limit(format!(
                "user `{user}` has {OF_USER_MAX} submitted queries, which is the maximum; delete one with DELETE \
                 /v1/queries/ID"
            )));
        }
        let (desk, kept) = (Arc::clone(desk), Arc::clone(&self.queries));
        let work = async move {
            let outcome = desk.answer(request).await.map(Arc::new);
            if let Some(query) = kept.lock().get_mut(&id) {
                query.outcome = Some(outcome);
                query.used = Instant::now();
            }
        };
        let work = Some(AbortOnDropHandle::new(tokio::spawn(work.in_current_span())));
        queries.insert(
            id,
            Submission { user, format, used: Instant::now(), outcome: None, is_fetched: false, _work: work },
        );
        Ok(id)
    }

    /// Removes the answers that were not used for ten minutes.
    pub(crate) fn expire(&self) {
        self.queries.lock().retain(|_, query| query.outcome.is_none() || query.used.elapsed() < KEPT_FOR);
    }

    /// Returns the state of query `id` as JSON, if it is one of `user`.
    pub(crate) fn state(&self, desk: &Desk, id: QueryId, user: &str) -> Option<Value> {
        match self.outcome(id, user, false)? {
            Some(Ok((answered, _))) => Some(json!({
                "id": id, "state": "succeeded", "summary": summary(&answered.summary), "warnings": answered.warnings,
            })),
            Some(Err(error)) => Some(json!({"id": id, "state": "failed", "error": error_json(&error)})),
            None => Some(match desk.progress(id, user) {
                Some(progress) => json!({"id": id, "state": "running", "progress": progress}),
                None => json!({"id": id, "state": "waiting"}),
            }),
        }
    }

    /// Returns the outcome of query `id`, None inside if it still runs, if it is one of `user`. `for_rows` notes that its rows are
    /// fetched.
    #[expect(clippy::type_complexity, reason = "unknown, running, or ended")]
    pub(crate) fn outcome(
        &self,
        id: QueryId,
        user: &str,
        for_rows: bool,
    ) -> Option<Option<Result<(Arc<Answered>, Format)>>> {
        let mut queries = self.queries.lock();
        let query = queries.get_mut(&id).filter(|query| query.user == user)?;
        query.used = Instant::now();
        query.is_fetched |= for_rows && query.outcome.is_some();
        let format = query.format;
        Some(query.outcome.clone().map(|outcome| outcome.map(|answered| (answered, format))))
    }

    /// Cancels query `id` or removes its answer, if it is one of `user`. Returns true if so.
    pub(crate) fn remove(&self, id: QueryId, user: &str) -> bool {
        let mut queries = self.queries.lock();
        let is_own = queries.get(&id).is_some_and(|query| query.user == user);
        is_own && queries.remove(&id).is_some()
    }
}

/// Removes the failures of `user` that were fetched, and the answer that was used the longest ago, of those whose rows were fetched:
/// they are kept in case that they are fetched again. Returns false if there is none.
fn remove_fetched(queries: &mut HashMap<QueryId, Submission>, user: &str) -> bool {
    // A failure that was fetched is of no more use, and holds no place.
    queries.retain(|_, query| query.user != user || !query.is_fetched || !matches!(query.outcome, Some(Err(_))));
    let fetched = queries.iter().filter(|(_, query)| query.user == user && query.is_fetched);
    let oldest = fetched.min_by_key(|(_, query)| query.used).map(|(id, _)| *id);
    oldest.and_then(|id| queries.remove(&id)).is_some()
}
