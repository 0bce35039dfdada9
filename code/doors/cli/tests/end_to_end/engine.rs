//! Tests the engine in this process: the contract of every engine, and questions that run at the same time.

use std::path::Path;
use std::sync::Arc;

use buzz_engine::{Engine, Question, contract};
use buzz_fuse::Fuse;
use buzz_localcloud::{ACCESS_KEY, REGION, SECRET_KEY};
use buzz_local::LocalHost;
use buzz_protocol::Options;
use buzz_storage::Stores;
use buzz_testkit::sorted_text;
use object_store::StaticCredentialProvider;
use object_store::aws::AwsCredential;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::buckets::{bucket_server, upload_rides};
use crate::common::{ask_fuse, host, question, statement};
use crate::tables::parquet_folder;

fn asked(sql: &str, base: &Path) -> Question {
    question(&statement(2, sql, &[("rides", "Parquet", "rides")]), base, &[]).0
}

#[tokio::test(flavor = "multi_thread")]
async fn engine_in_this_process_keeps_the_contract() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 50);
    for sets in [&["transport=memory"][..], &["transport=tcp"]] {
        let engine: &dyn Engine = &Fuse::new(host(sets).host());
        let few = asked("SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp", dir.path());
        contract::a_plan_runs_nothing(engine, &few, "map_0").await;
        contract::questions_run_at_the_same_time(engine, &few, 3).await;
        let twice = asked("SELECT a.id, b.id FROM rides a JOIN rides b ON a.id = b.id", dir.path());
        contract::a_format_that_cannot_hold_the_answer_is_refused(engine, &twice).await;
        let long = asked("SELECT SUM(a.id * b.id % 7 + c.id * d.id) FROM rides a, rides b, rides c, rides d", dir.path());
        contract::a_query_ends_when_it_is_cancelled_or_dropped(engine, &long, &few).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_are_described_with_their_detected_type() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 4, 50);
    let query = json!({"sql": "SELECT 1", "catalogs": [{"name": "rides", "uri": "rides", "delimiter": ";"}]});
    let engine = Fuse::new(host(&[]).host());
    let tables = engine.describe(&question(&query, dir.path(), &[]).0).await.unwrap();
    assert_eq!((tables[0].kind.as_str(), tables[0].files), ("Parquet", 4));
    assert_eq!(tables[0].columns[0], ("id".to_string(), "Int64".to_string()));
    assert_eq!(tables[0].warnings, ["catalog `rides`: `delimiter` has no effect on type Parquet"]);
}

/// Number of times that two queries run at the same time.
const TIMES: usize = 1000;

/// Two services have a bucket of one name with different rows. Queries of one engine at the same time must each read
/// from the service that their own catalog names.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_queries_reach_one_bucket_name_at_two_endpoints() {
    let (one, two) = (bucket_server().await, bucket_server().await);
    upload_rides(&one, 2, 10).await;
    upload_rides(&two, 2, 13).await;
    let keys = StaticCredentialProvider::new(AwsCredential {
        key_id: ACCESS_KEY.to_string(),
        secret_key: SECRET_KEY.to_string(),
        token: None,
    });
    let stores = Arc::new(Stores::default().with_credentials(Arc::new(keys)));
    let engine = Fuse::new(LocalHost::new(Arc::clone(&stores), &Options::default(), 2).unwrap().host());
    let query = |endpoint: &str| -> Value {
        let storage = json!({"endpoint": endpoint, "region": REGION, "path_style": true});
        let rides = json!({"name": "rides", "type": "Parquet", "uri": "s3://lake/tables/rides", "storage": storage});
        json!({"sql": "SELECT COUNT(grp) AS n, SUM(id) AS s FROM rides WHERE id >= 0", "catalogs": [rides]})
    };
    let (first, second) = (query(&one.endpoint), query(&two.endpoint));
    for time in 0..TIMES {
        let (here, there) = tokio::join!(
            ask_fuse(&engine, &first, Path::new("/"), &[]),
            ask_fuse(&engine, &second, Path::new("/"), &[])
        );
        assert_eq!(sorted_text(&here.unwrap().rows), ["20 | 190"], "time {time}");
        assert_eq!(sorted_text(&there.unwrap().rows), ["26 | 325"], "time {time}");
    }
    assert_eq!(stores.open_count(), 2, "equal options share a store");
}
