//! The contract of Lambda: <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html>.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aws_sdk_lambda::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_lambda::operation::invoke::{InvokeError, InvokeOutput};
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::{InvocationType, LogType};
use buzz_localcloud::lambda::{ApiError, Fault};
use serde_json::{Value, json};

use crate::clients::{Cloud, Sizes, start};

type Invoked = Result<InvokeOutput, SdkError<InvokeError>>;

async fn invoke(cloud: &Cloud, event: &Value) -> Invoked {
    cloud.lambda().await.invoke().function_name("echo").payload(Blob::new(event.to_string())).send().await
}

fn payload(output: &InvokeOutput) -> Value {
    serde_json::from_slice(output.payload().expect("a payload").as_ref()).expect("JSON")
}

async fn answer(cloud: &Cloud, event: Value) -> Value {
    let output = invoke(cloud, &event).await.unwrap();
    assert_eq!(output.function_error(), None, "{}", payload(&output));
    payload(&output)
}

/// Invokes the function and returns the type and message of its error.
async fn function_error(cloud: &Cloud, event: Value) -> (String, String) {
    let output = invoke(cloud, &event).await.unwrap();
    assert_eq!(output.function_error(), Some("Unhandled"));
    assert_eq!(output.status_code(), 200);
    let error = payload(&output);
    let text = |name: &str| error[name].as_str().unwrap_or_default().to_string();
    (text("errorType"), text("errorMessage"))
}

/// Returns the HTTP status and the name of an API error.
fn api_error(invoked: Invoked) -> (u16, String) {
    let error = invoked.expect_err("the API rejects the request");
    let status = error.raw_response().expect("the service responded").status().as_u16();
    (status, error.code().unwrap_or_default().to_string())
}

#[tokio::test]
async fn warm_instance_is_reused_until_cool_down() {
    let cloud = start(Sizes::default()).await;
    let first = answer(&cloud, json!({"print": "hello"})).await;
    assert_eq!(first["event"], json!({"print": "hello"}));
    assert_eq!(first["arn"], "arn:aws:lambda:us-east-2:123456789012:function:echo");
    assert_eq!(first["environment"]["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"], "256");
    assert_eq!(first["environment"]["AWS_ENDPOINT_URL"], cloud.cloud.endpoint.as_str());
    let remaining = first["remaining_ms"].as_f64().unwrap();
    assert!((1.0..=60_000.0).contains(&remaining), "{remaining}");

    let second = answer(&cloud, json!({})).await;
    assert_eq!((&second["pid"], &second["count"]), (&first["pid"], &json!(2)));
    cloud.cloud.lambda.cool_down();
    let third = answer(&cloud, json!({})).await;
    assert_ne!(third["pid"], first["pid"]);
    let counts = cloud.cloud.lambda.counts("echo");
    assert_eq!((counts.invocations, counts.cold_starts, counts.busy_max), (3, 2, 1));
}

#[tokio::test]
async fn concurrent_invocations_get_one_instance_each() {
    let cloud = start(Sizes::default()).await;
    let together = futures::future::join_all((0..8).map(|_| answer(&cloud, json!({"sleep": 1})))).await;
    let processes: std::collections::HashSet<_> = together.iter().map(|answer| answer["pid"].to_string()).collect();
    assert_eq!(processes.len(), 8);
    assert_eq!(cloud.cloud.lambda.counts("echo").busy_max, 8);
}

#[tokio::test]
async fn invocation_above_account_concurrency_is_throttled() {
    let cloud = start(Sizes { concurrency: 2, ..Sizes::default() }).await;
    let event = json!({"sleep": 1});
    let (left, right, late) = tokio::join!(invoke(&cloud, &event), invoke(&cloud, &event), async {
        while cloud.cloud.lambda.counts("echo").invocations < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        invoke(&cloud, &event).await
    });
    assert!(left.is_ok() && right.is_ok());
    assert_eq!(api_error(late), (429, "TooManyRequestsException".to_string()));
    assert_eq!(cloud.cloud.lambda.counts("echo").throttles, 1);
    assert!(invoke(&cloud, &json!({})).await.is_ok());
}

