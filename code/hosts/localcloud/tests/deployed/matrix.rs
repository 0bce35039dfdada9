//! Runs faults of the cloud with shapes of queries on a deployed stack. A cell is right rows or the named error. After each
//! fault, no function runs, and the combs stop because no query is open on them.

#![expect(clippy::print_stdout, reason = "a failing run shows what it saw")]

use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use buzz_localcloud::lambda::{ApiError, Fault};
use buzz_localcloud::s3::ReadFault;
use buzz_localcloud::stack::{FUSE, HBEE};
use buzz_testkit::{Cell, FaultMatrix};
use serde_json::{Value, json};

use crate::stack::{Answer, Deployed, GROUPS, ask, assert_answers, deploy, plain};

/// Names and statements of the shapes.
pub(crate) const SHAPES: [(&str, &str); 3] = [
    ("aggregate", GROUPS),
    (
        "join",
        "SELECT a.payment_type, COUNT(*) AS n FROM nyc_taxi a JOIN (SELECT payment_type, MAX(pickup_at) AS last FROM \
         nyc_taxi GROUP BY payment_type) b ON a.payment_type = b.payment_type AND a.pickup_at < b.last GROUP BY \
         a.payment_type",
    ),
    (
        "window",
        "SELECT payment_type, place, COUNT(*) AS n FROM (SELECT payment_type, RANK() OVER (PARTITION BY pickup_date \
         ORDER BY pickup_at) AS place FROM nyc_taxi) WHERE place <= 3 GROUP BY payment_type, place",
    ),
];

/// Time in which a function ends that hangs.
const HBEE_TIMEOUT: Duration = Duration::from_secs(25);

/// Time for which combs are frozen, longer than a query needs to notice it.
const FROZEN: Duration = Duration::from_secs(40);

/// Number of HBees that run only if those of all shapes do: 10 of the aggregate, 16 of the join, 10 of the window.
const HBEES_OF_ALL: usize = 27;

/// Number of stacks that run rows at the same time.
const STACKS: usize = 2;

/// Number of invocations, and of reads, that no query makes. A single read may be repeated because it is late.
const ALWAYS: usize = 1000;

/// Part of the paths of the table's files.
pub(crate) const FILES: &str = ".parquet";

/// A fault of the cloud.
enum Make {
    /// The next invocations of HBees fail.
    Hbees(Fault, usize),
    /// The next invocation of Fuse fails, while its HBees are slow.
    Fuse(Fault),
    /// The next reads of data files fail.
    Reads(ReadFault, usize),
    /// ECS has no capacity for the next task.
    NoCapacity,
    /// The next combs stop while they start.
    StopsWhileStarting(usize),
    /// Something happens to all combs after they ran a query, right before the next: their listing is stale.
    CombsBefore(fn(&Deployed) -> usize),
    /// Something happens to all combs while queries run.
    CombsMeanwhile(fn(&Deployed) -> usize),
}

