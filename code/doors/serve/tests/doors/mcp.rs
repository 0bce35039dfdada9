//! The MCP door over HTTP.

use serde_json::{Value, json};

use crate::common::{AUTH, JSON, Served, endless, http, server, until_running};

const ACCEPT: (&str, &str) = ("Accept", "application/json, text/event-stream");
const VERSION: (&str, &str) = ("MCP-Protocol-Version", "2025-06-18");

fn request(method: &str, params: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).to_string()
}

/// Sends a request and returns the response, which is one event of a stream, or a document.
async fn ask(served: &Served, method: &str, params: &Value) -> Value {
    let body = request(method, params);
    let (status, head, body) = http(served, "POST", "/mcp", &[AUTH, JSON, ACCEPT, VERSION], &body).await;
    assert_eq!(status, 200, "{head}");
    let text = String::from_utf8(body).unwrap();
    let mut events = text.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim);
    let event = events.rfind(|data| !data.is_empty()).unwrap_or(&text);
    let answer: Value = serde_json::from_str(event).unwrap();
    assert_eq!(answer["id"], 7, "{answer}");
    answer
}

async fn call(served: &Served, tool: &str, arguments: Value) -> Value {
    ask(served, "tools/call", &json!({"name": tool, "arguments": arguments})).await["result"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_are_called_without_a_session() {
    let served = server().await;
    let info = json!({"name": "test", "version": "1"});
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info});
    let answer = ask(&served, "initialize", &params).await;
    assert_eq!(answer["result"]["serverInfo"]["name"], "buzz");
    assert_eq!(ask(&served, "tools/list", &json!({})).await["result"]["tools"].as_array().unwrap().len(), 4);
    let tables = call(&served, "list_tables", json!({})).await;
    assert_eq!(tables["structuredContent"]["tables_found"], 3, "{tables}");
    let rows = call(&served, "query", json!({"sql": "SELECT n FROM \"Numbers\" ORDER BY n DESC", "rows_max": 2})).await;
    assert_eq!(rows["content"][0]["text"], r#"[{"n":9999},{"n":9998}]"#, "{rows}");
    let failed = call(&served, "query", json!({"sql": "SELECT * FROM missing"})).await;
    assert_eq!(failed["isError"], true, "{failed}");
    assert!(failed["content"][0]["text"].as_str().unwrap().contains("missing"), "{failed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_key_or_from_other_pages_are_refused() {
    let served = server().await;
    let body = request("tools/call", &json!({"name": "query", "arguments": {"sql": "SELECT 1"}}));
    let status = async |method: &str, more: &[(&str, &str)]| {
        let mut headers = vec![JSON, ACCEPT, VERSION];
        headers.extend(more);
        http(&served, method, "/mcp", &headers, &body).await.0
    };
    assert_eq!(status("POST", &[]).await, 401);
    assert_eq!(status("POST", &[("Authorization", "Bearer a-wrong-key-of-ann")]).await, 401);
    assert_eq!(status("POST", &[AUTH, ("Host", "evil.example")]).await, 403);
    assert_eq!(status("POST", &[AUTH, ("Origin", "http://evil.example")]).await, 403);
    assert_eq!(status("POST", &[AUTH, ("Origin", "null")]).await, 403);
    assert_eq!(status("POST", &[AUTH]).await, 200);
    assert_eq!(status("GET", &[AUTH]).await, 405);
    assert_eq!(status("DELETE", &[AUTH]).await, 405);
    let (status, _, _) = http(&served, "POST", "/mcp", &[AUTH, JSON, ACCEPT], "{").await;
    assert!((400..500).contains(&status), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn call_ends_when_its_client_leaves_or_the_server_stops() {
    let served = endless(buzz_serve::Bounds { running: 2, waiting: 2, answers: 2 }).await;
    tokio::select! {
        answer = call(&served, "query", json!({"sql": "SELECT a FROM t"})) => panic!("the query never ends: {answer}"),
        () = until_running(&served, 1) => {}
    }
    until_running(&served, 0).await;
    let estimate = call(&served, "estimate", json!({"sql": "SELECT a FROM t"}));
    tokio::select! {
        answer = estimate => panic!("the query never ends: {answer}"),
        () = until_running(&served, 1) => {}
    }
    until_running(&served, 0).await;
    assert_eq!(served.stop().await, buzz_serve::Stopped::Completely);
}
