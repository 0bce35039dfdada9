//! Tests against a simulated AWS Lambda on loopback.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use buzz_protocol::{BUILD_ID, ErrorKind, Partitioning, Place, QueryId, QueryToken, StageId, TaskIndex};
use buzz_storage::{Location, Stores};
use buzz_testkit::check_compute;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::*;
use crate::clients;

/// A response of the service: status, headers, body.
type Said = (u16, Vec<(&'static str, &'static str)>, Value);

/// The requests received, and the responses to return in order. After the last one, the service returns [`outcome`].
#[derive(Debug, Default)]
struct Service {
    asked: Mutex<Vec<(String, HeaderMap, Value)>>,
    says: Mutex<VecDeque<Said>>,
}

async fn invoked(
    State(service): State<Arc<Service>>,
    Path(function): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let event: Value = serde_json::from_slice(&body).unwrap();
    service.asked.lock().push((function, headers, event.clone()));
    let usual = if event["task"]["step"] == FAILS { failure() } else { outcome() };
    let (status, headers, body) = service.says.lock().pop_front().unwrap_or((200, vec![], usual));
    let mut answer = (StatusCode::from_u16(status).unwrap(), body.to_string()).into_response();
    for (name, value) in headers {
        answer.headers_mut().insert(name, value.parse().unwrap());
    }
    answer
}

fn outcome() -> Value {
    json!({"done": {
        "delivery": uuid(), "rows": [1, 2], "bytes_delivered": 3, "rows_scanned": 4, "bytes_scanned": 5, "milliseconds": 6
    }})
}

/// The step whose tasks fail.
const FAILS: &str = "fails";

fn failure() -> Value {
    serde_json::to_value(HBeeAnswer::Failed(QueryError::data("no file").at_task(FAILS, TaskIndex(3)))).unwrap()
}

fn uuid() -> String {
    QueryId::fresh().to_string()
}

fn refused(status: u16, kind: &'static str) -> Said {
    (status, vec![("x-amzn-errortype", kind)], json!({"Type": "User", "message": "no"}))
}

fn failed(error_type: &str, message: &str) -> Said {
    (200, vec![("x-amz-function-error", "Unhandled")], json!({"errorType": error_type, "errorMessage": message}))
}

fn task(fragment_bytes: usize) -> HBeeTask {
    HBeeTask {
        build: BUILD_ID.to_string(),
        query: QueryId::fresh(),
        token: QueryToken::fresh(),
        deadline_ms: None,
        stage: StageId(1),
        step: "m".to_string(),
        task: TaskIndex(3),
        attempt: 2,
        fragment: vec![7; fragment_bytes].into(),
        scans: vec![],
        evaluations: vec![],
        session: Default::default(),
        partitioning: Partitioning::RoundRobin { count: 2 },
        combs: vec![],
        inline_bytes: 0,
        objects: None,
        inputs: vec![],
        trace: None,
    }
}

/// Runs a task on a function whose first responses are `says`.
async fn run(task: HBeeTask, says: Vec<Said>) -> (Result<TaskOutcome>, Arc<Service>, Results) {
    let (outcome, service, results, _) = run_counted(task, says).await;
    (outcome, service, results)
}

/// Runs a task like [`run`], and also returns the number of calls that no worker took.
async fn run_counted(task: HBeeTask, says: Vec<Said>) -> (Result<TaskOutcome>, Arc<Service>, Results, u32) {
    let (compute, service, results) = serve(says).await;
    let refusals = AtomicU32::new(0);
    let refused = || _ = refusals.fetch_add(1, Ordering::Relaxed);
    let outcome = compute.run(&task, &refused).await;
    (outcome, service, results, refusals.into_inner())
}

/// Starts a service whose first responses are `says`, and makes a client of it.
async fn serve(says: Vec<Said>) -> (LambdaCompute, Arc<Service>, Results) {
    let service = Arc::new(Service { asked: Mutex::default(), says: Mutex::new(says.into()) });
    let app = Router::new().route("/2015-03-31/functions/{name}/invocations", post(invoked));
    let app = app.with_state(Arc::clone(&service)).layer(axum::extract::DefaultBodyLimit::disable());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });

    let sdk = clients::sdk(Duration::from_secs(10), Some(&url)).await;
    let keys = aws_sdk_lambda::config::Credentials::new("AK", "SK", None, None, "test");
    let keys = aws_sdk_lambda::config::SharedCredentialsProvider::new(keys);
    let region = aws_config::Region::new("us-east-2");
    let sdk = sdk.into_builder().credentials_provider(keys).region(region).build();
    let stores = Arc::new(Stores::default());
    let place = Location::parse("s3://bucket/results", std::path::Path::new("/")).unwrap();
    stores.replace(&place.store, Arc::new(object_store::memory::InMemory::new()));
    let results = Results::new(stores.for_query(), place);
    let function = HBeeSettings {
        function: "hbee".to_string(),
        timeout: Duration::from_secs(5),
        memory_mb: 2048,
        concurrency: 900,
    };
    (LambdaCompute::new(&sdk, function, results.clone(), Sizes::default()), service, results)
}

