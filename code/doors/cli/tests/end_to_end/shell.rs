//! The interactive shell, on a pseudo-terminal and as the reader of a script.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use buzz_testkit::program;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::tables::{kinds_folder, parquet_folder};

const CTRL_C: &str = "\u{3}";
const CTRL_D: &str = "\u{4}";
const UP: &str = "\u{1b}[A";
/// Sent once when the shell begins to read a statement.
const READY: &str = "\u{1b}[?2004h";

/// Runs `buzz` on a terminal of 80 columns and 24 rows. Returns its output and its exit code.
fn terminal(dir: &Path, arguments: &[&str], steps: &[(&str, &str)]) -> (String, i64) {
    let binary = program("buzz");
    let command: Vec<&str> = std::iter::once(binary.to_str().unwrap()).chain(arguments.iter().copied()).collect();
    let order = json!({
        "program": command,
        "size": [24, 80],
        "environment": {"BUZZ_HISTORY": dir.join("state/history"), "PAGER": "sed 's/^/PAGED /'", "TERM": "xterm"},
        "steps": steps,
    });
    let mut python = Command::new("python3")
        .current_dir(dir)
        .args(["-c", include_str!("terminal.py")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    python.stdin.take().unwrap().write_all(order.to_string().as_bytes()).unwrap();
    let done = python.wait_with_output().unwrap();
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    let output = answer["output"].as_str().unwrap().to_string();
    assert_eq!(answer["missing"], Value::Null, "{output}");
    (output, answer["code"].as_i64().unwrap())
}

fn script(dir: &Path, arguments: &[&str], text: &str) -> Output {
    let mut child = Command::new(program("buzz"))
        .current_dir(dir)
        .arg("shell")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // The shell may end before it has read everything.
    _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn statements_and_commands_run_on_a_terminal() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 50);
    kinds_folder(dir.path());
    let (output, code) = terminal(
        dir.path(),
        &["shell", "--table", "rides=rides", "--table", "broken=nowhere"],
        &[
            ("error: catalog `broken`", ""),
            (READY, "SELECT grp, count(*) AS n\rFROM rides GROUP BY grp ORDER BY grp;\r"),
            ("| cash    | 34 |", ""),
            ("rows: 3, time: ", ""),
            (READY, ".table kinds=kinds\r"),
            (READY, ".tables\r"),
            ("kinds  Parquet  2 columns, 1 files  kinds", ""),
            (READY, "\\d rides\r"),
            ("| id          | BIGINT    | YES         |", ""),
            (READY, "SELECT * FROM nowhere;\r"),
            ("error: table `nowhere` does not exist; available: `rides`, `kinds`", ""),
            (READY, ".tabels\r"),
            ("did you mean `.tables`?", ""),
            (READY, "\\timing\r"),
            ("timing is on", ""),
            (READY, ".format csv\r"),
            (READY, "SELECT 1 AS one; SELECT 'two' AS two;\r"),
            ("one\r\n1\r\n", ""),
            ("two\r\ntwo\r\n", ""),
            ("rows: 1, files: 0 of 0", ""),
            (READY, ".quit\r"),
        ],
    );
    assert_eq!(code, 0, "{output}");
    let file = dir.path().join("state/history");
    let history = fs::read_to_string(&file).unwrap();
    let first = "#V2\nSELECT grp, count(*) AS n\\nFROM rides GROUP BY grp ORDER BY grp;\n.table kinds=kinds\n";
    assert!(history.starts_with(first), "{history}");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn interrupt_ends_the_query_and_not_the_shell() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 3000);
    let slow = "SELECT count(*) AS n FROM rides a, rides b, rides c, rides d WHERE a.id + b.id + c.id + d.id = -1;\r";
    let (output, code) = terminal(
        dir.path(),
        &["shell", "--table", "rides=rides"],
        &[
            (READY, slow),
            ("tasks: ", CTRL_C),
            ("cancelled", ""),
            (READY, "SELECT this is not finished"),
            ("not finished", CTRL_C),
            (READY, "SELECT count(*) + 1 AS n FROM rides;\r"),
            ("| 3001 |", ""),
            (READY, CTRL_D),
        ],
    );
    assert_eq!(code, 0, "{output}");
}

