//! Aggregates without a window, whose rows change.

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
