//! Statements without a window: aggregates, whose rows change, and joins, which keep their rows.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::engines::applied;
use crate::support::{Folder, Result, fails, rows, same, succeeds};

fn script(folder: &Folder, options: &str, group: &str) -> String {
    format!(
        "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='1000', events='20000', real_time='false');\n\
         CREATE TABLE out WITH (connector='single_file', path='{}', type='sink'{options});\nSET epoch_rows = 300;\n\
         INSERT INTO out SELECT bid.auction % 50 AS a, count(*) AS n, max(bid.price) AS price FROM nexmark WHERE bid IS NOT NULL \
         GROUP BY 1{group};",
        folder.text("out.json")
    )
}

/// The changes of all runs add up to the rows of one window over everything, also if runs are killed.
pub(crate) fn over_kills() -> Result {
    let (whole, killed) = (Folder::new()?, Folder::new()?);
    let path = whole.write("s.sql", &script(&whole, "", ", tumble(interval '1 day')"))?.display().to_string();
    succeeds(&["run", &path, "--until-end"])?;
    let path = killed.write("s.sql", &script(&killed, ", format='debezium_json'", ""))?.display().to_string();
    let state = killed.text("state");
    for round in 0..6_u64 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_buzz"))
            .args(["stream", "run", &path, "--until-end", "--state", &state, "--parallelism"])
            .arg((round % 3 + 1).to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(40 + 35 * round));
        // SIGKILL: the process does not notice.
        child.kill()?;
        child.wait()?;
    }
    succeeds(&["run", &path, "--until-end", "--state", &state])?;
    // The sources have ended, so another run changes nothing.
    succeeds(&["run", &path, "--until-end", "--state", &state])?;
    same("after kills", &rows(&whole.path("out.json"))?, &applied(&killed.path("out.json"))?)
}

/// A sink of final rows refuses rows that change, and one of changes takes final ones as new. A SELECT prints changes.
pub(crate) fn sinks() -> Result {
    let folder = Folder::new()?;
    let path = folder.write("s.sql", &script(&folder, "", ""))?.display().to_string();
    let error = fails(&["check", &path])?;
    if !error.contains("or write the changes to a table with format = 'debezium_json'") {
        return Err(error.into());
    }
    // Rows of closed windows are new ones.
    let changes = script(&folder, ", format='debezium_json'", ", tumble(interval '1 day')");
    succeeds(&["run", &folder.write("new.sql", &changes)?.display().to_string(), "--until-end"])?;
    let found = applied(&folder.path("out.json"))?;
    if found.len() != 50 {
        return Err(format!("{} rows instead of 50", found.len()).into());
    }
    let text = "CREATE TABLE impulse WITH (connector='impulse', events='4');\nSET epoch_rows = 2;\n\
                SELECT * FROM (SELECT counter % 2 = 0 AS even, count(*) AS n FROM impulse GROUP BY 1) WHERE even;";
    let path = folder.write("print.sql", text)?.display().to_string();
    let expected = "{\"before\":null,\"after\":{\"even\":true,\"n\":1},\"op\":\"c\"}\n\
                    {\"before\":{\"even\":true,\"n\":1},\"after\":{\"even\":true,\"n\":2},\"op\":\"u\"}\n";
    let found = succeeds(&["run", &path, "--until-end"])?;
    if found != expected {
        return Err(format!("{found} instead of {expected}").into());
    }
    let described = succeeds(&["check", &path])?;
    if described.contains("state: one row per key, without end") { Ok(()) } else { Err(described.into()) }
}

