//! Statements over streams and statements of `buzz sql` over the same rows.

use std::process::{Command, Output};

use crate::support::{Folder, Result, fails, rows, same, succeeds};

const LEFT: &str = r#"{"t":"2024-01-01T00:00:01","k":1,"n":6,"m":0,"s":"a1","userId":7}
{"t":"2024-01-01T00:00:02","k":1,"n":6,"m":2,"s":"b1","userId":8}
{"t":"2024-01-01T00:00:03","k":2,"n":1,"m":3,"s":"c_1","userId":9}
"#;

const RIGHT: &str = r#"{"t":"2024-01-01T00:00:01","k":1,"n":4}
{"t":"2024-01-01T00:00:02","k":3,"n":5}
"#;

/// Statements over a stream, and others over files that have the same rows. `DAY(l)` stands for the rows of `l`: a stream
/// joins the rows of a window, which is a day here.
const STATEMENTS: &[&str] = &[
    "SELECT k, k, userId FROM l",
    "SELECT s SIMILAR TO 'a|b%' AS a, s LIKE '%!_%' ESCAPE '!' AS b, 0.1 + 0.2 = 0.3 AS c, \
     CAST(12345678901234567.89 + n AS VARCHAR) AS d, CAST(t AS TIMESTAMP) < '9999-12-31' AS e, \
     CAST(t AS TIMESTAMP) + n * INTERVAL '1 day' AS f FROM l",
    "SELECT n FROM l WHERE m <> 0 AND n / m >= 1",
    "SELECT l.n FROM l JOIN (SELECT column1 AS k FROM (VALUES (2), (1)) AS v ORDER BY k FETCH FIRST 1 ROW ONLY) AS f ON l.k = f.k",
    "SELECT k, x.k AS xk, y.k AS yk, x.n AS a, y.n AS b FROM DAY(l) AS x FULL JOIN DAY(r) AS y USING (k, e)",
    "SELECT k, x.k AS xk, y.k AS yk, x.n AS a, y.n AS b FROM DAY(l) AS x RIGHT JOIN DAY(r) AS y USING (k, e)",
    "SELECT k FROM (SELECT k, e FROM DAY(l) AS l EXCEPT ALL SELECT k, e FROM DAY(r) AS r)",
    "SELECT sum(n) AS s FROM DAY(l) AS l GROUP BY e",
];

/// Statements that fail on overflow.
const OVERFLOWS: &[&str] = &[
    "SELECT n + 9223372036854775807 AS n FROM l",
    "SELECT sum(n + 9223372036854775801) AS s FROM DAY(l) AS l GROUP BY e",
];

/// Returns `statement` with the rows of a day as a window of a stream, or as all rows of a file.
fn with_days(statement: &str, windows: bool) -> String {
    ["l", "r"].iter().fold(statement.to_string(), |statement, table| {
        let rows = match windows {
            true => format!("(SELECT k, n, window_end AS e FROM TUMBLE({table}, t, INTERVAL '1 day'))"),
            false => format!("(SELECT k, n, 1 AS e FROM {table})"),
        };
        statement.replace(&format!("DAY({table})"), &rows)
    })
}

fn sources(folder: &Folder) -> Result<String> {
    let (left, right) = (folder.write("l.json", LEFT)?, folder.write("r.json", RIGHT)?);
    Ok(format!(
        "CREATE TABLE l (t TIMESTAMP, k BIGINT, n BIGINT, m BIGINT, s TEXT, \"userId\" BIGINT, WATERMARK FOR t) \
         WITH (connector='single_file', path='{}', format='json');\n\
         CREATE TABLE r (t TIMESTAMP, k BIGINT, n BIGINT, WATERMARK FOR t) \
         WITH (connector='single_file', path='{}', format='json');\nSET epoch_rows = 1;\n",
        left.display(),
        right.display()
    ))
}

/// Runs `statement` over the files of `folder` in `buzz sql`.
fn batch(folder: &Folder, statement: &str) -> Result<Output> {
    Ok(Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["sql", &with_days(statement, false), "--format", "ndjson"])
        .args(["--table", &format!("l={}", folder.text("l.json")), "--table", &format!("r={}", folder.text("r.json"))])
        .output()?)
}

pub(crate) fn equal_batch() -> Result {
    let folder = Folder::new()?;
    let mut script = sources(&folder)?;
    for (number, statement) in STATEMENTS.iter().enumerate() {
        script.push_str(&format!(
            "CREATE TABLE out{number} WITH (connector='single_file', path='{}', type='sink');\n\
             INSERT INTO out{number} {};\n",
            folder.text(&format!("out{number}.json")),
            with_days(statement, true)
        ));
    }
    let script = folder.write("s.sql", &script)?.display().to_string();
    succeeds(&["run", &script, "--until-end", "--parallelism", "2"])?;
    for (number, statement) in STATEMENTS.iter().enumerate() {
        let output = batch(&folder, statement)?;
        if !output.status.success() || output.stdout.is_empty() {
            return Err(format!("{statement}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let expected = rows(&folder.write("batch.json", &String::from_utf8(output.stdout)?)?)?;
        same(statement, &expected, &rows(&folder.path(&format!("out{number}.json")))?)?;
    }
    Ok(())
}

pub(crate) fn overflow_is_an_error() -> Result {
    let folder = Folder::new()?;
    let sources = sources(&folder)?;
    for statement in OVERFLOWS {
        let script = folder.write("s.sql", &format!("{sources}{};", with_days(statement, true)))?;
        let script = script.display().to_string();
        let error = fails(&["run", &script, "--until-end"])?;
        let output = batch(&folder, statement)?;
        let expected = String::from_utf8_lossy(&output.stderr);
        let told = "exceeds the type Int64";
        if output.status.success() || !error.contains(told) || !expected.contains(told) {
            return Err(format!("{statement}: {error} instead of {expected}").into());
        }
    }
    Ok(())
}
