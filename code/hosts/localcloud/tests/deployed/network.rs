//! Queries over connections that die while functions are frozen, over a bounded network, and with a named endpoint.

use std::num::NonZeroU64;

use buzz_localcloud::Freeze;
use buzz_localcloud::s3::{Bandwidth, Shape};
use buzz_localcloud::stack::{FUSE, HBEE};
use serde_json::json;

use crate::stack::{GROUPS, ask, assert_answers, deploy, plain};

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_are_closed_in_a_freeze_are_opened_again() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    deployed.cloud.lambda.set_freeze(Freeze::Close);
    for reducer in ["inline", "objects"] {
        for _ in 0..4 {
            let answer = deployed.invoke(&ask(GROUPS, 1, json!({"reducer": reducer, "tasks": 4}))).await;
            assert_answers(&answer, &expected);
        }
    }
    for function in [FUSE, HBEE] {
        let counts = deployed.cloud.lambda.counts(function);
        assert!(counts.invocations > counts.cold_starts, "{function} was never frozen: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn query_runs_over_a_bounded_network_from_a_named_endpoint() {
    let deployed = deploy(|stack| stack.host = Some("localhost".to_string())).await;
    let expected = plain(GROUPS).await;
    let bandwidth = |burst, per_second| NonZeroU64::new(per_second).map(|per_second| Bandwidth { burst, per_second });
    deployed.cloud.s3.set_shape(Shape {
        bytes_per_second: NonZeroU64::new(50_000_000),
        per_function: bandwidth(100_000, 50_000_000),
        of_functions: bandwidth(0, 100_000_000),
        ..Shape::default()
    });
    for reducer in ["inline", "objects"] {
        let answer = deployed.invoke(&ask(GROUPS, 1, json!({"reducer": reducer, "tasks": 8}))).await;
        assert_answers(&answer, &expected);
    }
}
