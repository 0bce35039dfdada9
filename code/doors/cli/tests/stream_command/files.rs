//! Files as sources and sinks.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::{Folder, Result, buzz, fails, rows, same, succeeds};

pub(crate) fn followed_folder() -> Result {
    let folder = Folder::new()?;
    fs::create_dir(folder.path("in"))?;
    folder.write("in/a.json", "{\"v\":1}\n{\"v\":2}\n")?;
    let script = format!(
        "CREATE TABLE t (v BIGINT) WITH (connector='filesystem', format='json', path='{}');\n\
         CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\n\
         SET epoch = '100 ms';\nINSERT INTO out SELECT v * 10 AS v FROM t;",
        folder.text("in"),
        folder.text("out.json")
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let state = folder.text("state");
    let mut child = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["stream", "run", &script, "--state", &state])
        .stderr(Stdio::null())
        .spawn()?;
    let wait = |count: usize| -> Result {
        for _ in 0..100 {
            if rows(&folder.path("out.json")).is_ok_and(|rows| rows.len() == count) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("no {count} rows in 10 s").into())
    };
    let first = wait(2);
    folder.write("in/b.json", "{\"v\":3}\n")?;
    let second = first.and_then(|()| wait(3));
    child.kill()?;
    child.wait()?;
    second?;
    // After a restart, only the new file is read.
    folder.write("in/c.json", "{\"v\":4}\n")?;
    std::thread::sleep(Duration::from_millis(600));
    succeeds(&["run", &script, "--state", &state, "--epochs", "1"])?;
    wait(4)
}

pub(crate) fn bad_rows() -> Result {
    let folder = Folder::new()?;
    let input = folder.write("in.json", "{\"v\":1}\n{\"v\":\"x\"}\nnothing\n{\"v\":2}\n")?;
    let script = |option: &str| {
        format!(
            "CREATE TABLE t (v BIGINT) WITH (connector='single_file', path='{}', format='json'{option});\nSELECT v FROM t;",
            input.display()
        )
    };
    let path = folder.write("s.sql", &script(""))?.display().to_string();
    let error = fails(&["run", &path, "--until-end"])?;
    if !error.contains("cannot be decoded") || !error.contains("bad_data = 'drop'") {
        return Err(error.into());
    }
    folder.write("s.sql", &script(", bad_data='drop'"))?;
    let output = buzz(&["run", &path, "--until-end"])?;
    let (out, summary) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if out == "{\"v\":1}\n{\"v\":2}\n" && summary.contains("bad: 2") {
        Ok(())
    } else {
        Err(format!("{out}{summary}").into())
    }
}

pub(crate) fn csv_header() -> Result {
    let folder = Folder::new()?;
    let input = folder.write("in.csv", "a,1\nb,2\n")?;
    let script = |option: &str| {
        format!(
            "CREATE TABLE t (page TEXT, n BIGINT) WITH (connector='single_file', path='{}', format='csv'{option});\n\
             SELECT page, n FROM t;",
            input.display()
        )
    };
    let path = folder.write("s.sql", &script(""))?.display().to_string();
    let error = fails(&["run", &path, "--until-end"])?;
    if !error.contains("`a,1`, has none of the table's columns") || !error.contains("header = 'false'") {
        return Err(error.into());
    }
    folder.write("s.sql", &script(", header='false'"))?;
    let rows = succeeds(&["run", &path, "--until-end"])?;
    if rows == "{\"page\":\"a\",\"n\":1}\n{\"page\":\"b\",\"n\":2}\n" { Ok(()) } else { Err(rows.into()) }
}

