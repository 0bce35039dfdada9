//! Files that the command `buzz` writes, and answers that it keeps.

use std::fs;
use std::process::Command;
use std::time::Duration;

use buzz_testkit::program;
use tempfile::tempdir;

use crate::command::{buzz, text};
use crate::tables::parquet_folder;

#[test]
fn answer_is_kept_in_a_folder_of_the_environment() {
    let dir = tempdir().unwrap();
    let folder = parquet_folder(dir.path(), "rides", 2, 100);
    for file in 0..2 {
        let file = fs::File::options().write(true).open(folder.join(format!("part-{file}.parquet"))).unwrap();
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    }
    let run = |more: &[&str]| {
        let sql = "SELECT id, grp FROM rides WHERE id < 60 ORDER BY id";
        let arguments = [&["sql", sql, "--table", "rides=rides", "--format", "csv"], more].concat();
        let mut command = Command::new(program("buzz"));
        command.current_dir(dir.path()).args(arguments).env("BUZZ_ANSWERS", dir.path().join("answers"));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", text(&output.stderr));
        (text(&output.stdout), text(&output.stderr))
    };
    let (expected, _) = run(&[]);
    assert!(!dir.path().join("answers").exists(), "nothing is kept without the option");
    let on = ["--set", "reuse=true"];
    let (first, summary) = run(&on);
    assert!(first == expected && !summary.contains("reused"), "{summary}");
    let (second, summary) = run(&on);
    assert!(second == expected && summary.starts_with("rows: 60, ") && summary.contains(" reused: the answer, time: "));
    let (_, summary) = run(&[&on[..], &["--output", "rows.csv"]].concat());
    assert!(summary.contains(" reused: the answer,"), "{summary}");
    assert_eq!(fs::read_to_string(dir.path().join("rows.csv")).unwrap(), expected);
}

/// Files are written while rows come, and standard output once they are complete: by the same encoders.
#[test]
fn file_has_the_bytes_of_standard_output() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 30_000);
    let sql = "SELECT id, grp, amount, DATE '2024-01-01' AS d FROM rides ORDER BY id DESC";
    for format in ["json", "ndjson", "csv", "table"] {
        let arguments = ["sql", sql, "--table", "rides=rides", "--format", format];
        let printed = buzz(dir.path(), &arguments);
        assert_eq!(printed.status.code(), Some(0), "{}", text(&printed.stderr));
        let written = buzz(dir.path(), &[&arguments[..], &["--output", "rows"]].concat());
        assert_eq!((written.status.code(), written.stdout.len()), (Some(0), 0), "{}", text(&written.stderr));
        assert!(text(&written.stderr).starts_with("rows: 90000, "), "{}", text(&written.stderr));
        assert!(fs::read(dir.path().join("rows")).unwrap() == printed.stdout, "{format}");
        if format == "csv" {
            let lines = text(&printed.stdout);
            let ids = lines.lines().skip(1).map(|line| line.split(',').next().unwrap().parse::<u32>().unwrap());
            assert!(ids.eq((0..90_000).rev()), "the rows are not in order");
        }
    }
    for format in ["arrow", "parquet"] {
        let arguments = ["sql", sql, "--table", "rides=rides", "--format", format, "--output", "rows"];
        let written = buzz(dir.path(), &arguments);
        assert_eq!(written.status.code(), Some(0), "{}", text(&written.stderr));
        let file = fs::File::open(dir.path().join("rows")).unwrap();
        let batches: Vec<arrow::array::RecordBatch> = if format == "arrow" {
            arrow::ipc::reader::FileReader::try_new(file, None).unwrap().collect::<Result<_, _>>().unwrap()
        } else {
            let rows = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
            rows.build().unwrap().collect::<Result<_, _>>().unwrap()
        };
        let ids = batches.iter().flat_map(|batch| {
            let ids = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(batch.column(0));
            ids.values().to_vec()
        });
        assert!(ids.eq((0..90_000).rev()), "{format}");
    }
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "a temporary file is left");
}

#[test]
fn query_that_fails_while_rows_are_written_leaves_the_file_as_it_was() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 30_000);
    fs::write(dir.path().join("rows"), "before").unwrap();
    // Fails in one of the last rows, long after others were written.
    let fails = "SELECT id, 1 / (id - 89990) AS one FROM rides ORDER BY id";
    // The encoder fails: the date has no text.
    let encoder = "SELECT id, arrow_cast(CASE WHEN id < 89990 THEN 1 ELSE 2147483647 END, 'Date32') AS d FROM rides";
    for (sql, format) in [(fails, "csv"), (fails, "parquet"), (encoder, "csv"), (encoder, "json")] {
        let arguments = ["sql", sql, "--table", "rides=rides", "--format", format, "--output", "rows"];
        let output = buzz(dir.path(), &arguments);
        assert_eq!(output.status.code(), Some(1), "{sql}: {}", text(&output.stderr));
        assert!(text(&output.stderr).starts_with("error: "), "{}", text(&output.stderr));
        assert_eq!(fs::read_to_string(dir.path().join("rows")).unwrap(), "before", "{sql}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{sql}: a temporary file is left");
    }
    let output =
        buzz(dir.path(), &["sql", "EXPLAIN SELECT id FROM rides", "--table", "rides=rides", "--output", "rows"]);
    assert!(output.status.success() && !output.stdout.is_empty(), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(dir.path().join("rows")).unwrap(), "before", "a plan is printed");
}
