//! The columns of sinks, and sinks that are refused before a row is read.

use std::fs;
use std::process::Command;

use crate::support::{Folder, Result, fails, same, succeeds};

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

/// A TIMESTAMPTZ is the same moment in each sink, over the state too, and a column in another zone keeps that zone.
pub(crate) fn zones() -> Result {
    let folder = Folder::new()?;
    let rows = "{\"id\":1,\"ts\":\"2024-01-01T00:00:01\",\"z\":\"2024-01-01T00:00:01Z\"}\n\
                {\"id\":2,\"ts\":\"2024-01-01T00:00:02\",\"z\":\"2024-01-01T02:30:01.5+02:00\"}\n\
                {\"id\":3,\"ts\":\"2024-01-01T00:01:00\",\"z\":null}\n";
    let input = folder.write("in.json", rows)?;
    let sink = |name: &str, connector: &str, columns: &str| {
        let path = folder.text(name);
        format!("CREATE TABLE {name} {columns} WITH (connector='{connector}', path='{path}', type='sink');\n")
    };
    let select = "id, z, z AT TIME ZONE 'Europe/Berlin' AS b FROM t WHERE id < 3";
    let script = format!(
        "CREATE TABLE t (id BIGINT, ts TIMESTAMP, z TIMESTAMPTZ, WATERMARK FOR ts) WITH (connector='single_file', \
         path='{}', format='json');\nSET epoch_rows = 1;\n{}{}{}{}\
         INSERT INTO js SELECT {select};\nINSERT INTO lake SELECT {select};\nINSERT INTO utc SELECT {select};\n\
         INSERT INTO least SELECT min(z) AS z, tumble(interval '10 seconds') AS w FROM t WHERE id < 3 GROUP BY w;",
        input.display(),
        sink("js", "json", ""),
        sink("lake", "parquet", ""),
        sink("utc", "json", "(id BIGINT, z TIMESTAMPTZ, b TIMESTAMPTZ)"),
        sink("least", "json", ""),
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state, "--epochs", "1"])?;
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let lines = |name: &str| -> Result<Vec<String>> {
        let mut lines = Vec::new();
        for file in folder.files(name)? {
            lines.extend(std::fs::read_to_string(file)?.lines().map(str::to_string));
        }
        lines.sort();
        Ok(lines)
    };
    let zoned = [
        r#"{"id":1,"z":"2024-01-01T00:00:01Z","b":"2024-01-01T01:00:01+01:00"}"#,
        r#"{"id":2,"z":"2024-01-01T00:30:01.500Z","b":"2024-01-01T01:30:01.500+01:00"}"#,
    ];
    if lines("js")? != zoned {
        return Err(format!("{:?}", lines("js")?).into());
    }
    let utc = zoned.map(|row| row.replace("T01:", "T00:").replace("+01:00", "Z"));
    if lines("utc")? != utc {
        return Err(format!("{:?}", lines("utc")?).into());
    }
    let least = r#"{"z":"2024-01-01T00:00:01Z","w":{"start":"2024-01-01T00:00:00","end":"2024-01-01T00:00:10"}}"#;
    if lines("least")? != [least] {
        return Err(format!("{:?}", lines("least")?).into());
    }
    // A script that declares no columns takes those of the Parquet files, with their zones.
    let read =
        format!("CREATE TABLE lake WITH (connector='parquet', path='{}');\nSELECT * FROM lake;", folder.text("lake"));
    let out = succeeds(&["run", &folder.write("read.sql", &read)?.display().to_string(), "--until-end"])?;
    let mut out: Vec<&str> = out.lines().collect();
    out.sort_unstable();
    if out == zoned { Ok(()) } else { Err(format!("{out:?}").into()) }
}

/// An empty text in a partition column is an error before its epoch is recorded, so a corrected script goes on.
pub(crate) fn empty_partitions() -> Result {
    let folder = Folder::new()?;
    for connector in ["parquet", "delta"] {
        let script = |key: &str| {
            format!(
                "CREATE TABLE nexmark WITH (connector='nexmark', events='500', real_time='false');\n\
                 CREATE TABLE lake WITH (connector='{connector}', path='{}', partition_by='k', type='sink');\n\
                 INSERT INTO lake SELECT {key} AS k, bid.price AS price FROM nexmark WHERE bid IS NOT NULL;",
                folder.text(connector)
            )
        };
        let path = folder.write("s.sql", &script("replace(bid.channel, 'Google', '')"))?.display().to_string();
        let state = folder.text(&format!("{connector}-state"));
        let error = fails(&["run", &path, "--until-end", "--state", &state])?;
        if !error.contains("column `k` of option `partition_by` has an empty text") || !error.contains("nullif(k, '')")
        {
            return Err(error.into());
        }
        folder.write("s.sql", &script("nullif(replace(bid.channel, 'Google', ''), '')"))?;
        succeeds(&["run", &path, "--until-end", "--state", &state])?;
    }
    let binary = format!(
        "CREATE TABLE nexmark WITH (connector='nexmark', events='500', real_time='false');\n\
         CREATE TABLE lake WITH (connector='delta', path='{}', partition_by='k', type='sink');\n\
         INSERT INTO lake SELECT arrow_cast(bid.channel, 'Binary') AS k, bid.price AS price FROM nexmark;",
        folder.text("binary")
    );
    let path = folder.write("binary.sql", &binary)?.display().to_string();
    let error = fails(&["check", &path])?;
    if error.contains("column `k` of option `partition_by`") { Ok(()) } else { Err(error.into()) }
}