/// A fault, how it is made, the answer, and options of the query.
type Row = (&'static str, Make, Expect, Value);

/// The answer that a query must have.
#[derive(Debug, Clone, Copy)]
enum Expect {
    Rows,
    Fails(&'static str),
    Either(&'static str),
}

fn kill(deployed: &Deployed) -> usize {
    deployed.cloud.ecs.kill_running()
}

fn stop(deployed: &Deployed) -> usize {
    deployed.cloud.ecs.stop_running()
}

fn lose_disks(deployed: &Deployed) -> usize {
    deployed.cloud.ecs.lose_disks_running()
}

fn exceed_memory(deployed: &Deployed) -> usize {
    deployed.cloud.ecs.exceed_memory_running()
}

fn freeze(deployed: &Deployed) -> usize {
    let ecs = deployed.cloud.ecs.clone();
    tokio::spawn(async move {
        tokio::time::sleep(FROZEN).await;
        ecs.thaw_running();
    });
    deployed.cloud.ecs.freeze_running()
}

fn faults() -> Vec<Row> {
    use Expect::{Either, Fails, Rows};
    let none = || json!({});
    let slow = Fault::Slow(Duration::from_secs(3));
    let refuse = |status, kind| Fault::Refuse(ApiError::new(status, kind, "try again"));
    let unready = refuse(502, "ResourceNotReadyException");
    let nonsense = Fault::Answer("{\"nonsense\": [1, 2]}".to_string());
    let too_large = || refuse(413, "RequestTooLargeException");
    let fails = || refuse(500, "ServiceException");
    // Well before the function times out, also on a slow machine.
    let soon = json!({"straggler_factor": 2});
    let alone = || json!({"straggler_factor": 0});
    vec![
        ("HBee dies before it starts", Make::Hbees(Fault::DieAtStart, 2), Rows, none()),
        ("HBee dies in the middle", Make::Hbees(Fault::DieAfter(Duration::from_millis(80)), 2), Rows, none()),
        ("HBee dies after delivery, before its answer", Make::Hbees(Fault::DieBeforeAnswer, 2), Rows, none()),
        ("HBee runs twice at once", Make::Hbees(Fault::Twice, 2), Rows, none()),
        ("HBee hangs", Make::Hbees(Fault::Freeze, 1), Rows, soon),
        ("HBee is slow", Make::Hbees(slow, 1), Rows, none()),
        ("HBee runs out of memory", Make::Hbees(Fault::OutOfMemory, 1), Rows, none()),
        ("HBee runs out of memory again", Make::Hbees(Fault::OutOfMemory, ALWAYS), Fails("Limit"), none()),
        ("HBee answers nonsense", Make::Hbees(nonsense, 1), Fails("Internal"), none()),
        ("Lambda: 429", Make::Hbees(Fault::Refuse(ApiError::throttled()), 2), Rows, none()),
        ("Lambda: 500", Make::Hbees(fails(), 2), Rows, none()),
        ("Lambda: 500 in every attempt", Make::Hbees(fails(), ALWAYS), Fails("Unavailable"), none()),
        ("Lambda: 502, the function is not ready", Make::Hbees(unready, 2), Rows, none()),
        ("Lambda: 413", Make::Hbees(too_large(), 1), Fails("Internal"), none()),
        ("Lambda: 413 in every attempt", Make::Hbees(too_large(), ALWAYS), Fails("Internal"), none()),
        ("Lambda: time-out, without a second attempt", Make::Hbees(Fault::Freeze, 1), Fails("Limit"), alone()),
        ("Lambda: every task times out", Make::Hbees(Fault::Freeze, ALWAYS), Fails("Limit"), alone()),
        ("combs are dead, the listing is stale", Make::CombsBefore(kill), Rows, none()),
        ("combs lose their disks", Make::CombsBefore(lose_disks), Fails("Limit"), json!({"inbox_memory_bytes": 1})),
        ("combs are killed in the middle", Make::CombsMeanwhile(kill), Rows, none()),
        ("combs are stopped in the middle", Make::CombsMeanwhile(stop), Rows, none()),
        ("combs freeze in the middle", Make::CombsMeanwhile(freeze), Rows, none()),
        ("combs run out of memory", Make::CombsMeanwhile(exceed_memory), Fails("Limit"), none()),
        ("ECS: no capacity", Make::NoCapacity, Either("Unavailable"), none()),
        ("ECS: a task stops while it starts", Make::StopsWhileStarting(1), Either("Unavailable"), none()),
        ("ECS: every task stops while it starts", Make::StopsWhileStarting(ALWAYS), Fails("Unavailable"), none()),
        ("S3: 503", Make::Reads(ReadFault::Refuse(503, "SlowDown"), 2), Rows, none()),
        ("S3: 403", Make::Reads(ReadFault::Refuse(403, "AccessDenied"), ALWAYS), Fails("Data"), none()),
        ("S3: 404", Make::Reads(ReadFault::Refuse(404, "NoSuchKey"), ALWAYS), Fails("Data"), none()),
        ("S3: slow", Make::Reads(ReadFault::Slow(Duration::from_secs(4)), 1), Rows, none()),
        ("S3: truncated response", Make::Reads(ReadFault::Truncated, 1), Rows, none()),
        ("Fuse is killed", Make::Fuse(Fault::DieAfter(Duration::from_secs(1))), Fails("Runtime.ExitError"), none()),
    ]
}

/// Checks an answer, and returns its words in the table.
fn outcome(answer: &Answer, expect: Expect, right: &[RecordBatch], place: &str) -> String {
    println!(
        "{place}: {}",
        answer.as_ref().map_or_else(|(kind, message)| format!("{kind}: {message}"), |_| "rows".into())
    );
    match (answer, expect) {
        (Ok(_), Expect::Fails(kind)) => panic!("{place}: rows instead of {kind}"),
        (Err((found, message)), Expect::Rows) => panic!("{place}: {found}: {message}"),
        (Err((found, message)), Expect::Fails(kind) | Expect::Either(kind)) => {
            assert_eq!(found, kind, "{place}: {message}")
        }
        (Ok(_), Expect::Rows | Expect::Either(_)) => assert_answers(answer, right),
    }
    match expect {
        Expect::Rows => "rows".to_string(),
        Expect::Fails(kind) => format!("`{kind}`"),
        Expect::Either(kind) => format!("rows or `{kind}`"),
    }
}

/// Builds the event of a shape. Its combs reduce, so that their faults matter.
pub(crate) fn event(sql: &str, options: &Value) -> Value {
    let mut all = json!({"reducer": "comb", "tasks": 10, "build_bytes": 0});
    for (key, value) in options.as_object().expect("options are an object") {
        all[key] = value.clone();
    }
    ask(sql, 2, all)
}

/// Runs the shapes one after the other, with the fault in each.
async fn in_turn(
    deployed: &Deployed,
    words: &str,
    row: &(Make, Expect, Value),
    right: &[Vec<RecordBatch>],
) -> Vec<Cell> {
    let (make, expect, options) = row;
    let cloud = &deployed.cloud;
    let mut cells = Vec::new();
    for ((shape, sql), right) in SHAPES.iter().zip(right) {
        let place = format!("{words}, {shape}");
        let mut attempts = 0;
        let (answer, time) = loop {
            match make {
                Make::Hbees(fault, count) => cloud.lambda.fail_next(HBEE, fault, *count),
                Make::Fuse(fault) => {
                    cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(5)), 10);
                    cloud.lambda.fail_next(FUSE, fault, 1);
                }
                Make::Reads(fault, count) => cloud.s3.fail_reads(FILES, *fault, *count),
                Make::NoCapacity => {
                    deployed.until("the combs stop", |cloud| cloud.ecs.running().is_empty()).await;
                    cloud.ecs.refuse_next(1);
                }
                Make::StopsWhileStarting(count) => {
                    deployed.until("the combs stop", |cloud| cloud.ecs.running().is_empty()).await;
                    cloud.ecs.fail_starting_next(*count);
                }
                Make::CombsBefore(happens) => {
                    // Combs of the row or shape before may have the fault.
                    deployed.until("the combs stop", |cloud| cloud.ecs.running().is_empty()).await;
                    assert_answers(&deployed.invoke(&event(sql, options)).await, right);
                    assert!(happens(deployed) > 0, "{place}: no comb runs");
                }
                Make::CombsMeanwhile(_) => unreachable!("the shapes run at once"),
            }
            let started = Instant::now();
            let answer = deployed.invoke(&event(sql, options)).await;
            attempts += 1;
            // On a loaded machine, the combs may have been idle for too long, so that others without the fault came.
            let is_other = matches!((make, expect, &answer), (Make::CombsBefore(_), Expect::Fails(_), Ok(_)));
            if !is_other || attempts == 3 {
                break (answer, started.elapsed());
            }
        };
        let left = cloud.lambda.faults_left(HBEE) + cloud.s3.faults_left();
        let all = left == 0 || matches!(make, Make::Fuse(_) | Make::Hbees(_, ALWAYS) | Make::Reads(_, ALWAYS));
        assert!(all, "{place}: {left} faults were not made");
        assert_eq!(cloud.lambda.faults_left(FUSE), 0, "{place}");
        cloud.lambda.fail_no_more(HBEE);
        cloud.ecs.fail_starting_no_more();
        if let Make::Reads(fault, ALWAYS) = make {
            cloud.s3.fail_reads(FILES, *fault, 0);
        }
        cells.push(Cell { outcome: outcome(&answer, *expect, right, &place), time });
    }
    cells
}

/// Runs the shapes at once. Something happens to their combs when the HBees of all run.
async fn at_once(
    deployed: &Deployed,
    words: &str,
    happens: fn(&Deployed) -> usize,
    expect: Expect,
    right: &[Vec<RecordBatch>],
) -> Vec<Cell> {
    let cloud = &deployed.cloud;
    // The combs run before the fault.
    assert_answers(&deployed.invoke(&event(SHAPES[0].1, &json!({}))).await, &right[0]);
    cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(4)), 200);
    let before = cloud.lambda.counts(HBEE).invocations;
    let asking = SHAPES.iter().map(|(_, sql)| async {
        let started = Instant::now();
        (deployed.invoke(&event(sql, &json!({}))).await, started.elapsed())
    });
    let happening = async {
        deployed
            .until("HBees of all run", |cloud| cloud.lambda.counts(HBEE).invocations >= before + HBEES_OF_ALL)
            .await;
        assert!(happens(deployed) > 0, "{words}: no comb runs");
        cloud.lambda.fail_no_more(HBEE);
    };
    let (answers, ()) = tokio::join!(futures::future::join_all(asking), happening);
    let reruns = answers.iter().filter_map(|(answer, _)| answer.as_ref().ok()?["summary"]["reruns"].as_u64());
    assert!(reruns.sum::<u64>() > 0 || matches!(expect, Expect::Fails(_)), "{words}: no query noticed");
    let cells = answers.iter().zip(SHAPES).zip(right).map(|(((answer, time), (shape, _)), right)| {
        let outcome = outcome(answer, expect, right, &format!("{words}, {shape}"));
        Cell { outcome, time: *time }
    });
    cells.collect()
}

