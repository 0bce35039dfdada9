//! The contract of ECS: <https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_RunTask.html>.

use std::time::Duration;

use aws_sdk_ecs::error::ProvideErrorMetadata;
use aws_sdk_ecs::operation::run_task::RunTaskError;
use aws_sdk_ecs::operation::run_task::builders::RunTaskFluentBuilder;
use aws_sdk_ecs::types::{AwsVpcConfiguration, DesiredStatus, LaunchType, NetworkConfiguration, Task};
use buzz_localcloud::ecs::AddressKind;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::clients::{Cloud, Sizes, start};

fn run(client: &aws_sdk_ecs::Client) -> RunTaskFluentBuilder {
    let vpc = AwsVpcConfiguration::builder().subnets("subnet-1").build().unwrap();
    client
        .run_task()
        .cluster("cluster")
        .task_definition("family:1")
        .launch_type(LaunchType::Fargate)
        .network_configuration(NetworkConfiguration::builder().awsvpc_configuration(vpc).build())
}

async fn describe(client: &aws_sdk_ecs::Client, arn: &str) -> Task {
    let described = client.describe_tasks().cluster("cluster").tasks(arn).send().await.unwrap();
    described.tasks().first().expect("the task exists").clone()
}

async fn reaches(client: &aws_sdk_ecs::Client, arn: &str, status: &str) -> Task {
    for _ in 0..1000 {
        let task = describe(client, arn).await;
        if task.last_status() == Some(status) {
            return task;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the task does not become {status}");
}

async fn list(client: &aws_sdk_ecs::Client, desired: DesiredStatus) -> usize {
    let listed = client.list_tasks().cluster("cluster").family("family").desired_status(desired).send().await;
    listed.unwrap().task_arns().len()
}

/// Connects to `address`, with retries for up to 10 seconds, and returns the text that the container sends.
async fn talk(address: &str) -> String {
    for _ in 0..500 {
        if let Ok(mut connection) = TcpStream::connect(address).await {
            let mut said = String::new();
            connection.read_to_string(&mut said).await.unwrap();
            return said;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("no container listens at {address}");
}

fn interface(task: &Task) -> aws_sdk_ecs::types::NetworkInterface {
    task.containers()[0].network_interfaces()[0].clone()
}

#[tokio::test]
async fn task_runs_at_its_own_address_until_stopped() {
    let cloud = start(Sizes { start_delay: Duration::from_millis(600), ..Sizes::default() }).await;
    let client = cloud.ecs().await;
    let started = run(&client).count(2).started_by("test").send().await.unwrap();
    let arns: Vec<String> = started.tasks().iter().map(|task| task.task_arn().unwrap().to_string()).collect();
    assert_eq!(started.tasks()[0].last_status(), Some("PROVISIONING"));
    assert!(started.tasks()[0].containers()[0].network_interfaces().is_empty());
    assert_eq!(list(&client, DesiredStatus::Running).await, 2);
    reaches(&client, &arns[0], "PENDING").await;

    let (left, right) = (reaches(&client, &arns[0], "RUNNING").await, reaches(&client, &arns[1], "RUNNING").await);
    let address = |task: &Task| format!("{}:3333", interface(task).private_ipv4_address().unwrap());
    assert_ne!(address(&left), address(&right));
    assert_ne!(talk(&address(&left)).await, talk(&address(&right)).await);
    assert_eq!(cloud.cloud.ecs.running().len(), 2);

    client.stop_task().cluster("cluster").task(&arns[0]).reason("enough").send().await.unwrap();
    let stopped = reaches(&client, &arns[0], "STOPPED").await;
    assert_eq!(stopped.stopped_reason(), Some("enough"));
    assert_eq!(stopped.containers()[0].exit_code(), Some(0), "SIGTERM came first");
    assert_eq!((list(&client, DesiredStatus::Running).await, list(&client, DesiredStatus::Stopped).await), (1, 1));

    assert_eq!(cloud.cloud.ecs.kill_running(), 1);
    let killed = reaches(&client, &arns[1], "STOPPED").await;
    assert_eq!(killed.containers()[0].exit_code(), Some(137));
    assert_eq!(killed.stopped_reason(), Some("Essential container in task exited"));
    assert_eq!(killed.stop_code().map(|code| code.as_str()), Some("EssentialContainerExited"));
}

#[tokio::test]
async fn task_stopped_before_start_never_runs() {
    let cloud = start(Sizes { start_delay: Duration::from_millis(400), ..Sizes::default() }).await;
    let client = cloud.ecs().await;
    let arn = run(&client).send().await.unwrap().tasks()[0].task_arn().unwrap().to_string();
    client.stop_task().cluster("cluster").task(&arn).send().await.unwrap();
    assert_eq!(reaches(&client, &arn, "STOPPED").await.containers()[0].exit_code(), None);
}

#[tokio::test]
async fn container_is_reachable_over_ipv6() {
    let cloud = start(Sizes { address: AddressKind::Ipv6, ..Sizes::default() }).await;
    let client = cloud.ecs().await;
    let arn = run(&client).send().await.unwrap().tasks()[0].task_arn().unwrap().to_string();
    let interface = interface(&reaches(&client, &arn, "RUNNING").await);
    assert_eq!(interface.private_ipv4_address(), None);
    assert!(!talk(&format!("[{}]:3333", interface.ipv6_address().unwrap())).await.is_empty());
}

#[tokio::test]
async fn run_task_is_idempotent_by_client_token() {
    let cloud = start(Sizes::default()).await;
    let client = cloud.ecs().await;
    let token = |token: &str| run(&client).client_token(token);
    let (left, right) = tokio::join!(token("one").send(), token("one").send());
    let arn =
        |output: &aws_sdk_ecs::operation::run_task::RunTaskOutput| output.tasks()[0].task_arn().unwrap().to_string();
    let (left, right) = (arn(&left.unwrap()), arn(&right.unwrap()));
    assert_eq!((&left, cloud.cloud.ecs.started()), (&right, 1));

    let conflict = token("one").count(2).send().await.unwrap_err().into_service_error();
    let RunTaskError::ConflictException(conflict) = conflict else { panic!("{conflict:?}") };
    assert_eq!(conflict.resource_ids(), std::slice::from_ref(&left));

    reaches(&client, &left, "RUNNING").await;
    cloud.cloud.ecs.kill_running();
    reaches(&client, &left, "STOPPED").await;
    let again = token("one").send().await.unwrap();
    assert_eq!((arn(&again), again.tasks()[0].last_status()), (left, Some("STOPPED")), "a token outlives its tasks");
    assert_ne!(arn(&token("two").send().await.unwrap()), arn(&again));
}

#[tokio::test]
async fn invalid_requests_return_ecs_exceptions() {
    let cloud = start(Sizes::default()).await;
    let client = cloud.ecs().await;
    let code = |error: RunTaskError| error.code().unwrap_or_default().to_string();
    let failed = async |request: RunTaskFluentBuilder| code(request.send().await.unwrap_err().into_service_error());
    assert_eq!(failed(run(&client).cluster("nowhere")).await, "ClusterNotFoundException");
    assert_eq!(failed(run(&client).task_definition("family:2")).await, "ClientException");
    assert_eq!(failed(run(&client).count(11)).await, "InvalidParameterException");
    assert_eq!(failed(run(&client).client_token("x".repeat(65))).await, "InvalidParameterException");
    let bare = client.run_task().cluster("cluster").task_definition("family");
    assert_eq!(failed(bare).await, "InvalidParameterException");
    cloud.cloud.ecs.refuse_next(1);
    assert_eq!(failed(run(&client)).await, "ClientException");
    assert_eq!(cloud.cloud.ecs.started(), 0);

    let described = client.describe_tasks().cluster("cluster").tasks("nothing").send().await.unwrap();
    assert_eq!(described.failures()[0].reason(), Some("MISSING"));
}

#[tokio::test]
async fn aws_cli_runs_and_lists_tasks() {
    let cloud: Cloud = start(Sizes::default()).await;
    let network = "awsvpcConfiguration={subnets=[subnet-1]}";
    let arguments = ["ecs", "run-task", "--cluster", "cluster", "--task-definition", "family"];
    let started = cloud.aws(&[&arguments[..], &["--network-configuration", network]].concat()).await.unwrap();
    assert!(started.contains("PROVISIONING"), "{started}");
    let listed = cloud.aws(&["ecs", "list-tasks", "--cluster", "cluster", "--family", "family"]).await.unwrap();
    assert!(listed.contains(":task/cluster/"), "{listed}");
}

#[tokio::test]
async fn tasks_are_known_after_the_lag() {
    let cloud = start(Sizes::default()).await;
    let client = cloud.ecs().await;
    cloud.cloud.ecs.set_lag(Duration::from_secs(3600));
    let started = run(&client).send().await.unwrap();
    let arn = started.tasks()[0].task_arn().unwrap();
    let described = client.describe_tasks().cluster("cluster").tasks(arn).send().await.unwrap();
    assert_eq!((described.tasks().len(), described.failures()[0].reason()), (0, Some("MISSING")));
    assert_eq!(list(&client, DesiredStatus::Running).await, 0);
    cloud.cloud.ecs.set_lag(Duration::ZERO);
    assert_eq!(list(&client, DesiredStatus::Running).await, 1);
    describe(&client, arn).await;
}
