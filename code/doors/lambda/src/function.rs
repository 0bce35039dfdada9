//! The events of Fuse's function.
//!
//! A synchronous query is answered by the invocation that received it. An asynchronous query is stored and answered by
//! another invocation, which Fuse starts itself. Its progress, its answer and a request to cancel it are objects under
//! the stack's results.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_config::SdkConfig;
use aws_config::retry::RetryConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use backon::{ExponentialBuilder, Retryable};
use buzz_aws::clients::{Renewed, short_timeouts};
use buzz_aws::failure;
use buzz_aws::results::Results;
use buzz_aws::settings::FuseSettings;
use buzz_engine::wire::{Ask, Described, Event, FailureForm, FailureMessage, NamesAsk, Submitted};
use buzz_engine::{Engine, NameList, Names, Progress, ProgressReport, Status};
use buzz_protocol::{ErrorKind, QueryError, QueryId, Result};
use buzz_registry::{Named, Registry};
use buzz_worker::process::unpanicked;
use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// Time before the function's timeout at which a query is stopped, so that tasks, combs and the caller are notified.
const MARGIN: Duration = Duration::from_secs(5);

/// Milliseconds without a progress report after which a query counts as lost.
const SILENT_MAX_MS: u64 = 30_000;

/// Maximum milliseconds between the submission of a query and its start. Lambda drops events older than five minutes
/// (`maximum_event_age_in_seconds` in `infra/modules/functions`).
const SUBMITTED_MAX_MS: u64 = 330_000;

/// Interval at which an invocation looks for the answer of another, and the time within which that one reports progress.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const REPORTED_WITHIN: Duration = Duration::from_secs(10);

/// Maximum number of times that the answer of an asynchronous query is stored again after a failure.
const ANSWER_RETRIES: usize = 3;

/// Answers the events of one process, one at a time.
#[derive(Debug)]
pub struct FuseFunction {
    pub(crate) engine: Named,
    pub(crate) results: Results,
    pub(crate) settings: FuseSettings,
    lambdas: Renewed<Client>,
}

impl FuseFunction {
    /// Makes a function that runs queries on `engine` and stores its objects in `results`, also the registry of names.
    ///
    /// # Errors
    /// `Invalid` if the settings of the store of `results` are incomplete.
    pub fn new(engine: Arc<dyn Engine>, results: Results, settings: FuseSettings, sdk: &SdkConfig) -> Result<Self> {
        // Repeating an event to itself is safe: only one invocation resumes a query.
        let config = aws_sdk_lambda::config::Builder::from(sdk).retry_config(RetryConfig::standard());
        let config = config.timeout_config(short_timeouts()).build();
        let place = results.names()?;
        let registry = Registry::of_object(results.store(&place)?, place.path.clone(), place.to_string());
        let engine = Named::new(engine, Arc::new(registry));
        Ok(Self { engine, results, settings, lambdas: Renewed::new(move || Client::from_conf(config.clone())) })
    }

    /// Answers `event` before `deadline_ms` (milliseconds since 1970), when the service stops this process.
    ///
    /// # Errors
    /// `Invalid` if the event is malformed, otherwise the errors of the query. An event that requests
    /// [`FailureForm::Json`] is answered with the error instead.
    pub async fn answer(&self, event: &Value, deadline_ms: u64) -> Result<Box<RawValue>> {
        match self.act(event, deadline_ms).await {
            Err(error) if FailureForm::of(event) == FailureForm::Json => raw(&FailureMessage::new(error)),
            answered => answered,
        }
    }

