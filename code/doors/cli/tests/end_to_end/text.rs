//! Tests the values of CSV and JSON files: no value changes, no legal file is rejected, and errors name line and remedy.

use std::fs;
use std::path::Path;

use buzz_protocol::{ErrorKind, QueryError};
use buzz_testkit::sorted_text;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{Answer, ask};

/// Runs `sql` on the table `t` of the catalog `entry`, to which `name` is added.
pub(crate) async fn answer(dir: &Path, sql: &str, mut entry: Value, sets: &[&str]) -> Result<Answer, QueryError> {
    entry["name"] = json!("t");
    ask(&json!({"sql": sql, "catalogs": [entry]}), dir, sets).await
}

pub(crate) async fn rows(dir: &Path, sql: &str, entry: Value) -> Vec<String> {
    sorted_text(&answer(dir, sql, entry, &[]).await.unwrap().rows)
}

pub(crate) async fn error(dir: &Path, sql: &str, entry: Value) -> String {
    let error = answer(dir, sql, entry, &[]).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Data, "{error}");
    error.to_string()
}

pub(crate) fn write(dir: &Path, name: &str, bytes: impl AsRef<[u8]>) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn line_that_tells_excel_the_delimiter_is_no_data() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    write(dir, "a.csv", "\u{feff}sep=;\r\nid;v\r\n1;x\r\n2;y,z\r\n");
    for newlines in [true, false] {
        let entry = json!({"uri": "a.csv", "newlines_in_values": newlines});
        assert_eq!(rows(dir, "SELECT id, v FROM t", entry).await, ["1 | x", "2 | y,z"], "{newlines}");
    }
    write(dir, "bare.csv", "sep=|\n1|x\n2|y\n");
    assert_eq!(rows(dir, "SELECT * FROM t", json!({"uri": "bare.csv"})).await, ["1 | x", "2 | y"]);
    write(dir, "none.csv", "sep=;\n");
    let schema = json!([{"name": "id", "type": "Int64"}]);
    let entry = json!({"uri": "none.csv", "schema": schema});
    assert!(rows(dir, "SELECT * FROM t", entry).await.is_empty());
    write(dir, "odd.csv", "sep=,\nid,v\n1,x\nz,y\n");
    let schema = json!([{"name": "id", "type": "Int64"}, {"name": "v", "type": "Utf8"}]);
    let text = error(dir, "SELECT * FROM t", json!({"uri": "odd.csv", "schema": schema})).await;
    assert!(text.contains("line 4, column `id`: `z` is not Int64"), "{text}");

    let lines: String = (0..40_000).map(|n| format!("{n};row {n}\n")).collect();
    write(dir, "large.csv", format!("sep=;\nid;v\n{lines}"));
    let entry = json!({"uri": "large.csv", "newlines_in_values": false});
    let answer =
        answer(dir, "SELECT count(*), sum(id) FROM t", entry, &["tasks=4", "split_bytes=65536"]).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), ["40000 | 799980000"]);
}

#[tokio::test]
async fn unclosed_quote_is_an_error_with_its_line() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let lines = (1..1000).map(|n| if n == 10 { "10,\"x10\n".to_string() } else { format!("{n},x{n}\n") });
    write(dir, "q.csv", format!("n,s\n{}", lines.collect::<String>()));
    let text = error(dir, "SELECT count(*) FROM t", json!({"uri": "q.csv"})).await;
    assert!(text.contains("the quote that opens in line 11 is never closed"), "{text}");
    write(dir, "r.csv", "n,s\n1,\"a\n2,\"b\"\n3,c\n");
    let text = error(dir, "SELECT count(*) FROM t", json!({"uri": "r.csv"})).await;
    assert!(text.contains("opens in line 2 is closed in line 3"), "{text}");
    write(dir, "header.csv", "\"n,s\n1,2\n");
    let text = error(dir, "SELECT count(*) FROM t", json!({"uri": "header.csv"})).await;
    assert!(text.contains("opens in line 1 is never closed"), "{text}");
    write(dir, "fine.csv", "n,s\n1,\"a\nb\"\n2,5\" pipe\n3,\"x\"\"y\"\n");
    assert_eq!(rows(dir, "SELECT count(s) FROM t", json!({"uri": "fine.csv"})).await, ["3"]);
    for (name, text) in [("cr.csv", "n,s\r1,x\r2,\"y\rz\"\r"), ("crlf.csv", "n,s\r\n1,x\r\n2,\"y\r\nz\"\r\n")] {
        write(dir, name, text);
        assert_eq!(rows(dir, "SELECT sum(n), count(s) FROM t", json!({"uri": name})).await, ["3 | 2"], "{name}");
    }
}