#[tokio::test]
async fn function_error_is_a_200_response_with_error_header() {
    let cloud = start(Sizes::default()).await;
    let failed = function_error(&cloud, json!({"fail": "file x is corrupt"})).await;
    assert_eq!(failed, ("Data".to_string(), "file x is corrupt".to_string()));
    assert_eq!(answer(&cloud, json!({})).await["count"], 2, "a function error leaves the instance warm");

    let (kind, message) = function_error(&cloud, json!({"exit": 7})).await;
    assert_eq!(kind, "Runtime.ExitError");
    assert!(message.ends_with("Error: Runtime exited with error: exit status 7"), "{message}");
    let (_, message) = function_error(&cloud, json!({"exit": 0})).await;
    assert!(message.ends_with("Runtime exited without providing a reason"), "{message}");
    assert_eq!(answer(&cloud, json!({})).await["count"], 1, "a dead instance is not used again");
}

#[tokio::test]
async fn function_past_its_timeout_is_killed() {
    let cloud = start(Sizes { timeout: Duration::from_secs(1), ..Sizes::default() }).await;
    let (kind, message) = function_error(&cloud, json!({"sleep": 30})).await;
    assert_eq!(kind, "Sandbox.Timedout");
    assert!(message.ends_with("Error: Task timed out after 1.00 seconds"), "{message}");
    assert_eq!(answer(&cloud, json!({})).await["count"], 1);
}

#[tokio::test]
async fn function_above_its_memory_size_is_killed() {
    let cloud = start(Sizes { memory_mb: 64, ..Sizes::default() }).await;
    assert_eq!(answer(&cloud, json!({})).await["count"], 1);
    let (kind, message) = function_error(&cloud, json!({"allocate_mb": 100})).await;
    assert_eq!(kind, "Runtime.ExitError");
    assert!(message.ends_with("Runtime exited with error: signal: killed"), "{message}");
}

#[tokio::test]
async fn init_failure_is_returned_as_function_error() {
    let environment = |name: &str| BTreeMap::from([(name.to_string(), "1".to_string())]);
    let cloud = start(Sizes { environment: environment("INIT_FAILS"), ..Sizes::default() }).await;
    let failed = function_error(&cloud, json!({})).await;
    assert_eq!(failed, ("Settings".to_string(), "BUZZ_X is missing".to_string()));
    let cloud = start(Sizes { environment: environment("INIT_EXITS"), ..Sizes::default() }).await;
    let (kind, message) = function_error(&cloud, json!({})).await;
    assert_eq!(kind, "Runtime.ExitError");
    assert!(message.ends_with("exit status 3"), "{message}");
}

#[tokio::test]
async fn oversized_or_malformed_requests_are_rejected() {
    let cloud = start(Sizes::default()).await;
    let padded = |bytes: usize| json!({"padding": "x".repeat(bytes)});
    assert!(invoke(&cloud, &padded((6 << 20) - 20)).await.is_ok(), "the response is slightly larger than the event");
    let refused = api_error(invoke(&cloud, &padded(6 << 20)).await);
    assert_eq!(refused, (413, "RequestTooLargeException".to_string()));

    let client = cloud.lambda().await;
    let event = |bytes| client.invoke().function_name("echo").invocation_type(InvocationType::Event).payload(bytes);
    let accepted = event(Blob::new(padded((1 << 20) - 20).to_string())).send().await.unwrap();
    assert_eq!(accepted.status_code(), 202);
    let refused = api_error(event(Blob::new(padded(1 << 20).to_string())).send().await);
    assert_eq!(refused, (413, "RequestTooLargeException".to_string()));
    let refused = api_error(event(Blob::new("{no json")).send().await);
    assert_eq!(refused, (400, "InvalidRequestContentException".to_string()));
}

#[tokio::test]
async fn oversized_response_is_a_function_error_and_keeps_the_instance() {
    let cloud = start(Sizes::default()).await;
    let large = answer(&cloud, json!({"bytes": 6_000_000})).await;
    assert_eq!(large["padding"].as_str().map(str::len), Some(6_000_000));
    let (kind, message) = function_error(&cloud, json!({"bytes": 7_000_000})).await;
    assert_eq!(kind, "Function.ResponseSizeTooLarge");
    assert!(message.contains("6291556"), "{message}");
    let next = answer(&cloud, json!({})).await;
    assert_eq!((&next["last_status"], &next["count"]), (&json!(413), &json!(3)));
}

