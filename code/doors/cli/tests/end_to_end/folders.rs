//! Tests places that are hard to recognise: files without an ending, names that look like globs or versions, pipes, and
//! the folders of a Delta table.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use buzz_protocol::QueryError;
use buzz_testkit::{program, sorted_text};
use serde_json::json;
use tempfile::tempdir;

use crate::common::{Answer, ask};
use crate::tables::{parquet_folder, partitioned_delta, rides, write_file};

async fn answer(dir: &Path, sql: &str, uri: &str) -> Result<Answer, QueryError> {
    ask(&json!({"sql": sql, "catalogs": [{"name": "t", "uri": uri}]}), dir, &[]).await
}

async fn rows(dir: &Path, sql: &str, uri: &str) -> Vec<String> {
    sorted_text(&answer(dir, sql, uri).await.unwrap().rows)
}

fn buzz(dir: &Path, arguments: &[&str], input: &str) -> Output {
    use std::io::Write;
    let mut command = Command::new(program("buzz"));
    command.current_dir(dir).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// `{"id":5}\n`, compressed with gzip.
fn zipped() -> Vec<u8> {
    let mut child = Command::new("gzip").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"{\"id\":5}\n").unwrap();
    child.wait_with_output().unwrap().stdout
}

#[tokio::test]
async fn files_without_an_ending_are_recognised_by_their_first_bytes() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    for folder in ["parquet", "json", "zipped", "csv", "other"] {
        fs::create_dir(dir.join(folder)).unwrap();
    }
    for number in 0..2 {
        write_file(&dir.join(format!("parquet/20240101_000{number}")), &rides(number * 10, 10));
        fs::write(dir.join(format!("json/delivery-1-2024-01-01-00-0{number}.00")), "{\"id\":5}\n").unwrap();
        fs::write(dir.join(format!("zipped/20240101_000{number}")), zipped()).unwrap();
        fs::write(dir.join(format!("csv/00000{number}_0")), "id,v\n5,x\n").unwrap();
        fs::write(dir.join(format!("other/{number}.xml")), "<x/>").unwrap();
    }
    assert_eq!(rows(dir, "SELECT count(*), max(id) FROM t", "parquet").await, ["20 | 19"]);
    for folder in ["json", "zipped", "csv"] {
        assert_eq!(rows(dir, "SELECT count(*), sum(id) FROM t", folder).await, ["2 | 10"], "{folder}");
        assert_eq!(rows(dir, "SELECT count(*), sum(id) FROM t", &format!("{folder}/*")).await, ["2 | 10"], "{folder}");
    }
    assert_eq!(rows(dir, "SELECT max(id) FROM t", "parquet/20240101_0000").await, ["9"]);
    let error = answer(dir, "SELECT 1 FROM t", "other").await.unwrap_err().to_string();
    assert!(error.contains("contains no .parquet file, only 2 others, such as `0.xml`"), "{error}");
    fs::write(dir.join("avro"), b"Obj\x01....").unwrap();
    let error = answer(dir, "SELECT 1 FROM t", "avro").await.unwrap_err().to_string();
    assert!(error.contains("avro`: it is a file of format Avro"), "{error}");
}

#[tokio::test]
async fn place_that_exists_as_written_is_no_glob() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "data[1]", 2, 3);
    parquet_folder(dir.path(), "data1", 1, 1);
    assert_eq!(rows(dir.path(), "SELECT count(*) FROM t", "data[1]").await, ["6"]);
    assert_eq!(rows(dir.path(), "SELECT count(*) FROM t", "data[1]/*.parquet").await, ["6"]);
    assert_eq!(rows(dir.path(), "SELECT count(*) FROM t", "data[1-2]/*.parquet").await, ["1"]);
}