#[test]
fn tab_completes_and_history_is_recalled() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 10);
    let first = [
        (READY, "sele\t max(am\t) FROM rid\t;\r"),
        ("select max(amount) FROM rides", ""),
        ("| 2.25 ", ""),
        (READY, "SELECT * FROM rides WHERE A\t\t"),
        ("ALL     AND     ANTI    ANY     AS      ASC     amount", CTRL_C),
        (READY, CTRL_D),
    ];
    assert_eq!(terminal(dir.path(), &["shell", "--table", "rides=rides"], &first).1, 0);
    let again = [
        (READY, UP),
        ("select max(amount) FROM rides;", "\r"),
        ("| 2.25 ", ""),
        (READY, "\u{12}max("),
        ("(reverse-i-search)`max(': ", ""),
        ("select max(amount) FROM rides;", "\r"),
        ("| 2.25 ", ""),
        (READY, "quit\r"),
    ];
    let (output, code) = terminal(dir.path(), &["shell", "--table", "rides=rides"], &again);
    assert_eq!(code, 0, "{output}");
}

#[test]
fn text_typed_ahead_is_run_and_pasted_text_only_after_enter() {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("state")).unwrap();
    // A history of an earlier version.
    fs::write(dir.path().join("state/history"), "SELECT 6 * 7\\n  AS earlier;\n").unwrap();
    let (output, code) = terminal(
        dir.path(),
        &["shell"],
        &[
            (READY, "SELECT 1 + 1 AS two;\rSELECT 2 + 1 AS three;\rSELECT 3 + 1 AS four"),
            ("| 2   |", ""),
            ("| 3     |", ""),
            ("SELECT 3 + 1 AS four", ";\r"),
            ("| 4    |", ""),
            (READY, "\u{1b}[200~SELECT 40 + 3\r\n AS pasted;\nSELECT 7;\u{1b}[201~"),
            ("SELECT 7;", CTRL_C),
            (READY, "\u{12}earlier"),
            (" AS earlier;", "\r"),
            ("| 42      |", ""),
            (READY, CTRL_D),
        ],
    );
    assert_eq!(code, 0, "{output}");
    assert!(!output.contains("| 43"), "{output}");
}

#[test]
fn text_with_more_lines_than_the_editor_can_count_leaves_the_shell_usable() {
    let dir = tempdir().unwrap();
    let paste = format!("\u{1b}[200~{}\u{1b}[201~", "a\n".repeat(70_000));
    let (output, code) = terminal(
        dir.path(),
        &["shell"],
        &[(READY, &paste), ("use .read FILE", ""), (READY, "SELECT 40 + 2 AS n;\r"), ("| 42 |", ""), (READY, CTRL_D)],
    );
    assert_eq!(code, 0, "{}", output.len());
}

#[test]
fn history_that_cannot_be_stored_is_reported() {
    let dir = tempdir().unwrap();
    fs::create_dir_all(dir.path().join("state/history")).unwrap();
    let steps = [
        ("is a directory; statements are not stored", ""),
        (READY, "SELECT 40 + 2 AS n;\r"),
        ("| 42 |", ""),
        (READY, CTRL_D),
    ];
    let (output, code) = terminal(dir.path(), &["shell"], &steps);
    assert_eq!(code, 0, "{output}");
}

#[test]
fn long_results_are_shown_in_the_pager_and_otherwise_cut() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 200);
    let (output, code) = terminal(
        dir.path(),
        &["shell", "--table", "rides=rides"],
        &[
            (READY, "SELECT id FROM rides ORDER BY id;\r"),
            ("PAGED | 100 |", ""),
            ("PAGED | 199 |", ""),
            (READY, "SELECT id FROM rides ORDER BY id LIMIT 3;\r"),
            ("\n| 2  |", ""),
            (READY, ".pager off\r"),
            (READY, "SELECT id FROM rides ORDER BY id;\r"),
            ("\n| 19  |\r\n| …   |\r\n| 180 |", ""),
            ("the table has 40 of 200 rows", ""),
            (READY, ".quit\r"),
        ],
    );
    assert_eq!(code, 0, "{output}");
}