    async fn act(&self, event: &Value, deadline_ms: u64) -> Result<Box<RawValue>> {
        let left = Duration::from_millis(deadline_ms.saturating_sub(buzz_protocol::now_ms())).saturating_sub(MARGIN);
        match Event::parse(event)? {
            Event::Ask(ask) if ask.later => {
                self.output_place(&ask)?;
                if let Some(query) = ask.id {
                    self.note_asked(query, event).await?;
                }
                self.submit(event, ask.id).await
            }
            Event::Ask(ask) => match ask.id {
                Some(query) => {
                    self.note_asked(query, event).await?;
                    self.ask_once(*ask, query, left).await
                }
                None => unpanicked(self.ask(*ask, QueryId::fresh(), left)).await,
            },
            Event::Describe(ask) => {
                let question = ask.question(QueryId::fresh());
                raw(&Described { tables: unpanicked(self.engine.describe(&question)).await? })
            }
            Event::Names(NamesAsk::List) => raw(&NameList { names: self.engine.list().await? }),
            Event::Names(NamesAsk::Change(change)) => raw(&unpanicked(self.engine.change(change)).await?),
            Event::Resume(query) => self.resume(query, left).await,
            Event::Watch(query) => self.watch(query).await,
            Event::Cancel(query) => {
                self.results.put(&self.results.of_query(query, "cancel")?, "{}").await?;
                self.watch(query).await
            }
        }
    }

    /// Answers `ask` under the id that its caller chose. If another invocation has that id, as after a caller that did not wait
    /// for the answer and asks again, returns the answer of that one.
    async fn ask_once(&self, ask: Ask, query: QueryId, left: Duration) -> Result<Box<RawValue>> {
        if !self.results.claim(&self.results.of_query(query, "started")?).await? {
            return self.await_answer(query, left).await;
        }
        // Reports progress, so that another invocation notices if this one is lost.
        let ask = Ask { later: true, ..ask };
        let outcome = unpanicked(self.ask(ask, query, left)).await;
        if let Err(error) = self.store_answer(query, &outcome).await {
            tracing::warn!(query_id = %query, %error, "failed to store an answer for those who ask again");
        }
        outcome
    }

    /// Notes the request of `query`, whose id its caller chose. Another request must have another id.
    async fn note_asked(&self, query: QueryId, event: &Value) -> Result<()> {
        let place = self.results.of_query(query, "asked")?;
        let mut hash = DefaultHasher::new();
        let mut request = event.clone();
        if let Some(fields) = request.as_object_mut() {
            // Each try of a traced caller has its own.
            fields.remove("traceparent");
        }
        request.to_string().hash(&mut hash);
        let asked = format!("{:016x}", hash.finish());
        // Two invocations may ask at the same time.
        let first = self.results.first(&place, Bytes::from(asked.clone())).await?;
        if first == asked.as_bytes() {
            return Ok(());
        }
        Err(QueryError::invalid(format!("the id {query} was used for another request; choose a new `query_id`")))
    }

