//! Rows of single statements.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, TimestampNanosecondArray};
use buzz_connect::{Generator, Nexmark};
use buzz_protocol::Result;
use buzz_stream::{Pipeline, Script};

use crate::harness::{BASE, Cut, input_of, run as harness_run, run_nexmark, texts};

async fn run(script: &str) -> Result<Vec<String>> {
    let cuts = [Cut { events: 300, reload: None, snapshot: false }; 4];
    let rows = run_nexmark(script, &Nexmark::default(), 1500, &cuts).await?;
    Ok(texts(&rows))
}

#[tokio::test]
async fn filter_passes_rows_through() {
    let rows = run("SELECT bid FROM nexmark WHERE bid IS NOT NULL").await.expect("it runs");
    assert_eq!(rows.len(), 1380);
}

#[tokio::test]
async fn hop_without_key_has_one_row_per_slide() {
    let rows = run("SELECT avg(bid.price) as avg_price FROM nexmark WHERE bid IS NOT NULL \
         GROUP BY hop(interval '2 seconds', interval '10 seconds')")
    .await
    .expect("it runs");
    // 15 s of events are in windows that start from 12 s to 34 s.
    assert_eq!(rows.len(), 12);
}

/// Windows of 65 slices, whose rows come up to 1.9 s late, in epochs of 37 rows whose state moves between workers.
#[tokio::test]
async fn window_of_many_slices_has_the_rows_that_come_late() {
    let milli = 1_000_000;
    let time = |i: i64| BASE + i * 50 * milli - if i % 7 == 0 { 1900 * milli } else { 0 };
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values((0..600).map(time)));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(0..600));
    let rows = RecordBatch::try_from_iter([("t", times), ("v", values)]).expect("the columns have equal lengths");
    let input = input_of(&rows, Some("t"), 2000 * milli);
    let cut = |i: usize| Cut { events: 37, reload: (i % 4 == 3).then_some(i % 3 + 1), snapshot: i % 5 == 4 };
    let cuts: Vec<Cut> = (0..16).map(cut).collect();
    let sources = BTreeMap::from([("r".to_string(), (rows, input))]);
    let (slide, width) = (200 * milli, 6500 * milli);
    for (key, keys) in [("", 1), (", v % 3", 3)] {
        let script = format!(
            "SELECT sum(v), count(*), max(t) FROM r GROUP BY hop(interval '200 milliseconds', interval '6500 milliseconds'){key}"
        );
        let found = texts(&harness_run(&script, &sources, &cuts).await.expect("it runs"));
        let mut expected = Vec::new();
        for start in ((time(0) - width) / slide..=time(599) / slide).map(|number| number * slide) {
            for key in 0..keys {
                let inside = |i: &i64| i % keys == key && (start..start + width).contains(&time(*i));
                let inside: Vec<i64> = (0..600).filter(inside).collect();
                let Some(last) = inside.iter().map(|i| time(*i)).max() else { continue };
                let last = TimestampNanosecondArray::from(vec![last]);
                let last = arrow::util::display::array_value_to_string(&last, 0).expect("a time has a format");
                expected.push(format!("{} | {} | {last}", inside.iter().sum::<i64>(), inside.len()));
            }
        }
        expected.sort();
        assert_eq!(found, expected, "{key}");
    }
}

