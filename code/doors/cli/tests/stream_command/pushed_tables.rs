//! Streams of pushed rows as tables of `buzz sql`.

use std::process::Command;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow::ipc::writer::StreamWriter;
use serde_json::{Value, json};

use crate::ingest::Server;
use crate::support::{Folder, Result, succeeds};

/// Runs a statement on the stream `name`, with more arguments, and returns the exit's success, its rows and its messages.
fn sql(folder: &Folder, name: &str, more: &[&str], sql: &str) -> Result<(bool, Vec<Value>, String)> {
    let table = format!("t={}/streams/sources/{name}", folder.path("").display());
    let output = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["sql", "--format", "ndjson", "--table", &table])
        .args(more)
        .arg(sql)
        .current_dir(folder.path(""))
        .output()?;
    let rows = String::from_utf8(output.stdout)?;
    let rows = rows.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    Ok((output.status.success(), rows, String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// Compares the rows of a statement with `expected`.
fn expect(folder: &Folder, name: &str, more: &[&str], statement: &str, expected: &Value) -> Result {
    let (succeeds, rows, messages) = sql(folder, name, more, statement)?;
    let rows = Value::Array(rows);
    if succeeds && rows == *expected { Ok(()) } else { Err(format!("{statement}: {rows}\n{messages}").into()) }
}

/// Returns an Arrow IPC stream of three rows, of which the types are not those of the stream.
fn arrow_rows() -> Result<Vec<u8>> {
    let ids: ArrayRef = Arc::new(Int32Array::from(vec![40, 41, 42]));
    let pages: ArrayRef = Arc::new(StringArray::from(vec![Some("/a"), None, Some("/c")]));
    let batch = RecordBatch::try_from_iter([("user_id", ids), ("page", pages)])?;
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema())?;
    writer.write(&batch)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

const CLICKS: &str = "CREATE TABLE clicks (user_id BIGINT NOT NULL, page TEXT, price DECIMAL(8, 2), ts TIMESTAMP) WITH \
                      (connector = 'http')";

/// A declared stream has the rows of all formats, each once, with the declared types.
pub(crate) fn declared() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(&folder.path(""))?;
    let clicks = "/v1/streams/clicks";
    server.ok("PUT", clicks, "", CLICKS.as_bytes())?;
    let (empty, count) = (json!([{"n": 0}]), "SELECT count(*) AS n FROM t");
    expect(&folder, "clicks", &[], count, &empty)?;
    let json =
        b"[{\"user_id\": 1, \"page\": \"/\", \"price\": 0.1, \"ts\": \"2026-01-01T00:00:01\"},\n{\"user_id\":2}]";
    for _ in 0..3 {
        server.ok("POST", clicks, "Idempotency-Key: one\r\n", json)?;
    }
    // Another server does not know the key: the rows are kept twice, and count once.
    let second = Server::start(&folder.path(""))?;
    second.ok("POST", clicks, "Idempotency-Key: one\r\n", json)?;
    second.ok("POST", clicks, "Content-Type: text/csv\r\n", b"page,user_id\n\"/x\ny\",20\n,21\n")?;
    let bare = "Content-Type: text/csv; header=absent\r\n";
    second.ok("POST", clicks, bare, b"30,/z,12.50,2026-01-01 00:00:02\n")?;
    second.ok("POST", clicks, "Content-Type: application/vnd.apache.arrow.stream\r\n", &arrow_rows()?)?;
    let shown = second.ok("GET", clicks, "", b"")?;
    if shown["rows"] != 8 {
        return Err(format!("the stream has {shown}").into());
    }
    drop((server, second));
    let expected = json!([
        {"user_id": 1, "page": "/", "price": 0.1, "ts": "2026-01-01T00:00:01"},
        {"user_id": 2, "page": null, "price": null, "ts": null},
        {"user_id": 20, "page": "/x\ny", "price": null, "ts": null},
        {"user_id": 21, "page": null, "price": null, "ts": null},
        {"user_id": 30, "page": "/z", "price": 12.5, "ts": "2026-01-01T00:00:02"},
        {"user_id": 40, "page": "/a", "price": null, "ts": null},
        {"user_id": 41, "page": null, "price": null, "ts": null},
        {"user_id": 42, "page": "/c", "price": null, "ts": null},
    ]);
    let all = "SELECT user_id, page, CAST(price AS DOUBLE) AS price, CAST(ts AS TEXT) AS ts FROM t ORDER BY user_id";
    expect(&folder, "clicks", &[], all, &expected)?;
    expect(&folder, "clicks", &[], count, &json!([{"n": 8}]))?;
    let joined = "SELECT sum(a.user_id) AS s, count(b.page) AS pages FROM t AS a JOIN t AS b USING (user_id) WHERE user_id >= 20";
    expect(&folder, "clicks", &["--set", "tasks=3"], joined, &json!([{"s": 194, "pages": 4}]))?;
    let types = "SELECT arrow_typeof(price) AS price, arrow_typeof(ts) AS ts FROM t LIMIT 1";
    let (_, rows, messages) = sql(&folder, "clicks", &[], types)?;
    if rows != [json!({"price": "Decimal128(8, 2)", "ts": "Timestamp(ns)"})] {
        return Err(format!("{rows:?} {messages}").into());
    }
    let (succeeds, _, messages) =
        sql(&folder, "clicks", &["--table", "u=streams/sources/nothing?type=Stream"], "SELECT * FROM u")?;
    if succeeds || !messages.contains("does not exist") { Err(messages.into()) } else { Ok(()) }
}

/// Each statement leaves out the same bad rows of a stream that declares to drop them, whichever columns it reads. A stream
/// without a declaration has the columns of its rows.
pub(crate) fn bad_rows_and_no_declaration() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(&folder.path(""))?;
    let ddl = "CREATE TABLE loose (id BIGINT, n INT) WITH (connector = 'http', bad_data = 'drop')";
    server.ok("PUT", "/v1/streams/loose", "", ddl.as_bytes())?;
    server.ok(
        "POST",
        "/v1/streams/loose",
        "",
        b"{\"id\":1,\"n\":1}\n{\"id\":2,\"n\":\"x\"}\n{\"id\":3,\"n\":3}\n{\"id\":4.5}\n{\"other\":8}\n{\"ID\":9,\"n\":9}\n",
    )?;
    server.ok("POST", "/v1/streams/loose", "Content-Type: text/csv\r\n", b"id,n\n5,5\n6,y\n7,7\n")?;
    server.ok("POST", "/v1/streams/free", "", b"{\"a\":1,\"b\":\"x\"}\n{\"a\":2.5}\n")?;
    server.ok("POST", "/v1/streams/free", "Content-Type: text/csv\r\n", b"a,c\n3,true\n")?;
    for name in ["loose", "free"] {
        server.ok("GET", &format!("/v1/streams/{name}"), "", b"")?;
    }
    drop(server);
    for (statement, expected) in [
        ("SELECT count(*) AS n FROM t", json!([{"n": 4}])),
        ("SELECT id FROM t ORDER BY id", json!([{"id": 1}, {"id": 3}, {"id": 5}, {"id": 7}])),
        ("SELECT sum(n) AS n FROM t", json!([{"n": 16}])),
    ] {
        expect(&folder, "loose", &[], statement, &expected)?;
    }
    // As a pipeline reads them.
    let stream = ddl.replace("'http'", &format!("'http', path = '{}'", folder.text("streams")));
    let path = folder.write("loose.sql", &format!("{stream};\nSELECT id FROM loose;"))?.display().to_string();
    let mut ids: Vec<String> = succeeds(&["run", &path, "--until-end"])?.lines().map(str::to_string).collect();
    ids.sort();
    if ids != ["{\"id\":1}", "{\"id\":3}", "{\"id\":5}", "{\"id\":7}"] {
        return Err(format!("a pipeline reads {ids:?}").into());
    }
    let expected =
        json!([{"a": 1.0, "b": "x", "c": null}, {"a": 2.5, "b": null, "c": null}, {"a": 3.0, "b": null, "c": true}]);
    expect(&folder, "free", &[], "SELECT a, b, c FROM t ORDER BY a", &expected)
}