#[test]
fn table_on_a_terminal_fits_its_width_and_escapes_control_characters() {
    let dir = tempdir().unwrap();
    let sql = "SELECT repeat('wide ', 50) AS a, chr(27) || ']0;title' AS b, 1 AS c";
    let (output, code) = terminal(dir.path(), &["sql", sql], &[]);
    assert_eq!(code, 0, "{output}");
    assert!(output.contains("\\u001b]0;title") && !output.contains("\u{1b}]0"), "{output}");
    assert!(output.contains("the table has values up to their …"), "{output}");
    // The progress line is erased before the first line of the table.
    let lines = output.lines().filter_map(|line| line.rsplit("\u{1b}[2K").next());
    let table: Vec<&str> = lines.filter(|line| line.starts_with(['+', '|'])).collect();
    assert!(table.len() == 5 && table.iter().all(|line| line.chars().count() <= 80), "{output}");
    let (output, _) = terminal(dir.path(), &["sql", sql, "--format", "csv"], &[]);
    assert!(output.contains("wide ,\\u001b]0;title,1"), "{output}");
    let (output, code) = terminal(dir.path(), &["sql", sql, "--format", "parquet"], &[]);
    assert!(code == 1 && output.contains("add --output rows.parquet"), "{output}");
    // Without arguments, a terminal starts the shell.
    let (output, code) =
        terminal(dir.path(), &[], &[(READY, "SELECT 40 + 2 AS n;\r"), ("| 42 |", ""), (READY, CTRL_D)]);
    assert_eq!(code, 0, "{output}");
}

#[test]
fn script_runs_up_to_its_first_failure() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    let start = "-- a script; with a comment\n.format csv\n.table rides=rides\nSELECT count(*) AS n\nFROM rides; SELECT 2 AS two;\n\n";
    let done = script(dir.path(), &[], &format!("{start}DESCRIBE rides"));
    let columns = "column_name,data_type,is_nullable\nid,BIGINT,YES\ngrp,VARCHAR,YES\namount,DOUBLE,YES\n";
    assert_eq!((text(&done.stderr), done.status.code()), (String::new(), Some(0)));
    assert_eq!(text(&done.stdout), format!("n\n20\ntwo\n2\n{columns}"));

    let failing = format!("{start}SELECT ';' AS s\n;SELECT\n nothing FROM rides;\nSELECT 3;\n");
    let done = script(dir.path(), &[], &failing);
    assert_eq!((text(&done.stdout).as_str(), done.status.code()), ("n\n20\ntwo\n2\ns\n;\n", Some(1)));
    assert!(text(&done.stderr).starts_with("error: line 8: column `nothing` does not exist"), "{}", text(&done.stderr));

    fs::write(dir.path().join("part.sql"), "SELECT 1 AS a;\n.quit\nSELECT 2 AS b;").unwrap();
    let done = script(dir.path(), &["--format", "csv"], ".read part.sql\nSELECT 3 AS c;\n");
    assert_eq!((text(&done.stdout).as_str(), done.status.code()), ("a\n1\n", Some(0)));
    for (arguments, input, words) in [
        (vec!["--table", "t=nowhere"], "SELECT 1;", "error: catalog `t`: file or folder"),
        (vec!["--format", "parquet"], "SELECT 1;", "the format parquet is binary"),
        (vec!["--zones", "17"], "SELECT 1;", "`capacity.zones` is 17"),
        (vec![], ".nothing\n", "error: line 1: command `.nothing` does not exist"),
        (vec![], "SELECT 1;\nSELECT 'a", "error: line 2: SQL syntax"),
    ] {
        let done = script(dir.path(), &arguments, input);
        assert!(done.status.code() == Some(1) && text(&done.stderr).contains(words), "{input}: {done:?}");
    }
}
