//! `buzz mcp`: a client of the Model Context Protocol on its standard input and output.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use buzz_testkit::program;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::tables::parquet_folder;

/// Time after which an answer is missing.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// Runs for minutes.
const SLOW: &str = "SELECT count(*) FROM rides a, rides b, rides c, rides d WHERE a.id + b.id + c.id + d.id = -1";

/// A client and its server.
struct Client {
    server: Child,
    input: Option<ChildStdin>,
    answers: Receiver<Value>,
    id: u64,
}

impl Client {
    /// Starts `buzz mcp` without the handshake.
    fn start(dir: &Path, arguments: &[&str]) -> Self {
        let mut server = Command::new(program("buzz"))
            .current_dir(dir)
            .arg("mcp")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (output, (sender, answers)) = (BufReader::new(server.stdout.take().unwrap()), channel());
        std::thread::spawn(move || {
            for line in output.lines() {
                // Everything on standard output is a message.
                let message: Value = serde_json::from_str(&line.unwrap()).unwrap();
                assert_eq!(message["jsonrpc"], "2.0", "{message}");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let input = server.stdin.take();
        Self { server, input, answers, id: 0 }
    }

    /// Starts `buzz mcp` and shakes hands.
    fn ready(dir: &Path, arguments: &[&str]) -> Self {
        let mut client = Self::start(dir, arguments);
        let info = json!({"name": "test", "version": "1"});
        let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": info});
        let answer = client.ask("initialize", params);
        assert_eq!(answer["result"]["serverInfo"]["name"], "buzz", "{answer}");
        assert!(answer["result"]["instructions"].as_str().unwrap().contains("list_tables"), "{answer}");
        client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string());
        client
    }

    fn send(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    fn request(&mut self, method: &str, params: Value) -> u64 {
        self.id += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": self.id, "method": method, "params": params}).to_string());
        self.id
    }

    fn answer(&self) -> Value {
        self.answers.recv_timeout(ANSWER_WITHIN).expect("the server answers")
    }

    fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.request(method, params);
        let answer = self.answer();
        assert_eq!(answer["id"], id, "{answer}");
        answer
    }

    /// Calls a tool. Returns its texts, and true if it failed.
    fn call(&mut self, tool: &str, arguments: Value) -> (Vec<String>, bool) {
        let answer = self.ask("tools/call", json!({"name": tool, "arguments": arguments}));
        let result = &answer["result"];
        let texts = result["content"].as_array().unwrap_or_else(|| panic!("{answer}")).iter();
        (texts.map(|text| text["text"].as_str().unwrap().to_string()).collect(), result["isError"] == true)
    }

    fn query(&mut self, arguments: Value) -> (String, String) {
        let (texts, failed) = self.call("query", arguments);
        assert!(!failed && texts.len() == 2, "{texts:?}");
        (texts[0].clone(), texts[1].clone())
    }

    /// Closes standard input and waits for the end of the server.
    fn close(mut self) -> ExitStatus {
        drop(self.input.take());
        self.server.wait().unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended.
        _ = self.server.kill();
        _ = self.server.wait();
    }
}

#[test]
fn tables_are_listed_described_estimated_and_queried() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 50);
    fs::write(dir.path().join("Places.csv"), "id;zone\n1;north\n2;south\n").unwrap();
    let file = json!({"catalogs": [{"name": "rides", "type": "Parquet", "uri": "rides"}]});
    fs::write(dir.path().join("buzz.json"), file.to_string()).unwrap();
    let mut client = Client::ready(dir.path(), &["--table", "Places=Places.csv?delimiter=;"]);