#[tokio::test]
async fn columns_of_every_file_are_read() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    for n in 0..100 {
        let text = if n == 37 { "a,b,c\n1,2,3\n".to_string() } else { format!("a,b\n{n},0\n") };
        write(dir, &format!("csv/{n:03}.csv"), text);
        let text = if n == 37 { "{\"a\": 1, \"c\": 3}\n".to_string() } else { format!("{{\"a\": {n}}}\n") };
        write(dir, &format!("json/{n:03}.jsonl"), text);
    }
    for folder in ["csv", "json"] {
        assert_eq!(rows(dir, "SELECT count(*), sum(c) FROM t", json!({"uri": folder})).await, ["100 | 3"], "{folder}");
    }
    write(dir, "csv/037.csv", "1,2\n");
    let text = error(dir, "SELECT count(*) FROM t", json!({"uri": "csv"})).await;
    assert!(text.contains("000.csv` begins with a header but") && text.contains("037.csv` with data"), "{text}");
    write(dir, "names/a.csv", "a,b\nx,y\n");
    write(dir, "names/b.csv", "u,v\n");
    let answer = answer(dir, "SELECT count(a) FROM t", json!({"uri": "names"}), &[]).await.unwrap();
    assert!(answer.warnings.iter().any(|warning| warning.contains("b.csv` has no column of")), "{:?}", answer.warnings);
}

#[tokio::test]
async fn file_without_a_known_column_is_an_error_at_its_reader() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    write(dir, "t/a.csv", "a,b\n1,2\n");
    write(dir, "t/b.csv", "3,4\n");
    let schema = json!([{"name": "a", "type": "Int64"}, {"name": "b", "type": "Int64"}]);
    let text = error(dir, "SELECT sum(a) FROM t", json!({"uri": "t", "header": true, "schema": schema})).await;
    assert!(text.contains("b.csv` of table `t`: its first line has no column of the table but `3`, `4`"), "{text}");
}

#[tokio::test]
async fn text_in_other_encodings_is_read() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
    write(dir, "marked/a.csv", utf16("\u{feff}id,v\n1,ä\n"));
    write(dir, "marked/b.csv", "\u{feff}id,v\n2,ö\n");
    assert_eq!(rows(dir, "SELECT id, v FROM t", json!({"uri": "marked"})).await, ["1 | ä", "2 | ö"]);
    write(dir, "plain.csv", utf16("id,v\n1,ä\n"));
    let text = error(dir, "SELECT id FROM t", json!({"uri": "plain.csv"})).await;
    assert!(text.contains("as in UTF-16; set `encoding`"), "{text}");
    let entry = json!({"uri": "plain.csv", "encoding": "utf-16le"});
    assert_eq!(rows(dir, "SELECT id, v FROM t", entry).await, ["1 | ä"]);

    write(dir, "latin.csv", b"id,v\n1,M\xfcller\n2,x\n");
    let text = error(dir, "SELECT v FROM t", json!({"uri": "latin.csv"})).await;
    assert!(text.contains("line 2 is not UTF-8; set `encoding`"), "{text}");
    let entry = json!({"uri": "latin.csv", "encoding": "latin1"});
    assert_eq!(rows(dir, "SELECT v FROM t ORDER BY id", entry).await, ["Müller", "x"]);
    write(dir, "latin.jsonl", b"{\"v\": \"a\"}\n{\"v\": \"M\xfcller\"}\n");
    let entry = json!({"uri": "latin.jsonl", "encoding": "iso-8859-1"});
    assert_eq!(rows(dir, "SELECT v FROM t", entry).await, ["Müller", "a"]);
    let wrong = answer(dir, "SELECT 1 FROM t", json!({"uri": "latin.csv", "encoding": "klingon"}), &[]).await;
    assert_eq!(wrong.unwrap_err().kind, ErrorKind::Invalid);
}

#[tokio::test]
async fn files_of_nothing_have_no_rows() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let gzip_of_nothing = [31, 139, 8, 0, 0, 0, 0, 0, 2, 255, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for (name, bytes) in [
        ("a.csv", &b""[..]),
        ("b.csv", b"id,v\n"),
        ("c.csv", b"id,v\n1,x\n"),
        ("d.csv", b"\n\n"),
        ("e.csv", b" \n  \n"),
        ("f.csv.gz", b""),
        ("g.csv.gz", &gzip_of_nothing),
    ] {
        write(dir, &format!("t/{name}"), bytes);
    }
    assert_eq!(rows(dir, "SELECT count(*), sum(id) FROM t", json!({"uri": "t"})).await, ["1 | 1"]);
    write(dir, "j/a.jsonl", "");
    write(dir, "j/b.jsonl", "\n\n");
    write(dir, "j/c.jsonl", "{\"id\": 5}\n\n");
    write(dir, "j/d.jsonl.gz", gzip_of_nothing);
    assert_eq!(rows(dir, "SELECT count(*), sum(id) FROM t", json!({"uri": "j"})).await, ["1 | 5"]);
}