/// A row waits for a partner that comes in a later run, although the sources have ended in between.
pub(crate) fn partners_of_later_runs() -> Result {
    let folder = Folder::new()?;
    for side in ["a", "b"] {
        std::fs::create_dir_all(folder.path(side))?;
    }
    folder.write("a/1.json", "{\"k\":1,\"ts\":\"2026-01-01T12:00:00\"}\n{\"k\":1,\"ts\":\"2026-01-01T10:00:00\"}\n")?;
    folder.write("b/1.json", "{\"k\":2,\"ts\":\"2026-01-01T12:00:00\"}\n")?;
    let table = |name: &str| {
        format!(
            "CREATE TABLE {name} (k BIGINT, ts TIMESTAMP, WATERMARK FOR ts) WITH (connector='json', path='{}');",
            folder.text(name)
        )
    };
    let text = format!(
        "{}{}CREATE TABLE out WITH (connector='single_file', path='{}', type='sink'); INSERT INTO out SELECT a.ts AS a, b.ts AS b \
         FROM a JOIN b ON a.k = b.k AND b.ts BETWEEN a.ts AND a.ts + INTERVAL '1 hour';",
        table("a"),
        table("b"),
        folder.text("out.json")
    );
    let path = folder.write("s.sql", &text)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &path, "--until-end", "--state", &state])?;
    folder.write("b/2.json", "{\"k\":1,\"ts\":\"2026-01-01T12:10:00\"}\n")?;
    succeeds(&["run", &path, "--until-end", "--state", &state])?;
    let found = std::fs::read_to_string(folder.path("out.json"))?;
    let expected = "{\"a\":\"2026-01-01T12:00:00\",\"b\":\"2026-01-01T12:10:00\"}\n";
    if found == expected { Ok(()) } else { Err(found.into()) }
}

/// Changes that a sink has written are a source: passed on and aggregated again, straight and over restarts, they add up to
/// the same rows. A window over them is refused, and so is a row that did not come.
pub(crate) fn read_back() -> Result {
    let folder = Folder::new()?;
    let path = folder.write("s.sql", &script(&folder, ", format='debezium_json'", ""))?.display().to_string();
    succeeds(&["run", &path, "--until-end"])?;
    let written = applied(&folder.path("out.json"))?;
    let source = |query: &str, out: &str| {
        format!(
            "CREATE TABLE changes (a BIGINT, n BIGINT, price BIGINT) WITH (connector='single_file', path='{}', \
             format='debezium_json');\n\
             CREATE TABLE out WITH (connector='single_file', path='{}', type='sink', format='debezium_json');\n\
             SET epoch_rows = 50;\nINSERT INTO out {query};",
            folder.text("out.json"),
            folder.text(out)
        )
    };
    let again = folder.write("again.sql", &source("SELECT * FROM changes", "again.json"))?.display().to_string();
    succeeds(&["run", &again, "--until-end"])?;
    same("passed on", &written, &applied(&folder.path("again.json"))?)?;
    let sums = "SELECT a % 7 AS k, sum(n) AS n, max(price) AS price FROM changes GROUP BY 1";
    let state = folder.text("state");
    let summed = folder.write("sums.sql", &source(sums, "sums.json"))?.display().to_string();
    succeeds(&["run", &summed, "--until-end", "--state", &state, "--parallelism", "2", "--epochs", "3"])?;
    succeeds(&["run", &summed, "--until-end", "--state", &state, "--parallelism", "3"])?;
    let direct = "CREATE TABLE out WITH (connector='single_file', path='PATH', type='sink', format='debezium_json');\n\
                  INSERT INTO out SELECT bid.auction % 50 % 7 AS k, count(*) AS n, max(bid.price) AS price FROM nexmark \
                  WHERE bid IS NOT NULL GROUP BY 1;";
    let direct = direct.replace("PATH", &folder.text("direct.json"));
    let generator =
        "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='1000', events='20000', real_time='false');";
    let path = folder.write("direct.sql", &format!("{generator}\n{direct}"))?.display().to_string();
    succeeds(&["run", &path, "--until-end"])?;
    same("aggregated", &applied(&folder.path("direct.json"))?, &applied(&folder.path("sums.json"))?)?;

    let window = source("SELECT count(*) AS n, tumble(interval '1 second') AS w FROM changes GROUP BY w", "w.json");
    let error = fails(&["check", &folder.write("w.sql", &window)?.display().to_string()])?;
    if !error.contains("a window closes once, and its rows could change later") {
        return Err(error.into());
    }
    folder.write("out.json", "{\"before\":{\"a\":1,\"n\":2},\"after\":null,\"op\":\"d\"}\n")?;
    let gone = folder.write("gone.sql", &source(sums, "gone.json"))?.display().to_string();
    let error = fails(&["run", &gone, "--until-end"])?;
    if error.contains("a row is taken away that did not come before") { Ok(()) } else { Err(error.into()) }
}
