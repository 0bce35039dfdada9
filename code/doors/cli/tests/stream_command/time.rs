//! Event time: late rows, idle sources, and windows that wait for the watermark.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::{Folder, Result, buzz, fails, rows, same, succeeds};

pub(crate) fn late_rows() -> Result {
    let folder = Folder::new()?;
    // An epoch of one row takes about 128 bytes of a text file.
    let pad = "x".repeat(100);
    let lines: String = [("01", 1), ("25", 2), ("02", 4), ("26", 8)]
        .map(|(second, v)| format!("{{\"t\":\"2024-01-01T00:00:{second}\",\"v\":{v},\"pad\":\"{pad}\"}}\n"))
        .concat();
    let input = folder.write("in.json", &lines)?;
    let script = format!(
        "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds') WITH \
         (connector='single_file', path='{}', format='json');\nSET epoch_rows = 1;\n\
         SELECT sum(v) AS s, tumble(interval '10 seconds') AS w FROM t GROUP BY w;",
        input.display()
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let output = buzz(&["run", &script, "--until-end"])?;
    let (rows, summary) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let sums: Vec<u64> =
        rows.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["s"].as_u64()).collect();
    if sums == [1, 10] && summary.contains("late: 1") { Ok(()) } else { Err(format!("{rows}{summary}").into()) }
}

pub(crate) fn idle_source() -> Result {
    let folder = Folder::new()?;
    fs::create_dir(folder.path("in"))?;
    folder.write("in/a.json", "{\"t\":\"2024-01-01T00:00:01\",\"v\":1}\n")?;
    let script = format!(
        "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t) WITH (connector='json', path='{}', idle_timeout='1s');\n\
         SET epoch = '200 ms';\nSELECT sum(v) AS s, tumble(interval '10 seconds') AS w FROM t GROUP BY w;",
        folder.text("in")
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    // The second epoch is the one that closes the window.
    let out = succeeds(&["run", &script, "--epochs", "2"])?;
    if out.contains("\"s\":1") { Ok(()) } else { Err(out.into()) }
}

/// The end of a run closes its windows, and not those of the rows that a later run reads.
pub(crate) fn windows_after_an_end() -> Result {
    let folder = Folder::new()?;
    for window in ["tumble(interval '10 seconds')", "session(interval '10 seconds')"] {
        drop(fs::remove_dir_all(folder.path("in")));
        fs::create_dir(folder.path("in"))?;
        folder.write("in/a.json", &timed_rows(&[(1, 1), (11, 2)]))?;
        let script = format!(
            "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t) WITH (connector='json', path='{}');\n\
             SELECT sum(v) AS s, {window} AS w FROM t GROUP BY w;",
            folder.text("in")
        );
        let script = folder.write("s.sql", &script)?.display().to_string();
        let state = folder.text(&window[..4]);
        let arguments = ["run", &script, "--until-end", "--state", &state];
        let sums = |out: &std::process::Output| -> Vec<u64> {
            let rows = String::from_utf8_lossy(&out.stdout).into_owned();
            rows.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["s"].as_u64()).collect()
        };
        let first = buzz(&arguments)?;
        if sums(&first).iter().sum::<u64>() != 3 {
            return Err(format!("{first:?}").into());
        }
        // One row belongs to a closed window, and one to a new one.
        folder.write("in/b.json", &timed_rows(&[(12, 8), (55, 4)]))?;
        let second = buzz(&arguments)?;
        if sums(&second) != [4] || !String::from_utf8_lossy(&second.stderr).contains("late: 1") {
            return Err(format!("{window}: {second:?}").into());
        }
        let none = buzz(&arguments)?;
        if !none.status.success() || !sums(&none).is_empty() {
            return Err(format!("{none:?}").into());
        }
    }
    Ok(())
}

