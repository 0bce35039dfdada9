//! Random faults of the cloud while several callers query a deployed stack. Each answer is right or `Unavailable`, and
//! nothing is left.

#![expect(clippy::print_stdout, reason = "the run reports what it saw")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use buzz_localcloud::lambda::{ApiError, Fault};
use buzz_localcloud::s3::ReadFault;
use buzz_localcloud::stack::HBEE;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use crate::matrix::{FILES, SHAPES, event};
use crate::stack::{Deployed, assert_answers, deploy, plain};

/// Callers that query at the same time.
const CALLERS: u64 = 3;

/// Queries of a run whose time is not given.
const QUERIES: usize = 15;

/// Time after which a query counts as hanging.
const HANGS_AFTER: Duration = Duration::from_secs(240);

/// Time in which a function ends that hangs.
const HBEE_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes faults until it is dropped.
async fn make_faults(deployed: &Deployed, mut random: StdRng) {
    let cloud = &deployed.cloud;
    let mut frozen_at: Option<Instant> = None;
    loop {
        tokio::time::sleep(Duration::from_millis(random.random_range(500..4000))).await;
        let fault = random.random_range(0..14);
        let hbee = |fault: Fault| cloud.lambda.fail_next(HBEE, &fault, 2);
        match fault {
            0 => hbee(Fault::DieAtStart),
            1 => hbee(Fault::DieAfter(Duration::from_millis(80))),
            2 => hbee(Fault::DieBeforeAnswer),
            3 => hbee(Fault::Twice),
            4 => hbee(Fault::Slow(Duration::from_secs(3))),
            // A second attempt overtakes one frozen task of a stage. Two fail the query when the function times out.
            5 if frozen_at.is_none_or(|at| at.elapsed() > HBEE_TIMEOUT * 2) => {
                frozen_at = Some(Instant::now());
                cloud.lambda.fail_next(HBEE, &Fault::Freeze, 1);
            }
            6 => hbee(Fault::Refuse(ApiError::throttled())),
            7 => hbee(Fault::Refuse(ApiError::new(500, "ServiceException", "try again"))),
            8 => cloud.s3.fail_reads(FILES, ReadFault::Refuse(503, "SlowDown"), 2),
            9 => cloud.s3.fail_reads(FILES, ReadFault::Truncated, 2),
            10 => cloud.s3.fail_reads(FILES, ReadFault::Slow(Duration::from_secs(3)), 2),
            11 => _ = cloud.ecs.stop_running(),
            12 => _ = cloud.ecs.kill_running(),
            13 => {
                cloud.ecs.freeze_running();
                tokio::time::sleep(Duration::from_secs(10)).await;
                cloud.ecs.thaw_running();
            }
            _ => {}
        }
    }
}

/// The answers that a caller got.
#[derive(Debug, Default)]
struct Seen {
    right: usize,
    unavailable: usize,
    longest: Duration,
}

/// Runs one query after the other while `goes_on`. Fails at the first wrong answer.
async fn caller(
    deployed: &Deployed,
    right: &[Vec<RecordBatch>],
    mut random: StdRng,
    goes_on: impl Fn() -> bool,
) -> Seen {
    let mut seen = Seen::default();
    while goes_on() {
        let shape = random.random_range(0..SHAPES.len());
        let (name, sql) = SHAPES[shape];
        let started = Instant::now();
        let event = event(sql, &json!({"straggler_factor": 2}));
        let answer = tokio::time::timeout(HANGS_AFTER, deployed.invoke(&event)).await;
        let answer = answer.unwrap_or_else(|_| panic!("{name}: the query hangs"));
        seen.longest = seen.longest.max(started.elapsed());
        match &answer {
            Ok(_) => {
                assert_answers(&answer, &right[shape]);
                seen.right += 1;
            }
            Err((kind, message)) => {
                println!("{name}: {kind}: {message}");
                assert_eq!(kind, "Unavailable", "{name}: {message}");
                seen.unavailable += 1;
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_of_the_cloud_never_give_wrong_rows() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("BUZZ_CHAOS_SEED").unwrap_or(1);
    let seconds = number("BUZZ_CHAOS_SECONDS");
    let deployed = deploy(|stack| {
        stack.hbee_timeout = HBEE_TIMEOUT;
        stack.comb_idle = Duration::from_secs(3);
    })
    .await;
    let mut right = Vec::new();
    for (_, sql) in SHAPES {
        right.push(plain(sql).await);
    }
    let (started, asked) = (Instant::now(), AtomicUsize::new(0));
    let goes_on = || match seconds {
        Some(seconds) => started.elapsed() < Duration::from_secs(seconds),
        None => asked.fetch_add(1, Ordering::SeqCst) < QUERIES,
    };
    let random = |index: u64| StdRng::seed_from_u64(seed ^ (index << 32));
    let callers = (1..=CALLERS).map(|index| caller(&deployed, &right, random(index), goes_on));
    let seen = tokio::select! {
        seen = futures::future::join_all(callers) => seen,
        () = make_faults(&deployed, random(0)) => unreachable!("faults are made until the callers stop"),
    };
    deployed.cloud.ecs.thaw_running();
    deployed.cloud.lambda.fail_no_more(HBEE);
    let (mut answered, mut unavailable, mut longest) = (0, 0, Duration::ZERO);
    for seen in seen {
        answered += seen.right;
        unavailable += seen.unavailable;
        longest = longest.max(seen.longest);
    }
    println!(
        "seed {seed}: {answered} right, {unavailable} `Unavailable`, none wrong or hanging, longest {longest:.1?}"
    );
    assert!(answered > unavailable, "seed {seed}");
    deployed.until("no function runs", |cloud| cloud.lambda.counts(HBEE).busy == 0).await;
    deployed.until("no comb has a query", |cloud| cloud.ecs.running().is_empty()).await;
}
