//! The registry of names: `buzz tables add|list|show|drop`, statements that name its tables, and statements that change it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use buzz_testkit::program;
use serde_json::{Value, json};
use tempfile::{TempDir, tempdir};

use crate::tables::{kinds_folder, parquet_folder};

fn buzz(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(program("buzz")).current_dir(dir).args(arguments).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs a command that must succeed. Returns what it prints to standard output.
fn printed(dir: &Path, arguments: &[&str]) -> String {
    let output = buzz(dir, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a command that must fail. Returns its message.
fn told(dir: &Path, arguments: &[&str]) -> String {
    let output = buzz(dir, arguments);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0), "{arguments:?}: {}", text(&output.stdout));
    text(&output.stderr)
}

/// Runs a statement and returns its rows as CSV without the header.
fn rows(dir: &Path, sql: &str) -> String {
    let rows = printed(dir, &["sql", sql, "--format", "csv"]);
    rows.split_once('\n').map(|(_, rows)| rows.to_string()).unwrap_or_default()
}

/// A folder with the tables `rides`, of 200 rows, and `kinds`, which are in its buzz.json.
fn named() -> TempDir {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 100);
    kinds_folder(dir.path());
    printed(dir.path(), &["tables", "add", "rides=rides"]);
    printed(dir.path(), &["tables", "add", "kinds=kinds/*.parquet"]);
    dir
}

#[test]
fn added_table_needs_no_place_in_a_statement() {
    let dir = named();
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM rides"), "200\n");
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM public.Rides AS r JOIN kinds USING (grp)"), "134\n");
    let written: Value = serde_json::from_slice(&fs::read(dir.path().join("buzz.json")).unwrap()).unwrap();
    assert_eq!(
        written["catalogs"][0],
        json!({"name": "rides", "type": "Parquet", "uri": "rides", "columns": [
            {"name": "id", "type": "Int64"}, {"name": "grp", "type": "Utf8"}, {"name": "amount", "type": "Float64"}
        ]})
    );
    assert_eq!(
        printed(dir.path(), &["tables", "list"]),
        "kinds  Parquet  2 columns    kinds/*.parquet\nrides  Parquet  3 columns    rides\n"
    );
    assert_eq!(
        printed(dir.path(), &["tables", "show", "RIDES"]),
        "rides (Parquet): rides\n  columns:\n    id: Int64\n    grp: Utf8\n    amount: Float64\n"
    );
    printed(dir.path(), &["tables", "drop", "rides"]);
    assert!(told(dir.path(), &["sql", "SELECT * FROM rides"]).contains("table `rides` does not exist"));
    assert!(dir.path().join("rides/part-0.parquet").exists(), "the files of a dropped table stay");
}

#[test]
fn option_table_comes_before_a_name_and_other_statements_do_not_read_the_file() {
    let dir = named();
    let own = parquet_folder(dir.path(), "own", 1, 7);
    let table = format!("rides={}", own.display());
    let count = ["sql", "SELECT COUNT(*) AS n FROM rides", "--table", &table, "--format", "csv"];
    assert_eq!(printed(dir.path(), &count), "n\n7\n");
    fs::write(dir.path().join("buzz.json"), "{").unwrap();
    assert_eq!(printed(dir.path(), &count), "n\n7\n");
    assert_eq!(rows(dir.path(), "SELECT 1"), "1\n");
    let damaged = told(dir.path(), &["sql", "SELECT * FROM kinds"]);
    assert!(
        damaged.starts_with("error: buzz.json: ") && damaged.contains("; correct it, or move it away"),
        "{damaged}"
    );
    assert!(told(dir.path(), &["tables", "list"]).starts_with("error: buzz.json: "));
    assert!(told(dir.path(), &["tables", "add", "x=own"]).contains("buzz.json: "));
    assert_eq!(fs::read_to_string(dir.path().join("buzz.json")).unwrap(), "{");
}

#[test]
fn query_file_without_catalogs_finds_names_of_the_working_directory() {
    let dir = named();
    fs::create_dir(dir.path().join("queries")).unwrap();
    let steps = json!({"steps": [
        {"name": "m", "step_type": "HBee", "sql": "SELECT id FROM rides WHERE id < 3"},
        {"name": "r", "step_type": "HComb", "sql": "SELECT SUM(id) FROM m"}
    ]});
    for (file, query, expected) in
        [("one.json", json!({"sql": "SELECT MAX(id) FROM rides"}), "199\n"), ("steps.json", steps, "3\n")]
    {
        let file = format!("queries/{file}");
        fs::write(dir.path().join(&file), query.to_string()).unwrap();
        let rows = printed(dir.path(), &["query", &file, "--format", "csv"]);
        assert_eq!(rows.split_once('\n').unwrap().1, expected);
        assert!(printed(dir.path(), &["tables", &file]).starts_with("rides (Parquet): "));
    }
}