#[tokio::test]
async fn compute_of_lambda_keeps_the_contract() {
    let (compute, _, _) = serve(vec![]).await;
    let works = task(10);
    check_compute(&compute, &works, &HBeeTask { step: FAILS.to_string(), ..works.clone() }).await;
}

#[tokio::test]
async fn task_runs_as_one_synchronous_invocation() {
    let (outcome, service, _) = run(task(10), vec![]).await;
    assert_eq!(outcome.unwrap().rows, [1, 2]);
    let asked = service.asked.lock();
    let [(function, headers, event)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!(function, "hbee");
    assert_eq!(headers["x-amz-invocation-type"], "RequestResponse");
    assert_eq!(event["task"]["step"], "m");
}

#[tokio::test]
async fn throttled_or_unready_invocations_are_retried() {
    let early = ["TooManyRequestsException", "ResourceNotReadyException", "ENINotReadyException"];
    let says = vec![refused(429, early[0]), refused(502, early[1]), refused(502, early[2])];
    let (outcome, service, _, refusals) = run_counted(task(10), says).await;
    outcome.unwrap();
    assert_eq!((service.asked.lock().len(), refusals), (4, 3));
}

#[tokio::test]
async fn other_failures_are_not_retried_and_keep_their_kind() {
    let cases = [
        (refused(500, "ServiceException"), ErrorKind::Unavailable, "invoke on function hbee: ServiceException: no"),
        (refused(404, "ResourceNotFoundException"), ErrorKind::Invalid, "function hbee does not exist"),
        (refused(403, "AccessDeniedException"), ErrorKind::Invalid, "is not allowed"),
        (refused(413, "RequestTooLargeException"), ErrorKind::Internal, "RequestTooLargeException"),
        (failed("Data", "file `a` is truncated"), ErrorKind::Data, "step `m`, task 3: file `a` is truncated"),
        (
            failed("Runtime.ExitError", "RequestId: 1 Error: Runtime exited with error: exit status 1"),
            ErrorKind::Unavailable,
            "function hbee stopped: Runtime.ExitError",
        ),
        (
            failed("Runtime.ExitError", "RequestId: 1 Error: Runtime exited with error: signal: killed"),
            ErrorKind::Limit,
            "ran out of memory",
        ),
        (failed("Sandbox.Timedout", "Task timed out after 300.00 seconds"), ErrorKind::Limit, "hbee timed out"),
        ((200, vec![], json!("what?")), ErrorKind::Internal, "an HBee's answer is not readable"),
    ];
    for (said, kind, message) in cases {
        let (outcome, service, _) = run(task(10), vec![said.clone()]).await;
        let error = outcome.unwrap_err();
        assert_eq!(error.kind, kind, "{error}");
        let text = error.to_string();
        assert!(text.contains(message) && text.starts_with("step `m`, task 3: "), "{text}");
        assert_eq!(service.asked.lock().len(), 1, "{said:?}");
    }
}

#[tokio::test]
async fn failure_of_a_task_arrives_whole() {
    let kinds = [
        ErrorKind::Invalid,
        ErrorKind::Data,
        ErrorKind::Unavailable,
        ErrorKind::Limit,
        ErrorKind::Cancelled,
        ErrorKind::Internal,
    ];
    for kind in kinds {
        let file = Place::file_of("trips", "s3://lake/a.parquet");
        let error = QueryError::new(kind, "is `truncated`").retry_after(Some(Duration::from_millis(1500)));
        let error = error.at(file).at_task("m", TaskIndex(3));
        let answer = serde_json::to_value(HBeeAnswer::from(Err(error.clone()))).unwrap();
        let (outcome, service, _) = run(task(10), vec![(200, vec![], answer)]).await;
        assert_eq!(outcome.unwrap_err(), error);
        assert_eq!(service.asked.lock().len(), 1);
    }
    // A message that looks like a place is not one.
    let error = QueryError::data("step `x` is a text");
    let answer = serde_json::to_value(HBeeAnswer::from(Err(error.clone()))).unwrap();
    let (outcome, ..) = run(task(10), vec![(200, vec![], answer)]).await;
    assert_eq!(outcome.unwrap_err(), error.at_task("m", TaskIndex(3)));
}

#[tokio::test]
async fn throttled_invocation_waits_as_long_as_the_service_requires() {
    let (status, mut headers, body) = refused(429, "TooManyRequestsException");
    headers.push(("retry-after", "1"));
    let started = Instant::now();
    let (outcome, ..) = run(task(10), vec![(status, headers.clone(), body.clone())]).await;
    outcome.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
    // An error that is not retried here carries the time to the caller.
    let says = vec![(503, vec![("x-amzn-errortype", "ServiceException"), ("retry-after", "7")], body)];
    let (outcome, ..) = run(task(10), says).await;
    assert_eq!(outcome.unwrap_err().retry_after, Some(Duration::from_secs(7)));
}

/// A source of credentials that has none.
#[derive(Debug)]
struct NoCredentials;

impl aws_credential_types::provider::ProvideCredentials for NoCredentials {
    fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        use aws_credential_types::provider::error::CredentialsError;
        let error = CredentialsError::not_loaded("no source has keys");
        aws_credential_types::provider::future::ProvideCredentials::ready(Err(error))
    }
}

