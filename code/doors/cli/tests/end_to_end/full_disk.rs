//! Tests commands whose rows exceed the memory, with and without room in the folder for temporary files.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use buzz_testkit::program;
use tempfile::{TempDir, tempdir};

use crate::command::{buzz, text};

/// A statement whose sort exceeds 60 MiB.
const SORT: &str =
    "SELECT sum(r * v) AS n FROM (SELECT v, row_number() OVER (ORDER BY m || cast(v AS varchar)) AS r FROM t)";
/// A statement whose deliveries exceed 1 MiB.
const JOIN: &str = "SELECT a.m, count(*) AS c FROM t a JOIN t b ON a.m = b.m GROUP BY a.m ORDER BY c, a.m LIMIT 1";

/// The statements with the options by which they exceed the memory, and the part that does.
const SPILLING: [(&str, &[&str], &str); 3] = [
    (SORT, &["memory_bytes=60MiB", "transport=memory"], "rows that exceed the memory cannot be written"),
    (JOIN, &["inbox_memory_bytes=1MiB", "build_bytes=0", "reducer=comb"], "the inbox cannot spill"),
    (JOIN, &["inbox_memory_bytes=1MiB", "build_bytes=0", "reducer=comb", "transport=tcp"], "the inbox cannot spill"),
];

/// Makes a folder with the table `t.parquet` of 400,000 rows, `(v: Int64, m: Utf8)`, and a folder for temporary files.
fn folder() -> TempDir {
    let dir = tempdir().unwrap();
    let sql = "SELECT value AS v, md5(cast(value AS varchar)) AS m FROM generate_series(1, 400000)";
    let made = buzz(dir.path(), &["sql", sql, "--output", "t.parquet"]);
    assert!(made.status.success(), "{}", text(&made.stderr));
    fs::create_dir(dir.path().join("tmp")).unwrap();
    dir
}

/// Runs `sql` after the command `first` of a shell, such as one that sets a limit.
fn run(dir: &Path, first: &str, sql: &str, options: &[&str]) -> Output {
    let mut command = Command::new("sh");
    command.current_dir(dir).env("TMPDIR", dir.join("tmp")).args(["-c", &format!("{first} exec \"$0\" \"$@\"")]);
    command.arg(program("buzz")).args(["sql", sql, "--table", "t=t.parquet", "--threads", "2", "--format", "csv"]);
    command.args(options.iter().flat_map(|option| ["--set", *option])).output().unwrap()
}

/// Returns the names of what is in the folder for temporary files.
fn left(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir.join("tmp")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn commands_that_spill_answer_and_leave_no_temporary_folder() {
    let dir = folder();
    for (sql, options, _) in SPILLING {
        let expected = run(dir.path(), "", sql, &[]);
        assert!(expected.status.success(), "{}", text(&expected.stderr));
        let spilled = run(dir.path(), "", sql, options);
        assert!(spilled.status.success(), "{}", text(&spilled.stderr));
        assert_eq!(text(&spilled.stdout), text(&expected.stdout), "{options:?}");
        if !options.contains(&"transport=tcp") {
            assert_eq!(left(dir.path()), [""; 0], "{options:?}");
        }
    }
}

#[test]
fn full_folder_for_temporary_files_is_named_and_no_row_is_printed() {
    let dir = folder();
    for (sql, options, part) in SPILLING {
        // A block has 512 or 1024 bytes. A file that exceeds the limit fails as one on a full disk.
        let output = run(dir.path(), "ulimit -f 2000;", sql, options);
        let error = text(&output.stderr);
        assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""), "{options:?}: {error}");
        let folder = dir.path().join("tmp");
        let full = format!("{part}: the folder for temporary files `{}` is full; set TMPDIR", folder.display());
        assert!(error.contains(&full), "{options:?}: {error}");
        if !options.contains(&"transport=tcp") {
            assert_eq!(left(dir.path()), [""; 0], "{options:?}");
        }
    }
}
