//! Names that clients create and drop, and that other processes change.

use std::path::Path;
use std::sync::Arc;

use arrow_flight::sql::CommandGetTables;
use arrow_flight::sql::client::FlightSqlServiceClient;
use buzz_engine::{Engine, Question};
use buzz_protocol::{Query, QueryBody};
use futures::TryStreamExt;
use serde_json::{Value, json};
use tokio_postgres::SimpleQueryMessage;
use tonic::transport::Endpoint;

use crate::common::{AUTH, JSON, KEY, Served, client, http, named, server_with_registry};

async fn ask(served: &Served, sql: &str) -> (u16, Value) {
    let (status, _, body) = http(served, "POST", "/v1/query", &[AUTH, JSON], &json!({"sql": sql}).to_string()).await;
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// Runs `sql` in an engine of its own on the names of `folder`, as another process would.
async fn elsewhere(folder: &Path, sql: &str) {
    let query =
        Query { body: QueryBody::Sql(sql.to_string()), zones: 1, catalogs: Vec::new(), params: Default::default() };
    let engine: Arc<dyn Engine> = Arc::new(named(folder));
    engine.start(Question::new(query, folder)).answer().await.unwrap();
}

const TABLE: &str = "CREATE EXTERNAL TABLE numbers STORED AS PARQUET LOCATION 'numbers.parquet'";

#[tokio::test(flavor = "multi_thread")]
async fn names_are_created_and_dropped_from_every_door() {
    let folder = tempfile::tempdir().unwrap();
    let served = server_with_registry(folder.path(), true).await;
    assert_eq!(ask(&served, TABLE).await, (200, json!([{"result": "table `numbers` was added: 1 column"}])));
    assert_eq!(ask(&served, "SELECT count(*) AS n FROM numbers").await, (200, json!([{"n": 100}])));
    let (status, refused) = ask(&served, TABLE).await;
    assert_eq!((status, &refused["error"]["kind"]), (400, &json!("Invalid")), "{refused}");

    let postgres = client(&served).await;
    postgres.batch_execute("CREATE VIEW big AS SELECT n FROM numbers WHERE n >= 90").await.unwrap();
    assert_eq!(postgres.query_one("SELECT count(*) FROM big", &[]).await.unwrap().get::<_, i64>(0), 10);
    let shown = "SELECT table_name, table_type FROM information_schema.tables WHERE table_schema = 'public' ORDER BY 1";
    let rows = postgres.query(shown, &[]).await.unwrap();
    let rows: Vec<(String, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    let row = |name: &str, kind: &str| (name.to_string(), kind.to_string());
    assert_eq!(rows, [row("big", "VIEW"), row("numbers", "BASE TABLE"), row("own", "BASE TABLE")]);
    // Prepared, too.
    assert_eq!(
        postgres.execute("CREATE OR REPLACE VIEW big AS SELECT n FROM numbers WHERE n > 95", &[]).await.unwrap(),
        0
    );
    assert_eq!(ask(&served, "SELECT count(*) AS n FROM big").await, (200, json!([{"n": 4}])));

    let channel = Endpoint::from_shared(format!("http://{}", served.http)).unwrap().connect().await.unwrap();
    let mut flight = FlightSqlServiceClient::new(channel);
    flight.handshake("ann", KEY).await.unwrap();
    flight.execute_update("CREATE VIEW small AS SELECT n FROM big".to_string(), None).await.unwrap();
    let info = flight.get_tables(CommandGetTables::default()).await.unwrap();
    let ticket = info.endpoint[0].ticket.clone().unwrap();
    let batches: Vec<_> = flight.do_get(ticket).await.unwrap().try_collect().await.unwrap();
    assert_eq!(batches.iter().map(|batch| batch.num_rows()).sum::<usize>(), 4);

    let messages = postgres.simple_query("DROP VIEW small; DROP VIEW big; DROP TABLE numbers").await.unwrap();
    let done = messages.iter().filter(|message| matches!(message, SimpleQueryMessage::CommandComplete(_))).count();
    assert_eq!(done, 3);
    let (status, error) = ask(&served, "SELECT * FROM numbers").await;
    assert!(
        status == 400 && error["error"]["message"].as_str().unwrap().contains("`numbers` does not exist"),
        "{error}"
    );
    let error = postgres.batch_execute("CREATE TABLE t (a INT)").await.unwrap_err();
    assert!(error.to_string().contains("db error"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_other_processes_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let served = server_with_registry(folder.path(), false).await;
    assert_eq!(ask(&served, "SELECT * FROM numbers").await.0, 400);
    elsewhere(folder.path(), TABLE).await;
    assert_eq!(ask(&served, "SELECT max(n) AS n FROM numbers").await, (200, json!([{"n": 99}])));
    elsewhere(folder.path(), "CREATE VIEW v AS SELECT max(n) AS n FROM numbers").await;
    assert_eq!(ask(&served, "SELECT n FROM v").await, (200, json!([{"n": 99}])));
    elsewhere(folder.path(), "CREATE OR REPLACE VIEW v AS SELECT min(n) AS n FROM numbers").await;
    assert_eq!(ask(&served, "SELECT n FROM v").await, (200, json!([{"n": 0}])));
    // The server's own tables hide those of the registry.
    elsewhere(folder.path(), "CREATE VIEW own AS SELECT 1 AS n").await;
    assert_eq!(ask(&served, "SELECT count(*) AS n FROM own").await, (200, json!([{"n": 100}])));
    elsewhere(folder.path(), "DROP VIEW v").await;
    assert_eq!(ask(&served, "SELECT n FROM v").await.0, 400);

    std::fs::write(folder.path().join("buzz.json"), "{").unwrap();
    let (status, error) = ask(&served, "SELECT n FROM numbers").await;
    assert!(status == 400 && error["error"]["message"].as_str().unwrap().contains("buzz.json"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn server_that_does_not_change_names_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let served = server_with_registry(folder.path(), false).await;
    for sql in [TABLE, "DROP TABLE own", "/* a comment */ CREATE VIEW v AS SELECT 1"] {
        let (status, error) = ask(&served, sql).await;
        let message = error["error"]["message"].as_str().unwrap_or_default().to_string();
        assert!(status == 400 && message.contains("`--names change`"), "{sql}: {error}");
        assert!(client(&served).await.batch_execute(sql).await.is_err(), "{sql}");
    }
    assert!(!folder.path().join("buzz.json").exists());
}