#[tokio::test]
async fn json_value_that_is_nested_elsewhere_is_read_as_json_text() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    write(
        dir,
        "a.jsonl",
        "{\"a\": 1, \"s\": {\"x\": 1}}\n{\"a\": {\"b\": 2}, \"s\": {\"x\": [2]}}\n{\"a\": \"t\"}\n{\"a\": [1, \"}\"]}\n",
    );
    let sql = "SELECT a, s['x'] FROM t";
    let expected = ["1 | 1", "[1, \"}\"] | NULL", "t | NULL", "{\"b\": 2} | [2]"];
    assert_eq!(rows(dir, sql, json!({"uri": "a.jsonl"})).await, expected);
    let entry = json!({"uri": "a.jsonl", "schema": [{"name": "s", "type": "Utf8"}]});
    assert_eq!(rows(dir, "SELECT s FROM t WHERE s IS NOT NULL", entry).await, ["{\"x\": 1}", "{\"x\": [2]}"]);
}

#[tokio::test]
async fn deep_json_is_read_with_its_innermost_values_as_json_text() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    for (name, open, close) in [("objects", "{\"b\":", "}"), ("lists", "[", "]")] {
        let line = |depth: usize| format!("{{\"a\":{}[7]{}}}\n", open.repeat(depth), close.repeat(depth));
        write(dir, name, [line(50), "{\"a\":null}\n".to_string(), line(50)].concat());
        let entry = || json!({"uri": name, "type": "Json"});
        assert_eq!(rows(dir, "SELECT count(a), count(*) FROM t", entry()).await, ["2 | 3"], "{name}");
        let found = rows(dir, "SELECT a FROM t WHERE a IS NOT NULL", entry()).await;
        let text = format!("{}[7]{}", open.repeat(20), close.repeat(20));
        assert!(found.len() == 2 && found.iter().all(|row| row.contains(&text)), "{found:?}");
        write(dir, name, line(64));
        let text = error(dir, "SELECT a FROM t", entry()).await;
        assert!(text.contains("a value is nested more than 64 levels deep"), "{text}");
    }
}

#[tokio::test]
async fn json_objects_over_several_lines_and_arrays_are_read_in_one_piece() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let object = |n: usize| format!("{{\n  \"id\": {n},\n  \"text\": \"{}\"\n}}", "x".repeat(n % 40));
    let objects: Vec<String> = (0..2000).map(object).collect();
    write(dir, "pretty.json", objects.join("\n"));
    write(dir, "array.json", format!("[\n{}\n]\n", objects.join(",\n")));
    write(
        dir,
        "line.json",
        format!("[{}]", (0..2000).map(|n| format!("{{\"id\":{n}}}")).collect::<Vec<_>>().join(",")),
    );
    for name in ["pretty.json", "array.json", "line.json"] {
        let sql = "SELECT count(*), sum(id) FROM t";
        let answer = answer(dir, sql, json!({"uri": name}), &["split_bytes=10000", "tasks=8"]).await.unwrap();
        assert_eq!(sorted_text(&answer.rows), ["2000 | 1999000"], "{name}");
    }
}

#[tokio::test]
async fn delimiter_is_the_one_that_quotes_confirm() {
    let dir = tempdir().unwrap();
    write(dir.path(), "a.csv", "id;\"amount, EUR\"\n1;2,50\n2;3,75\n");
    assert_eq!(rows(dir.path(), "SELECT id FROM t", json!({"uri": "a.csv"})).await, ["1", "2"]);
}

#[tokio::test]
async fn record_larger_than_the_sample_still_gives_types() {
    let dir = tempdir().unwrap();
    write(dir.path(), "a.csv", format!("id,text,n\n1,{},2\n3,y,4\n", "x".repeat(5 << 20)));
    let sql = "SELECT arrow_typeof(id), sum(n), max(length(text)) FROM t GROUP BY 1";
    assert_eq!(rows(dir.path(), sql, json!({"uri": "a.csv"})).await, ["Int64 | 6 | 5242880"]);
    let text = "x".repeat(5 << 20);
    write(dir.path(), "a.jsonl", format!("{{\"id\": 1, \"text\": \"{text}\", \"n\": 2}}\n{{\"id\": 3, \"n\": 4}}\n"));
    assert_eq!(rows(dir.path(), sql, json!({"uri": "a.jsonl"})).await, ["Int64 | 6 | 5242880"]);
}