pub(crate) fn file_schema_must_fit() -> Result {
    let folder = Folder::new()?;
    let file = folder.text("in.parquet");
    let sql = "SELECT 1 AS a, 3.9 AS b UNION ALL SELECT 300 AS a, 4.0 AS b";
    let arguments = ["sql", sql, "--format", "parquet", "--output", &file];
    if !Command::new(env!("CARGO_BIN_EXE_buzz")).args(arguments).output()?.status.success() {
        return Err("no file".into());
    }
    let run = |columns: &str| {
        let script = format!(
            "CREATE TABLE t ({columns}) WITH (connector='single_file', path='{file}', format='parquet');\nSELECT * FROM t;"
        );
        let path = folder.write("s.sql", &script)?.display().to_string();
        fails(&["run", &path, "--until-end"])
    };
    let cases = [
        ("c BIGINT", "has none of the table's columns; it has `a`, `b`"),
        ("b BIGINT", "column `b` comes as Float64, and the table has it as Int64: a value would change"),
        ("a TINYINT", "column `a` comes as Int64, and the table has it as Int8"),
    ];
    for (columns, words) in cases {
        let error = run(columns)?;
        if !error.contains(words) || !error.contains(&file) {
            return Err(error.into());
        }
    }
    Ok(())
}

pub(crate) fn blocked_sink() -> Result {
    let folder = Folder::new()?;
    let script = |out: &str| {
        format!(
            "CREATE TABLE nexmark WITH (connector='nexmark', events='5000', real_time='false');\n\
             CREATE TABLE out WITH (connector='json', path='{}', type='sink');\nSET epoch_rows = 1000;\n\
             INSERT INTO out SELECT bid.auction AS a, bid.price AS p FROM nexmark WHERE bid IS NOT NULL;",
            folder.text(out)
        )
    };
    let rows = |out: &str| -> Result<Vec<String>> {
        let mut rows = Vec::new();
        for file in folder.files(out)? {
            rows.extend(fs::read_to_string(file)?.lines().map(str::to_string));
        }
        rows.sort();
        Ok(rows)
    };
    let whole = folder.write("whole.sql", &script("whole"))?.display().to_string();
    succeeds(&["run", &whole, "--until-end", "--state", &folder.text("state")])?;
    // A file in the place of the folder, as a full disk, makes every write fail.
    let blocked = folder.write("blocked.sql", &script("blocked"))?.display().to_string();
    let file = folder.write("blocked", "")?;
    let arguments = ["run", &blocked, "--until-end", "--state", &folder.text("state")];
    let error = fails(&arguments)?;
    if !error.contains("sink out") {
        return Err(error.into());
    }
    fs::remove_file(file)?;
    succeeds(&arguments)?;
    same("after the repair", &rows("whole")?, &rows("blocked")?)
}

pub(crate) fn parquet_round_trip() -> Result {
    let folder = Folder::new()?;
    let script = format!(
        "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='100', events='5000', real_time='false');\n\
         CREATE TABLE lake WITH (connector='parquet', path='{}', partition_by='channel', type='sink');\nSET epoch_rows = 1000;\n\
         INSERT INTO lake SELECT bid.auction AS auction, bid.price AS price, bid.channel AS channel, date_time FROM nexmark \
         WHERE bid IS NOT NULL;",
        folder.text("lake")
    );
    let path = folder.write("write.sql", &script)?.display().to_string();
    succeeds(&["run", &path, "--until-end", "--state", &folder.text("state")])?;
    let files = fs::read_dir(folder.path("lake/channel=Apple"))?.count();
    if files != 5 {
        return Err(format!("{files} files of one partition in 5 epochs").into());
    }
    let script = format!(
        "CREATE TABLE lake (auction BIGINT, price BIGINT, date_time TIMESTAMP) WITH (connector='parquet', path='{}');\n\
         CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\n\
         INSERT INTO out SELECT auction, price FROM lake;",
        folder.text("lake"),
        folder.text("out.json")
    );
    let path = folder.write("read.sql", &script)?.display().to_string();
    succeeds(&["run", &path, "--until-end"])?;
    let count = rows(&folder.path("out.json"))?.len();
    if count == 4600 { Ok(()) } else { Err(format!("{count} rows instead of 4600").into()) }
}

