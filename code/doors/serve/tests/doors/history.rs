//! The queries of earlier servers.

use serde_json::{Value, json};

use crate::common::{AUTH, JSON, Served, client, http, with_history};

async fn json_of(served: &Served, path: &str) -> Value {
    let (_, _, body) = http(served, "GET", path, &[AUTH], "").await;
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn next_server_lists_the_ended_queries_of_all_doors() {
    let folder = tempfile::tempdir().unwrap();
    let served = with_history(folder.path()).await;
    let body = json!({"sql": "SELECT SUM(n) * 1000003 AS s FROM numbers WHERE n < $1", "params": {"1": 765432198}})
        .to_string();
    let (status, _, rows) = http(&served, "POST", "/v1/query", &[AUTH, JSON], &body).await;
    assert_eq!((status, String::from_utf8(rows).unwrap().trim()), (200, "[{\"s\":4950014850}]"));
    let postgres = client(&served).await;
    postgres.simple_query("SELECT m FROM numbers").await.unwrap_err();
    drop(postgres);
    let before = json_of(&served, "/v1/queries").await;
    assert_eq!(before["queries"].as_array().unwrap().len(), 2, "{before}");
    served.stop().await;

    let text = std::fs::read_to_string(folder.path().join("history")).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(text.contains("n < $1") && !text.contains("765432198") && !text.contains("4950014850"), "{text}");

    let next = with_history(folder.path()).await;
    assert_eq!(json_of(&next, "/v1/queries").await, before);
    let first = &before["queries"][1];
    assert_eq!((&first["state"], &first["summary"]["rows"]), (&json!("succeeded"), &json!(1)), "{before}");
    let work = json_of(&next, &format!("/v1/queries/{}/work", first["id"].as_str().unwrap())).await;
    assert_eq!((&work["sql"], &work["attempts"]), (&first["sql"], &json!([])));
    assert!(!work["stages"].as_array().unwrap().is_empty(), "{work}");
    let error = &before["queries"][0]["error"];
    assert!(error["message"].as_str().unwrap().contains('m'), "{before}");
    next.stop().await;
}
