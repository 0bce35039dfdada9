//! Tests the command `buzz` as a user runs it: its output, its error messages and its exit codes.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use buzz_testkit::{program, workspace_root};
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::steps;
use crate::tables::parquet_folder;

pub(crate) fn buzz(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(program("buzz")).current_dir(dir).args(arguments).output().unwrap()
}

fn query(dir: &Path, reduce: &str) {
    let sql = "SELECT id, grp, amount FROM rides WHERE id < 4";
    let query = steps(1, &[("m", sql)], &[("r", reduce)], &[("rides", "Parquet", "rides")]);
    fs::write(dir.join("query.json"), query.to_string()).unwrap();
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn timeline_shows_the_tasks_of_a_query_and_of_one_that_fails() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 10);
    let sql = "SELECT grp, sum(amount) FROM rides GROUP BY grp";
    let common = ["--table", "rides=rides", "--set", "tasks=3", "--timeline", "page.html"];
    let output = buzz(dir.path(), &[&["sql", sql][..], &common].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let page = fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(page.contains("<h2>map_0</h2>") && page.contains("3 tasks, 3 attempts"), "{page}");
    assert!(page.contains("title=\"task 2, attempt 1, run 1: delivered after"), "{page}");
    assert!(!page.contains("cash"), "a page has no values of the data: {page}");

    let failing = "SELECT sum(amount) / (count(*) - count(*)) FROM rides WHERE 1 / (id - id) = 1";
    let output = buzz(dir.path(), &[&["sql", failing][..], &common].concat());
    assert_eq!(output.status.code(), Some(1));
    let page = fs::read_to_string(dir.path().join("page.html")).unwrap();
    assert!(page.contains("role=\"alert\"") && page.contains("failed (Invalid)"), "{page}");

    let nowhere = ["--table", "rides=rides", "--timeline", "missing/page.html"];
    let output = buzz(dir.path(), &[&["sql", sql][..], &nowhere].concat());
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "error: output `missing/page.html` is not writable: folder `missing` does not exist\n"
    );

    // A device stays one, and the rows are written although the page is not.
    let full = ["--table", "rides=rides", "--format", "csv", "--timeline", "/dev/full"];
    let output = buzz(dir.path(), &[&["sql", "SELECT COUNT(*) AS n FROM rides"][..], &full].concat());
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), "n\n30\n"));
    assert!(text(&output.stderr).contains("error: output `/dev/full` is not writable: "), "{}", text(&output.stderr));
    assert!(!fs::metadata("/dev/full").unwrap().is_file());
}

#[test]
fn every_format_has_the_same_rows() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    query(dir.path(), "SELECT id, grp, amount FROM m ORDER BY id");
    let printed = |format: &str| {
        let output = buzz(dir.path(), &["query", "query.json", "--format", format]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let summary = text(&output.stderr);
        assert!(summary.starts_with("rows: 4, files: 1 of 2, bytes: "), "{summary}");
        assert!(summary.contains("retries: 0, time: ") && summary.ends_with("cost: n/a\n"), "{summary}");
        output.stdout
    };
    assert_eq!(
        text(&printed("table")),
        "+----+---------+--------+\n| id | grp     | amount |\n+----+---------+--------+\n| 0  | cash    |        |\n\
         | 1  | credit  | 0.25   |\n| 2  | dispute | 0.5    |\n| 3  | cash    | 0.75   |\n+----+---------+--------+\n"
    );
    let expected = json!([
        {"id": 0, "grp": "cash", "amount": null}, {"id": 1, "grp": "credit", "amount": 0.25},
        {"id": 2, "grp": "dispute", "amount": 0.5}, {"id": 3, "grp": "cash", "amount": 0.75}
    ]);
    assert_eq!(serde_json::from_slice::<Value>(&printed("json")).unwrap(), expected);
    let lines: Vec<Value> = text(&printed("ndjson")).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(Value::from(lines), expected);
    assert_eq!(text(&printed("csv")), "id,grp,amount\n0,cash,\n1,credit,0.25\n2,dispute,0.5\n3,cash,0.75\n");

    let arrow = arrow::ipc::reader::FileReader::try_new(std::io::Cursor::new(printed("arrow")), None).unwrap();
    assert_eq!(arrow.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 4);
    fs::write(dir.path().join("out.parquet"), printed("parquet")).unwrap();
    let again = fs::File::open(dir.path().join("out.parquet")).unwrap();
    let again = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(again).unwrap();
    assert_eq!(again.metadata().file_metadata().num_rows(), 4);
}