/// A wide window of one statement, and a second window over closed ones, do not make rows late for other windows.
pub(crate) fn windows_after_an_end_are_those_of_each_statement() -> Result {
    let folder = Folder::new()?;
    fs::create_dir(folder.path("in"))?;
    folder.write("in/a.json", &timed_rows(&[(3, 1)]))?;
    let sink = |name: &str| {
        let path = folder.text(name);
        format!("CREATE TABLE {name} WITH (connector='json', path='{path}', type='sink');\n")
    };
    let counted = "SELECT count(*) AS n, tumble(interval '10 seconds') AS w FROM t GROUP BY w";
    let script = format!(
        "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t) WITH (connector='json', path='{}');\n{}{}{}\
         CREATE VIEW a AS {counted};\nCREATE VIEW b AS {counted};\n\
         INSERT INTO short {counted};\n\
         INSERT INTO long SELECT count(*) AS n, tumble(interval '1 day') AS w FROM t GROUP BY w;\n\
         INSERT INTO joined SELECT a.n, b.n AS m, a.w FROM a JOIN b ON a.w = b.w;",
        folder.text("in"),
        sink("short"),
        sink("long"),
        sink("joined")
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    folder.write("in/b.json", &timed_rows(&[(13, 1), (33, 1)]))?;
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let lines = |name: &str| -> Result<usize> {
        let mut count = 0;
        for file in glob::glob(&format!("{}/**/*.json", folder.text(name)))? {
            count += fs::read_to_string(file?)?.lines().count();
        }
        Ok(count)
    };
    let counts = (lines("short")?, lines("joined")?, lines("long")?);
    if counts == (3, 3, 1) { Ok(()) } else { Err(format!("{counts:?}").into()) }
}

pub(crate) const PAD: &str =
    "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";

/// Rows of which an epoch of one row takes about one: with times in seconds of 2024-01-01T00:00.
pub(crate) fn timed_rows(rows: &[(u32, i64)]) -> String {
    let line =
        |(second, v): &(u32, i64)| format!("{{\"t\":\"2024-01-01T00:00:{second:02}\",\"v\":{v},\"pad\":\"{PAD}\"}}\n");
    rows.iter().map(line).collect()
}

pub(crate) fn side_tables() -> Result {
    let folder = Folder::new()?;
    let mut lines = timed_rows(&[(1, 1), (25, 2), (2, 4)]);
    lines.push_str("nonsense\n");
    lines.push_str(&timed_rows(&[(26, 8)]));
    let input = folder.write("in.json", &lines)?;
    let script = format!(
        "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds') WITH \
         (connector='single_file', path='{}', format='json', late='side', bad_data='side');\nSET epoch_rows = 1;\n\
         SELECT 'late' AS kind, v FROM t__late;\nSELECT 'bad' AS kind, text FROM t__bad;\n\
         SELECT sum(v) AS s, tumble(interval '10 seconds') AS w FROM t GROUP BY w;",
        input.display()
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let out = succeeds(&["run", &script, "--until-end"])?;
    let expected =
        ["{\"kind\":\"late\",\"v\":4}\n", "{\"kind\":\"bad\",\"text\":\"nonsense\"}\n", "{\"s\":1,", "{\"s\":10,"];
    if expected.iter().all(|row| out.contains(row)) && out.lines().count() == 4 { Ok(()) } else { Err(out.into()) }
}

/// A row whose event time is NULL, absent or not readable is bad, for statements with windows and without: what they see
/// is what batch finds in the rows with a time.
pub(crate) fn rows_without_time() -> Result {
    let folder = Folder::new()?;
    let timed = timed_rows(&[(1, 1), (2, 16)]);
    let null = "{\"t\":null,\"v\":2}\n{\"v\":4}\n";
    let input = folder.write("in.json", &format!("{null}{{\"t\":\"yesterday\",\"v\":8}}\n{timed}"))?;
    let script = |bad_data: &str, rest: &str| {
        let text = format!(
            "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t) WITH (connector='single_file', path='{}', \
             format='json', bad_data='{bad_data}');\n{rest}",
            input.display()
        );
        Ok::<_, libtest_mimic::Failed>(folder.write("s.sql", &text)?.display().to_string())
    };
    let sink = |name: &str, select: &str| {
        let path = folder.text(&format!("{name}.json"));
        format!(
            "CREATE TABLE {name} WITH (connector='single_file', path='{path}', type='sink');\nINSERT INTO {name} {select};\n"
        )
    };
    let statements = [
        sink("plain", "SELECT v FROM t"),
        sink("held", "SELECT v FROM t EMIT ON WINDOW CLOSE"),
        sink("total", "SELECT sum(v) AS s FROM t GROUP BY tumble(interval '1 day')"),
        sink("grown", "SELECT sum(v) AS s FROM t GROUP BY session(interval '1 day')"),
    ];
    let output = buzz(&["run", &script("drop", &statements.concat())?, "--until-end"])?;
    let summary = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() || !summary.contains("bad: 3") {
        return Err(format!("{summary}").into());
    }
    for (sinks, select) in [(["plain", "held"], "v"), (["total", "grown"], "sum(v) AS s")] {
        let sql = format!("SELECT {select} FROM t WHERE try_cast(t AS TIMESTAMP) IS NOT NULL");
        let table = format!("t={}", input.display());
        let arguments = ["sql", &sql, "--format", "ndjson", "--table", &table];
        let batch = Command::new(env!("CARGO_BIN_EXE_buzz")).args(arguments).output()?;
        let batch = folder.write("batch.json", &String::from_utf8(batch.stdout)?)?;
        for sink in sinks {
            same(sink, &rows(&batch)?, &rows(&folder.path(&format!("{sink}.json")))?)?;
        }
    }
    let out =
        succeeds(&["run", &script("side", "SELECT v FROM t;\nSELECT text, reason FROM t__bad;")?, "--until-end"])?;
    let null = "its event time `t` is NULL";
    let count = |part: &str| out.lines().filter(|line| line.contains(part)).count();
    if out.lines().count() != 5 || count(null) != 2 || count("yesterday") != 1 || count("v: 4") != 1 {
        return Err(out.into());
    }
    folder.write("in.json", &format!("{timed}{{\"v\":4}}\n"))?;
    let error = fails(&["run", &script("fail", "SELECT v FROM t;")?, "--until-end"])?;
    if error.contains(null) && error.contains("bad_data = 'drop'") { Ok(()) } else { Err(error.into()) }
}

pub(crate) fn emit_on_window_close() -> Result {
    let folder = Folder::new()?;
    let input = folder.write("in.json", &timed_rows(&[(1, 1), (3, 2), (2, 3), (12, 4), (30, 5)]))?;
    let script = format!(
        "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds') WITH \
         (connector='single_file', path='{}', format='json');\nSET epoch_rows = 1;\n\
         SELECT v FROM t EMIT ON WINDOW CLOSE;",
        input.display()
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let state = folder.text("state");
    // With the fourth row the watermark is at 7 s, with the fifth at 25 s.
    let first = succeeds(&["run", &script, "--until-end", "--state", &state, "--epochs", "4"])?;
    let rest = succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let numbers = |text: &str| {
        let mut numbers: Vec<i64> =
            text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["v"].as_i64()).collect();
        numbers.sort();
        numbers
    };
    // The rows of the last epoch before the stop may be printed again.
    if numbers(&first) == [1, 2, 3] && numbers(&rest).ends_with(&[4, 5]) {
        Ok(())
    } else {
        Err(format!("{first}\n{rest}").into())
    }
}

/// A source that is ahead of another one in event time waits for it.
pub(crate) fn max_drift() -> Result {
    let folder = Folder::new()?;
    let fast: Vec<(u32, i64)> = (0..40).map(|second| (second, 1)).collect();
    let slow: Vec<(u32, i64)> = (0..80).map(|half| (half / 2, 1)).collect();
    let source = |name: &str, rows: &[(u32, i64)], option: &str| -> Result<String> {
        let path = folder.write(&format!("{name}.json"), &timed_rows(rows))?;
        Ok(format!(
            "CREATE TABLE {name} (t TIMESTAMP, v BIGINT, WATERMARK FOR t) WITH (connector='single_file', path='{}', \
             format='json'{option});\n",
            path.display()
        ))
    };
    let script = format!(
        "{}{}SET epoch_rows = 1;\nSELECT l.n AS l, r.n AS r FROM \
         (SELECT count(*) AS n, tumble(interval '10 seconds') AS w FROM fast GROUP BY w) AS l JOIN \
         (SELECT count(*) AS n, tumble(interval '10 seconds') AS w FROM slow GROUP BY w) AS r ON l.w = r.w;",
        source("fast", &fast, ", max_drift='3 seconds'")?,
        source("slow", &slow, "")?
    );
    let script = folder.write("s.sql", &script)?.display().to_string();
    let state = folder.text("state");
    let output = buzz(&["run", &script, "--until-end", "--state", &state])?;
    let (rows, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if rows != "{\"l\":10,\"r\":20}\n".repeat(4) || told.matches("waits for slower sources").count() != 1 {
        return Err(format!("{rows}{told}").into());
    }
    let mut most = 0;
    for file in fs::read_dir(folder.path("state/pipelines/s/v1/epochs"))? {
        let record: Value = serde_json::from_str(&fs::read_to_string(file?.path())?)?;
        let mark = |name: &str| record["watermarks"][name].as_i64().unwrap_or_default();
        if mark("fast") < i64::MAX / 1000 {
            most = most.max(mark("fast") - mark("slow"));
        }
    }
    // One epoch of one row goes beyond the bound.
    if most <= 4_000_000 && most > 0 { Ok(()) } else { Err(format!("{most} microseconds ahead").into()) }
}

/// Windows that close in one epoch are printed in their order, whatever the number of workers.
pub(crate) fn order_of_windows() -> Result {
    let folder = Folder::new()?;
    let source = "CREATE TABLE nexmark WITH (connector='nexmark', events='5000', real_time='false', disorder='1s');\n";
    let statements = [
        "SELECT bid.auction % 5 AS a, tumble(interval '1 second') AS w FROM nexmark WHERE bid IS NOT NULL GROUP BY 1, w;",
        "SELECT bid.auction % 5 AS a, session(interval '100 milliseconds') AS w FROM nexmark WHERE bid IS NOT NULL \
         GROUP BY 1, w;",
        "SELECT * FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY w ORDER BY n DESC) AS r FROM (SELECT bid.auction AS a, \
         count(*) AS n, hop(interval '1 second', interval '3 seconds') AS w FROM nexmark WHERE bid IS NOT NULL \
         GROUP BY 1, w)) WHERE r <= 3;",
    ];
    for statement in statements {
        let script = folder.write("s.sql", &format!("{source}{statement}"))?.display().to_string();
        let out = succeeds(&["run", &script, "--until-end", "--parallelism", "4"])?;
        let rows = out.lines().map(serde_json::from_str::<Value>).collect::<std::result::Result<Vec<_>, _>>()?;
        let ends: Vec<&str> = rows.iter().filter_map(|row| row["w"]["end"].as_str()).collect();
        if ends.len() < 50 || ends.len() != rows.len() || !ends.is_sorted() {
            return Err(format!("{statement}\n{out}").into());
        }
        // Ranks of a window are in order too.
        let ranks: Vec<u64> = rows.iter().filter_map(|row| row["r"].as_u64()).collect();
        if !ranks.chunks(3).all(|ranks| ranks == [1, 2, 3]) {
            return Err(format!("{ranks:?}").into());
        }
    }
    Ok(())
}

/// A row whose window does not fit into 64-bit nanoseconds is bad, and a window that fits nowhere is refused.
pub(crate) fn ends_of_time() -> Result {
    let folder = Folder::new()?;
    let lines: String = [("2024-01-01T00:00:01", 1), ("2262-04-11T23:47:16", 2), ("1677-09-21T00:12:44", 4)]
        .map(|(time, v)| format!("{{\"t\":\"{time}\",\"v\":{v}}}\n"))
        .concat();
    let input = folder.write("in.json", &lines)?;
    let script = |option: &str, rest: &str| {
        let text = format!(
            "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t AS t - INTERVAL '5 seconds') WITH \
             (connector='single_file', path='{}', format='json'{option});\n{rest}",
            input.display()
        );
        Ok::<_, libtest_mimic::Failed>(folder.write("s.sql", &text)?.display().to_string())
    };
    for window in ["tumble(interval '10 seconds')", "hop(interval '2 seconds', interval '10 seconds')"] {
        let select = format!("SELECT max(v) AS m, {window} AS w FROM t GROUP BY w;");
        let error = fails(&["run", &script("", &select)?, "--until-end"])?;
        if !error.contains("event time 2262-04-11T23:47:16 do not fit") || !error.contains("bad_data = 'drop'") {
            return Err(error.into());
        }
        let output = buzz(&["run", &script(", bad_data='drop'", &select)?, "--until-end"])?;
        let (rows, summary) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if rows.is_empty() || rows.lines().any(|row| !row.starts_with("{\"m\":1,")) || !summary.contains("bad: 2") {
            return Err(format!("{window}: {rows}{summary}").into());
        }
    }
    let session =
        "SELECT max(v) AS m, session(interval '10 seconds') AS w FROM t GROUP BY w;\nSELECT text, reason FROM t__bad;";
    let out = succeeds(&["run", &script(", bad_data='side'", session)?, "--until-end"])?;
    let bad = ["\"text\":\"t: 2262-04-11T23:47:16, v: 2\"", "\"text\":\"t: 1677-09-21T00:12:44, v: 4\""];
    if !bad.iter().all(|row| out.contains(row)) || out.lines().count() != 3 || !out.contains("{\"m\":1,") {
        return Err(out.into());
    }
    for window in ["tumble(interval '107000 days')", "session(interval '88000 days')"] {
        let select = format!("SELECT max(v) AS m, {window} AS w FROM t GROUP BY w;");
        let error = fails(&["check", &script("", &select)?])?;
        if !error.contains("a window has at most 36500 d") {
            return Err(error.into());
        }
    }
    Ok(())
}

/// `event_time_field` and `watermark_field` name a quoted column as it is, and another one in lower case.
pub(crate) fn event_time_option() -> Result {
    let folder = Folder::new()?;
    for (column, key) in [("\"eventTime\"", "eventTime"), ("eventTime", "eventtime")] {
        let line = format!("{{\"{key}\":\"2024-01-01T00:00:01\",\"v\":1}}\n");
        let input = folder.write("in.json", &line)?;
        let script = format!(
            "CREATE TABLE t ({column} TIMESTAMP, v BIGINT) WITH (connector='single_file', path='{}', format='json', \
             event_time_field='eventTime', watermark_field='eventTime');\n\
             SELECT sum(v) AS s, tumble(interval '10 seconds') AS w FROM t GROUP BY w;",
            input.display()
        );
        let script = folder.write("s.sql", &script)?.display().to_string();
        let out = succeeds(&["run", &script, "--until-end"])?;
        if out != "{\"s\":1,\"w\":{\"start\":\"2024-01-01T00:00:00\",\"end\":\"2024-01-01T00:00:10\"}}\n" {
            return Err(format!("{column}: {out}").into());
        }
    }
    Ok(())
}