#[tokio::test]
async fn files_of_a_delta_table_without_its_log_give_a_warning() {
    let dir = tempdir().unwrap();
    partitioned_delta(dir.path());
    for uri in ["partitioned/day=2024-01-01", "partitioned/*/*/*/*.parquet"] {
        let warnings = answer(dir.path(), "SELECT count(*) FROM t", uri).await.unwrap().warnings;
        let is_about_log =
            |warning: &String| warning.contains("are in the Delta table") && warning.contains("removed files");
        assert!(warnings.iter().any(is_about_log), "{uri}: {warnings:?}");
    }
    let whole = answer(dir.path(), "SELECT count(*) FROM t", "partitioned").await.unwrap();
    assert!(whole.warnings.is_empty(), "{:?}", whole.warnings);
}

#[test]
fn table_on_the_command_line_takes_fields_and_literal_names() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    fs::write(dir.join("a.csv"), "1;x\n2;-\n").unwrap();
    let table = "t=a.csv?header=false&null=-&schema=n Int16, s Utf8";
    let output = buzz(dir, &["sql", "SELECT arrow_typeof(n) AS k, s FROM t", "--table", table, "--format", "csv"], "");
    assert_eq!(text(&output.stdout), "k,s\nInt16,x\nInt16,\n", "{}", text(&output.stderr));
    fs::write(dir.join("plain.csv.gz"), "n\n4\n").unwrap();
    let table = "t=plain.csv.gz?compression=none";
    let output = buzz(dir, &["sql", "SELECT n FROM t", "--table", table, "--format", "csv"], "");
    assert_eq!(text(&output.stdout), "n\n4\n", "{}", text(&output.stderr));
    let output = buzz(dir, &["sql", "SELECT n FROM t", "--table", "t=a.csv?delimeter=;"], "");
    assert!(text(&output.stderr).contains("a table has no field `delimeter`"), "{}", text(&output.stderr));
    parquet_folder(dir, "snap@2024-01-31", 1, 3);
    let output =
        buzz(dir, &["sql", "SELECT count(*) AS n FROM t", "--table", "t=snap@2024-01-31", "--format", "csv"], "");
    assert_eq!(text(&output.stdout), "n\n3\n", "{}", text(&output.stderr));
    let output = buzz(dir, &["sql", "SELECT 1", "--table", "t=a.csv?header=maybe"], "");
    assert!(
        text(&output.stderr).contains("table `t`, `header`: `maybe` is not true or false"),
        "{}",
        text(&output.stderr)
    );
}

#[test]
fn table_is_read_from_a_pipe() {
    let dir = tempdir().unwrap();
    for (input, expected) in [("id,v\n7,x\n8,y\n", "n\n15\n"), ("{\"id\": 7}\n{\"id\": 8}\n", "n\n15\n")] {
        let sql = "SELECT sum(id) AS n FROM t";
        let output = buzz(dir.path(), &["sql", sql, "--table", "t=/dev/stdin", "--format", "csv"], input);
        assert_eq!(text(&output.stdout), expected, "{}", text(&output.stderr));
    }
}

#[tokio::test]
async fn tables_with_a_log_that_is_not_read_are_named_in_a_warning() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    for (table, format, log) in [
        ("ice", "Iceberg", "metadata/00001-4f.metadata.json"),
        ("hudi", "Hudi", ".hoodie/hoodie.properties"),
        ("plain", "", "metadata/notes.json"),
    ] {
        for file in [log, "data/part-0.parquet"] {
            fs::create_dir_all(dir.join(table).join(file).parent().unwrap()).unwrap();
        }
        fs::write(dir.join(table).join(log), "{}").unwrap();
        write_file(&dir.join(table).join("data/part-0.parquet"), &rides(0, 10));
        let whole = answer(dir, "SELECT count(*) FROM t", table).await.unwrap();
        assert_eq!(sorted_text(&whole.rows), ["10"]);
        let expected = format!("is a table of {format}, whose log Buzz does not read");
        let is_warned = whole.warnings.iter().any(|warning| warning.contains(&expected));
        assert_eq!(is_warned, !format.is_empty(), "{table}: {:?}", whole.warnings);
        let part = answer(dir, "SELECT count(*) FROM t", &format!("{table}/data")).await.unwrap();
        assert!(part.warnings.is_empty(), "{:?}", part.warnings);
    }
}