#[test]
fn json_keeps_large_numbers_nan_bytes_times_and_maps() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 10);
    query(
        dir.path(),
        "SELECT 9007199254740993 AS big, CAST('12345678901234567890.10' AS DECIMAL(38, 2)) AS exact, \
         CAST('NaN' AS DOUBLE) AS nan, CAST('-Infinity' AS REAL) AS low, CAST('ab' AS BYTEA) AS bytes, \
         TIMESTAMP '2024-01-02T03:04:05.5' AS t, DATE '2024-01-02' AS d, [1, NULL] AS list, 0.1 AS f, MAP {7: true} AS keyed FROM m LIMIT 1",
    );
    let output = buzz(dir.path(), &["query", "query.json", "--format", "ndjson"]);
    assert_eq!(
        text(&output.stdout),
        "{\"big\":9007199254740993,\"exact\":12345678901234567890.10,\"nan\":\"NaN\",\"low\":\"-Infinity\",\
         \"bytes\":\"YWI=\",\"t\":\"2024-01-02T03:04:05.500\",\"d\":\"2024-01-02\",\"list\":[1,null],\"f\":0.1,\"keyed\":{\"7\":true}}\n",
        "{}",
        text(&output.stderr)
    );
    query(dir.path(), "SELECT a.id, b.id FROM m a JOIN m b ON a.id = b.id");
    let output = buzz(dir.path(), &["query", "query.json", "--format", "json"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert!(text(&output.stderr).contains("two columns are called `id`"), "{}", text(&output.stderr));

    query(dir.path(), "SELECT id FROM m WHERE id > 100");
    assert_eq!(text(&buzz(dir.path(), &["query", "query.json", "--format", "json"]).stdout), "[]\n");
}

#[test]
fn exit_codes_and_output_streams_are_as_documented() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    query(dir.path(), "SELECT id FROM m");
    let failed = |arguments: &[&str], code: i32, words: &str| {
        let output = buzz(dir.path(), arguments);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{arguments:?}");
        assert!(text(&output.stderr).contains(words), "{arguments:?}: {}", text(&output.stderr));
    };
    failed(&["query", "missing.json"], 1, "error: query file `missing.json`: No such file");
    std::fs::write(dir.path().join("script.sql"), "-- a script\nSELECT 1;").unwrap();
    failed(&["query", "script.sql"], 1, "`buzz stream run script.sql` runs a continuous query");
    failed(&["query", "query.json", "--table", "ride=x"], 1, "no catalog `ride`; did you mean `rides`?");
    failed(&["query", "query.json", "--table", "rides=nowhere"], 1, "error: catalog `rides`: file or folder");
    failed(
        &["query", "query.json", "--output", "no/such/folder/x"],
        1,
        "error: output `no/such/folder/x` is not writable",
    );
    failed(&["query", "query.json", "--format", "xml"], 2, "possible values: table, json");
    failed(&["query", "query.json", "--set", "task=1"], 2, "did you mean `tasks`?");
    failed(&["query"], 2, "Usage");
    failed(&["frobnicate"], 2, "Usage");
    fs::write(dir.path().join("bad.json"), "{\"steps\": [\n  {,}\n]}").unwrap();
    failed(&["query", "bad.json"], 1, "error: bad.json in `steps[0]`: key must be a string at line 2 column 4");

    let help = buzz(dir.path(), &["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("Examples:"));
    let explain = buzz(dir.path(), &["query", "query.json", "--explain"]);
    assert!(text(&explain.stdout).contains("files: 2 found"), "{}", text(&explain.stdout));
    assert!(text(&explain.stdout).contains("\nestimate: "), "{}", text(&explain.stdout));
    let sql = ["sql", "SELECT COUNT(*) AS n FROM t WHERE id > $low", "--table", "t=rides", "--param", "low=4"];
    let counted = buzz(dir.path(), &[&sql[..], &["--format", "csv"]].concat());
    assert_eq!(text(&counted.stdout), "n\n15\n", "{}", text(&counted.stderr));
    let explain = buzz(dir.path(), &["query", "query.json", "--explain", "--format", "json"]);
    let explain: Value = serde_json::from_slice(&explain.stdout).unwrap();
    assert!(explain["plan"].as_str().unwrap().contains("files: 2 found"), "{explain}");
    assert!(explain["estimate"]["seconds"]["high"].as_f64().unwrap() > 0.0, "{explain}");

    let explain = buzz(dir.path(), &["sql", "EXPLAIN SELECT SUM(id) AS n FROM t", "--table", "t=rides"]);
    assert!(text(&explain.stdout).contains("AggregateExec: mode=Partial"), "{}", text(&explain.stdout));

    let sql = "EXPLAIN ANALYZE SELECT grp, COUNT(*) AS n FROM t GROUP BY grp";
    let analyzed = buzz(dir.path(), &["sql", sql, "--table", "t=rides", "--zones", "2"]);
    let shown = text(&analyzed.stdout);
    for words in
        ["ran: 2 of 2 tasks in 2 attempts; 20 rows,", "time of a task: median ", "comb 1 ", "answered: 3 rows in "]
    {
        assert!(shown.contains(words), "{words}: {shown}");
    }
    assert!(text(&analyzed.stderr).contains("rows: 3"), "{}", text(&analyzed.stderr));
    let tables = buzz(dir.path(), &["tables", "query.json"]);
    assert!(text(&tables.stdout).contains("rides (Parquet): rides\n  files: 2, bytes: "), "{}", text(&tables.stdout));
    assert!(text(&tables.stdout).contains("    grp: Utf8\n"));
}

#[test]
fn statement_is_read_from_a_file_and_from_standard_input() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    let piped = |arguments: &[&str], input: &str| {
        let mut child = Command::new(program("buzz"))
            .current_dir(dir.path())
            .args(arguments)
            .args(["--table", "t=rides", "--format", "csv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let sql = "\u{feff}-- daily; count\nSELECT count(*) AS n FROM t;\n";
    fs::write(dir.path().join("q.sql"), sql).unwrap();
    for (arguments, input) in [
        (["sql", "-f", "q.sql"], ""),
        (["sql", "--file", "q.sql"], ""),
        (["sql", "--file", "-"], sql),
        (["sql", "-", "--threads=2"], sql),
        (["sql", "-- daily\nSELECT count(*) AS n FROM t", "--threads=2"], ""),
    ] {
        let (code, rows, told) = piped(&arguments, input);
        assert_eq!((code, rows.as_str()), (Some(0), "n\n20\n"), "{arguments:?}: {told}");
    }
    for (arguments, words) in [
        (["sql", "q.sql"], "error: `q.sql` is not SQL; `buzz sql -f q.sql` runs the statement in a file"),
        (["sql", "@q.sql"], "`buzz sql -f q.sql` runs the statement in a file"),
        (["query", "q.sql"], "`buzz sql -f q.sql` a statement"),
        (["sql", "SELECT 1; SELECT 2"], "error: the SQL contains 2 statements; write one query, or run them"),
    ] {
        let (code, rows, told) = piped(&arguments, "");
        assert_eq!((code, rows.as_str()), (Some(1), ""), "{arguments:?}");
        assert!(told.contains(words), "{told}");
    }
    let (code, _, told) = piped(&["sql", "-f", "missing.sql"], "");
    assert!(code == Some(1) && told.contains("error: SQL file `missing.sql`: "), "{told}");

    // A byte order mark in a query file.
    query(dir.path(), "SELECT count(*) AS n FROM m");
    let json = fs::read_to_string(dir.path().join("query.json")).unwrap();
    fs::write(dir.path().join("query.json"), format!("\u{feff}{json}")).unwrap();
    let output = buzz(dir.path(), &["query", "query.json", "--format", "csv"]);
    assert_eq!(text(&output.stdout), "n\n4\n", "{}", text(&output.stderr));
}

#[test]
fn ending_of_the_output_sets_the_format() {
    let dir = tempdir().unwrap();
    let written = |name: &str, more: &[&str]| {
        let arguments = [&["sql", "SELECT 1 AS a", "--output", name], more].concat();
        let output = buzz(dir.path(), &arguments);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        fs::read(dir.path().join(name)).unwrap()
    };
    assert_eq!(written("a.csv", &[]), b"a\n1\n");
    assert_eq!(written("a.JSON", &[]), b"[{\"a\":1}]\n");
    assert_eq!(written("a.ndjson", &[]), b"{\"a\":1}\n");
    assert!(written("a.parquet", &[]).starts_with(b"PAR1"));
    assert!(written("a.parq", &[]).starts_with(b"PAR1"));
    assert!(written("a.arrow", &[]).starts_with(b"ARROW1"));
    assert!(written("a.txt", &[]).starts_with(b"+---+"));
    assert_eq!(written("b.parquet", &["--format", "csv"]), b"a\n1\n");
    let output = buzz(dir.path(), &["sql", "SELECT 1", "--output", "a.xlsx"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no format has the ending `.xlsx`"), "{}", text(&output.stderr));
}

#[test]
fn memory_bound_is_named_in_one_line() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 2000);
    let sql = "SELECT a.id, repeat(a.grp, 200) AS g FROM t a, t b WHERE a.id < 100 ORDER BY g, b.id";
    let output = buzz(dir.path(), &["sql", sql, "--table", "t=rides", "--set", "memory_bytes=10MB"]);
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("`memory_bytes`") && told.contains("raise it") && told.lines().count() == 1, "{told}");
}

#[test]
fn query_is_read_from_standard_input_and_closed_pipe_prints_no_error() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    query(
        dir.path(),
        "SELECT a.id FROM m a CROSS JOIN m b CROSS JOIN m c CROSS JOIN m d CROSS JOIN m e CROSS JOIN m f CROSS JOIN m g CROSS JOIN m h",
    );
    let mut child = Command::new("sh")
        .current_dir(dir.path())
        .args(["-c", "\"$0\" query - --format ndjson | head -n 1"])
        .arg(program("buzz"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let json = fs::read(dir.path().join("query.json")).unwrap();
    child.stdin.take().unwrap().write_all(&json).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(text(&output.stdout).lines().count(), 1);
    assert!(
        !text(&output.stderr).contains("error") && !text(&output.stderr).contains("panic"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn output_file_is_replaced_atomically() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    query(dir.path(), "SELECT id FROM m ORDER BY id");
    let output = buzz(dir.path(), &["query", "query.json", "--format", "csv", "--output", "rows.csv"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(0), 0));
    assert_eq!(fs::read_to_string(dir.path().join("rows.csv")).unwrap(), "id\n0\n1\n2\n3\n");

    query(dir.path(), "SELECT 1 / (id - id) AS n FROM m");
    let output = buzz(dir.path(), &["query", "query.json", "--format", "csv", "--output", "rows.csv"]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    assert_eq!(fs::read_to_string(dir.path().join("rows.csv")).unwrap(), "id\n0\n1\n2\n3\n");
    let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn unwritable_output_is_reported() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    query(dir.path(), "SELECT id FROM m ORDER BY id");
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = Command::new(program("buzz"))
        .current_dir(dir.path())
        .args(["query", "query.json", "--format", "csv"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("error: standard output is not writable: No space left"), "{output:?}");

    // A device, also behind a link, is written in place and not replaced by a file.
    std::os::unix::fs::symlink("/dev/full", dir.path().join("full")).unwrap();
    let output = buzz(dir.path(), &["query", "query.json", "--format", "csv", "--output", "full"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("error: output `full` is not writable: No space left"), "{output:?}");
    assert!(dir.path().join("full").is_symlink());

    // A missing folder is named.
    let output = buzz(dir.path(), &["query", "query.json", "--output", "nowhere/rows.csv"]);
    assert_eq!(output.status.code(), Some(1));
    let said = "error: output `nowhere/rows.csv` is not writable: folder `nowhere` does not exist";
    assert!(text(&output.stderr).contains(said), "{output:?}");

    // A link to a file is kept, and the file is replaced.
    fs::write(dir.path().join("rows.csv"), "old").unwrap();
    std::os::unix::fs::symlink("rows.csv", dir.path().join("link.csv")).unwrap();
    let output = buzz(dir.path(), &["query", "query.json", "--format", "csv", "--output", "link.csv"]);
    assert!(output.status.success() && dir.path().join("link.csv").is_symlink(), "{output:?}");
    assert!(fs::read_to_string(dir.path().join("rows.csv")).unwrap().starts_with("id\n0\n1\n"));
}

#[test]
fn interrupt_stops_the_query_and_removes_its_temporary_output() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 3000);
    let slow = "SELECT count(*) AS n FROM rides a, rides b, rides c, rides d WHERE a.id + b.id + c.id + d.id = -1";
    let query = steps(1, &[("m", slow)], &[("r", "SELECT * FROM m")], &[("rides", "Parquet", "rides")]);
    fs::write(dir.path().join("query.json"), query.to_string()).unwrap();
    let arguments = ["query", "query.json", "--output", "rows.txt"];
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let mut command = Command::new(program("buzz"));
        let mut child = command.current_dir(dir.path()).args(arguments).stderr(Stdio::piped()).spawn().unwrap();
        // The temporary output file exists while the query runs.
        let started = Instant::now();
        while fs::read_dir(dir.path()).unwrap().count() < 3 {
            assert!(started.elapsed() < Duration::from_secs(60), "the query did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(Duration::from_millis(300));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "the temporary output was not removed");
    }
}

#[test]
fn output_beyond_the_limit_of_file_sizes_is_an_error_that_names_it() {
    let dir = tempdir().unwrap();
    // A block has 512 or 1024 bytes.
    let script = "ulimit -f 8; exec \"$0\" sql 'SELECT value FROM generate_series(1, 100000)' --output rows.csv";
    let output = Command::new("sh").current_dir(dir.path()).args(["-c", script]).arg(program("buzz")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("output `"), "{output:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "the temporary output was not removed");
}

#[test]
fn sample_is_created_once_and_works_with_the_example_query() {
    let dir = tempdir().unwrap();
    let made = buzz(dir.path(), &["sample", "data/taxi", "--rows", "3000"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let again = buzz(dir.path(), &["sample", "data/taxi", "--rows", "3000"]);
    assert!(text(&again.stderr).contains("already"), "{}", text(&again.stderr));
    let example = workspace_root().join("code/examples/query-delta-taxi.json");
    let arguments = ["query", example.to_str().unwrap(), "--table", "nyc_taxi=data/taxi", "--format", "json"];
    let output = buzz(dir.path(), &arguments);
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    let sum: i64 = rows.iter().map(|row| row["sum(nyc_taxi_map.payment_type_count)"].as_i64().unwrap()).sum();
    // Five days of 31, of three files each; 3000 rows over 93 files are 33 in the first 24 files and 32 in the others.
    assert_eq!(sum, 15 * 33);
    assert!(text(&output.stderr).contains("files: 15 of 93"), "{}", text(&output.stderr));
}
