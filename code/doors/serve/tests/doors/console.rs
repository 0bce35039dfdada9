//! The console and the calls that only it needs.

use serde_json::{Value, json};

use crate::common::{AUTH, JSON, KEY, Served, endless, http, server, server_with_registry, until_running};

const PAGES: [(&str, &str); 6] = [
    ("/console/", "text/html; charset=utf-8"),
    ("/console/index.html", "text/html; charset=utf-8"),
    ("/console/console.js", "text/javascript; charset=utf-8"),
    ("/console/console.css", "text/css; charset=utf-8"),
    ("/console/icon.svg", "image/svg+xml"),
    ("/console/licences.txt", "text/plain; charset=utf-8"),
];

/// Returns the value of header `name`, "" without it.
fn header<'a>(head: &'a str, name: &str) -> &'a str {
    let lines = head.lines().filter_map(|line| line.split_once(':'));
    let mut found = lines.filter(|(one, _)| one.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim());
    found.next().unwrap_or_default()
}

async fn get(served: &Served, path: &str) -> (u16, Value) {
    let (status, _, body) = http(served, "GET", path, &[AUTH], "").await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

async fn post(served: &Served, path: &str, body: &Value) -> (u16, Value) {
    let (status, _, body) = http(served, "POST", path, &[AUTH, JSON], &body.to_string()).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// Submits `sql` and waits for its end.
async fn ended(served: &Served, sql: &str) -> (String, Value) {
    let asked = json!({"sql": sql, "format": "arrow", "options": {"timeline_attempts": 100}});
    let (_, submitted) = post(served, "/v1/queries", &asked).await;
    let id = submitted["id"].as_str().unwrap_or_else(|| panic!("{submitted}")).to_string();
    loop {
        let (status, work) = get(served, &format!("/v1/queries/{id}/work")).await;
        assert_eq!(status, 200, "{work}");
        if !["waiting", "running"].contains(&work["state"].as_str().unwrap()) {
            return (id, work);
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_have_their_type_and_a_policy_and_need_no_key() {
    let served = server().await;
    for (path, kind) in PAGES {
        let (status, head, body) = http(&served, "GET", path, &[], "").await;
        assert_eq!((status, header(&head, "content-type")), (200, kind), "{path}");
        assert!(body.len() > 200, "{path}");
        let policy = header(&head, "content-security-policy");
        for part in ["default-src 'none'", "script-src 'self'", "connect-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header(&head, "x-content-type-options"), "nosniff");
        let tag = header(&head, "etag");
        let (status, _, body) = http(&served, "GET", path, &[("If-None-Match", tag)], "").await;
        assert_eq!((status, body.len()), (304, 0), "{path}");
    }
    for path in ["/", "/console"] {
        let (status, head, _) = http(&served, "GET", path, &[], "").await;
        assert_eq!((status, header(&head, "location")), (307, "/console/"), "{path}");
    }
    assert_eq!(http(&served, "GET", "/console/../v1/tables", &[], "").await.0, 404);
    assert_eq!(http(&served, "GET", "/console/missing.js", &[], "").await.0, 404);
    assert_eq!(http(&served, "POST", "/console/", &[], "").await.0, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_refused_to_foreign_hosts_and_pages() {
    let served = server().await;
    for (path, _) in PAGES {
        assert_eq!(http(&served, "GET", path, &[("Host", "evil.example")], "").await.0, 403, "{path}");
        assert_eq!(http(&served, "GET", path, &[("Origin", "http://evil.example")], "").await.0, 403, "{path}");
    }
    assert_eq!(http(&served, "GET", "/", &[("Host", "evil.example")], "").await.0, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_load_nothing_from_another_host() {
    let served = server().await;
    for (path, _) in PAGES.iter().filter(|(path, _)| !path.ends_with("licences.txt")) {
        let (_, _, body) = http(&served, "GET", path, &[], "").await;
        let text = String::from_utf8(body).unwrap();
        for (at, _) in text.match_indices("://") {
            let start = text.floor_char_boundary(at.saturating_sub(8));
            let end = text.floor_char_boundary((at + 60).min(text.len()));
            let around = &text[start..end];
            // Names of XML, which no browser fetches, and the example of a place in the form that adds a table.
            let is_name = around.contains("http://www.w3.org/") || around.contains("s3://bucket/");
            assert!(is_name, "{path}: {around}");
        }
    }
    let (_, _, page) = http(&served, "GET", "/console/", &[], "").await;
    let page = String::from_utf8(page).unwrap();
    assert!(!page.contains("<style") && !page.contains("style=") && !page.contains("onload"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn history_has_the_work_of_queries_through_every_call() {
    let served = server().await;
    let (_, work) = ended(&served, "SELECT n % 3 AS rest, COUNT(*) FROM \"Numbers\" GROUP BY 1").await;
    assert_eq!((work["state"].as_str(), &work["summary"]["rows"]), (Some("succeeded"), &json!(3)), "{work}");
    let stage = &work["stages"][0];
    assert!(stage["tasks"].as_u64().unwrap() >= 1 && stage["median_ms"].is_u64(), "{work}");
    let attempts = work["attempts"].as_array().unwrap();
    assert_eq!(attempts.len() as u64, stage["attempts"].as_u64().unwrap(), "{work}");
    assert!(attempts.iter().all(|attempt| attempt["fate"] == "done"), "{work}");
    let (_, wrong) = ended(&served, "SELECT missing FROM \"Numbers\"").await;
    assert_eq!((&wrong["state"], &wrong["error"]["kind"]), (&json!("failed"), &json!("Invalid")), "{wrong}");
    post(&served, "/v1/query", &json!({"sql": "SELECT 7 AS x"})).await;
    let (_, list) = get(&served, "/v1/queries").await;
    let queries = list["queries"].as_array().unwrap();
    let states: Vec<_> = queries.iter().map(|query| query["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["succeeded", "failed", "succeeded"], "{list}");
    assert_eq!(queries[0]["sql"], "SELECT 7 AS x");
    let id = queries[0]["id"].as_str().unwrap();
    assert_eq!(get(&served, &format!("/v1/queries/{id}/work")).await.1["summary"]["rows"], 1);
    let path = format!("/v1/queries/{}/work", uuid_of_no_query());
    assert_eq!(get(&served, &path).await.0, 404);
    assert_eq!(http(&served, "GET", "/v1/queries", &[], "").await.0, 401);
}

fn uuid_of_no_query() -> &'static str {
    "01a21e07-1c67-70ac-be4a-9d929198bc2d"
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_of_a_change_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let served = server_with_registry(folder.path(), true).await;
    let create = json!({"sql": "CREATE VIEW v AS SELECT 1 AS x"});
    assert_eq!(post(&served, "/v1/plan", &create).await.0, 400);
    let names = async || {
        let (_, answer) = get(&served, "/v1/tables").await;
        answer["tables"].as_array().unwrap().iter().map(|table| table["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(names().await, ["own"]);
    assert_eq!(post(&served, "/v1/query", &create).await.0, 200);
    assert_eq!(post(&served, "/v1/plan", &json!({"sql": "DROP VIEW v"})).await.0, 400);
    assert_eq!(names().await, ["own", "v"]);
    assert_eq!(get(&served, "/v1/tables").await.1["can_change"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn query_of_another_door_is_seen_and_cancelled_with_the_key_of_all() {
    let served = endless(buzz_serve::Bounds { running: 1, waiting: 2, answers: 4 }).await;
    let basic = base64_of(&format!("ann:{KEY}"));
    let auth = format!("Basic {basic}");
    let headers = [("Authorization", auth.as_str()), JSON];
    let asking = http(&served, "POST", "/v1/query", &headers, r#"{"sql": "SELECT a FROM t"}"#);
    let cancelling = async {
        until_running(&served, 1).await;
        let (_, list) = get(&served, "/v1/queries").await;
        let query = &list["queries"][0];
        assert_eq!((&query["user"], &query["state"]), (&json!("ann"), &json!("running")), "{list}");
        let path = format!("/v1/queries/{}", query["id"].as_str().unwrap());
        assert_eq!(http(&served, "DELETE", &path, &[AUTH], "").await.0, 204);
    };
    let ((status, _, _), ()) = tokio::join!(asking, cancelling);
    assert_eq!(status, 409);
    let (_, list) = get(&served, "/v1/queries").await;
    assert_eq!(list["queries"][0]["error"]["kind"], "Cancelled", "{list}");
}

/// Encodes `text` for a header.
fn base64_of(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn history_notes_a_query_that_is_cancelled() {
    let served = endless(buzz_serve::Bounds { running: 1, waiting: 2, answers: 4 }).await;
    let (_, submitted) = post(&served, "/v1/queries", &json!({"sql": "SELECT a FROM t"})).await;
    let id = submitted["id"].as_str().unwrap().to_string();
    until_running(&served, 1).await;
    let (_, work) = get(&served, &format!("/v1/queries/{id}/work")).await;
    assert_eq!((&work["state"], &work["progress"]["phase"]), (&json!("running"), &json!("plan")), "{work}");
    assert_eq!(http(&served, "DELETE", &format!("/v1/queries/{id}"), &[AUTH], "").await.0, 204);
    until_running(&served, 0).await;
    let (_, work) = get(&served, &format!("/v1/queries/{id}/work")).await;
    assert_eq!((&work["state"], &work["error"]["kind"]), (&json!("failed"), &json!("Cancelled")), "{work}");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_pages() {
    let served = server().await;
    let (id, _) = ended(&served, "SELECT n FROM \"Numbers\" ORDER BY n").await;
    let page = async |query: &str| get(&served, &format!("/v1/queries/{id}/rows?format=json{query}")).await;
    assert_eq!(page("&offset=9997").await.1, json!([{"n": 9997}, {"n": 9998}, {"n": 9999}]));
    assert_eq!(page("&offset=8190&limit=3").await.1, json!([{"n": 8190}, {"n": 8191}, {"n": 8192}]));
    assert_eq!(page("&offset=10000&limit=3").await.1, json!([]));
    assert_eq!(page("&limit=1").await.1, json!([{"n": 0}]));
    assert_eq!(page("").await.1.as_array().unwrap().len(), 10_000);
    let (status, answer) = page("&offset=-1").await;
    assert_eq!((status, &answer["error"]["kind"]), (400, &json!("Invalid")), "{answer}");
    let path = format!("/v1/queries/{id}/rows?format=arrow&offset=5000&limit=1000");
    let (_, _, body) = http(&served, "GET", &path, &[AUTH], "").await;
    let reader = arrow::ipc::reader::FileReader::try_new(std::io::Cursor::new(body), None).unwrap();
    assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 1000);
}

#[tokio::test(flavor = "multi_thread")]
async fn fetched_answers_make_place_for_new_ones() {
    let served = server().await;
    let rows_as = async |id: &str, format: &str| get(&served, &format!("/v1/queries/{id}/rows?format={format}")).await;
    let rows = async |id: &str| rows_as(id, "json").await;
    // A failure has no place that it could make free.
    let (failure, _) = ended(&served, "SELECT missing FROM \"Numbers\"").await;
    assert_eq!(rows(&failure).await.0, 400);
    let mut ids = Vec::new();
    // As many as one user may keep of the eight answers of this server.
    for n in 0..4 {
        ids.push(ended(&served, &format!("SELECT {n} AS n")).await.0);
    }
    // Rows in a format that does not exist were not fetched.
    assert_eq!(rows_as(&ids[0], "xml").await.0, 400);
    for fetched in [2, 1] {
        assert_eq!(rows(&ids[fetched]).await, (200, json!([{"n": fetched}])));
    }
    let (fifth, work) = ended(&served, "SELECT 5 AS n").await;
    assert_eq!(work["state"], "succeeded", "{work}");
    assert_eq!(rows(&ids[2]).await.0, 404);
    for (id, n) in [(&ids[0], 0), (&ids[1], 1), (&ids[3], 3), (&fifth, 5)] {
        assert_eq!(rows(id).await, (200, json!([{"n": n}])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_is_returned_without_a_run() {
    let served = server().await;
    let (status, answer) =
        post(&served, "/v1/plan", &json!({"sql": "SELECT COUNT(*) FROM \"Numbers\" WHERE n > 5"})).await;
    let plan = answer["plan"].as_str().unwrap_or_default();
    assert!(status == 200 && plan.contains("(HBee)") && plan.contains("InboxExec: step="), "{answer}");
    let (status, answer) = post(&served, "/v1/plan", &json!({"sql": "SELECT * FROM nowhere"})).await;
    assert_eq!((status, &answer["error"]["kind"]), (400, &json!("Invalid")), "{answer}");
    assert_eq!(get(&served, "/v1/queries").await.1["queries"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_has_as_many_rows_as_its_work_says() {
    let served = server().await;
    for sql in ["EXPLAIN SELECT n FROM \"Numbers\"", "EXPLAIN ANALYZE SELECT n FROM \"Numbers\""] {
        let (id, work) = ended(&served, sql).await;
        let (_, rows) = get(&served, &format!("/v1/queries/{id}/rows?format=json")).await;
        assert_eq!(work["summary"]["rows"], json!(rows.as_array().unwrap().len()), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn table_has_its_files() {
    let served = server().await;
    let (_, table) = get(&served, "/v1/tables/numbers").await;
    assert_eq!((&table["name"], &table["files"], &table["view"]), (&json!("Numbers"), &json!(1), &json!(false)));
    let file = &table["file_list"][0];
    assert!(file["path"].as_str().unwrap().ends_with("numbers.parquet"), "{table}");
    assert_eq!((&file["bytes"], &file["partition_values"]), (&table["bytes"], &json!([])));
    assert_eq!(get(&served, "/v1/tables/missing").await.0, 422);
    let (status, answer) = get(&served, "/v1/tables/kindz").await;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(status == 400 && message.contains("did you mean `kinds`?"), "{answer}");
    assert_eq!(get(&served, "/v1/tables").await.1["can_change"], false);
}