#[tokio::test]
async fn function_can_open_at_most_1024_descriptors() {
    let cloud = start(Sizes::default()).await;
    let opened = answer(&cloud, json!({"descriptors": 2000})).await["opened"].as_u64().unwrap();
    assert!((900..1024).contains(&opened), "{opened}");
}

#[tokio::test]
async fn log_tail_ends_with_output_and_report() {
    let cloud = start(Sizes::default()).await;
    let client = cloud.lambda().await;
    let event = json!({"print": format!("{}the last line", "x".repeat(9000))}).to_string();
    let invoked =
        client.invoke().function_name("echo").log_type(LogType::Tail).payload(Blob::new(event)).send().await.unwrap();
    let tail = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, invoked.log_result().unwrap()).unwrap();
    assert_eq!(tail.len(), 4096);
    let tail = String::from_utf8(tail).unwrap();
    let (printed, report) = tail.split_once("the last line\n").expect("the log tail has the last line");
    assert!(printed.ends_with("xxx"));
    assert!(report.contains("END RequestId") && report.contains("Memory Size: 256 MB"), "{report}");
    assert!(report.contains("Init Duration"), "{report}");
    let without = client.invoke().function_name("echo").send().await.unwrap();
    assert_eq!(without.log_result(), None);
}

#[tokio::test]
async fn dry_run_unknown_function_and_arn_invocations() {
    let cloud = start(Sizes::default()).await;
    let client = cloud.lambda().await;
    let dry = client.invoke().function_name("echo").invocation_type(InvocationType::DryRun).send().await.unwrap();
    assert_eq!(dry.status_code(), 204);
    assert_eq!(cloud.cloud.lambda.counts("echo").invocations, 0);
    let unknown = client.invoke().function_name("nobody").send().await;
    assert_eq!(api_error(unknown), (404, "ResourceNotFoundException".to_string()));
    let arn = "arn:aws:lambda:us-east-2:123456789012:function:echo:$LATEST";
    let by_arn = client.invoke().function_name(arn).send().await.unwrap();
    assert_eq!(payload(&by_arn)["event"], json!({}), "a missing payload is an empty object");
    assert_eq!(by_arn.executed_version(), Some("$LATEST"));
}