#[tokio::test]
async fn missing_credentials_are_recognised_by_their_type() {
    let sdk = clients::sdk(Duration::from_secs(1), Some("http://127.0.0.1:9")).await;
    let keys = aws_sdk_lambda::config::SharedCredentialsProvider::new(NoCredentials);
    let sdk = sdk.into_builder().credentials_provider(keys).region(aws_config::Region::new("us-east-2")).build();
    let call = aws_sdk_lambda::Client::new(&sdk).invoke().function_name("hbee").send().await.unwrap_err();
    let error = failure::of_call("invoke", "function hbee", &call);
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    assert!(error.message.contains("there are no credentials for AWS"), "{error}");
}

#[tokio::test]
async fn unreachable_service_is_unavailable() {
    let sdk = clients::sdk(Duration::from_secs(1), Some("http://127.0.0.1:9")).await;
    let keys = aws_sdk_lambda::config::Credentials::new("AK", "SK", None, None, "test");
    let keys = aws_sdk_lambda::config::SharedCredentialsProvider::new(keys);
    let sdk = sdk.into_builder().credentials_provider(keys).region(aws_config::Region::new("us-east-2")).build();
    let place = Location::parse("s3://bucket/results", std::path::Path::new("/")).unwrap();
    let results = Results::new(Arc::new(Stores::default()).for_query(), place);
    let function = HBeeSettings { function: "hbee".to_string(), timeout: Duration::ZERO, memory_mb: 1, concurrency: 1 };
    let error = LambdaCompute::new(&sdk, function, results, Sizes::default()).run(&task(1), &|| {}).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
}

#[tokio::test]
async fn oversized_task_is_passed_through_storage() {
    let large = task(PAYLOAD_BYTES_MAX);
    let (outcome, service, results) = run(large.clone(), vec![]).await;
    outcome.unwrap();
    let place = results.of_query(large.query, "tasks/1-3-2.json").unwrap();
    assert_eq!(service.asked.lock()[0].2, json!({"task_at": place.to_string()}));
    let stored = results.get_json::<HBeeTask>(&place).await.unwrap().unwrap();
    assert_eq!(stored.fragment, large.fragment);
}

#[test]
fn file_descriptors_limit_the_concurrency() {
    assert_eq!(concurrency(900, Some(1024), 1), 900);
    assert_eq!(concurrency(900, Some(256), 1), 156);
    assert_eq!(concurrency(0, Some(50), 1), 1);
    assert_eq!(concurrency(900, None, 1), 900);
    // Calls to AWS share connections.
    assert_eq!(concurrency(5000, Some(1024), CALLS_PER_CONNECTION), 5000);
    let at = |url: Option<&str>, own: Option<&str>| {
        let mut sdk = SdkConfig::builder();
        sdk.set_endpoint_url(url.map(str::to_string));
        calls_per_connection(&sdk.build(), own)
    };
    let (plain, tls) = (Some("http://127.0.0.1:1"), Some("https://lambda"));
    assert_eq!((at(None, None), at(plain, None), at(tls, None)), (100, 1, 100));
    // The endpoint of Lambda alone precedes that of all services.
    assert_eq!((at(plain, tls), at(tls, plain), at(plain, Some(""))), (100, 1, 1));
    assert!(descriptors_max().is_some_and(|most| most >= 64));
}