/// Runs the given rows of the table one after the other on a stack of their own, and returns their cells.
async fn rows_of_one_stack(
    rows: Vec<(usize, Row)>,
    right: &[Vec<RecordBatch>],
) -> Vec<(usize, &'static str, Vec<Cell>)> {
    let deployed = deploy(|stack| {
        stack.hbee_timeout = HBEE_TIMEOUT;
        stack.comb_idle = Duration::from_secs(3);
    })
    .await;
    let mut done = Vec::new();
    for (place, (words, make, expect, options)) in rows {
        let cells = match make {
            Make::CombsMeanwhile(happens) => at_once(&deployed, words, happens, expect, right).await,
            make => in_turn(&deployed, words, &(make, expect, options), right).await,
        };
        done.push((place, words, cells));
        // Also functions whose caller has stopped, and combs that Fuse did not reach.
        deployed.until("no function runs", |cloud| [HBEE, FUSE].iter().all(|f| cloud.lambda.counts(f).busy == 0)).await;
        deployed.until("no comb has a query", |cloud| cloud.ecs.running().is_empty()).await;
    }
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn each_fault_of_the_cloud_with_each_shape_gives_right_rows_or_its_error() {
    let mut right = Vec::new();
    for (_, sql) in SHAPES {
        right.push(plain(sql).await);
    }
    // A row is mostly waiting: for a function that hangs, for combs that start and stop.
    let mut stacks: Vec<Vec<(usize, Row)>> = (0..STACKS).map(|_| Vec::new()).collect();
    for (place, row) in faults().into_iter().enumerate() {
        stacks[place % STACKS].push((place, row));
    }
    let running = stacks.into_iter().map(|rows| rows_of_one_stack(rows, &right));
    let mut done = futures::future::join_all(running).await.concat();
    done.sort_by_key(|(place, ..)| *place);
    let mut matrix = FaultMatrix::new("local cloud", &SHAPES.map(|(name, _)| name));
    for (_, words, cells) in &done {
        matrix.add(words, cells);
    }
    matrix.add_unmade("network between two machines is half open", "as *combs freeze*");
    matrix.check();
}