/// A row that is late for windows of 65 slices that are closed is in those that are open, which share slices with them.
#[tokio::test]
async fn late_row_is_in_the_windows_that_are_open() {
    let milli = 1_000_000;
    let late = BASE + 5050 * milli;
    let mut rows: Vec<(i64, i64)> = (0..200).map(|i| (BASE + i * 100 * milli, 1)).collect();
    // Before the second epoch, the watermark is the time of row 99.
    rows.insert(100, (late, 1000));
    let before = BASE + 9900 * milli;
    let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values(rows.iter().map(|row| row.0)));
    let values: ArrayRef = Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1)));
    let batch = RecordBatch::try_from_iter([("t", times), ("v", values)]).expect("the columns have equal lengths");
    let input = input_of(&batch, Some("t"), 0);
    let sources = BTreeMap::from([("r".to_string(), (batch, input))]);
    let cuts = [100, 2, 50].map(|events| Cut { events, reload: None, snapshot: false });
    let script = "SELECT sum(v) FROM r GROUP BY hop(interval '200 milliseconds', interval '6500 milliseconds')";
    let found = texts(&harness_run(script, &sources, &cuts).await.expect("it runs"));
    let (slide, width) = (200 * milli, 6500 * milli);
    let (first, last) = ((BASE - width) / slide, (BASE + 20_000 * milli) / slide);
    let sums = (first..=last).map(|number| {
        let window = number * slide..number * slide + width;
        let belongs = |time: &i64| window.contains(time) && (*time != late || window.end > before);
        rows.iter().filter(|(time, _)| belongs(time)).map(|(_, value)| value).sum::<i64>()
    });
    let mut expected: Vec<String> = sums.filter(|sum| *sum > 0).map(|sum| sum.to_string()).collect();
    expected.sort();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn top_5_of_each_window() {
    let rows = run("SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY window ORDER BY count DESC) AS row_num \
         FROM (SELECT count(*) AS count, bid.auction AS auction, hop(interval '2 seconds', interval '60 seconds') AS window \
         FROM nexmark WHERE bid is not null GROUP BY 2, window)) WHERE row_num <= 5")
    .await
    .expect("it runs");
    assert_eq!(rows.len(), 37 * 5);
}

#[track_caller]
fn check_refused(result: Result<Vec<String>>, expected: &str) {
    match result {
        Ok(rows) => panic!("{} rows instead of an error with `{expected}`", rows.len()),
        Err(error) => assert!(error.to_string().contains(expected), "{error}"),
    }
}

#[tokio::test]
async fn statements_that_mix_windows_are_refused() {
    let grouped =
        "(SELECT bid.auction AS auction, count(*) AS n, tumble(interval '2 seconds') AS w FROM nexmark GROUP BY 1, w)";
    let cases = [
        (format!("SELECT a.n, b.n FROM {grouped} a, {grouped} b WHERE a.w <> b.w"), "without equal windows"),
        (format!("SELECT * FROM {grouped} ORDER BY n"), "ORDER BY"),
        (format!("SELECT * FROM {grouped} LIMIT 3"), "LIMIT"),
        (format!("SELECT * FROM {grouped} WHERE n > (SELECT avg(n) FROM {grouped})"), "subquery"),
        (format!("SELECT * FROM {grouped} WHERE auction IN (SELECT auction.id FROM nexmark)"), "subquery"),
        (
            "SELECT n.bid FROM nexmark n JOIN nexmark m ON n.bid.auction < m.auction.id".to_string(),
            "without equal windows",
        ),
        ("SELECT session(interval '1 second') FROM nexmark".to_string(), "session()"),
        (
            "SELECT count(*) FROM TUMBLE(nexmark, bid.datetime, interval '1 second') GROUP BY window_start".to_string(),
            "WATERMARK FOR",
        ),
        ("SELECT count(*), now() FROM nexmark GROUP BY tumble(interval '1 second')".to_string(), "now()"),
        (
            "SELECT bid.auction, count(*) FROM nexmark GROUP BY ROLLUP (bid.auction, tumble(interval '1 second'))"
                .to_string(),
            "ROLLUP",
        ),
        ("SELECT count(*) FROM nexmark GROUP BY tumble(interval '1 month')".to_string(), "months"),
        (
            "SELECT count(*) FROM nexmark GROUP BY hop(interval '0', interval '1 second')".to_string(),
            "longer than zero",
        ),
        ("SELECT count(*) FROM nexmark GROUP BY hop(interval '3 seconds', interval '1 second')".to_string(), "slide"),
    ];
    for (script, expected) in cases {
        println!("{script}");
        check_refused(run(&script).await, expected);
    }
}