    /// Waits until another invocation has stored the answer of `query`.
    async fn await_answer(&self, query: QueryId, left: Duration) -> Result<Box<RawValue>> {
        let started = Instant::now();
        while started.elapsed() < left {
            if let Some(answer) = self.stored_answer(query).await? {
                return Ok(answer);
            }
            match self.watch(query).await {
                // The other invocation has not reported progress yet.
                Err(error) if error.kind == ErrorKind::Invalid && started.elapsed() < REPORTED_WITHIN => {}
                Err(error) => return Err(error),
                Ok(_) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Err(QueryError::unavailable(format!(
            "query {query} still runs in another invocation; ask for it with {{\"watch\": \"{query}\"}}"
        )))
    }

    async fn submit(&self, event: &Value, chosen: Option<QueryId>) -> Result<Box<RawValue>> {
        let query = chosen.unwrap_or_else(QueryId::fresh);
        let submitted = || -> Result<Box<RawValue>> {
            let place = self.results.of_query(query, "")?;
            raw(&Submitted { status: "submitted".to_string(), query_id: query, results: format!("{place}/") })
        };
        if chosen.is_some() && self.results.get(&self.results.of_query(query, "started")?).await?.is_some() {
            return submitted();
        }
        self.results.put_json(&self.results.of_query(query, "request.json")?, event).await?;
        let report = Progress::of(query).report(query);
        let report = ProgressReport { status: Status::Submitted, written_ms: buzz_protocol::now_ms(), ..report };
        self.results.put_json(&self.results.of_query(query, "progress.json")?, &report).await?;

        let function = &self.settings.function;
        let payload = Blob::new(json!({"resume": query}).to_string());
        let lambda = self.lambdas.now();
        let call = lambda.invoke().function_name(function).payload(payload);
        call.invocation_type(InvocationType::Event)
            .send()
            .await
            .map_err(|error| failure::of_call("invoke", &format!("function {function}"), &error))?;
        submitted()
    }

    async fn resume(&self, query: QueryId, left: Duration) -> Result<Box<RawValue>> {
        // The service may deliver an asynchronous event twice. Only one of the two invocations continues.
        if !self.results.claim(&self.results.of_query(query, "started")?).await? {
            return raw(&json!({"status": "running", "query_id": query}));
        }
        // From here on, the query is this invocation's: each failure is stored for those who watch it.
        let outcome = match self.stored_request(query).await {
            Ok(ask) => unpanicked(self.ask(ask, query, left)).await,
            Err(error) => Err(error),
        };
        self.store_answer(query, &outcome).await?;
        // The service discards the answer of an asynchronous invocation.
        raw(&json!({"status": if outcome.is_ok() { "answered" } else { "failed" }, "query_id": query}))
    }

    /// Stores the answer or the failure of `query` for those who watch it.
    async fn store_answer(&self, query: QueryId, outcome: &Result<Box<RawValue>>) -> Result<()> {
        let message = match outcome {
            Ok(answer) => answer.get().to_string(),
            Err(error) => raw(&FailureMessage::new(error.clone()))?.get().to_string(),
        };
        let place = self.results.of_query(query, "answer.json")?;
        let store = || self.results.put(&place, message.clone());
        let retry = ExponentialBuilder::default().with_max_times(ANSWER_RETRIES).with_jitter();
        store.retry(retry).when(|error| error.kind == ErrorKind::Unavailable).await
    }

    /// Returns the answer of `query`, if it is stored.
    ///
    /// # Errors
    /// The failure of the query, if that is stored.
    async fn stored_answer(&self, query: QueryId) -> Result<Option<Box<RawValue>>> {
        let Some(answer) = self.results.get(&self.results.of_query(query, "answer.json")?).await? else {
            return Ok(None);
        };
        if let Ok(FailureMessage { error, .. }) = serde_json::from_slice(&answer) {
            return Err(error);
        }
        let answer = String::from_utf8(answer.to_vec()).map_err(|_| QueryError::internal("an answer is not UTF-8"))?;
        let answer = RawValue::from_string(answer);
        answer.map(Some).map_err(|error| QueryError::internal(format!("an answer is not JSON: {error}")))
    }

    /// Returns the request of an asynchronous query, and empties the object: it has the caller's SQL and parameters, and
    /// is not read again.
    async fn stored_request(&self, query: QueryId) -> Result<Ask> {
        let place = self.results.of_query(query, "request.json")?;
        let request: Option<Value> = self.results.get_json(&place).await?;
        if let Err(error) = self.results.put(&place, "{}").await {
            tracing::warn!(query_id = %query, %error, "failed to empty the request");
        }
        match request.as_ref().map(Event::parse).transpose()? {
            Some(Event::Ask(ask)) => Ok(*ask),
            _ => Err(QueryError::internal(format!("the request of query {query} does not exist"))),
        }
    }

    async fn watch(&self, query: QueryId) -> Result<Box<RawValue>> {
        if let Some(answer) = self.stored_answer(query).await? {
            return Ok(answer);
        }
        let report: Option<ProgressReport> =
            self.results.get_json(&self.results.of_query(query, "progress.json")?).await?;
        let report = report.ok_or_else(|| QueryError::invalid(format!("query {query} does not exist")))?;
        let silent_ms = buzz_protocol::now_ms().saturating_sub(report.written_ms);
        let submitted = report.status == Status::Submitted;
        if submitted && silent_ms > SUBMITTED_MAX_MS {
            return Err(QueryError::unavailable(format!(
                "query {query} was submitted {} seconds ago and did not start: all functions of the account were busy, \
                 or its own stopped; submit the query again",
                silent_ms / 1000
            )));
        }
        if !submitted && silent_ms > SILENT_MAX_MS {
            return Err(QueryError::unavailable(format!(
                "query {query} has not reported progress for {} seconds: its function stopped; see the function's log",
                silent_ms / 1000
            )));
        }
        raw(&report)
    }
}

/// Encodes an answer as JSON.
pub(crate) fn raw(value: &impl Serialize) -> Result<Box<RawValue>> {
    serde_json::value::to_raw_value(value)
        .map_err(|error| QueryError::internal(format!("an answer cannot be encoded as JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicU32, Ordering};

    use async_trait::async_trait;
    use buzz_aws::settings::{HBeeSettings, QueryLimits};
    use buzz_engine::{Question, Running, TableDescription};
    use buzz_protocol::{Place, TaskIndex};
    use buzz_storage::{Location, Stores};
    use object_store::memory::InMemory;

    use super::*;

    fn failure() -> QueryError {
        let error = QueryError::data("is truncated").retry_after(Some(Duration::from_secs(3)));
        error.at(Place::file_of("trips", "s3://lake/a.parquet")).at_task("m", TaskIndex(3))
    }

    /// An engine whose queries fail with [`failure`], after the time that it waits. It counts them.
    #[derive(Debug, Default)]
    struct Failing {
        started: AtomicU32,
        wait: Duration,
    }

    #[async_trait]
    impl Engine for Failing {
        async fn describe(&self, _: &Question) -> Result<Vec<TableDescription>> {
            Err(failure())
        }

        fn start_with(&self, _: Question, progress: Arc<Progress>) -> Running {
            self.started.fetch_add(1, Ordering::Relaxed);
            let wait = self.wait;
            Running::spawn(progress, async move {
                tokio::time::sleep(wait).await;
                Err(failure())
            })
        }
    }

    async fn function() -> FuseFunction {
        function_of(Arc::default()).await
    }

    async fn function_of(engine: Arc<Failing>) -> FuseFunction {
        let stores = Arc::new(Stores::default());
        let place = Location::parse("s3://bucket/results", Path::new("/")).unwrap();
        stores.replace(&place.store, Arc::new(InMemory::new()));
        let results = Results::new(stores.for_stack(), place.clone());
        let hbee = HBeeSettings { function: "hbee".to_string(), timeout: Duration::ZERO, memory_mb: 1, concurrency: 1 };
        let settings = FuseSettings {
            stage: "test".to_string(),
            results: place,
            hbee,
            combs: None,
            function: "fuse".to_string(),
            memory_mb: 1024,
            region: String::new(),
            limits: QueryLimits::default(),
        };
        let sdk = aws_config::SdkConfig::builder().behavior_version(aws_config::BehaviorVersion::latest()).build();
        FuseFunction::new(engine, results, settings, &sdk).unwrap()
    }

    fn query() -> Value {
        json!({"sql": "SELECT 1", "catalogs": []})
    }

    #[tokio::test]
    async fn failure_is_answered_whole_if_the_event_requests_it() {
        let (function, deadline) = (function().await, buzz_protocol::now_ms() + 60_000);
        for event in [json!({"query": query()}), json!({"describe": query()})] {
            assert_eq!(function.answer(&event, deadline).await.unwrap_err(), failure());
            let mut event = event;
            event["failure"] = json!("json");
            let answer = function.answer(&event, deadline).await.unwrap();
            let message: FailureMessage = serde_json::from_str(answer.get()).unwrap();
            assert_eq!((message.status.as_str(), message.error), ("failed", failure()));
        }
        let answer = function.answer(&json!({"watch": 7, "failure": "json"}), deadline).await.unwrap();
        let message: FailureMessage = serde_json::from_str(answer.get()).unwrap();
        assert_eq!(message.error.to_string(), "event in `watch`: it is not a query id");
    }

    #[tokio::test]
    async fn names_are_kept_beside_the_results() {
        let (function, deadline) = (function().await, buzz_protocol::now_ms() + 60_000);
        let answer = function.answer(&json!({"names": "list"}), deadline).await.unwrap();
        assert_eq!(answer.get(), r#"{"names":[]}"#);
        let wrong = function.answer(&json!({"names": {"drop": {"name": "t"}}}), deadline).await.unwrap_err();
        assert_eq!(wrong.to_string(), "table `t` does not exist in s3://bucket/results/names.json");
        let entry = json!({"name": "t", "type": "Parquet", "uri": "s3://lake/t", "columns": []});
        let place = function.results.names().unwrap();
        function.results.put_json(&place, &json!({"catalogs": [entry]})).await.unwrap();
        let answer = function.answer(&json!({"names": "list"}), deadline).await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(answer.get()).unwrap(), json!({"names": [entry]}));
        let unknown = function.answer(&json!({"sql": "SELECT * FROM tt"}), deadline).await.unwrap_err();
        assert_eq!(unknown.to_string(), "table `tt` does not exist; did you mean `t`?");
        // The table cannot be opened, so it is not added.
        let add = json!({"names": {"add": {"entry": {"name": "u", "uri": "s3://lake/u"}}}});
        assert_eq!(function.answer(&add, deadline).await.unwrap_err(), failure());
        let drop = function.answer(&json!({"sql": "DROP TABLE t"}), deadline).await.unwrap();
        let drop: Value = serde_json::from_str(drop.get()).unwrap();
        assert_eq!(drop["rows"], json!([{"result": "table `t` was dropped"}]));
        let stored: Option<Value> = function.results.get_json(&place).await.unwrap();
        assert_eq!(stored, Some(json!({"catalogs": []})));
    }

    #[tokio::test]
    async fn events_with_one_query_id_are_answered_by_one_run() {
        let engine = Arc::new(Failing { wait: Duration::from_secs(2), ..Failing::default() });
        let (function, deadline) = (function_of(Arc::clone(&engine)).await, buzz_protocol::now_ms() + 60_000);
        let event = json!({"query": query(), "query_id": QueryId::fresh(), "failure": "json"});
        // The second one waits for the first, the third finds its answer.
        let (first, second) = tokio::join!(function.answer(&event, deadline), function.answer(&event, deadline));
        let third = function.answer(&event, deadline).await;
        for answer in [first, second, third] {
            let message: FailureMessage = serde_json::from_str(answer.unwrap().get()).unwrap();
            assert_eq!(message.error, failure());
        }
        assert_eq!(engine.started.load(Ordering::Relaxed), 1);
        let other = json!({"query": query(), "query_id": QueryId::fresh()});
        assert_eq!(function.answer(&other, deadline).await.unwrap_err(), failure());
        assert_eq!(engine.started.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn stored_failure_is_watched_whole() {
        let (function, deadline, id) = (function().await, buzz_protocol::now_ms() + 60_000, QueryId::fresh());
        let request = function.results.of_query(id, "request.json").unwrap();
        function.results.put_json(&request, &json!({"query": query(), "async": true})).await.unwrap();
        function.answer(&json!({"resume": id}), deadline).await.unwrap();
        assert_eq!(function.answer(&json!({"watch": id}), deadline).await.unwrap_err(), failure());
        let answer = function.answer(&json!({"watch": id, "failure": "json"}), deadline).await.unwrap();
        let message: FailureMessage = serde_json::from_str(answer.get()).unwrap();
        assert_eq!(message.error, failure());
    }
}
