//! Runs `buzz stream` as a user does: the tutorial's queries, other engines' scripts with their stored answers, kills at
//! random times, and changes of the parallelism.
//!
//! Scripts and answers of other engines are in the shared folder of real tables; without it, their tests are ignored.
//! `BUZZ_STREAM_KILLS=200` chooses the number of kills.

#![expect(clippy::print_stdout, reason = "a test reports what it skips")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use buzz_testkit::shared_data;
use libtest_mimic::{Arguments, Failed, Trial};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

type Result<T = ()> = std::result::Result<T, Failed>;

/// Scripts of Arroyo that run as they stand.
const ARROYO: &[&str] = &[
    "cast_to_sink_type",
    "global_session_window",
    "hourly_by_event_type",
    "memory_table",
    "most_active_driver_last_hour",
    "select_star",
    "session_window",
    "sliding_window_end",
    "tight_watermark",
    "union",
    "unnest_in_view",
    "windowed_inner_join",
    "windowed_outer_join",
];

/// Scripts of Arroyo that are refused, and a part of the message.
const ARROYO_REFUSED: &[(&str, &str)] = &[
    // Changes of earlier rows.
    ("aggregates", "debezium_json"),
    ("debezium_agg", "debezium_json"),
    ("debezium_pass_through", "debezium_json"),
    ("every_aggregate", "debezium_json"),
    ("filter_updating_aggregates", "debezium_json"),
    ("grouped_aggregates", "debezium_json"),
    ("updating_full_join", "debezium_json"),
    ("updating_inner_join", "debezium_json"),
    ("updating_inner_join_with_updating", "debezium_json"),
    ("updating_left_join", "debezium_json"),
    // Arroyo joins windows of equal bounds although the condition does not say so.
    ("offset_impulse_join", "without equal windows in ON"),
    // DataFusion has no JSON operators.
    ("json_operators", "Operator -> is not yet supported"),
    // Its input is not in the folder.
    ("nexmark_q5", "does not exist"),
];

/// Statements of RisingWave's Nexmark views.
const RISINGWAVE: &[&str] = &["q0", "q1", "q2", "q5", "q8", "q10", "q14", "q21"];

fn main() {
    let arguments = Arguments::from_args();
    let data = shared_data().map(|data| data.join("streams")).filter(|data| data.is_dir());
    if data.is_none() {
        println!("no scripts of other engines: neither BUZZ_TEST_DATA nor ../shared/data has a folder streams");
    }
    let absent = data.is_none();
    let data = data.unwrap_or_default();
    let mut trials = vec![
        Trial::test("tutorial::first_query_prints_bids", tutorial_filter),
        Trial::test("tutorial::hop_prints_a_row_every_two_seconds", tutorial_hop),
        Trial::test("tutorial::top_5_auctions_have_ranks", tutorial_top),
        Trial::test("state::kill_at_random_times_changes_no_row", kills),
        Trial::test("state::two_processes_at_once_change_no_row", two_processes),
        Trial::test("state::from_epoch_goes_back", from_epoch),
        Trial::test("state::other_script_is_another_version", other_script),
        Trial::test("state::state_of_closed_windows_is_dropped", bounded_state),
        Trial::test("time::late_rows_are_counted", late_rows),
        Trial::test("time::idle_source_closes_its_windows", idle_source),
        Trial::test("time::late_and_bad_rows_are_tables", side_tables),
        Trial::test("time::emit_on_window_close_waits_for_the_watermark", emit_on_window_close),
        Trial::test("json::steps_run_over_a_stream", json_form),
        Trial::test("state::hot_key_is_one_row_per_slice", hot_key),
        Trial::test("files::folder_is_followed", followed_folder),
        Trial::test("files::bad_rows_fail_or_are_counted", bad_rows),
        Trial::test("files::columns_that_do_not_fit_are_errors", file_schema_must_fit),
        Trial::test("files::sink_that_failed_gets_each_row_once", blocked_sink),
        Trial::test("files::csv_without_header_is_an_error_or_an_option", csv_header),
        Trial::test("files::parquet_sink_is_partitioned_and_read_back", parquet_round_trip),
        Trial::test("check::names_stages_and_state", check_names_stages),
        Trial::test("check::unknown_option_is_refused", unknown_option),
    ];
    for name in ARROYO {
        let data = data.join("arroyo");
        trials.push(Trial::test(format!("arroyo::{name}"), move || arroyo(&data, name)).with_ignored_flag(absent));
    }
    for (name, message) in ARROYO_REFUSED {
        let data = data.join("arroyo");
        let test = move || arroyo_refused(&data, name, message);
        trials.push(Trial::test(format!("arroyo_refused::{name}"), test).with_ignored_flag(absent));
    }
    for name in RISINGWAVE {
        let data = data.join("risingwave");
        trials.push(
            Trial::test(format!("risingwave::{name}"), move || risingwave(&data, name)).with_ignored_flag(absent),
        );
    }
    let data = data.join("risingwave");
    trials.push(Trial::test("risingwave::time_window", move || time_window(&data)).with_ignored_flag(absent));
    libtest_mimic::run(&arguments, trials).exit();
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Result<Self> {
        Ok(Self(tempfile::tempdir()?))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::write(&path, text)?;
        Ok(path)
    }
}