#[test]
fn file_in_another_folder_is_used_with_an_option() {
    let dir = named();
    fs::create_dir(dir.path().join("sub")).unwrap();
    let sub = dir.path().join("sub");
    let count = ["sql", "SELECT COUNT(*) AS n FROM rides", "--tables", "../buzz.json", "--format", "csv"];
    assert_eq!(printed(&sub, &count), "n\n200\n");
    parquet_folder(&sub, "few", 1, 3);
    printed(&sub, &["tables", "add", "few=few", "--tables", "../buzz.json"]);
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM few"), "3\n");
    let missing = told(&sub, &["sql", "SELECT * FROM rides", "--tables", "none.json"]);
    assert!(missing.contains("file of tables `none.json` does not exist; `buzz tables add` creates it"), "{missing}");
    let view = "CREATE VIEW one AS SELECT 1 AS one";
    printed(&sub, &["sql", view, "--tables", "view.json"]);
    assert_eq!(printed(&sub, &["sql", "SELECT one FROM one", "--tables", "view.json", "--format", "csv"]), "one\n1\n");
    printed(&sub, &["tables", "add", "few=few", "--tables", "none.json"]);
    assert!(printed(&sub, &["tables", "list", "--tables", "none.json"]).starts_with("few "));
}

#[test]
fn wrong_additions_name_the_table_and_change_nothing() {
    let dir = named();
    let before = fs::read(dir.path().join("buzz.json")).unwrap();
    for (arguments, words) in [
        (
            &["tables", "add", "rides=kinds"][..],
            "table `rides` exists already; drop it first, or replace it with --replace",
        ),
        (&["tables", "add", "gone=nowhere"], "catalog `gone`: file or folder"),
        (&["tables", "add", "gone=nowhere.csv?delimiter=;&delimeter=;"], "there is no field `delimeter`"),
        (&["tables", "add", "pipe=/dev/null"], "`/dev/null` is a pipe or a device"),
        (&["tables", "drop", "ride"], "buzz.json; did you mean `rides`?"),
        (&["tables", "show", "ride"], "table `ride` does not exist; did you mean `rides`?"),
        (&["sql", "SELECT * FROM ride"], "table `ride` does not exist; did you mean `rides`?"),
        (&["sql", "SELECT * FROM ride", "--table", "rode=kinds"], "table `ride` does not exist; did you mean `rides`?"),
        (&["sql", "SELECT * FROM \"other.csv\""], "a file becomes a table with --table"),
        (&["sql", "DROP VIEW rides"], "`rides` is not a view; drop it with DROP TABLE"),
        (&["sql", "CREATE VIEW rides AS SELECT 1 AS one"], "table `rides` exists already"),
        (&["sql", "CREATE OR REPLACE VIEW rides AS SELECT 1 AS one"], "`rides` is a table; drop it before"),
        (&["sql", "CREATE VIEW v AS SELECT nothing FROM rides"], "view `v`: "),
        (
            &["sql", "CREATE VIEW v AS SELECT * FROM ride"],
            "view `v`: table `ride` does not exist; did you mean `rides`?",
        ),
        (&["sql", "CREATE VIEW v AS SELECT * FROM v"], "view `v` reads itself"),
        (&["sql", "CREATE VIEW ridez AS SELECT * FROM ridex"], "table `ridex` does not exist; did you mean `rides`?"),
        (&["sql", "CREATE VIEW v AS SELECT id FROM rides WHERE id = $id"], "view `v`: a view has no parameters"),
        (&["sql", "CREATE TABLE x AS SELECT 1"], "CREATE is not a query"),
    ] {
        let told = told(dir.path(), arguments);
        assert!(told.starts_with("error: ") && told.contains(words), "{arguments:?}: {told}");
    }
    assert_eq!(fs::read(dir.path().join("buzz.json")).unwrap(), before);
    let usage = buzz(dir.path(), &["tables"]);
    assert_eq!(usage.status.code(), Some(2), "{}", text(&usage.stderr));
    printed(dir.path(), &["tables", "add", "rides=kinds", "--replace"]);
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM rides"), "2\n");
    printed(dir.path(), &["tables", "drop", "gone", "--if-exists"]);
}

