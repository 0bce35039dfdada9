//! Bounds, and the end of a server.

use buzz_serve::{Bounds, Keys, Settings, Stopped};

use crate::common::{AUTH, JSON, client, endless, http, until_running};

const QUERY: &str = r#"{"sql": "SELECT a FROM t"}"#;

#[tokio::test(flavor = "multi_thread")]
async fn queries_beyond_the_queue_are_refused() {
    let served = endless(Bounds { running: 1, waiting: 1, answers: 1 }).await;
    let first = http(&served, "POST", "/v1/query", &[AUTH, JSON], QUERY);
    let second = http(&served, "POST", "/v1/query", &[AUTH, JSON], QUERY);
    let refused = async {
        until_running(&served, 1).await;
        loop {
            let (_, _, body) = http(&served, "GET", "/metrics", &[AUTH], "").await;
            if String::from_utf8(body).unwrap().contains("buzz_queries_waiting 1\n") {
                break;
            }
        }
        let (status, _, body) = http(&served, "POST", "/v1/query", &[AUTH, JSON], QUERY).await;
        assert_eq!(status, 429);
        assert!(String::from_utf8(body).unwrap().contains("1 queries run and 1 wait, which is the maximum"));
    };
    tokio::select! {
        _ = first => panic!("the query never ends"),
        _ = second => panic!("the query never ends"),
        () = refused => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_server_ends_its_queries_and_connections() {
    let served = endless(Bounds { running: 1, waiting: 1, answers: 1 }).await;
    let idle = client(&served).await;
    let busy = client(&served).await;
    let query = tokio::spawn(async move { busy.simple_query("SELECT a FROM t").await.map(drop) });
    until_running(&served, 1).await;
    assert_eq!(served.stop().await, Stopped::Completely);
    let error = query.await.unwrap().unwrap_err();
    assert_eq!(error.code().map(|code| code.code()), Some("57P03"), "{error:?}");
    assert!(idle.simple_query("SELECT 1").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_connections_leave_the_others_unaffected() {
    let served = endless(Bounds { running: 1, waiting: 1, answers: 1 }).await;
    let first = client(&served).await;
    let mut open = Vec::new();
    for _ in 0..300 {
        open.push(tokio::net::TcpStream::connect(served.postgres).await.unwrap());
    }
    assert_eq!(first.simple_query("SELECT 1").await.unwrap().len(), 3);
    client(&served).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn address_that_others_reach_requires_tls() {
    let engine = buzz_local::LocalHost::new(Default::default(), &Default::default(), 1).unwrap();
    let settings = Settings {
        tables: Vec::new(),
        registry: None,
        base: "/".into(),
        options: Default::default(),
        bounds: Bounds { running: 1, waiting: 1, answers: 1 },
        listen: "0.0.0.0:0".parse().unwrap(),
        postgres: "127.0.0.1:0".parse().unwrap(),
        tls: None,
        hosts: Vec::new(),
        keys: Keys::one(crate::common::KEY).unwrap(),
        streams: None,
        pipelines: None,
        history: None,
    };
    let bound = buzz_serve::bind(std::sync::Arc::new(buzz_fuse::Fuse::new(engine.host())), settings).await;
    let error = bound.expect_err("it is refused").to_string();
    assert!(error.contains("is reachable from other machines and there is no certificate"), "{error}");
}