    let tools = client.ask("tools/list", json!({}));
    let tools = tools["result"]["tools"].as_array().unwrap();
    let names: Vec<&str> = tools.iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["list_tables", "describe_table", "estimate", "query"]);
    assert!(tools.iter().all(|tool| tool["annotations"]["readOnlyHint"] == true), "{tools:?}");

    let tables = client.ask("tools/call", json!({"name": "list_tables"}));
    let expected = json!({"tables_found": 2, "tables": [
        {"name": "Places", "uri": "Places.csv"},
        {"name": "rides", "type": "Parquet", "uri": dir.path().canonicalize().unwrap().join("rides")},
    ]});
    assert_eq!(tables["result"]["structuredContent"], expected);
    let (texts, _) = client.call("list_tables", json!({"contains": "PLA"}));
    assert!(texts[0].contains("Places") && !texts[0].contains("rides"), "{texts:?}");

    let (texts, _) = client.call("describe_table", json!({"name": "RIDES"}));
    let described: Value = serde_json::from_str(&texts[0]).unwrap();
    assert_eq!((&described["files"], &described["columns_found"]), (&json!(2), &json!(3)));
    assert_eq!(described["columns"][1], json!({"name": "grp", "type": "Utf8"}));

    let (texts, _) =
        client.call("estimate", json!({"sql": "EXPLAIN ANALYZE SELECT sum(amount) FROM rides WHERE id >= 50"}));
    assert!(
        texts[0].contains("files: 2 found, 2 kept by partition_filter, 2 by partition, 1 by statistics;"),
        "{texts:?}"
    );
    assert!(texts[0].contains("\nestimate: 1 task reads "), "{texts:?}");
    assert!(texts[0].contains("\n  tasks: 1, ") && !texts[0].contains("DataSourceExec"), "{texts:?}");
    let (texts, _) = client.call("estimate", json!({"sql": "SELECT sum(amount) FROM rides", "operators": true}));
    assert!(texts[0].contains("DataSourceExec"), "{texts:?}");
    let (texts, _) = client.call("estimate", json!({"sql": "SELECT 1"}));
    assert!(texts[0].contains("no file of a table is scanned"), "{texts:?}");

    let (rows, note) = client.query(json!({"sql": "SELECT grp, count(*) AS n FROM rides GROUP BY grp ORDER BY grp;"}));
    assert_eq!(rows, r#"[{"grp":"cash","n":34},{"grp":"credit","n":33},{"grp":"dispute","n":33}]"#);
    assert!(note.starts_with("rows: 3\nfiles: 2 of 2, bytes: "), "{note}");
    let (rows, _) = client.query(json!({"sql": "SELECT zone FROM \"Places\" ORDER BY id DESC", "format": "csv"}));
    assert_eq!(rows, "zone\nsouth\nnorth");
    assert!(client.close().success());
}

#[test]
fn answers_are_cut_and_report_it() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 500);
    let mut client = Client::ready(dir.path(), &["--table", "rides=rides"]);
    let ids = |rows: &str| -> Vec<u64> {
        let rows: Vec<Value> = serde_json::from_str(rows).unwrap();
        rows.iter().map(|row| row["id"].as_u64().unwrap()).collect()
    };

    let (rows, note) = client.query(json!({"sql": "SELECT id FROM rides ORDER BY id DESC -- all"}));
    assert_eq!(ids(&rows), (800..1000).rev().collect::<Vec<_>>());
    assert!(note.starts_with("rows: 200 of more than 200, cut at 200 rows; "), "{note}");

    let (rows, note) =
        client.query(json!({"sql": "SELECT id FROM rides ORDER BY id LIMIT 900 OFFSET 5", "rows_max": 3}));
    assert_eq!(ids(&rows), [5, 6, 7]);
    assert!(note.starts_with("rows: 3 of more than 3, cut at 3 rows; "), "{note}");

    let (rows, note) = client.query(json!({"sql": "SELECT id FROM rides ORDER BY id LIMIT 3", "rows_max": 3000}));
    assert_eq!(ids(&rows), [0, 1, 2]);
    assert!(note.starts_with("rows: 3\n"), "{note}");

    let (rows, note) = client.query(json!({"sql": "SELECT id FROM rides ORDER BY id LIMIT 10", "bytes_max": 30}));
    assert_eq!(ids(&rows), [0, 1, 2]);
    assert!(note.starts_with("rows: 3 of 10, cut at 30 B; "), "{note}");

    // One row alone is too long.
    let (rows, note) = client.query(json!({"sql": "SELECT repeat('x', 200000) AS x"}));
    assert_eq!(rows, "[]");
    assert!(note.starts_with("rows: 0 of 1, cut at 100.0 kB; "), "{note}");

    let (rows, note) = client.query(json!({"sql": "DESCRIBE rides", "rows_max": 2, "format": "csv"}));
    assert_eq!(rows.lines().count(), 3);
    assert!(note.starts_with("rows: 2 of 3, cut at 2 rows; "), "{note}");
}