#[tokio::test]
async fn injected_faults_apply_to_the_next_invocations() {
    let cloud = start(Sizes::default()).await;
    let lambda = &cloud.cloud.lambda;
    lambda.fail_next("echo", &Fault::Refuse(ApiError::throttled()), 2);
    let unready = ApiError::new(502, "ResourceNotReadyException", "The function is inactive");
    lambda.fail_next("echo", &Fault::Refuse(unready), 1);
    assert_eq!(api_error(invoke(&cloud, &json!({})).await).0, 429);
    assert_eq!(api_error(invoke(&cloud, &json!({})).await).0, 429);
    assert_eq!(api_error(invoke(&cloud, &json!({})).await), (502, "ResourceNotReadyException".to_string()));
    assert_eq!(lambda.counts("echo").invocations, 0);

    for fault in [Fault::DieAtStart, Fault::DieBeforeAnswer] {
        lambda.fail_next("echo", &fault, 1);
        let (kind, message) = function_error(&cloud, json!({"sleep": 0.2})).await;
        assert_eq!(kind, "Runtime.ExitError");
        assert!(message.ends_with("signal: aborted"), "{message}");
    }
    lambda.fail_next("echo", &Fault::Twice, 1);
    assert_eq!(answer(&cloud, json!({"sleep": 0.5})).await["count"], 1);
    let counts = lambda.counts("echo");
    assert_eq!((counts.invocations, counts.busy_max), (4, 2));

    lambda.fail_next("echo", &Fault::Slow(Duration::from_millis(300)), 1);
    let started = Instant::now();
    answer(&cloud, json!({})).await;
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn invocation_continues_after_caller_disconnects() {
    let cloud = start(Sizes::default()).await;
    let event = json!({"sleep": 1, "print": "went on"});
    let hung_up = tokio::time::timeout(Duration::from_millis(500), invoke(&cloud, &event)).await;
    assert!(hung_up.is_err());
    let logged = async {
        loop {
            let logs = std::fs::read_dir(cloud.path("logs/echo")).into_iter().flatten().flatten();
            let logs: String = logs.map(|log| std::fs::read_to_string(log.path()).unwrap_or_default()).collect();
            if logs.contains("went on") && logs.contains("REPORT") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), logged).await.expect("the invocation ends by itself");
}

#[tokio::test]
async fn aws_cli_invokes_functions() {
    let cloud = start(Sizes::default()).await;
    std::fs::write(cloud.path("in.json"), r#"{"print": "hello"}"#).unwrap();
    let arguments = ["lambda", "invoke", "--function-name", "echo", "--log-type", "Tail"];
    let file = ["--payload", "fileb://in.json", "out.json"];
    let printed: Value = serde_json::from_str(&cloud.aws(&[&arguments[..], &file].concat()).await.unwrap()).unwrap();
    assert_eq!((&printed["StatusCode"], &printed["ExecutedVersion"]), (&json!(200), &json!("$LATEST")));
    assert!(printed["LogResult"].is_string() && printed["FunctionError"].is_null());
    let answer: Value = serde_json::from_slice(&std::fs::read(cloud.path("out.json")).unwrap()).unwrap();
    assert_eq!(answer["event"], json!({"print": "hello"}));

    let failed =
        cloud.aws(&["lambda", "invoke", "--function-name", "echo", "--payload", r#"{"fail": "no"}"#, "out.json"]);
    assert!(failed.await.unwrap().contains(r#""FunctionError": "Unhandled""#));
    let refused = cloud.aws(&["lambda", "invoke", "--function-name", "nobody", "out.json"]).await.unwrap_err();
    assert!(refused.contains("ResourceNotFoundException"), "{refused}");
}

/// Invokes the function named `target`, which may have a version or an alias. Returns the value of the variable `BUILD`
/// that it sees, and the executed version.
async fn build_of(cloud: &Cloud, target: &str, qualifier: Option<&str>) -> Result<(String, String), (u16, String)> {
    let call = cloud.lambda().await.invoke().function_name(target).set_qualifier(qualifier.map(ToString::to_string));
    let output = call.payload(Blob::new("{}")).send().await.map_err(|error| api_error(Err(error)))?;
    let build = payload(&output)["environment"]["BUILD"].as_str().unwrap_or("none").to_string();
    Ok((build, output.executed_version().unwrap_or_default().to_string()))
}

#[tokio::test]
async fn versions_keep_their_settings_and_the_alias_names_one_of_them() {
    let cloud = start(Sizes::default()).await;
    let lambda = &cloud.cloud.lambda;
    let found = |build: &str, version: &str| Ok((build.to_string(), version.to_string()));
    assert_eq!(build_of(&cloud, "echo:live", None).await, found("none", "1"));

    let mut next = lambda.latest("echo");
    next.environment.insert("BUILD".to_string(), "next".to_string());
    lambda.update(next);
    assert_eq!(build_of(&cloud, "echo", None).await, found("next", "$LATEST"));
    assert_eq!(build_of(&cloud, "echo:live", None).await, found("none", "1"));
    assert_eq!(lambda.publish("echo"), "2");
    lambda.set_live("echo", "2");
    assert_eq!(build_of(&cloud, "echo", Some("live")).await, found("next", "2"));
    assert_eq!(build_of(&cloud, "echo:1", None).await, found("none", "1"));
    assert_eq!(
        build_of(&cloud, "arn:aws:lambda:us-east-2:123456789012:function:echo:2", None).await,
        found("next", "2")
    );

    lambda.set_live("echo", "1");
    assert_eq!(build_of(&cloud, "echo:live", None).await, found("none", "1"));
    lambda.delete_version("echo", "2");
    for gone in ["echo:2", "echo:3", "echo:other"] {
        let refused = build_of(&cloud, gone, None).await;
        assert_eq!(refused, Err((404, "ResourceNotFoundException".to_string())), "{gone}");
    }
}

#[tokio::test]
async fn part_of_the_invocations_is_refused() {
    let cloud = start(Sizes::default()).await;
    cloud.cloud.lambda.refuse(100);
    let refused = api_error(invoke(&cloud, &json!({})).await);
    assert_eq!(refused, (429, "TooManyRequestsException".to_string()));
    cloud.cloud.lambda.refuse(0);
    answer(&cloud, json!({})).await;
}