#[test]
fn statements_change_names() {
    let dir = named();
    fs::write(dir.path().join("a.csv"), "1;x\n2;y\n").unwrap();
    let create = "CREATE EXTERNAL TABLE pairs (n BIGINT, t VARCHAR) STORED AS CSV LOCATION 'a.csv' \
                  OPTIONS (has_header 'false', delimiter ';')";
    assert_eq!(rows(dir.path(), create), "table `pairs` was added: 2 columns\n");
    assert_eq!(rows(dir.path(), "SELECT SUM(n), MAX(t) FROM pairs"), "3,y\n");
    assert_eq!(
        rows(dir.path(), &create.replace("TABLE pairs", "TABLE IF NOT EXISTS pairs")),
        "`pairs` exists already and was not changed\n"
    );
    assert_eq!(
        rows(dir.path(), "CREATE EXTERNAL TABLE IF NOT EXISTS Pairs STORED AS CSV LOCATION 'nowhere.csv'"),
        "`pairs` exists already and was not changed\n"
    );
    let daily = "CREATE VIEW groups AS\nSELECT grp, COUNT(*) AS n -- all\nFROM rides GROUP BY grp;";
    assert_eq!(rows(dir.path(), daily), "view `groups` was added: 2 columns\n");
    assert_eq!(
        rows(dir.path(), "CREATE VIEW top AS SELECT g.grp FROM groups g WHERE n > 66"),
        "view `top` was added: 1 column\n"
    );
    assert_eq!(rows(dir.path(), "SELECT * FROM top ORDER BY 1"), "cash\ncredit\n");
    assert_eq!(rows(dir.path(), "SHOW TABLES"), "groups\nkinds\npairs\nrides\ntop\n");
    assert_eq!(rows(dir.path(), "DESCRIBE groups"), "grp,VARCHAR,YES\nn,BIGINT,NO\n");
    assert_eq!(rows(dir.path(), "SHOW COLUMNS FROM top"), "grp,VARCHAR,YES\n");
    assert_eq!(
        rows(dir.path(), "SELECT table_name, table_type FROM information_schema.tables ORDER BY 1 DESC LIMIT 2"),
        "top,VIEW\nrides,BASE TABLE\n"
    );
    let columns = "SELECT COUNT(*) FROM information_schema.columns WHERE table_name IN ('groups', 'rides')";
    assert_eq!(rows(dir.path(), columns), "5\n");
    assert!(printed(dir.path(), &["sql", "EXPLAIN SELECT * FROM top"]).contains("rides"));

    let circle = told(dir.path(), &["sql", "CREATE OR REPLACE VIEW groups AS SELECT grp, 1 AS n FROM top"]);
    assert!(circle.contains("reads itself: `groups`, which reads `top`, which reads `groups`"), "{circle}");
    let dropped = buzz(dir.path(), &["sql", "DROP TABLE rides"]);
    assert!(
        text(&dropped.stderr).contains("warning: view `groups` reads `rides` and fails from now on"),
        "{}",
        text(&dropped.stderr)
    );
    let gone = told(dir.path(), &["sql", "SELECT * FROM top"]);
    assert!(gone.contains("view `groups`: table `rides` does not exist"), "{gone}");
    assert_eq!(rows(dir.path(), "DROP VIEW IF EXISTS top"), "view `top` was dropped\n");
    assert_eq!(rows(dir.path(), "DROP VIEW IF EXISTS top"), "`top` does not exist\n");
    assert!(told(dir.path(), &["sql", "DROP TABLE top"]).contains("table `top` does not exist in "));
}

#[test]
fn view_has_the_rows_of_its_query() {
    let dir = named();
    for (name, sql) in [
        ("few", "WITH x AS (SELECT id, grp FROM rides WHERE id < 10) SELECT a.id, b.grp FROM x a JOIN x b USING (id)"),
        ("pick", "WITH s AS (SELECT id FROM rides LIMIT 20) SELECT a.id FROM s a JOIN s b ON a.id = b.id"),
        ("numbers", "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 5) SELECT i FROM n"),
        ("ids", "SELECT id AS \"rideId\" FROM rides"),
        ("names", "SELECT table_name FROM information_schema.tables"),
    ] {
        printed(dir.path(), &["sql", &format!("CREATE VIEW {name} AS {sql}")]);
    }
    assert_eq!(
        rows(dir.path(), "WITH x AS (SELECT 1 AS id) SELECT COUNT(*), SUM(id) FROM few JOIN x USING (id)"),
        "1,1\n"
    );
    assert_eq!(
        rows(dir.path(), "SELECT COUNT(*) FROM few WHERE EXISTS (SELECT 1 FROM few f WHERE f.id = few.id + 1)"),
        "9\n"
    );
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM pick"), "20\n");
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM pick a JOIN pick b USING (id)"), "20\n");
    assert_eq!(rows(dir.path(), "SELECT SUM(i) FROM numbers"), "15\n");
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM names"), "7\n");
    assert_eq!(rows(dir.path(), "SELECT MAX(rideId) FROM ids WHERE ids.rideId < 50"), "49\n");
    let hidden = told(dir.path(), &["sql", "WITH rides AS (SELECT 1 AS id) SELECT * FROM ids, rides"]);
    assert!(hidden.contains("`rides` has the name of a table that view `ids` reads; rename it"), "{hidden}");
}