fn buzz(arguments: &[&str]) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_buzz")).arg("stream").args(arguments).stdin(Stdio::null()).output()?)
}

/// Runs `buzz stream` and returns what it prints.
fn succeeds(arguments: &[&str]) -> Result<String> {
    let output = buzz(arguments)?;
    if !output.status.success() {
        return Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

fn fails(arguments: &[&str]) -> Result<String> {
    let output = buzz(arguments)?;
    if output.status.success() {
        return Err(format!("{arguments:?} succeeds").into());
    }
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

/// A row as JSON with its keys in order, without nulls. Times have no zone and no trailing zeros.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            fields.sort_by_key(|(key, _)| key.as_str());
            Value::Object(fields.into_iter().map(|(key, value)| (key.clone(), normal(value))).collect())
        }
        Value::String(text) if text.len() >= 19 && text.as_bytes()[10] == b'T' => {
            let text = text.trim_end_matches('Z').trim_end_matches("+00:00");
            let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text };
            Value::String(text.to_string())
        }
        other => other.clone(),
    }
}

/// The rows of a file of JSON lines, sorted.
fn rows(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let lines = text.lines().filter(|line| !line.trim().is_empty());
    let mut rows =
        lines.map(|line| Ok(normal(&serde_json::from_str(line)?).to_string())).collect::<Result<Vec<String>>>()?;
    rows.sort();
    Ok(rows)
}

fn same(name: &str, expected: &[String], found: &[String]) -> Result {
    if expected == found {
        return Ok(());
    }
    let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).take(3).collect();
    let extra: Vec<_> = found.iter().filter(|row| !expected.contains(row)).take(3).collect();
    Err(format!("{name}: {} rows instead of {}\nmissing {missing:#?}\nextra {extra:#?}", found.len(), expected.len())
        .into())
}

/// Runs a script straight; then with 2 workers, stopped after three epochs; then from there with 3 workers.
fn arroyo(data: &Path, name: &str) -> Result {
    let folder = Folder::new()?;
    let script = fs::read_to_string(data.join(format!("queries/{name}.sql")))?;
    let script = script.replace("$input_dir", &data.join("inputs").display().to_string());
    let expected = rows(&data.join(format!("golden/{name}.json")))?;
    let straight = folder.write("straight.sql", &script.replace("$output_path", &folder.text("straight.json")))?;
    succeeds(&["run", &straight.display().to_string(), "--until-end"])?;
    same("straight", &expected, &rows(&folder.path("straight.json"))?)?;
    let small = if expected.len() > 500 { 900 } else { 23 };
    let script = format!("SET epoch_rows = {small};\n{}", script.replace("$output_path", &folder.text("resumed.json")));
    let resumed = folder.write("resumed.sql", &script)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &resumed, "--until-end", "--state", &state, "--parallelism", "2", "--epochs", "3"])?;
    succeeds(&["run", &resumed, "--until-end", "--state", &state, "--parallelism", "3"])?;
    same("resumed", &expected, &rows(&folder.path("resumed.json"))?)
}

fn arroyo_refused(data: &Path, name: &str, message: &str) -> Result {
    let folder = Folder::new()?;
    let script = fs::read_to_string(data.join(format!("queries/{name}.sql")))?;
    let script = script.replace("$input_dir", &data.join("inputs").display().to_string());
    let path = folder.write("script.sql", &script.replace("$output_path", &folder.text("out.json")))?;
    let error = fails(&["run", &path.display().to_string(), "--until-end"])?;
    if error.contains(message) { Ok(()) } else { Err(format!("`{error}` does not contain `{message}`").into()) }
}

/// The values of `INSERT INTO … (columns) VALUES (…), …`, as JSON lines.
fn inserted(path: &Path) -> Result<String> {
    let text = fs::read_to_string(path)?;
    let (head, values) = text.split_once("VALUES").ok_or("no VALUES")?;
    let columns: Vec<&str> = head
        .split_once('(')
        .ok_or("no columns")?
        .1
        .split_once(')')
        .ok_or("no columns")?
        .0
        .split(',')
        .map(str::trim)
        .collect();
    let (mut lines, mut row, mut field, mut quoted) = (String::new(), Vec::new(), String::new(), false);
    let mut inside = false;
    let mut is_text = false;
    for c in values.chars() {
        match c {
            '\'' => (quoted, is_text) = (!quoted, true),
            '(' if !quoted && !inside => inside = true,
            ',' | ')' if !quoted && inside => {
                let value = if is_text { Value::from(field.clone()) } else { serde_json::from_str(field.trim())? };
                row.push(value);
                (field, is_text) = (String::new(), false);
                if c == ')' {
                    let object: serde_json::Map<String, Value> =
                        columns.iter().map(ToString::to_string).zip(row.drain(..)).collect();
                    lines.push_str(&format!("{}\n", Value::Object(object)));
                    inside = false;
                }
            }
            c if inside && (quoted || !c.is_whitespace()) => field.push(c),
            _ => {}
        }
    }
    Ok(lines)
}