/// Columns in the paths of a partitioned folder are columns of the source.
pub(crate) fn partition_columns() -> Result {
    let folder = Folder::new()?;
    let count = |source: &str, select: &str| -> Result<Vec<String>> {
        let script = format!("{source}\n{select}");
        let path = folder.write("read.sql", &script)?.display().to_string();
        let mut rows: Vec<String> = succeeds(&["run", &path, "--until-end"])?.lines().map(str::to_string).collect();
        rows.sort();
        Ok(rows)
    };
    let nexmark = "CREATE TABLE nexmark WITH (connector='nexmark', events='5000', real_time='false');";
    let expected = count(
        nexmark,
        "SELECT bid.channel AS channel, bid.price % 3 AS rest, bid.price AS price FROM nexmark WHERE bid IS NOT NULL;",
    )?;
    for format in ["parquet", "json", "csv"] {
        let lake = folder.text(format);
        let write = format!(
            "{nexmark}\nCREATE TABLE lake WITH (connector='{format}', path='{lake}', partition_by='channel, rest', \
             type='sink');\nINSERT INTO lake SELECT bid.channel AS channel, bid.price % 3 AS rest, bid.price AS price FROM \
             nexmark WHERE bid IS NOT NULL;"
        );
        let path = folder.write("write.sql", &write)?.display().to_string();
        succeeds(&["run", &path, "--until-end"])?;
        let declared = format!(
            "CREATE TABLE lake (channel TEXT, rest BIGINT, price BIGINT) WITH (connector='{format}', path='{lake}');"
        );
        same(format, &expected, &count(&declared, "SELECT channel, rest, price FROM lake;")?)?;
    }
    let found = format!("CREATE TABLE lake WITH (connector='parquet', path='{}');", folder.text("parquet"));
    same("without columns", &expected, &count(&found, "SELECT channel, rest, price FROM lake;")?)?;
    // The other column of a text is in its line.
    let texts = format!(
        "CREATE TABLE lake (rest BIGINT, value TEXT) WITH (connector='filesystem', format='raw_string', path='{}');",
        folder.text("json")
    );
    let by_rest = "SELECT count(*) AS n, rest FROM lake WHERE value LIKE '{%price%}' GROUP BY rest, \
                   tumble(interval '1000 days');";
    let texts = count(&texts, by_rest)?;
    if texts.len() != 3 {
        return Err(format!("{texts:?}").into());
    }
    let wrong = format!(
        "CREATE TABLE lake (channel BIGINT, price BIGINT) WITH (connector='json', path='{}');\nSELECT channel FROM lake;",
        folder.text("json")
    );
    let path = folder.write("wrong.sql", &wrong)?.display().to_string();
    let error = fails(&["run", &path, "--until-end"])?;
    if error.contains("is not a value of type Int64; declare the column with another type") {
        Ok(())
    } else {
        Err(error.into())
    }
}

