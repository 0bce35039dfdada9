//! The HTTP door.

use serde_json::{Value, json};

use crate::common::{AUTH, JSON, Served, endless, http, server, until_running};

async fn json_of(served: &Served, method: &str, path: &str, body: &str) -> (u16, Value) {
    let (status, _, body) = http(served, method, path, &[AUTH, JSON], body).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_the_requested_format() {
    let served = server().await;
    let query = |format: &str| {
        json!({"sql": "SELECT n, n * 2 AS twice FROM \"Numbers\" WHERE n >= $1 ORDER BY n LIMIT 2", "params": {"1": 5},
               "format": format})
        .to_string()
    };
    let (status, rows) = json_of(&served, "POST", "/v1/query", &query("json")).await;
    assert_eq!((status, rows), (200, json!([{"n": 5, "twice": 10}, {"n": 6, "twice": 12}])));
    let (_, head, body) = http(&served, "POST", "/v1/query", &[AUTH, JSON], &query("csv")).await;
    assert_eq!(String::from_utf8(body).unwrap(), "n,twice\n5,10\n6,12\n");
    assert!(head.contains("buzz-summary: {\"rows\":2,"), "{head}");
    let (_, _, body) = http(&served, "POST", "/v1/query", &[AUTH, JSON], &query("arrow")).await;
    let reader = arrow::ipc::reader::FileReader::try_new(std::io::Cursor::new(body), None).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn estimate_is_made_of_the_same_body_and_runs_nothing() {
    let served = server().await;
    let query = json!({"sql": "SELECT SUM(n) AS s FROM \"Numbers\" WHERE n % $1 = 0", "params": {"1": 5}}).to_string();
    let (status, estimate) = json_of(&served, "POST", "/v1/estimate", &query).await;
    assert_eq!(status, 200, "{estimate}");
    assert_eq!((&estimate["tasks"], &estimate["requests"]), (&json!(1), &json!(0)));
    assert_eq!(estimate["dollars"], json!({"low": 0.0, "high": 0.0}));
    let seconds = |bound: &str| estimate["seconds"][bound].as_f64().unwrap();
    assert!(seconds("low") > 0.0 && seconds("low") < seconds("high"), "{estimate}");
    assert_eq!(estimate.as_object().unwrap().len(), 5, "{estimate}");

    let (_, head, _) = http(&served, "POST", "/v1/query", &[AUTH, JSON], &query).await;
    assert!(head.contains(&format!("\"bytes_read\":{},", estimate["bytes"])), "{head}");
    assert!(head.contains("\"get_requests\":0,") && head.contains("\"started_usd\":null"), "{head}");
    for (body, message) in [
        (r#"{"sql": "SELECT * FROM kindz"}"#, "did you mean `kinds`?"),
        (r#"{"sql": "SELECT 1", "options": {"task": 1}}"#, "did you mean `tasks`?"),
    ] {
        let (status, answer) = json_of(&served, "POST", "/v1/estimate", body).await;
        assert!(status == 400 && answer["error"]["message"].as_str().unwrap().contains(message), "{answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_key_or_from_other_pages_are_refused() {
    let served = server().await;
    let status = async |path: &str, headers: &[(&str, &str)]| http(&served, "GET", path, headers, "").await.0;
    assert_eq!(status("/healthz", &[]).await, 200);
    assert_eq!(status("/v1/tables", &[]).await, 401);
    assert_eq!(status("/v1/tables", &[("Authorization", "Bearer wrong")]).await, 401);
    assert_eq!(status("/metrics", &[]).await, 401);
    assert_eq!(status("/v1/tables", &[AUTH, ("Host", "evil.example")]).await, 403);
    assert_eq!(status("/healthz", &[("Host", "evil.example")]).await, 403);
    assert_eq!(status("/v1/tables", &[AUTH, ("Origin", "http://evil.example")]).await, 403);
    assert_eq!(status("/v1/tables", &[AUTH]).await, 200);
    assert_eq!(status("/nothing", &[AUTH]).await, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_get_an_error_with_a_kind() {
    let served = server().await;
    let cases = [
        (r#"{"sql": "SELECT * FROM kindz"}"#, 400, "table `kindz` does not exist; did you mean `kinds`?"),
        (r#"{"sql": "SELECT * FROM missing"}"#, 422, "missing"),
        (r#"{"sql": "SELECT 1", "format": "xml"}"#, 400, "format `xml` does not exist"),
        (r#"{"sql": "SELECT 1", "options": {"task": 1}}"#, 400, "did you mean `tasks`?"),
        (r#"{"query": "SELECT 1"}"#, 422, "unknown field `query`"),
        ("{", 400, "EOF"),
    ];
    for (body, status, message) in cases {
        let (got, answer) = json_of(&served, "POST", "/v1/query", body).await;
        let text = answer["error"]["message"].as_str().unwrap_or_default().to_string();
        assert!(got == status && text.contains(message), "{body}: {got} {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn submitted_query_is_watched_and_its_rows_are_fetched() {
    let served = server().await;
    let (status, submitted) =
        json_of(&served, "POST", "/v1/queries", r#"{"sql": "SELECT COUNT(*) AS n FROM kinds"}"#).await;
    assert_eq!(status, 202);
    let path = format!("/v1/queries/{}", submitted["id"].as_str().unwrap());
    loop {
        let (_, state) = json_of(&served, "GET", &path, "").await;
        match state["state"].as_str() {
            Some("succeeded") => break,
            Some("waiting" | "running") => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            other => panic!("{other:?}: {state}"),
        }
    }
    for _ in 0..2 {
        assert_eq!(json_of(&served, "GET", &format!("{path}/rows"), "").await, (200, json!([{"n": 2}])));
    }
    assert_eq!(json_of(&served, "DELETE", &path, "").await.0, 204);
    assert_eq!(json_of(&served, "GET", &path, "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_listed_with_columns_or_the_reason() {
    let served = server().await;
    let (_, answer) = json_of(&served, "GET", "/v1/tables", "").await;
    let tables = answer["tables"].as_array().unwrap();
    let named = |name: &str| tables.iter().find(|table| table["name"] == name).unwrap();
    assert_eq!(named("Numbers")["columns"], json!([{"name": "n", "type": "Int64"}]));
    assert_eq!(named("missing")["error"]["kind"], "Data");
}

#[tokio::test(flavor = "multi_thread")]
async fn query_ends_when_its_client_leaves_or_deletes_it() {
    let served = endless(buzz_serve::Bounds { running: 2, waiting: 2, answers: 2 }).await;
    let request = http(&served, "POST", "/v1/query", &[AUTH, JSON], r#"{"sql": "SELECT a FROM t"}"#);
    tokio::select! {
        _ = request => panic!("the query never ends"),
        () = until_running(&served, 1) => {}
    }
    until_running(&served, 0).await;
    let (_, submitted) = json_of(&served, "POST", "/v1/queries", r#"{"sql": "SELECT a FROM t"}"#).await;
    until_running(&served, 1).await;
    let path = format!("/v1/queries/{}", submitted["id"].as_str().unwrap());
    assert_eq!(json_of(&served, "GET", &path, "").await.1["state"], "running");
    assert_eq!(json_of(&served, "DELETE", &path, "").await.0, 204);
    until_running(&served, 0).await;
}