/// Runs RisingWave's view on its rows, and compares with its rows.
fn risingwave(data: &Path, name: &str) -> Result {
    let folder = Folder::new()?;
    let mut script = String::new();
    for (table, columns) in [
        (
            "person",
            "id BIGINT, name VARCHAR, email_address VARCHAR, credit_card VARCHAR, city VARCHAR, state VARCHAR, \
             date_time TIMESTAMP, extra VARCHAR",
        ),
        (
            "auction",
            "id BIGINT, item_name VARCHAR, description VARCHAR, initial_bid BIGINT, reserve BIGINT, date_time TIMESTAMP, \
             expires TIMESTAMP, seller BIGINT, category BIGINT, extra VARCHAR",
        ),
        (
            "bid",
            "auction BIGINT, bidder BIGINT, price BIGINT, channel VARCHAR, url VARCHAR, date_time TIMESTAMP, extra VARCHAR",
        ),
    ] {
        let lines = inserted(&data.join(format!("input/nexmark/insert_{table}.slt.part")))?;
        let path = folder.write(&format!("{table}.json"), &lines)?;
        script.push_str(&format!(
            "CREATE SOURCE {table} ({columns}, WATERMARK FOR date_time AS date_time - INTERVAL '4' SECOND) WITH \
             (connector = 'single_file', path = '{}', format = 'json');\n",
            path.display()
        ));
    }
    let view = fs::read_to_string(data.join(format!("nexmark/views/{name}.slt.part")))?;
    // Functions come before the view.
    let (functions, view) = view.split_once("CREATE MATERIALIZED VIEW").ok_or("no view")?;
    let functions = functions.replace("statement ok", "");
    let (_, view) = view.split_once("AS\n").or_else(|| view.split_once("AS ")).ok_or("no view")?;
    let view = view.trim().trim_end_matches(';');
    // PostgreSQL's patterns of TO_CHAR are not those of DataFusion.
    let view = view.replace("'YYYY-MM-DD'", "'%Y-%m-%d'").replace("'HH:MI'", "'%I:%M'");
    script.push_str(&format!("SET epoch_rows = 17;\n{functions}\nINSERT INTO out {view};\n"));
    script.push_str(&format!(
        "CREATE TABLE out WITH (connector = 'single_file', path = '{}', format = 'json', type = 'sink');",
        folder.text("out.json")
    ));
    let path = folder.write("script.sql", &script)?;
    succeeds(&["run", &path.display().to_string(), "--until-end"])?;
    let text = fs::read_to_string(folder.path("out.json"))?;
    let mut found = Vec::new();
    for line in text.lines() {
        let Value::Object(row) = serde_json::from_str(line)? else { return Err("not an object".into()) };
        found.push(row.values().map(plain).collect::<Vec<_>>().join(" "));
    }
    found.sort();
    let answer = fs::read_to_string(data.join(format!("nexmark/{name}.slt.part")))?;
    let (_, answer) = answer.split_once("----").ok_or("no answer")?;
    let mut expected: Vec<String> = answer
        .lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| line.split_whitespace().map(trimmed).collect::<Vec<_>>().join(" "))
        .collect();
    expected.sort();
    same(name, &expected, &found)
}

/// The text of a value as in RisingWave's answers, with times as `date time`.
fn plain(value: &Value) -> String {
    let text = match value {
        Value::String(text) => {
            text.replace('T', if text.len() >= 19 && text.as_bytes()[10] == b'T' { " " } else { "T" })
        }
        Value::Null => "NULL".to_string(),
        other => other.to_string(),
    };
    text.split_whitespace().map(trimmed).collect::<Vec<_>>().join(" ")
}

/// Numbers and times without trailing zeros after the point.
fn trimmed(text: &str) -> String {
    let numeric = text.contains('.') && text.chars().all(|c| c.is_ascii_digit() || ".:-".contains(c));
    // RisingWave computes 0.908 * price with decimals, DataFusion with floats.
    if let Ok(number) = text.parse::<f64>()
        && numeric
    {
        return format!("{:.4}", number).trim_end_matches('0').trim_end_matches('.').to_string();
    }
    if numeric { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text.to_string() }
}

