//! Arrow Flight SQL.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int32Array, RecordBatch};
use arrow::datatypes::Int64Type;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTables, SqlInfo};
use arrow_flight::{Action, CancelFlightInfoRequest, FlightInfo, Ticket};
use futures::TryStreamExt;
use prost::Message;
use tonic::transport::{Channel, Endpoint};

use crate::common::{KEY, Served, endless, server, until_running};

type Client = FlightSqlServiceClient<Channel>;

async fn channel(served: &Served) -> Channel {
    Endpoint::from_shared(format!("http://{}", served.http)).unwrap().connect().await.unwrap()
}

async fn client(served: &Served) -> Client {
    let mut client = FlightSqlServiceClient::new(channel(served).await);
    client.handshake("ann", KEY).await.unwrap();
    client
}

fn ticket(info: &FlightInfo) -> Ticket {
    info.endpoint[0].ticket.clone().unwrap()
}

async fn rows(client: &mut Client, info: &FlightInfo) -> Vec<RecordBatch> {
    let stream = client.do_get(ticket(info)).await.unwrap();
    stream.try_collect().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_schema_is_that_of_the_rows() {
    let served = server().await;
    let mut client = client(&served).await;
    let statements = [
        "SELECT * FROM kinds ORDER BY id",
        "SELECT name, COUNT(*) FROM kinds GROUP BY name",
        "SELECT 1 AS a",
        "EXPLAIN SELECT id FROM kinds",
    ];
    for sql in statements {
        let info = client.execute(sql.to_string(), None).await.unwrap();
        let announced = info.clone().try_decode_schema().unwrap();
        let batches = rows(&mut client, &info).await;
        assert!(!batches.is_empty(), "{sql}");
        assert!(batches.iter().all(|batch| *batch.schema() == announced), "{sql}");
    }
    let info = client.execute("SELECT * FROM kinds ORDER BY id".to_string(), None).await.unwrap();
    let batch = &rows(&mut client, &info).await[0];
    let price = batch.column_by_name("price").unwrap().as_primitive::<arrow::datatypes::Decimal128Type>();
    assert_eq!(price.value_as_string(0), "-12345678901234567890123456789012345.67");
    assert!((1..batch.num_columns()).all(|column| batch.column(column).is_null(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statement_takes_parameters() {
    let served = server().await;
    let mut client = client(&served).await;
    let mut prepared =
        client.prepare("SELECT n FROM \"Numbers\" WHERE n < $1 ORDER BY n".to_string(), None).await.unwrap();
    assert_eq!(prepared.parameter_schema().unwrap().fields().len(), 1);
    for count in [3, 5] {
        let value: ArrayRef = Arc::new(Int32Array::from(vec![count]));
        prepared.set_parameters(RecordBatch::try_from_iter([("1", value)]).unwrap()).unwrap();
        let info = prepared.execute().await.unwrap();
        let batches = rows(&mut client, &info).await;
        let numbers: Vec<i64> =
            batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec()).collect();
        assert_eq!(numbers, (0..i64::from(count)).collect::<Vec<_>>());
    }
    prepared.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn catalogs_schemas_and_tables_are_listed() {
    let served = server().await;
    let mut client = client(&served).await;
    let names = |batches: &[RecordBatch], column: usize| -> Vec<String> {
        batches
            .iter()
            .flat_map(|batch| {
                batch.column(column).as_string::<i32>().iter().flatten().map(str::to_string).collect::<Vec<_>>()
            })
            .collect()
    };
    let info = client.get_catalogs().await.unwrap();
    assert_eq!(names(&rows(&mut client, &info).await, 0), ["buzz"]);
    let info =
        client.get_db_schemas(CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None }).await.unwrap();
    assert_eq!(names(&rows(&mut client, &info).await, 1), ["public"]);
    for include_schema in [false, true] {
        let command = CommandGetTables {
            catalog: None,
            db_schema_filter_pattern: None,
            table_name_filter_pattern: Some("%i%".to_string()),
            table_types: vec!["TABLE".to_string()],
            include_schema,
        };
        let info = client.get_tables(command).await.unwrap();
        let batches = rows(&mut client, &info).await;
        assert_eq!(names(&batches, 2), ["kinds", "missing"]);
        assert_eq!(batches[0].num_columns(), if include_schema { 5 } else { 4 });
    }
    let info = client.get_sql_info(vec![SqlInfo::FlightSqlServerName, SqlInfo::FlightSqlServerReadOnly]).await.unwrap();
    assert_eq!(rows(&mut client, &info).await[0].num_rows(), 2);
    let info = client.get_table_types().await.unwrap();
    assert_eq!(names(&rows(&mut client, &info).await, 0), ["TABLE", "VIEW"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_key_are_refused() {
    let served = server().await;
    let mut client: Client = FlightSqlServiceClient::new(channel(&served).await);
    assert!(client.handshake("ann", "wrong").await.is_err());
    let error = client.execute("SELECT 1".to_string(), None).await.unwrap_err().to_string();
    assert!(error.contains("no valid key"), "{error}");
    client.set_token(KEY.to_string());
    client.execute("SELECT 1".to_string(), None).await.unwrap();
    let error = client.execute_update("DELETE FROM kinds".to_string(), None).await.unwrap_err().to_string();
    assert!(error.contains("Buzz only reads"), "{error}");
    let info = client.execute("SELECT * FROM kindz".to_string(), None).await.unwrap();
    let error = client.do_get(ticket(&info)).await.expect_err("the table is unknown").to_string();
    assert!(error.contains("table `kindz` does not exist; did you mean `kinds`?"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn query_ends_when_it_is_cancelled_or_its_client_leaves() {
    let served = endless(buzz_serve::Bounds { running: 1, waiting: 1, answers: 1 }).await;
    let mut one = client(&served).await;
    let info = one.execute("SELECT a FROM t".to_string(), None).await.unwrap();
    let (mut other, asked) = (one.clone(), ticket(&info));
    let running = tokio::spawn(async move { other.do_get(asked).await.err().map(|error| error.to_string()) });
    until_running(&served, 1).await;
    let body = CancelFlightInfoRequest::new(info.clone()).encode_to_vec();
    let action = Action { r#type: "CancelFlightInfo".to_string(), body: body.into() };
    let answers: Vec<_> = one.do_action(tonic::Request::new(action)).await.unwrap().try_collect().await.unwrap();
    assert_eq!(answers.len(), 1);
    assert!(running.await.unwrap().unwrap().contains("the query was cancelled"));
    until_running(&served, 0).await;

    let asked = ticket(&info);
    let leaving = tokio::spawn(async move { one.do_get(asked).await.map(drop) });
    until_running(&served, 1).await;
    leaving.abort();
    until_running(&served, 0).await;
}
