//! Attacks by a caller who may invoke the functions and nothing else: reading or replacing what belongs to the stack or
//! to other callers, reading the machines, and sending requests elsewhere. None may succeed.

use std::time::Duration;

use buzz_localcloud::stack::HBEE;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::stack::{Answer, Deployed, GROUPS, TRIPS, ask, assert_answers, deploy, plain};

/// A query over one table.
fn table(sql: &str, kind: &str, uri: &str) -> Value {
    json!({"sql": sql, "catalogs": [{"name": "t", "type": kind, "uri": uri}]})
}

#[track_caller]
fn assert_refused(answer: Answer, message: &str) {
    let (kind, error) = answer.expect_err("the attack is refused");
    assert_eq!(kind, "Invalid", "{error}");
    assert!(error.contains(message), "{error}");
}

/// Uploads `text` as an object, as the owner of the lake.
async fn put(deployed: &Deployed, name: &str, text: &str) -> String {
    let folder = deployed.path(&format!("own-{name}"));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), text).unwrap();
    buzz_localcloud::upload::upload(&deployed.cloud.endpoint, &folder, "s3://buzz-local/lake").await.unwrap();
    format!("s3://buzz-local/lake/{name}")
}

/// Submits a query of another caller, whose request, progress and answer are then among the stack's objects.
async fn victim(deployed: &Deployed) -> Value {
    let mut event = ask(GROUPS, 1, json!({}));
    event["async"] = json!(true);
    let submitted = deployed.invoke(&event).await.unwrap();
    for _ in 0..300 {
        let seen = deployed.invoke(&json!({"watch": submitted["query_id"]})).await.unwrap();
        if seen["status"] == "answered" {
            return submitted["query_id"].clone();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the query does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_the_stack_are_neither_read_nor_replaced() {
    let deployed = deploy(|_| {}).await;
    let id = victim(&deployed).await;
    let own = format!("s3://buzz-local/results/queries/{}", id.as_str().unwrap());
    let listed = json!({"schema": [{"name": "status", "type": "Utf8"}], "files": [{"uri": format!("{own}/answer.json"), "size": 9}]});
    let manifest = put(&deployed, "manifest.json", &listed.to_string()).await;
    let places = [
        ("Json", "s3://buzz-local/results/queries/*/answer.json".to_string()),
        ("Json", format!("{own}/answer.json")),
        ("Json", format!("{own}/")),
        ("Auto", format!("{own}/answer.json")),
        ("Csv", format!("{own}/request.json")),
        ("Parquet", "s3://buzz-local/results".to_string()),
        ("DeltaLake", "s3://buzz-local/results/queries".to_string()),
        ("Static", format!("{own}/progress.json")),
        ("Static", manifest),
    ];
    for (kind, uri) in places {
        println!("{kind} {uri}");
        assert_refused(deployed.invoke(&table("SELECT * FROM t", kind, &uri)).await, "among the stack's own objects");
    }
    // A glob from above the stack's own folder finds nothing of it.
    let above = table("SELECT * FROM t", "Json", "s3://buzz-local/*/queries/*/answer.json");
    let (kind, message) = deployed.invoke(&above).await.unwrap_err();
    assert!(kind == "Data" && message.contains("no file below"), "{kind}: {message}");

    for name in [format!("{own}/answer.json"), "s3://buzz-local/results/combs/fleet/0.json".to_string()] {
        let event = json!({"query": {"sql": "SELECT 1 AS forged", "catalogs": []}, "output": {"uri": name}});
        assert_refused(deployed.invoke(&event).await, "cannot be written by a query");
        let mut later = event.clone();
        later["async"] = json!(true);
        assert_refused(deployed.invoke(&later).await, "cannot be written by a query");
    }
    let seen = deployed.invoke(&json!({"watch": id})).await;
    assert_answers(&seen, &plain(GROUPS).await);
    let request = deployed.path(&format!("cloud/s3/buzz-local/results/queries/{}/request.json", id.as_str().unwrap()));
    assert_eq!(std::fs::read_to_string(request).unwrap(), "{}", "the SQL and the parameters are removed");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_the_machines_are_not_read() {
    let deployed = deploy(|_| {}).await;
    let schema = json!([{"name": "line", "type": "Utf8"}]);
    let list = |uri: &str| json!({"schema": schema, "files": [{"uri": uri, "size": 1000}]}).to_string();
    let absolute = put(&deployed, "absolute.json", &list("/etc/passwd")).await;
    let with_scheme = put(&deployed, "scheme.json", &list("file:///etc/passwd")).await;
    let places = [
        ("Csv", "/etc/passwd"),
        ("Csv", "file:///etc/passwd"),
        ("Json", "/proc/self/environ"),
        ("Auto", "/etc/*"),
        ("Parquet", "../../etc"),
        ("DeltaLake", "/tmp"),
        ("Static", "/etc/passwd"),
        ("Static", &absolute),
        ("Static", &with_scheme),
    ];
    for (kind, uri) in places {
        println!("{kind} {uri}");
        assert_refused(deployed.invoke(&table("SELECT * FROM t", kind, uri)).await, "from s3:// only");
        let described = deployed.invoke(&json!({"describe": table("SELECT 1", kind, uri)})).await;
        assert_refused(described, "from s3:// only");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_not_sent_elsewhere() {
    let deployed = deploy(|_| {}).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let place = listener.local_addr().unwrap();
    let mut chosen = table("SELECT * FROM t", "Parquet", "s3://victim-bucket/t.parquet");
    for (field, value, message) in [
        ("endpoint", format!("http://{place}"), "`storage.endpoint` cannot be set"),
        ("endpoint", format!("http://KEY:SECRET@{place}"), "contains a user name, keys or a port"),
        ("region", format!("x@{place}/"), "is not the name of a region"),
        ("region", "attacker.example/".to_string(), "is not the name of a region"),
    ] {
        chosen["catalogs"][0]["storage"] = json!({field: value});
        assert_refused(deployed.invoke(&chosen).await, message);
    }
    for uri in [format!("s3://x@{place}/t"), format!("s3://{place}/t"), format!("http://{place}/t")] {
        let (kind, message) = deployed.invoke(&table("SELECT * FROM t", "Parquet", &uri)).await.unwrap_err();
        assert_eq!(kind, "Invalid", "{message}");
    }

    // The region of a manifest is for the query that reads it, and no other query goes there.
    let file = format!("{TRIPS}/green_tripdata_2024-01.parquet");
    let schema = json!([{"name": "PULocationID", "type": "Int32"}]);
    let poison = json!({"region": format!("x@{place}/"), "schema": schema, "files": [{"uri": file, "size": 9}]});
    let poison = put(&deployed, "poison.json", &poison.to_string()).await;
    let (kind, message) = deployed.invoke(&table("SELECT count(*) FROM t", "Static", &poison)).await.unwrap_err();
    assert!(kind == "Data" && message.contains("is not the name of a region"), "{kind}: {message}");
    let other = deployed.invoke(&table("SELECT count(*) AS n FROM t", "Parquet", &format!("{TRIPS}/*.parquet"))).await;
    assert_answers(&other, &plain("SELECT count(*) AS n FROM trips").await);
    let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(connected.is_err(), "the stack connected to the attacker");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_allowed_locations_are_read_and_written() {
    let deployed = deploy(|stack| {
        stack.data_locations = Some(vec![format!("{TRIPS}/")]);
        stack.output_locations = Some(vec!["s3://buzz-local/reports/".to_string()]);
    })
    .await;
    let outside = put(&deployed, "a.csv", "a\n1\n").await;
    for uri in [outside.as_str(), "s3://buzz-local/*/a.csv", "s3://buzz-local", "s3://cloudfuse-taxi-data/x.csv"] {
        assert_refused(deployed.invoke(&table("SELECT * FROM t", "Csv", uri)).await, "outside of the locations");
    }
    let count = |output: &str| {
        let query = table("SELECT count(*) AS n FROM t", "Parquet", &format!("{TRIPS}/*.parquet"));
        json!({"query": query, "output": {"uri": output}})
    };
    assert_refused(deployed.invoke(&count("s3://buzz-local/trips/x.csv")).await, "add it to `OUTPUT_LOCATIONS`");
    let written = deployed.invoke(&count("s3://buzz-local/reports/x.csv")).await.unwrap();
    assert_eq!(written["output"]["uri"], "s3://buzz-local/reports/x.csv");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hbee_reads_no_other_object_as_a_task() {
    let deployed = deploy(|_| {}).await;
    let id = victim(&deployed).await;
    let own = format!("s3://buzz-local/results/queries/{}", id.as_str().unwrap());
    for uri in [format!("{own}/answer.json"), format!("{TRIPS}/x"), "/etc/passwd".to_string()] {
        let answer = deployed.invoke_function(HBEE, &json!({"task_at": uri})).await.0.unwrap();
        let error = &answer["failed"];
        assert_eq!(error["kind"], "Invalid", "{answer}");
        assert!(error["message"].as_str().unwrap().contains("does not name a task"), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_contain_no_rows_parameters_or_keys() {
    let deployed = deploy(|_| {}).await;
    let secret = put(&deployed, "secrets.csv", "name,pin\nzanzibar,abc7531\n").await;
    let parameters = json!({"sql": "SELECT name, $who AS who FROM t", "params": {"who": "quokka"},
                            "catalogs": [{"name": "t", "type": "Csv", "uri": secret}]});
    let answer = deployed.invoke(&parameters).await.unwrap();
    assert_eq!(answer["rows"], json!([{"name": "zanzibar", "who": "quokka"}]));
    let (kind, message) =
        deployed.invoke(&table("SELECT CAST(pin AS BIGINT) AS pin FROM t", "Csv", &secret)).await.unwrap_err();
    assert!(message.contains("abc7531"), "{kind}: {message}");
    let keyed = table("SELECT * FROM t", "Csv", "s3://KEYKEY:SECRETSECRET@buzz-local/lake/a.csv");
    let (_, message) = deployed.invoke(&keyed).await.unwrap_err();
    assert!(message.contains("`s3://***`") && !message.contains("SECRET"), "{message}");

    let mut log = String::new();
    for function in std::fs::read_dir(deployed.path("cloud/logs")).unwrap() {
        for file in std::fs::read_dir(function.unwrap().path()).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            // The programs log objects; the other lines are the service's.
            log.extend(text.lines().filter(|line| line.contains("\"target\"")));
        }
    }
    assert!(log.contains("query answered") && log.contains("query failed"), "{log}");
    for value in ["zanzibar", "quokka", "abc7531", "KEYKEY", "SECRETSECRET"] {
        assert!(!log.contains(value), "`{value}` is in the log");
    }
}
