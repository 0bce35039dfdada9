//! The columns of sinks, and sinks that are refused before a row is read.

use std::fs;
use std::process::Command;

use crate::support::{Folder, Result, same, succeeds};

/// Several INSERT into one sink have its columns in its order, in all formats.
pub(crate) fn columns() -> Result {
    let folder = Folder::new()?;
    let input = folder.write("in.json", "{\"n\":1}\n")?;
    let source = format!(
        "CREATE TABLE p (n BIGINT) WITH (connector='single_file', path='{}', format='json');\n",
        input.display()
    );
    let declared = "INSERT INTO o (a, b) SELECT n, n + 100 FROM p;\nINSERT INTO o (b, a) SELECT n + 200, n + 1 FROM p;\n\
                    INSERT INTO o (b) SELECT n + 300 FROM p;";
    let by_name = "INSERT INTO o SELECT n AS a, n + 100 AS b FROM p;\n\
                   INSERT INTO o SELECT n + 200 AS b, n + 1 AS a FROM p;\nINSERT INTO o SELECT n + 300 AS b FROM p;";
    // A table without a connector has the rows of its INSERT statements.
    let memory = format!("CREATE TABLE m (a BIGINT, b BIGINT);\n{}\nINSERT INTO o SELECT * FROM m;", {
        declared.replace("INTO o", "INTO m")
    });
    let cases = [("(a BIGINT, b BIGINT) ", declared), ("", declared), ("", by_name), ("", memory.as_str())];
    for (index, (columns, statements)) in cases.into_iter().enumerate() {
        let run = |connector: &str, out: &str| -> Result {
            let path = folder.text(out);
            let sink = format!("CREATE TABLE o {columns}WITH (connector={connector}, path='{path}', type='sink');\n");
            let script = folder.write("s.sql", &format!("{source}{sink}{statements}"))?.display().to_string();
            succeeds(&["run", &script, "--until-end"])?;
            Ok(())
        };
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
            lines.sort();
            lines
        };
        let name = |format: &str| format!("{format}-{index}");
        run("'single_file', format='csv'", &name("csv"))?;
        let csv = fs::read_to_string(folder.path(&name("csv")))?;
        if csv.lines().next() != Some("a,b") {
            return Err(format!("{statements}\n{csv}").into());
        }
        same(statements, &sorted(",301\n1,101\n2,201\na,b"), &sorted(&csv))?;
        let rows = sorted("{\"a\":1,\"b\":101}\n{\"a\":2,\"b\":201}\n{\"a\":null,\"b\":301}");
        run("'single_file'", &name("json"))?;
        same(statements, &rows, &sorted(&fs::read_to_string(folder.path(&name("json")))?))?;
        run("'parquet'", &name("parquet"))?;
        for file in folder.files(&name("parquet"))? {
            let table = format!("t={}", file.display());
            let read = ["sql", "SELECT a, b FROM t", "--format", "ndjson", "--table", &table];
            let output = Command::new(env!("CARGO_BIN_EXE_buzz")).args(read).output()?;
            if !output.status.success() || output.stdout.is_empty() {
                return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
            }
        }
    }
    Ok(())
}

/// `check` and the start of a run refuse what a sink cannot take, and nothing is written.
pub(crate) fn refused() -> Result {
    let folder = Folder::new()?;
    folder.write("in.json", "{\"n\":1}\n")?;
    let source = "CREATE TABLE p (n BIGINT) WITH (connector='single_file', path='in.json', format='json');\n";
    let windows = "SELECT count(*) AS n, tumble(interval '1 second') AS w FROM p GROUP BY w";
    let sink = |name: &str, options: &str| format!("CREATE TABLE {name} WITH ({options}, type='sink');\n");
    let one = sink("o", "connector='single_file', path='out', format='csv'");
    let cases = [
        (format!("{one}INSERT INTO o {windows};"), "column `w` of type Struct"),
        (
            format!("{one}INSERT INTO o SELECT n AS a FROM p;\nINSERT INTO o SELECT n AS b FROM p;"),
            "`b` is not a column of the table, whose first INSERT has the columns a; name them by AS",
        ),
        (
            "CREATE TABLE o (a BIGINT) WITH (connector='json', path='out', type='sink');\n\
             INSERT INTO o SELECT n + 0.5 FROM p;"
                .to_string(),
            "column `a` of the table has type Int64, which does not have all of its values",
        ),
        (
            format!("{one}INSERT INTO o SELECT l.n, r.n FROM ({windows}) AS l JOIN ({windows}) AS r ON l.w = r.w;"),
            "two columns are named `n`; give one of them another name by AS",
        ),
        (
            sink("o", "connector='json', path='out', partition_by='k'") + "INSERT INTO o SELECT n FROM p;",
            "column `k` of option `partition_by` is not among the columns n",
        ),
        (
            sink("o", "connector='parquet', path='out', partition_by='n'") + "INSERT INTO o SELECT n FROM p;",
            "option `partition_by` has all columns (n)",
        ),
        (
            sink("o", "connector='single_file', path='none/out'") + "INSERT INTO o SELECT n FROM p;",
            "none/out` does not exist; create it, or name another path",
        ),
        (
            one.clone()
                + &sink("o2", "connector='single_file', path='x/../out'")
                + "INSERT INTO o SELECT n FROM p;\nINSERT INTO o2 SELECT n FROM p;",
            "tables `o` and `o2` write to one place",
        ),
        (
            sink("o", "connector='single_file', path='in.json'") + "INSERT INTO o SELECT n FROM p;",
            "in.json` has 8 bytes",
        ),
        (
            "CREATE TABLE q (n BIGINT) WITH (connector='json', path='folder');\n".to_string()
                + &sink("o", "connector='json', path='folder/deep'")
                + "INSERT INTO o SELECT n FROM q;",
            "table `o` writes to `",
        ),
    ];
    fs::create_dir(folder.path("folder"))?;
    fs::create_dir(folder.path("x"))?;
    for (statements, message) in cases {
        let script = folder.write("s.sql", &format!("{source}{statements}"))?;
        for arguments in [&["check"][..], &["run", "--until-end"]] {
            let mut command = Command::new(env!("CARGO_BIN_EXE_buzz"));
            let output = command.arg("stream").args(arguments).arg(&script).current_dir(folder.path("")).output()?;
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            if output.status.success() || !error.contains(message) || folder.path("out").exists() {
                return Err(format!("{arguments:?} {statements}\n{error}").into());
            }
        }
    }
    if fs::read_to_string(folder.path("in.json"))? == "{\"n\":1}\n" {
        Ok(())
    } else {
        Err("the source has changed".into())
    }
}