#[tokio::test]
async fn coalesce_of_a_full_join_is_a_window() {
    let rows = run("SELECT w, count(*) AS n FROM (SELECT coalesce(l.w, r.w) AS w FROM \
         (SELECT tumble(interval '2 seconds') w, count(*) n FROM nexmark WHERE bid.price > 1000 GROUP BY w) l \
         FULL JOIN (SELECT tumble(interval '2 seconds') w, count(*) n FROM nexmark WHERE bid.price > 5000 GROUP BY w) r \
         ON l.w = r.w) GROUP BY w")
    .await
    .expect("it runs");
    assert_eq!(rows.len(), 8);
}

#[tokio::test]
async fn raw_hop_repeats_rows_per_window() {
    let rows = run(
        "SELECT bid.auction, window_start FROM HOP(nexmark, date_time, interval '2 seconds', interval '10 seconds') \
         WHERE bid IS NOT NULL",
    )
    .await
    .expect("it runs");
    assert_eq!(rows.len(), 1380 * 5);
}

#[tokio::test]
async fn view_and_table_without_connector_are_names() {
    let rows =
        run("CREATE VIEW bids AS SELECT bid.auction AS auction, bid.price AS price, date_time AS ts FROM nexmark \
         WHERE bid IS NOT NULL;
         CREATE TABLE cheap (auction BIGINT, ts TIMESTAMP);
         INSERT INTO cheap SELECT auction, ts FROM bids WHERE price < 200;
         SELECT count(*) AS n, tumble(interval '5 seconds') AS w FROM cheap GROUP BY w;")
        .await
        .expect("it runs");
    assert_eq!(rows.len(), 3);
}

#[tokio::test]
async fn subquery_with_star_keeps_the_window() {
    let rows = run("SELECT count(*) AS n, w FROM (SELECT *, tumble(interval '5 seconds') AS w FROM nexmark WHERE bid.price > 1) AS nexmark GROUP BY w")
    .await
    .expect("it runs");
    assert_eq!(rows.len(), 3);
}

/// Returns the plan of a statement over `n` bids per `auction` and window `w`.
async fn plan_over_counts(statement: &str) -> String {
    let counts =
        "(SELECT bid.auction AS auction, count(*) AS n, tumble(interval '2 seconds') AS w FROM nexmark GROUP BY 1, w)";
    let script = Script::parse(&statement.replace("counts", counts)).expect("it is a script");
    let rows = Nexmark::default().events(BASE, 0, 1);
    let inputs = BTreeMap::from([("nexmark".to_string(), input_of(&rows, Some("date_time"), 0))]);
    let pipeline = Pipeline::plan(&script, &inputs, &BTreeMap::new(), 2).await.expect("it can be planned");
    pipeline.describe(true)
}

#[tokio::test]
async fn ranks_by_window_are_limited_unless_another_function_reads_the_rows() {
    let rank = |function: &str, keys: &str, more: &str, condition: &str| {
        format!(
            "SELECT * FROM (SELECT *, {function} OVER (PARTITION BY {keys} ORDER BY n DESC) AS r{more} FROM counts) \
             WHERE {condition}"
        )
    };
    for (function, condition, fetch) in [
        ("row_number()", "r <= 5", 5),
        ("rank()", "r < 5 AND n > 1", 4),
        ("row_number()", "1 = r", 1),
        ("row_number()", "3 > r", 2),
    ] {
        let plan = plan_over_counts(&rank(function, "w", "", condition)).await;
        assert!(plan.contains(&format!("fetch={fetch}")) && plan.contains("PartitionedTopKExec"), "{plan}");
    }
    let total = ", sum(n) OVER (PARTITION BY w ORDER BY n DESC) AS total";
    for statement in [
        rank("row_number()", "w", total, "r <= 5"),
        rank("dense_rank()", "w", "", "r <= 5"),
        rank("row_number()", "w", "", "r >= 5"),
        rank("row_number()", "w, auction % 3", "", "r <= 5"),
    ] {
        let plan = plan_over_counts(&statement).await;
        assert!(!plan.contains("PartitionedTopKExec"), "{plan}");
    }
}
