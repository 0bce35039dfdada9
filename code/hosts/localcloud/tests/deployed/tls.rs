//! TLS between functions and combs, as an option of a stack.

use std::time::Duration;

use buzz_localcloud::lambda::Fault;
use buzz_localcloud::stack::{HBEE, Stack};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::stack::{GROUPS, ask, assert_answers, deploy, plain};

/// Longest time for an answer of a comb to a wrong caller.
const SOON: Duration = Duration::from_secs(60);

fn with_tls(stack: &mut Stack) {
    stack.fuse_environment.insert("BUZZ_COMB_TLS".to_string(), "true".to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn combs_with_tls_answer_like_others_and_talk_to_nobody_without() {
    let deployed = deploy(with_tls).await;
    // Rows go from HBees to combs, from comb to comb, and from combs to Fuse.
    let sql = "SELECT a.payment_type, COUNT(*) AS n, MAX(b.passenger_count) AS most FROM nyc_taxi a JOIN nyc_taxi b \
               ON a.pickup_at = b.pickup_at GROUP BY a.payment_type";
    for sql in [GROUPS, sql] {
        let answer = deployed.invoke(&ask(sql, 2, json!({"reducer": "comb", "tasks": 6}))).await;
        assert_answers(&answer, &plain(sql).await);
        let summary = answer.unwrap()["summary"].clone();
        assert_eq!((&summary["combs"], &summary["reruns"]), (&json!(2), &json!(0)), "{summary}");
    }
    assert_eq!(deployed.cloud.ecs.started(), 2);

    for comb in deployed.cloud.ecs.running() {
        let mut stream = TcpStream::connect(&comb).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut answer = Vec::new();
        _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("the comb ends the connection");
        let told = String::from_utf8_lossy(&answer);
        assert!(told.ends_with("this comb requires TLS"), "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_combs_with_tls_cause_one_rerun_on_others() {
    let deployed = deploy(with_tls).await;
    let expected = plain(GROUPS).await;
    let event = ask(GROUPS, 2, json!({"reducer": "comb", "tasks": 6}));
    assert_answers(&deployed.invoke(&event).await, &expected);
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(3)), 6);
    let before = deployed.cloud.lambda.counts(HBEE).invocations;
    let (answer, ended) = tokio::join!(deployed.invoke(&event), async {
        deployed.until("HBees are invoked", |cloud| cloud.lambda.counts(HBEE).invocations >= before + 6).await;
        deployed.cloud.ecs.kill_running()
    });
    assert_eq!(ended, 2);
    assert_answers(&answer, &expected);
    assert_eq!(answer.unwrap()["summary"]["reruns"], 1);
}
