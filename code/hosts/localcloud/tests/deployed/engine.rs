//! Tests the engine of a stack: the contract of every engine, and descriptions of tables.

use aws_config::{BehaviorVersion, Region};
use buzz_client::StackEngine;
use buzz_engine::{Engine, Question, contract};
use buzz_localcloud::REGION;
use buzz_localcloud::stack::FUSE;
use buzz_protocol::{CatalogEntry, CatalogType, Query, QueryBody};

use crate::stack::{Deployed, TRIPS, deploy};

async fn engine(deployed: &Deployed) -> StackEngine {
    let sdk = aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(&deployed.cloud.endpoint)
        .credentials_provider(aws_sdk_lambda::config::Credentials::new("AKIALOCAL", "x", None, None, "test"))
        .retry_config(aws_config::retry::RetryConfig::disabled())
        .load()
        .await;
    StackEngine::new(&sdk, FUSE.to_string())
}

/// Asks for the trips. The type of the table is detected by the stack, which can read it.
fn asked(sql: &str) -> Question {
    let query = Query {
        body: QueryBody::Sql(sql.to_string()),
        zones: 1,
        catalogs: vec![CatalogEntry::new("trips", CatalogType::Auto, TRIPS)],
        params: Default::default(),
    };
    Question::new(query, "/")
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_of_a_stack_keeps_the_contract() {
    let deployed = deploy(|_| {}).await;
    let engine: &dyn Engine = &engine(&deployed).await;
    let few = asked("SELECT COUNT(*) AS n FROM trips WHERE \"PULocationID\" >= 0");
    contract::a_plan_runs_nothing(engine, &few, "map_0").await;
    contract::questions_run_at_the_same_time(engine, &few, 1).await;
    let twice = asked("SELECT a.trip_distance, b.trip_distance FROM trips a, trips b LIMIT 1");
    contract::a_format_that_cannot_hold_the_answer_is_refused(engine, &twice).await;
    let long = asked("SELECT SUM(a.trip_distance * b.trip_distance) FROM trips a, trips b, trips c");
    contract::a_query_ends_when_it_is_cancelled_or_dropped(engine, &long, &few).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stack_describes_tables_that_only_it_can_read() {
    let deployed = deploy(|_| {}).await;
    let tables = engine(&deployed).await.describe(&asked("SELECT 1")).await.unwrap();
    assert_eq!((tables[0].name.as_str(), tables[0].kind.as_str()), ("trips", "Parquet"));
    assert!(tables[0].columns.iter().any(|(name, _)| name == "trip_distance"), "{tables:?}");
}