/// RisingWave's rows of tumbling and hopping windows.
fn time_window(data: &Path) -> Result {
    let folder = Folder::new()?;
    let test = fs::read_to_string(data.join("time_window.slt"))?;
    let values = test.split_once("insert into t1 values").ok_or("no rows")?.1.split_once(';').ok_or("no rows")?.0;
    let lines: String = values
        .split("(")
        .skip(1)
        .map(|row| {
            let fields: Vec<&str> = row.split(')').next().unwrap_or_default().split(',').map(str::trim).collect();
            format!(
                "{{\"row_id\":{},\"uid\":{},\"v\":{},\"created_at\":\"{}\"}}\n",
                fields[0],
                fields[1],
                fields[2],
                fields[3].trim_matches('\'')
            )
        })
        .collect();
    let input = folder.write("t1.json", &lines)?;
    let cases = [
        (
            "select row_id, uid, created_at, window_start, window_end from tumble(t1, created_at, interval '30' minute)",
            "from mv_tumble order",
        ),
        (
            "select row_id, uid, created_at, window_start, window_end from hop(t1, created_at, interval '15' minute, interval '30' minute)",
            "from mv_hop order",
        ),
        (
            "select sum(v) as sum_v, window_start from tumble(t1, created_at, interval '30' minute) group by window_start",
            "from mv_tumble_agg_1",
        ),
        (
            "select uid, sum(v) as sum_v, window_start from tumble(t1, created_at, interval '30' minute) group by window_start, uid",
            "from mv_tumble_agg_2",
        ),
        (
            "select sum(v) as sum_v, window_start from hop(t1, created_at, interval '15' minute, interval '30' minute) group by window_start",
            "from mv_hop_agg_1",
        ),
        (
            "select uid, sum(v) as sum_v, window_start from hop(t1, created_at, interval '15' minute, interval '30' minute) group by window_start, uid",
            "from mv_hop_agg_2",
        ),
    ];
    for (statement, answer) in cases {
        let script = format!(
            "CREATE TABLE t1 (row_id INT, uid INT, v INT, created_at TIMESTAMP, WATERMARK FOR created_at) WITH \
             (connector = 'single_file', path = '{}', format = 'json');\n{statement};",
            input.display()
        );
        let path = folder.write("script.sql", &script)?;
        let out = succeeds(&["run", &path.display().to_string(), "--until-end"])?;
        let mut found = Vec::new();
        for line in out.lines() {
            let Value::Object(row) = serde_json::from_str(line)? else { return Err("not an object".into()) };
            found.push(row.values().map(plain).collect::<Vec<_>>().join(" "));
        }
        found.sort();
        let expected = test.split_once(answer).and_then(|(_, rest)| rest.split_once("----")).ok_or("no answer")?.1;
        let expected = expected.split("\n\n").next().unwrap_or_default();
        let mut expected: Vec<String> = expected
            .lines()
            .filter(|line| !line.trim().is_empty())
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        expected.sort();
        same(statement, &expected, &found)?;
    }
    Ok(())
}

const TUTORIAL: &str = "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='100');\n";

fn tutorial(statement: &str, epochs: &str) -> Result<Vec<Value>> {
    let folder = Folder::new()?;
    let path = folder.write("script.sql", &format!("{TUTORIAL}SET epoch = '200 ms';\n{statement}"))?;
    let out = succeeds(&["run", &path.display().to_string(), "--epochs", epochs])?;
    out.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

fn tutorial_filter() -> Result {
    let rows = tutorial("SELECT bid FROM nexmark WHERE bid IS NOT NULL;", "6")?;
    if rows.len() < 50 || !rows.iter().all(|row| row["bid"]["auction"].is_number()) {
        return Err(format!("{} rows, the first is {:?}", rows.len(), rows.first()).into());
    }
    Ok(())
}

fn tutorial_hop() -> Result {
    let statement = "SELECT avg(bid.price) as avg_price FROM nexmark WHERE bid IS NOT NULL \
                     GROUP BY hop(interval '2 seconds', interval '10 seconds');";
    let rows = tutorial(statement, "25")?;
    // In 5 s, two or three windows close.
    match rows.len() {
        2 | 3 => Ok(()),
        other => Err(format!("{other} rows").into()),
    }
}

fn tutorial_top() -> Result {
    let statement = "SELECT * FROM (
        SELECT *, ROW_NUMBER() OVER (
            PARTITION BY window
            ORDER BY count DESC) AS row_num
        FROM (SELECT count(*) AS count, bid.auction AS auction,
            hop(interval '2 seconds', interval '60 seconds') AS window
                FROM nexmark WHERE bid is not null
                GROUP BY 2, window)) WHERE row_num <= 5";
    let rows = tutorial(statement, "25")?;
    let ranks: BTreeSet<u64> = rows.iter().filter_map(|row| row["row_num"].as_u64()).collect();
    if rows.len() >= 6 && ranks == BTreeSet::from([1, 2, 3, 4, 5]) { Ok(()) } else { Err(format!("{rows:?}").into()) }
}

/// Three statements whose rows do not depend on when they run.
fn scripts(folder: &Folder, events: u64) -> [String; 3] {
    let source = format!(
        "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='1000', events='{events}', real_time='false', \
         disorder='2s');\nSET epoch_rows = 300;\n"
    );
    let json = |name: &str| {
        format!(
            "CREATE TABLE out WITH (connector='single_file', path='{}', format='json', type='sink');\n",
            folder.text(name)
        )
    };
    let parquet =
        format!("CREATE TABLE out WITH (connector='parquet', path='{}', type='sink');\n", folder.text("out-2"));
    [
        format!(
            "{source}{}INSERT INTO out SELECT bid.auction % 50 AS a, count(*) AS n, sum(bid.price) AS s, \
             tumble(interval '1 second') AS w FROM nexmark WHERE bid IS NOT NULL GROUP BY 1, w;",
            json("out-0")
        ),
        format!(
            "{source}{}INSERT INTO out SELECT bid.bidder % 90 AS b, count(*) AS n, session(interval '300 milliseconds') AS w \
             FROM nexmark WHERE bid IS NOT NULL GROUP BY 1, w;",
            json("out-1")
        ),
        format!(
            "{source}{parquet}INSERT INTO out SELECT auction, n, w.start AS start FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY w \
             ORDER BY n DESC, auction) AS r FROM (SELECT bid.auction AS auction, count(*) AS n, \
             hop(interval '500 milliseconds', interval '2 seconds') AS w FROM nexmark WHERE bid IS NOT NULL GROUP BY 1, w)) \
             WHERE r <= 3;"
        ),
    ]
}