#[test]
fn hundred_processes_add_names_at_the_same_time_and_lose_none() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 2);
    let add = |number: usize| {
        let table = format!("t{number}=rides");
        let mut command = Command::new(program("buzz"));
        command.current_dir(dir.path()).args(["tables", "add", &table, "--threads", "1"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    };
    for start in (0..100).step_by(25) {
        let running: Vec<_> = (start..start + 25).map(add).collect();
        for child in running {
            let done = child.wait_with_output().unwrap();
            assert!(done.status.success(), "{}", text(&done.stderr));
        }
    }
    assert_eq!(printed(dir.path(), &["tables", "list"]).lines().count(), 100);
}

#[test]
fn thousand_tables_are_listed_without_a_request() {
    let dir = tempdir().unwrap();
    // The bucket's endpoint cannot be reached, so opening a table would fail.
    let entry = |number: usize| {
        json!({"name": format!("t{number}"), "type": "Parquet", "uri": format!("s3://lake/t{number}"),
               "storage": {"endpoint": "http://127.0.0.1:9", "region": "us-east-1", "anonymous": true},
               "columns": [{"name": "id", "type": "Int64"}, {"name": "name", "type": "Utf8"}]})
    };
    let document = json!({"catalogs": (0..1000).map(entry).collect::<Vec<_>>()});
    fs::write(dir.path().join("buzz.json"), document.to_string()).unwrap();
    assert_eq!(printed(dir.path(), &["tables", "list"]).lines().count(), 1000);
    assert_eq!(rows(dir.path(), "SHOW TABLES").lines().count(), 1000);
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM information_schema.columns"), "2000\n");
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM information_schema.tables WHERE table_name LIKE 't9%'"), "111\n");
}

#[test]
fn table_without_recorded_columns_is_opened_to_list_them() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 2);
    let document = json!({"catalogs": [{"name": "rides", "uri": "rides"}, {"name": "gone", "uri": "nowhere"}]});
    fs::write(dir.path().join("buzz.json"), document.to_string()).unwrap();
    assert_eq!(rows(dir.path(), "SHOW TABLES"), "gone\nrides\n");
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM rides"), "2\n");
    let told = told(dir.path(), &["sql", "SELECT * FROM information_schema.columns"]);
    assert!(told.contains("catalog `gone`: file or folder"), "{told}");
    printed(dir.path(), &["tables", "drop", "gone"]);
    assert_eq!(rows(dir.path(), "SELECT COUNT(*) FROM information_schema.columns"), "3\n");
    assert!(printed(dir.path(), &["tables", "show", "rides"]).contains("columns: not recorded"));
}

#[test]
fn steps_and_views_of_a_query_file_are_checked() {
    let dir = named();
    printed(dir.path(), &["sql", "CREATE VIEW v AS SELECT id FROM rides"]);
    let steps = json!({"steps": [
        {"name": "m", "step_type": "HBee", "sql": "SELECT id FROM v"},
        {"name": "r", "step_type": "HComb", "sql": "SELECT COUNT(*) FROM m"}
    ]});
    fs::write(dir.path().join("steps.json"), steps.to_string()).unwrap();
    assert!(told(dir.path(), &["query", "steps.json"]).contains("`v` is a view, and steps read tables only"));
    let own = json!({"sql": "SELECT COUNT(*) FROM w", "catalogs": [
        {"name": "w", "type": "View", "sql": "SELECT * FROM t WHERE id < 9"}, {"name": "t", "uri": "rides"}
    ]});
    fs::write(dir.path().join("own.json"), own.to_string()).unwrap();
    assert_eq!(printed(dir.path(), &["query", "own.json", "--format", "csv"]).lines().nth(1), Some("9"));
}

#[test]
fn shell_knows_names_and_changes_them() {
    use std::io::Write;
    let dir = named();
    let mut shell = Command::new(program("buzz"));
    shell.current_dir(dir.path()).args(["shell", "--format", "csv"]);
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let script = "SELECT COUNT(*) AS n FROM rides;\nCREATE VIEW few AS SELECT id FROM rides WHERE id < 4;\n\
                  SELECT SUM(id) AS s FROM few;\n.tables\nDROP VIEW few;\nSELECT * FROM few;\n";
    _ = shell.stdin.take().unwrap().write_all(script.as_bytes());
    let done = shell.wait_with_output().unwrap();
    let (rows, told) = (text(&done.stdout), text(&done.stderr));
    assert!(rows.starts_with("n\n200\nresult\nview `few` was added: 1 column\ns\n6\n"), "{rows}");
    assert!(rows.contains("few    View     1 column     SELECT id FROM rides WHERE id < 4\n"), "{rows}");
    assert!(told.contains("line 6: table `few` does not exist"), "{told}");
}