#[tokio::test]
async fn uneven_csv_names_the_line_and_the_option() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    write(dir, "comment.csv", "# made by x\n# on Monday\nid,v\n1,2\n");
    let text = error(dir, "SELECT * FROM t", json!({"uri": "comment.csv"})).await;
    assert!(text.contains("line 3 has 2 values, but the file has 1 column; set `comment`"), "{text}");
    let entry = json!({"uri": "comment.csv", "comment": "#"});
    assert_eq!(rows(dir, "SELECT id, v FROM t", entry).await, ["1 | 2"]);
    write(dir, "single.csv", "id,v\n1,'a,b'\n2,'c'\n");
    let text = error(dir, "SELECT * FROM t", json!({"uri": "single.csv"})).await;
    assert!(text.contains("line 2 has 3 values, but the file has 2 columns; set `quote`"), "{text}");
    write(dir, "ragged.csv", "id,v\n1,2\n\n3\n");
    let text = error(dir, "SELECT * FROM t", json!({"uri": "ragged.csv"})).await;
    assert!(text.contains("line 4 has 1 value, but the file has 2 columns; correct the file"), "{text}");
}

#[tokio::test]
async fn names_that_differ_in_case_are_one_column() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    write(dir, "csv/a.csv", "ID,x\n1,1\n");
    write(dir, "csv/b.csv", "id,x\n2,1\n");
    write(dir, "json/a.jsonl", "{\"ID\": 1}\n{\"id\": 2}\n");
    write(dir, "json/b.jsonl", "{\"Id\": 3}\n");
    for (folder, expected) in [("csv", "2 | 3"), ("json", "3 | 6")] {
        let answer = answer(dir, "SELECT count(id), sum(id) FROM t", json!({"uri": folder}), &[]).await.unwrap();
        assert_eq!(sorted_text(&answer.rows), [expected]);
        let [warning] = answer.warnings.as_slice() else { panic!("{:?}", answer.warnings) };
        assert!(warning.contains("some files spell column `id` as `"), "{warning}");
    }
    write(dir, "both.jsonl", "{\"id\": 1, \"ID\": 2}\n{\"ID\": 3}\n");
    let sql = "SELECT sum(id), sum(\"ID\") FROM t";
    assert_eq!(rows(dir, sql, json!({"uri": "both.jsonl"})).await, ["1 | 5"]);
}

#[tokio::test]
async fn header_after_a_byte_order_mark_and_a_comment_is_never_a_row() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let rows: String = (0..50).map(|n| format!("r{n},s{n}\n")).collect();
    write(dir, "marked.csv", format!("\u{feff}#comment line\nname,city\n{rows}"));
    let entry = || json!({"uri": "marked.csv", "comment": "#", "newlines_in_values": false});
    for size in 10..24 {
        let sets = ["tasks=1000".to_string(), format!("split_bytes={size}")];
        let sets: Vec<&str> = sets.iter().map(String::as_str).collect();
        let found = answer(dir, "SELECT count(*), min(name) FROM t", entry(), &sets).await.unwrap();
        assert_eq!(sorted_text(&found.rows), ["50 | r0"], "{size}");
    }
}

#[tokio::test]
async fn json_array_that_is_cut_off_is_an_error() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let objects: Vec<String> = (0..20_000).map(|n| format!("{{\"a\": {n}, \"s\": \"{}\"}}", "x".repeat(200))).collect();
    write(dir, "cut.json", format!("[{}", objects.join(",\n")));
    let text = error(dir, "SELECT count(a) FROM t", json!({"uri": "cut.json"})).await;
    assert!(text.contains("the array is never closed"), "{text}");
    write(dir, "whole.json", format!("[{}]", objects.join(",\n")));
    assert_eq!(rows(dir, "SELECT count(a) FROM t", json!({"uri": "whole.json"})).await, ["20000"]);
}

/// An archive has texts in it, whose first line would be a row of nonsense.
#[tokio::test]
async fn archive_and_wrong_ending_are_named() {
    let dir = tempdir().unwrap();
    let dir = dir.path();
    let mut archive = vec![0; 512];
    archive[..5].copy_from_slice(b"a.csv");
    archive[257..262].copy_from_slice(b"ustar");
    archive.extend(b"id,name\n1,a\n");
    archive.resize(2048, 0);
    for name in ["a.tar", "a.csv"] {
        write(dir, name, &archive);
        let text = error(dir, "SELECT * FROM t", json!({"uri": name})).await;
        assert!(text.contains(name) && text.contains("it is a tar archive; unpack it"), "{text}");
    }
    write(dir, "plain.csv.gz", "id,name\n1,a\n");
    let text = error(dir, "SELECT * FROM t", json!({"uri": "plain.csv.gz"})).await;
    assert!(text.contains("not readable gzip: the file is not compressed; give it the ending"), "{text}");
    let entry = json!({"uri": "plain.csv.gz", "type": "Csv", "compression": "none"});
    assert_eq!(rows(dir, "SELECT * FROM t", entry).await, ["1 | a"]);
}