/// The rows of output `index`: JSON lines, or the rows of Parquet files as `buzz sql` prints them.
fn output_rows(folder: &Folder, index: usize) -> Result<Vec<String>> {
    if index < 2 {
        return rows(&folder.path(&format!("out-{index}")));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["sql", "SELECT * FROM t", "--format", "ndjson", "--table"])
        .arg(format!("t={}", folder.text("out-2")))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let mut rows: Vec<String> = String::from_utf8(output.stdout)?.lines().map(str::to_string).collect();
    rows.sort();
    Ok(rows)
}

fn kills() -> Result {
    let kills: usize = std::env::var("BUZZ_STREAM_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    let (still, killed) = (Folder::new()?, Folder::new()?);
    let events = 20_000;
    let mut rng = StdRng::seed_from_u64(kills as u64);
    let mut count = 0;
    let mut rounds = 0;
    while count < kills {
        rounds += 1;
        for index in 0..3 {
            let script = still.write(&format!("s{index}.sql"), &scripts(&still, events)[index])?;
            if rounds == 1 {
                succeeds(&["run", &script.display().to_string(), "--until-end"])?;
            }
            let script =
                killed.write(&format!("s{index}.sql"), &scripts(&killed, events)[index])?.display().to_string();
            let state = killed.text(&format!("state-{rounds}"));
            for _ in 0..kills.div_ceil(3).min(6) {
                let workers = rng.random_range(1..5).to_string();
                let mut child = Command::new(env!("CARGO_BIN_EXE_buzz"))
                    .args(["stream", "run", &script, "--until-end", "--state", &state, "--parallelism", &workers])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()?;
                std::thread::sleep(Duration::from_millis(rng.random_range(10..250)));
                // SIGKILL: the process does not notice.
                child.kill()?;
                child.wait()?;
                count += 1;
            }
            succeeds(&["run", &script, "--until-end", "--state", &state])?;
            same(
                &format!("statement {index} after {count} kills"),
                &output_rows(&still, index)?,
                &output_rows(&killed, index)?,
            )?;
        }
        fs::remove_dir_all(killed.path("out-2"))?;
    }
    println!("{count} kills, rows as without");
    Ok(())
}

fn two_processes() -> Result {
    let (alone, both) = (Folder::new()?, Folder::new()?);
    let script = alone.write("s.sql", &scripts(&alone, 20_000)[0])?;
    succeeds(&["run", &script.display().to_string(), "--until-end"])?;
    let script = both.write("s.sql", &scripts(&both, 20_000)[0])?.display().to_string();
    let state = both.text("state");
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_buzz"))
            .args(["stream", "run", &script, "--until-end", "--state", &state])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    };
    let mut children = [start()?, start()?];
    for child in &mut children {
        child.wait()?;
    }
    // One of them may have stopped because the other was faster.
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    same("two processes", &output_rows(&alone, 0)?, &output_rows(&both, 0)?)
}

fn from_epoch() -> Result {
    let folder = Folder::new()?;
    let script = folder.write("s.sql", &scripts(&folder, 6_000)[0])?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let whole = output_rows(&folder, 0)?;
    let out = buzz(&["run", &script, "--until-end", "--state", &state, "--from-epoch", "10"])?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned().into());
    }
    // The target keeps what it has, and gets the rows after epoch 10 again.
    let again = output_rows(&folder, 0)?;
    let distinct: BTreeSet<&String> = again.iter().collect();
    if again.len() > whole.len() && distinct == whole.iter().collect() {
        Ok(())
    } else {
        Err(format!("{} rows", again.len()).into())
    }
}

fn other_script() -> Result {
    let folder = Folder::new()?;
    let first = scripts(&folder, 2_000)[0].clone();
    let script = folder.write("s.sql", &first)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    folder.write("s.sql", &first.replace("% 50", "% 10"))?;
    let again = buzz(&["run", &script, "--until-end", "--state", &state])?;
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    if !again.status.success() || !told.contains("version 2 starts without state") {
        return Err(told.into());
    }
    let epochs = succeeds(&["epochs", "--state", &state])?;
    if epochs.contains("version 2") { Ok(()) } else { Err(epochs.into()) }
}

fn bounded_state() -> Result {
    let folder = Folder::new()?;
    // 40,000 slices of 50 ms.
    let script = "CREATE TABLE impulse WITH (connector='impulse', event_rate='100', events='200000', real_time='false');
        CREATE TABLE out WITH (connector='blackhole', type='sink');
        SET epoch_rows = 2000;
        INSERT INTO out SELECT counter % 10 AS k, count(*) AS n, hop(interval '50 milliseconds', interval '200 milliseconds') AS w
        FROM impulse GROUP BY 1, w;";
    let script = folder.write("s.sql", script)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let epochs = succeeds(&["epochs", "--state", &state, "--last", "60"])?;
    let bytes: Vec<u64> =
        epochs.lines().skip(4).filter_map(|line| line.split_whitespace().nth(5)?.parse().ok()).collect();
    match bytes.iter().max() {
        Some(most) if bytes.len() > 40 && *most < 400_000 => Ok(()),
        _ => Err(format!("{bytes:?}\n{epochs}").into()),
    }
}