#[test]
fn failures_are_errors_of_the_tool_with_the_message() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 10);
    let mut client = Client::ready(dir.path(), &["--table", "rides=rides", "--table", "broken=nowhere"]);
    for (tool, arguments, message) in [
        ("query", json!({"sql": "SELECT * FROM ridez"}), "table `ridez` does not exist; did you mean `rides`?"),
        ("query", json!({"sql": "SELECT amout FROM rides"}), "column `amout` does not exist"),
        ("query", json!({"sql": "SELECT 1 FROM rides WHERE ("}), "SQL"),
        ("query", json!({"sql": "DROP TABLE rides"}), "a statement that begins with `DROP` is not run by this tool"),
        ("query", json!({"sql": "SELECT 1; DROP TABLE rides"}), "2 statements"),
        ("query", json!({"sql": " -- nothing"}), "the SQL is empty"),
        ("query", json!({"sql": "SELECT 1", "rows_max": 0}), "`rows_max` is 0; set it to 1 to 200"),
        ("query", json!({"sql": "SELECT 1", "rows_max": -1}), "arguments of the tool `query`: invalid value"),
        ("query", json!({"sql": "SELECT 1", "format": "xml"}), "unknown variant `xml`, expected `json` or `csv`"),
        ("query", json!({"query": "SELECT 1"}), "unknown field `query`"),
        ("query", json!({}), "missing field `sql`"),
        ("query", json!({"sql": "SELECT * FROM broken"}), "broken"),
        ("describe_table", json!({"name": "broken"}), "broken"),
        ("describe_table", json!({"name": "ridez"}), "table `ridez` does not exist; did you mean `rides`?"),
        ("estimate", json!({"sql": "INSERT INTO rides VALUES (1)"}), "which only reads"),
        ("estimate", json!({"sql": "SELECT amout FROM rides"}), "column `amout` does not exist"),
    ] {
        let (texts, failed) = client.call(tool, arguments.clone());
        assert!(failed && texts[0].contains(message), "{arguments}: {texts:?}");
    }
    let answer = client.ask("tools/call", json!({"name": "drop_table", "arguments": {}}));
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("available: `list_tables`"), "{answer}");

    // The library leaves out a line that is not JSON, and the server goes on.
    client.send("this is not JSON");
    let (rows, _) = client.query(json!({"sql": "SELECT 40 + 2 AS n"}));
    assert_eq!(rows, r#"[{"n":42}]"#);
}

#[test]
fn cancelled_call_frees_its_slot_and_a_client_that_leaves_ends_the_server() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 3000);
    let mut client = Client::ready(dir.path(), &["--table", "rides=rides", "--running", "1"]);
    let slow = client.request("tools/call", json!({"name": "query", "arguments": {"sql": SLOW}}));
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": slow}});
    client.send(&cancel.to_string());
    // Waits until the slow query has ended, since one runs at a time.
    let quick = client.request("tools/call", json!({"name": "query", "arguments": {"sql": "SELECT 40 + 2 AS n"}}));
    let answer = loop {
        let answer = client.answer();
        if answer["id"] == quick {
            break answer;
        }
        assert_eq!(answer["id"], slow, "{answer}");
    };
    assert_eq!(answer["result"]["content"][0]["text"], r#"[{"n":42}]"#);
    client.request("tools/call", json!({"name": "query", "arguments": {"sql": SLOW}}));
    assert!(client.close().success());
}

#[test]
fn server_ends_if_its_client_leaves_or_its_arguments_are_wrong() {
    let dir = tempdir().unwrap();
    assert!(Client::start(dir.path(), &[]).close().success());
    let run = |arguments: &[&str], input: &[u8]| {
        let mut command = Command::new(program("buzz"));
        let command = command.current_dir(dir.path()).arg("mcp").args(arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // The program may end before it has read everything.
        _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    };
    for (arguments, words) in [
        (vec!["--table", "t=a", "--tables", "missing.json"], "file of tables `missing.json`"),
        (vec!["--table", "t=a.csv?header=true&colour=red"], "there is no field `colour`"),
        (vec!["--set", "max_scan_byte=1"], "did you mean `max_scan_bytes`?"),
    ] {
        let done = run(&arguments, b"");
        let message = String::from_utf8(done.stderr).unwrap();
        assert!(
            !done.status.success() && done.stdout.is_empty() && message.contains(words),
            "{arguments:?}: {message}"
        );
    }
    let answer = br#"{"jsonrpc": "2.0", "id": 1, "result": {}}"#;
    let done = run(&[], &[answer.as_slice(), b"\n"].concat());
    let message = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && message.contains("does not follow the Model Context Protocol"), "{message}");
    let help = run(&["--help"], b"");
    assert!(String::from_utf8(help.stdout).unwrap().contains("\"mcpServers\""));
}