/// A followed folder that does not exist is named on standard error.
pub(crate) fn missing_folder() -> Result {
    let folder = Folder::new()?;
    let script = format!(
        "CREATE TABLE t (v BIGINT) WITH (connector='json', path='{}');\nSET epoch = '50 ms';\nSELECT v FROM t;",
        folder.text("in")
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["stream", "run", &script, "--epochs", "1"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut told = String::new();
    // The reader ends, which must not end the run.
    BufReader::new(child.stderr.take().ok_or("no standard error")?).read_line(&mut told)?;
    fs::create_dir(folder.path("in"))?;
    folder.write("in/a.json", "{\"v\":7}\n")?;
    let output = child.wait_with_output()?;
    let rows = String::from_utf8_lossy(&output.stdout);
    if told.contains(&format!("source t: `{}` does not exist yet; waiting", folder.text("in"))) && rows == "{\"v\":7}\n"
    {
        Ok(())
    } else {
        Err(format!("{told}{rows}").into())
    }
}

/// A file of JSON without a column of the table is an error, or its rows are bad.
pub(crate) fn foreign_json() -> Result {
    let folder = Folder::new()?;
    fs::create_dir(folder.path("in"))?;
    folder.write("in/a.json", "{\"v\":1}\n{\"w\":2}\n")?;
    // Hidden, as the log of a table.
    fs::create_dir(folder.path("in/_log"))?;
    folder.write("in/_log/x.json", "{\"v\":9}\n")?;
    folder.write("in/b.json", "{\"kind\":\"ping\",\"at\":5}\n{\"kind\":\"pong\"}\n")?;
    let script = |option: &str| {
        format!(
            "CREATE TABLE t (v BIGINT) WITH (connector='json', path='{}'{option});\nSELECT v FROM t;",
            folder.text("in")
        )
    };
    let path = folder.write("s.sql", &script(""))?.display().to_string();
    let error = fails(&["run", &path, "--until-end"])?;
    if !error.contains("in/b.json` has none of the table's columns; it has `kind`, `at`") {
        return Err(error.into());
    }
    folder.write("s.sql", &script(", bad_data='drop'"))?;
    let output = buzz(&["run", &path, "--until-end"])?;
    let (rows, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    // A row of a file that has the column elsewhere is a row.
    if rows == "{\"v\":1}\n{\"v\":null}\n" && told.contains("bad: 2") {
        Ok(())
    } else {
        Err(format!("{rows}{told}").into())
    }
}

/// CSV sinks write the header that CSV sources expect.
pub(crate) fn csv_sinks() -> Result {
    let folder = Folder::new()?;
    let script = format!(
        "CREATE TABLE nexmark WITH (connector='nexmark', events='300', real_time='false');\nSET epoch_rows = 100;\n\
         CREATE TABLE one WITH (connector='single_file', format='csv', path='{}', type='sink');\n\
         CREATE TABLE bare WITH (connector='single_file', format='csv', path='{}', header='false', type='sink');\n\
         CREATE TABLE many WITH (connector='csv', path='{}', type='sink');\n\
         CREATE VIEW bids AS SELECT bid.auction AS auction, bid.channel AS channel FROM nexmark WHERE bid IS NOT NULL;\n\
         INSERT INTO one SELECT * FROM bids;\nINSERT INTO bare SELECT * FROM bids;\nINSERT INTO many SELECT * FROM bids;",
        folder.text("one.csv"),
        folder.text("bare.csv"),
        folder.text("many")
    );
    let path = folder.write("write.sql", &script)?.display().to_string();
    succeeds(&["run", &path, "--until-end"])?;
    let one = fs::read_to_string(folder.path("one.csv"))?;
    let bare = fs::read_to_string(folder.path("bare.csv"))?;
    if one != format!("auction,channel\n{bare}") || bare.lines().count() != 276 {
        return Err(one.into());
    }
    let script = format!(
        "CREATE TABLE many (auction BIGINT, channel TEXT) WITH (connector='csv', path='{}');\n\
         CREATE TABLE out WITH (connector='single_file', format='csv', path='{}', header='false', type='sink');\n\
         INSERT INTO out SELECT auction, channel FROM many;",
        folder.text("many"),
        folder.text("again.csv")
    );
    let path = folder.write("read.sql", &script)?.display().to_string();
    succeeds(&["run", &path, "--until-end"])?;
    let sorted = |text: &str| {
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    same("read back", &sorted(&bare), &sorted(&fs::read_to_string(folder.path("again.csv"))?))
}

/// A value of CSV may have line breaks, also where a file is divided and beside bad rows.
pub(crate) fn csv_line_breaks() -> Result {
    let folder = Folder::new()?;
    let text = |number: usize| format!("{number},\"first line of a text\nsecond line of it\nthird\"\n");
    let lines: String = (0..30_000).map(text).collect();
    let script = |option: &str| {
        format!(
            "CREATE TABLE t (n BIGINT, txt TEXT) WITH (connector='single_file', path='{}', format='csv'{option});\n\
             SELECT count(*) AS n, count(DISTINCT txt) AS texts FROM t GROUP BY tumble(interval '1000 days');",
            folder.text("in.csv")
        )
    };
    for (bad, option) in [("", ""), ("x,bad\n", ", bad_data='drop'")] {
        folder.write("in.csv", &format!("n,txt\n{bad}{lines}"))?;
        let path = folder.write("s.sql", &script(option))?.display().to_string();
        let rows = succeeds(&["run", &path, "--until-end"])?;
        if rows != "{\"n\":30000,\"texts\":1}\n" {
            return Err(format!("{option}: {rows}").into());
        }
    }
    Ok(())
}

/// Runs with one state read each file once, whatever its time, and refuse a file that has changed.
pub(crate) fn files_over_runs() -> Result {
    let folder = Folder::new()?;
    fs::create_dir(folder.path("in"))?;
    let script = format!(
        "CREATE TABLE t (v TEXT) WITH (connector='json', path='{}');\n\
         CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\nINSERT INTO out SELECT v FROM t;",
        folder.text("in"),
        folder.text("out.json")
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let state = folder.text("state");
    let arguments = ["run", &script, "--until-end", "--state", &state];
    let put = |name: &str, value: &str, seconds: i64| -> Result {
        let path = folder.write(&format!("in/{name}.json"), &format!("{{\"v\":\"{value}\"}}\n"))?;
        let time = fs::metadata(&path)?.modified()?;
        let shift = Duration::from_secs(seconds.unsigned_abs());
        let time = if seconds < 0 { time - shift } else { time + shift };
        Ok(fs::File::options().write(true).open(path)?.set_modified(time)?)
    };
    let check = |expected: &[&str]| -> Result {
        let expected: Vec<String> = expected.iter().map(|value| format!("{{\"v\":\"{value}\"}}")).collect();
        same("rows", &expected, &rows(&folder.path("out.json"))?)
    };
    put("a", "a", 0)?;
    put("future", "b", 3600)?;
    succeeds(&arguments)?;
    check(&["a", "b"])?;
    put("older", "c", -3600)?;
    put("new", "d", 0)?;
    succeeds(&arguments)?;
    check(&["a", "b", "c", "d"])?;
    fs::create_dir(folder.path("in/done"))?;
    fs::rename(folder.path("in/new.json"), folder.path("in/done/new.json"))?;
    let output = buzz(&arguments)?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !told.contains("in/done/new.json` has the time and size of") {
        return Err(told.into());
    }
    check(&["a", "b", "c", "d"])?;
    put("a", "a and more", 1)?;
    for _ in 0..2 {
        let error = fails(&arguments)?;
        if !error.contains("in/a.json` was read and has changed since") {
            return Err(error.into());
        }
    }
    check(&["a", "b", "c", "d"])
}

/// Epochs of one span of time are in the same files.
pub(crate) fn rolled_sink() -> Result {
    let folder = Folder::new()?;
    let script = |roll: &str, out: &str| {
        format!(
            "CREATE TABLE nexmark WITH (connector='nexmark', events='5000', real_time='false');\nSET epoch_rows = 500;\n\
             CREATE TABLE out WITH (connector='json', path='{}'{roll}, type='sink');\n\
             INSERT INTO out SELECT bid.price AS p, date_time FROM nexmark WHERE bid IS NOT NULL;",
            folder.text(out)
        )
    };
    let files = |out: &str| -> Result<(usize, Vec<String>)> {
        let (mut count, mut rows) = (0, Vec::new());
        for file in folder.files(out)? {
            rows.extend(fs::read_to_string(file)?.lines().map(str::to_string));
            count += 1;
        }
        rows.sort();
        Ok((count, rows))
    };
    let run = |roll: &str, out: &str, more: &[&str]| -> Result {
        let path = folder.write(&format!("{out}.sql"), &script(roll, out))?.display().to_string();
        succeeds(&[&["run", &path, "--until-end"], more].concat())?;
        Ok(())
    };
    run("", "each", &[])?;
    let (count, expected) = files("each")?;
    if count != 10 {
        return Err(format!("{count} files of 10 epochs").into());
    }
    // Without state, and with a state that is left in the middle of a span.
    let state = folder.text("state");
    run(", roll='100 days'", "held", &[])?;
    run(", roll='100 days'", "stored", &["--state", &state, "--epochs", "4"])?;
    run(", roll='100 days'", "stored", &["--state", &state])?;
    for (out, most) in [("held", 2), ("stored", 4)] {
        let (count, rows) = files(out)?;
        if count > most {
            return Err(format!("{out}: {count} files").into());
        }
        same(out, &expected, &rows)?;
    }
    Ok(())
}