fn late_rows() -> Result {
    let folder = Folder::new()?;
    // An epoch of one row takes about 128 bytes of a text file.
    let pad = "x".repeat(100);
    let lines: String = [("01", 1), ("25", 2), ("02", 4), ("26", 8)]
        .map(|(second, v)| format!("{{\"t\":\"2024-01-01T00:00:{second}\",\"v\":{v},\"pad\":\"{pad}\"}}\n"))
        .concat();
    let input = folder.write("in.json", &lines)?;
    let script = format!(
        "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds') WITH \
         (connector='single_file', path='{}', format='json');\nSET epoch_rows = 1;\n\
         SELECT sum(v) AS s, tumble(interval '10 seconds') AS w FROM t GROUP BY w;",
        input.display()
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let output = buzz(&["run", &script, "--until-end"])?;
    let (rows, summary) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let sums: Vec<u64> =
        rows.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["s"].as_u64()).collect();
    if sums == [1, 10] && summary.contains("late: 1") { Ok(()) } else { Err(format!("{rows}{summary}").into()) }
}

fn idle_source() -> Result {
    let folder = Folder::new()?;
    fs::create_dir(folder.path("in"))?;
    folder.write("in/a.json", "{\"t\":\"2024-01-01T00:00:01\",\"v\":1}\n")?;
    let script = format!(
        "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t) WITH (connector='json', path='{}', idle_timeout='1s');\n\
         SET epoch = '200 ms';\nSELECT sum(v) AS s, tumble(interval '10 seconds') AS w FROM t GROUP BY w;",
        folder.text("in")
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    // The second epoch is the one that closes the window.
    let out = succeeds(&["run", &script, "--epochs", "2"])?;
    if out.contains("\"s\":1") { Ok(()) } else { Err(out.into()) }
}

fn followed_folder() -> Result {
    let folder = Folder::new()?;
    fs::create_dir(folder.path("in"))?;
    folder.write("in/a.json", "{\"v\":1}\n{\"v\":2}\n")?;
    let script = format!(
        "CREATE TABLE t (v BIGINT) WITH (connector='filesystem', format='json', path='{}');\n\
         CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\n\
         SET epoch = '100 ms';\nINSERT INTO out SELECT v * 10 AS v FROM t;",
        folder.text("in"),
        folder.text("out.json")
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let state = folder.text("state");
    let mut child = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["stream", "run", &script, "--state", &state])
        .stderr(Stdio::null())
        .spawn()?;
    let wait = |count: usize| -> Result {
        for _ in 0..100 {
            if rows(&folder.path("out.json")).is_ok_and(|rows| rows.len() == count) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("no {count} rows in 10 s").into())
    };
    let first = wait(2);
    folder.write("in/b.json", "{\"v\":3}\n")?;
    let second = first.and_then(|()| wait(3));
    child.kill()?;
    child.wait()?;
    second?;
    // After a restart, only the new file is read.
    folder.write("in/c.json", "{\"v\":4}\n")?;
    std::thread::sleep(Duration::from_millis(600));
    succeeds(&["run", &script, "--state", &state, "--epochs", "1"])?;
    wait(4)
}

fn bad_rows() -> Result {
    let folder = Folder::new()?;
    let input = folder.write("in.json", "{\"v\":1}\n{\"v\":\"x\"}\nnothing\n{\"v\":2}\n")?;
    let script = |option: &str| {
        format!(
            "CREATE TABLE t (v BIGINT) WITH (connector='single_file', path='{}', format='json'{option});\nSELECT v FROM t;",
            input.display()
        )
    };
    let path = folder.write("s.sql", &script(""))?.display().to_string();
    let error = fails(&["run", &path, "--until-end"])?;
    if !error.contains("cannot be decoded") || !error.contains("bad_data = 'drop'") {
        return Err(error.into());
    }
    folder.write("s.sql", &script(", bad_data='drop'"))?;
    let output = buzz(&["run", &path, "--until-end"])?;
    let (out, summary) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if out == "{\"v\":1}\n{\"v\":2}\n" && summary.contains("bad: 2") {
        Ok(())
    } else {
        Err(format!("{out}{summary}").into())
    }
}

fn csv_header() -> Result {
    let folder = Folder::new()?;
    let input = folder.write("in.csv", "a,1\nb,2\n")?;
    let script = |option: &str| {
        format!(
            "CREATE TABLE t (page TEXT, n BIGINT) WITH (connector='single_file', path='{}', format='csv'{option});\n\
             SELECT page, n FROM t;",
            input.display()
        )
    };
    let path = folder.write("s.sql", &script(""))?.display().to_string();
    let error = fails(&["run", &path, "--until-end"])?;
    if !error.contains("`a,1`, has none of the table's columns") || !error.contains("header = 'false'") {
        return Err(error.into());
    }
    folder.write("s.sql", &script(", header='false'"))?;
    let rows = succeeds(&["run", &path, "--until-end"])?;
    if rows == "{\"page\":\"a\",\"n\":1}\n{\"page\":\"b\",\"n\":2}\n" { Ok(()) } else { Err(rows.into()) }
}

fn file_schema_must_fit() -> Result {
    let folder = Folder::new()?;
    let file = folder.text("in.parquet");
    let sql = "SELECT 1 AS a, 3.9 AS b UNION ALL SELECT 300 AS a, 4.0 AS b";
    let arguments = ["sql", sql, "--format", "parquet", "--output", &file];
    if !Command::new(env!("CARGO_BIN_EXE_buzz")).args(arguments).output()?.status.success() {
        return Err("no file".into());
    }
    let run = |columns: &str| {
        let script = format!(
            "CREATE TABLE t ({columns}) WITH (connector='single_file', path='{file}', format='parquet');\nSELECT * FROM t;"
        );
        let path = folder.write("s.sql", &script)?.display().to_string();
        fails(&["run", &path, "--until-end"])
    };
    let cases = [
        ("c BIGINT", "has none of the table's columns; it has `a`, `b`"),
        ("b BIGINT", "column `b` has type Float64 in the file and Int64 in the table, and a value would change"),
        ("a TINYINT", "column `a` has type Int64 in the file and Int8 in the table"),
    ];
    for (columns, words) in cases {
        let error = run(columns)?;
        if !error.contains(words) || !error.contains(&file) {
            return Err(error.into());
        }
    }
    Ok(())
}

fn blocked_sink() -> Result {
    let folder = Folder::new()?;
    let script = |out: &str| {
        format!(
            "CREATE TABLE nexmark WITH (connector='nexmark', events='5000', real_time='false');\n\
             CREATE TABLE out WITH (connector='json', path='{}', type='sink');\nSET epoch_rows = 1000;\n\
             INSERT INTO out SELECT bid.auction AS a, bid.price AS p FROM nexmark WHERE bid IS NOT NULL;",
            folder.text(out)
        )
    };
    let rows = |out: &str| -> Result<Vec<String>> {
        let mut rows = Vec::new();
        for file in fs::read_dir(folder.path(out))? {
            rows.extend(fs::read_to_string(file?.path())?.lines().map(str::to_string));
        }
        rows.sort();
        Ok(rows)
    };
    let whole = folder.write("whole.sql", &script("whole"))?.display().to_string();
    succeeds(&["run", &whole, "--until-end", "--state", &folder.text("state")])?;
    // A file in the place of the folder, as a full disk, makes every write fail.
    let blocked = folder.write("blocked.sql", &script("blocked"))?.display().to_string();
    let file = folder.write("blocked", "")?;
    let arguments = ["run", &blocked, "--until-end", "--state", &folder.text("state")];
    let error = fails(&arguments)?;
    if !error.contains("sink out") {
        return Err(error.into());
    }
    fs::remove_file(file)?;
    succeeds(&arguments)?;
    same("after the repair", &rows("whole")?, &rows("blocked")?)
}

fn parquet_round_trip() -> Result {
    let folder = Folder::new()?;
    let script = format!(
        "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='100', events='5000', real_time='false');\n\
         CREATE TABLE lake WITH (connector='parquet', path='{}', partition_by='channel', type='sink');\nSET epoch_rows = 1000;\n\
         INSERT INTO lake SELECT bid.auction AS auction, bid.price AS price, bid.channel AS channel, date_time FROM nexmark \
         WHERE bid IS NOT NULL;",
        folder.text("lake")
    );
    let path = folder.write("write.sql", &script)?.display().to_string();
    succeeds(&["run", &path, "--until-end", "--state", &folder.text("state")])?;
    let files = fs::read_dir(folder.path("lake/channel=Apple"))?.count();
    if files != 5 {
        return Err(format!("{files} files of one partition in 5 epochs").into());
    }
    let script = format!(
        "CREATE TABLE lake (auction BIGINT, price BIGINT, date_time TIMESTAMP) WITH (connector='parquet', path='{}');\n\
         CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\n\
         INSERT INTO out SELECT auction, price FROM lake;",
        folder.text("lake"),
        folder.text("out.json")
    );
    let path = folder.write("read.sql", &script)?.display().to_string();
    succeeds(&["run", &path, "--until-end"])?;
    let count = rows(&folder.path("out.json"))?.len();
    if count == 4600 { Ok(()) } else { Err(format!("{count} rows instead of 4600").into()) }
}

fn check_names_stages() -> Result {
    let folder = Folder::new()?;
    let script = format!("{TUTORIAL}SELECT count(*) AS n, tumble(interval '10 seconds') AS w FROM nexmark GROUP BY w;");
    let path = folder.write("s.sql", &script)?.display().to_string();
    let text = succeeds(&["check", &path])?;
    for part in [
        "HBee",
        "HComb",
        "tumble(10 s)",
        "one row per key and slice of 10 s",
        "watermark: date_time",
        "epoch: every 1 s",
    ] {
        if !text.contains(part) {
            return Err(format!("`{part}` is not in\n{text}").into());
        }
    }
    Ok(())
}

fn unknown_option() -> Result {
    let folder = Folder::new()?;
    let path = folder.write("s.sql", "CREATE TABLE n WITH (connector='nexmark', rate='5'); SELECT bid FROM n;")?;
    let error = fails(&["check", &path.display().to_string()])?;
    if error.contains("option `rate` of table `n` is unknown") { Ok(()) } else { Err(error.into()) }
}

const PAD: &str =
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// Rows of which an epoch of one row takes about one: with times in seconds of 2024-01-01T00:00.
fn timed_rows(rows: &[(u32, i64)]) -> String {
    let line =
        |(second, v): &(u32, i64)| format!("{{\"t\":\"2024-01-01T00:00:{second:02}\",\"v\":{v},\"pad\":\"{PAD}\"}}\n");
    rows.iter().map(line).collect()
}

fn side_tables() -> Result {
    let folder = Folder::new()?;
    let mut lines = timed_rows(&[(1, 1), (25, 2), (2, 4)]);
    lines.push_str("nonsense\n");
    lines.push_str(&timed_rows(&[(26, 8)]));
    let input = folder.write("in.json", &lines)?;
    let script = format!(
        "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds') WITH \
         (connector='single_file', path='{}', format='json', late='side', bad_data='side');\nSET epoch_rows = 1;\n\
         SELECT 'late' AS kind, v FROM t__late;\nSELECT 'bad' AS kind, text FROM t__bad;\n\
         SELECT sum(v) AS s, tumble(interval '10 seconds') AS w FROM t GROUP BY w;",
        input.display()
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let out = succeeds(&["run", &script, "--until-end"])?;
    let expected =
        ["{\"kind\":\"late\",\"v\":4}\n", "{\"kind\":\"bad\",\"text\":\"nonsense\"}\n", "{\"s\":1,", "{\"s\":10,"];
    if expected.iter().all(|row| out.contains(row)) && out.lines().count() == 4 { Ok(()) } else { Err(out.into()) }
}

fn emit_on_window_close() -> Result {
    let folder = Folder::new()?;
    let input = folder.write("in.json", &timed_rows(&[(1, 1), (3, 2), (2, 3), (12, 4), (30, 5)]))?;
    let script = format!(
        "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds') WITH \
         (connector='single_file', path='{}', format='json');\nSET epoch_rows = 1;\n\
         SELECT v FROM t EMIT ON WINDOW CLOSE;",
        input.display()
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let state = folder.text("state");
    // With the fourth row the watermark is at 7 s, with the fifth at 25 s.
    let first = succeeds(&["run", &script, "--until-end", "--state", &state, "--epochs", "4"])?;
    let rest = succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let numbers = |text: &str| {
        let mut numbers: Vec<i64> =
            text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["v"].as_i64()).collect();
        numbers.sort();
        numbers
    };
    // The rows of the last epoch before the stop may be printed again.
    if numbers(&first) == [1, 2, 3] && numbers(&rest).ends_with(&[4, 5]) {
        Ok(())
    } else {
        Err(format!("{first}\n{rest}").into())
    }
}

fn json_form() -> Result {
    let folder = Folder::new()?;
    let query = r#"{ "stream": { "name": "busy" },
        "steps": [ { "name": "m", "step_type": "HBee", "sql": "SELECT bid.auction % 3 AS a, count(*) AS n, hop(interval '2 seconds', interval '10 seconds') AS w FROM nexmark WHERE bid IS NOT NULL GROUP BY 1, 3" },
                   { "name": "r", "step_type": "HComb", "sql": "SELECT sum(n) AS n, w FROM m GROUP BY w" } ],
        "catalogs": [ { "name": "nexmark", "type": "Nexmark", "options": { "events": 5000, "real_time": false } } ] }"#;
    let path = folder.write("q.json", query)?.display().to_string();
    let out = succeeds(&["run", &path, "--until-end"])?;
    let total: u64 = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["n"].as_u64()).sum();
    // Each bid is in five windows.
    if total == 4600 * 5 { Ok(()) } else { Err(format!("{total}\n{out}").into()) }
}

/// A key with 90 % of the rows has one row of state per slice.
fn hot_key() -> Result {
    let folder = Folder::new()?;
    let script = "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='10000', events='300000', real_time='false',
            hot_percent='90', keys='1000');
        CREATE TABLE out WITH (connector='blackhole', type='sink');
        SET epoch_rows = 20000;
        INSERT INTO out SELECT bid.auction AS a, count(*) AS n, tumble(interval '1 hour') AS w FROM nexmark GROUP BY 1, w;";
    let script = folder.write("s.sql", script)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state, "--epochs", "14", "--parallelism", "4"])?;
    let record = fs::read_dir(folder.path("state/pipelines/s/v1/epochs"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .max()
        .ok_or("no record")?;
    let record: Value = serde_json::from_str(&fs::read_to_string(record)?)?;
    let rows: Vec<u64> =
        record["state"].as_array().into_iter().flatten().filter_map(|file| file["rows"].as_u64()).collect();
    // At most 1,001 keys per epoch and partition of the map.
    if !rows.is_empty() && rows.iter().all(|rows| *rows <= 4 * 1_002) {
        Ok(())
    } else {
        Err(format!("{rows:?}").into())
    }
}
