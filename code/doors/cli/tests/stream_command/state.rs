//! Runs with state: kills, two processes at once, other scripts, and the size of the state.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use crate::support::{Folder, Result, buzz, fails, rows, same, succeeds};
use crate::time::timed_rows;

/// Statements whose rows do not depend on when they run.
pub(crate) fn scripts(folder: &Folder, events: u64) -> [String; 5] {
    let source = format!(
        "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='1000', events='{events}', real_time='false', \
         disorder='2s');\nSET epoch_rows = 300;\n"
    );
    let json = |name: &str| {
        format!(
            "CREATE TABLE out WITH (connector='single_file', path='{}', format='json', type='sink');\n",
            folder.text(name)
        )
    };
    let parquet =
        format!("CREATE TABLE out WITH (connector='parquet', path='{}', type='sink');\n", folder.text("out-2"));
    [
        format!(
            "{source}{}INSERT INTO out SELECT bid.auction % 50 AS a, count(*) AS n, sum(bid.price) AS s, \
             tumble(interval '1 second') AS w FROM nexmark WHERE bid IS NOT NULL GROUP BY 1, w;",
            json("out-0")
        ),
        format!(
            "{source}{}INSERT INTO out SELECT bid.bidder % 90 AS b, count(*) AS n, session(interval '300 milliseconds') AS w \
             FROM nexmark WHERE bid IS NOT NULL GROUP BY 1, w;",
            json("out-1")
        ),
        format!(
            "{source}{parquet}INSERT INTO out SELECT auction, n, w.start AS start FROM (SELECT *, ROW_NUMBER() OVER (PARTITION BY w \
             ORDER BY n DESC, auction) AS r FROM (SELECT bid.auction AS auction, count(*) AS n, \
             hop(interval '500 milliseconds', interval '2 seconds') AS w FROM nexmark WHERE bid IS NOT NULL GROUP BY 1, w)) \
             WHERE r <= 3;"
        ),
        format!(
            "{source}CREATE TABLE out WITH (connector='json', path='{}', partition_by='channel', roll='150 ms', \
             type='sink');\nINSERT INTO out SELECT bid.channel AS channel, bid.price AS price, bid.bidder AS bidder, date_time \
             FROM nexmark WHERE bid.price % 3 = 0;",
            folder.text("out-3")
        ),
        format!(
            "{source}CREATE TABLE out WITH (connector='delta', path='{}', type='sink');\nINSERT INTO out SELECT \
             bid.auction % 20 AS a, count(*) AS n, max(bid.price) AS price, tumble(interval '1 second') AS w FROM nexmark \
             WHERE bid IS NOT NULL GROUP BY 1, w;",
            folder.text("out-4")
        ),
    ]
}

/// The rows of output `index`: JSON lines, or the rows of a folder as `buzz sql` prints them.
pub(crate) fn output_rows(folder: &Folder, index: usize) -> Result<Vec<String>> {
    if index < 2 {
        return rows(&folder.path(&format!("out-{index}")));
    }
    let output = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["sql", "SELECT * FROM t", "--format", "ndjson", "--table"])
        .arg(format!("t={}", folder.text(&format!("out-{index}"))))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let mut rows: Vec<String> = String::from_utf8(output.stdout)?.lines().map(str::to_string).collect();
    rows.sort();
    Ok(rows)
}

pub(crate) fn kills() -> Result {
    let kills: usize = std::env::var("BUZZ_STREAM_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(24);
    let (still, killed) = (Folder::new()?, Folder::new()?);
    let events = 20_000;
    let mut rng = StdRng::seed_from_u64(kills as u64);
    let mut count = 0;
    let mut rounds = 0;
    while count < kills {
        rounds += 1;
        for index in 0..5 {
            let script = still.write(&format!("s{index}.sql"), &scripts(&still, events)[index])?;
            if rounds == 1 {
                succeeds(&["run", &script.display().to_string(), "--until-end"])?;
            }
            let script =
                killed.write(&format!("s{index}.sql"), &scripts(&killed, events)[index])?.display().to_string();
            let state = killed.text(&format!("state-{rounds}"));
            for _ in 0..kills.div_ceil(5).min(6) {
                let workers = rng.random_range(1..5).to_string();
                let mut child = Command::new(env!("CARGO_BIN_EXE_buzz"))
                    .args(["stream", "run", &script, "--until-end", "--state", &state, "--parallelism", &workers])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()?;
                std::thread::sleep(Duration::from_millis(rng.random_range(10..250)));
                // SIGKILL: the process does not notice.
                child.kill()?;
                child.wait()?;
                count += 1;
            }
            succeeds(&["run", &script, "--until-end", "--state", &state])?;
            same(
                &format!("statement {index} after {count} kills"),
                &output_rows(&still, index)?,
                &output_rows(&killed, index)?,
            )?;
        }
        fs::remove_dir_all(killed.path("out-2"))?;
        fs::remove_dir_all(killed.path("out-3"))?;
        fs::remove_dir_all(killed.path("out-4"))?;
        for file in ["out-0", ".out-0.buzz", "out-1", ".out-1.buzz"] {
            fs::remove_file(killed.path(file))?;
        }
    }
    println!("{count} kills, rows as without");
    Ok(())
}

pub(crate) fn two_processes() -> Result {
    let (alone, both) = (Folder::new()?, Folder::new()?);
    let script = alone.write("s.sql", &scripts(&alone, 20_000)[0])?;
    succeeds(&["run", &script.display().to_string(), "--until-end"])?;
    let script = both.write("s.sql", &scripts(&both, 20_000)[0])?.display().to_string();
    let state = both.text("state");
    let start = || {
        Command::new(env!("CARGO_BIN_EXE_buzz"))
            .args(["stream", "run", &script, "--until-end", "--state", &state])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
    };
    let mut children = [start()?, start()?];
    for child in &mut children {
        child.wait()?;
    }
    // One of them may have stopped because the other was faster.
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    same("two processes", &output_rows(&alone, 0)?, &output_rows(&both, 0)?)
}

/// A process that was stopped, and wakes up when another one has gone on, changes no row.
pub(crate) fn late_process() -> Result {
    for index in [0, 3, 4] {
        let alone = Folder::new()?;
        let script = alone.write("s.sql", &scripts(&alone, 20_000)[index])?;
        succeeds(&["run", &script.display().to_string(), "--until-end"])?;
        let expected = output_rows(&alone, index)?;
        for millis in [40, 90, 180] {
            let folder = Folder::new()?;
            let script = folder.write("s.sql", &scripts(&folder, 20_000)[index])?.display().to_string();
            let state = folder.text("state");
            let mut late = Command::new(env!("CARGO_BIN_EXE_buzz"))
                .args(["stream", "run", &script, "--until-end", "--state", &state])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            let signal =
                |name: &str| Command::new("kill").args([name, &late.id().to_string()]).stderr(Stdio::null()).status();
            std::thread::sleep(Duration::from_millis(millis));
            signal("-STOP")?;
            // The stopped process may hold the lock of a file, so this one is not waited for.
            let mut other = Command::new(env!("CARGO_BIN_EXE_buzz"))
                .args(["stream", "run", &script, "--until-end", "--state", &state])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            std::thread::sleep(Duration::from_millis(150));
            signal("-CONT")?;
            late.wait()?;
            other.wait()?;
            succeeds(&["run", &script, "--until-end", "--state", &state])?;
            same(&format!("statement {index}, stopped after {millis} ms"), &expected, &output_rows(&folder, index)?)?;
        }
    }
    Ok(())
}

pub(crate) fn from_epoch() -> Result {
    let folder = Folder::new()?;
    let script = folder.write("s.sql", &scripts(&folder, 6_000)[0])?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let whole = output_rows(&folder, 0)?;
    let out = buzz(&["run", &script, "--until-end", "--state", &state, "--from-epoch", "10"])?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned().into());
    }
    let told = String::from_utf8_lossy(&out.stderr).into_owned();
    if !told.contains("warning: sink out has rows of epochs through ") || !told.contains("after epoch 10 again") {
        return Err(told.into());
    }
    // The target keeps what it has, and gets the rows after epoch 10 again.
    let again = output_rows(&folder, 0)?;
    let distinct: BTreeSet<&String> = again.iter().collect();
    if again.len() > whole.len() && distinct == whole.iter().collect() {
        Ok(())
    } else {
        Err(format!("{} rows", again.len()).into())
    }
}

pub(crate) fn other_script() -> Result {
    let folder = Folder::new()?;
    let first = scripts(&folder, 2_000)[0].clone();
    let script = folder.write("s.sql", &first)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    folder.write("s.sql", &first.replace("% 50", "% 10"))?;
    let again = buzz(&["run", &script, "--until-end", "--state", &state])?;
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    if !again.status.success() || !told.contains("version 2 starts without state") {
        return Err(told.into());
    }
    let epochs = succeeds(&["epochs", "--state", &state])?;
    if epochs.contains("version 2") { Ok(()) } else { Err(epochs.into()) }
}

/// A file that a pipeline did not write, or whose record is missing, stays as it is.
pub(crate) fn file_of_others() -> Result {
    let folder = Folder::new()?;
    let script = folder.write("s.sql", &scripts(&folder, 6_000)[0])?.display().to_string();
    let file = folder.write("out-0", "precious")?;
    let state = folder.text("state");
    for arguments in [vec!["check", &script], vec!["run", &script, "--until-end", "--state", &state]] {
        let error = fails(&arguments)?;
        if !error.contains("has 8 bytes") || !error.contains("move the file away") || !folder.path("out-0").exists() {
            return Err(error.into());
        }
    }
    if fs::read_to_string(&file)? != "precious" {
        return Err("the file has changed".into());
    }
    fs::remove_file(&file)?;
    succeeds(&["run", &script, "--until-end", "--state", &state, "--epochs", "15"])?;
    let before = fs::read_to_string(&file)?;
    // Another pipeline.
    let error = fails(&["run", &script, "--until-end"])?;
    if !error.contains("of another run") {
        return Err(error.into());
    }
    // The state knows what it wrote, and the record does not exist.
    fs::rename(folder.path(".out-0.buzz"), folder.path("kept"))?;
    let error = fails(&["run", &script, "--until-end", "--state", &state])?;
    if before.is_empty() || fs::read_to_string(&file)? != before || !error.contains("restore `") {
        return Err(error.into());
    }
    fs::rename(folder.path("kept"), folder.path(".out-0.buzz"))?;
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let alone = Folder::new()?;
    let script = alone.write("s.sql", &scripts(&alone, 6_000)[0])?.display().to_string();
    succeeds(&["run", &script, "--until-end"])?;
    same("after the repair", &output_rows(&alone, 0)?, &output_rows(&folder, 0)?)
}

/// White space and comments are not the script: the run goes on, and reads nothing again.
pub(crate) fn same_statements() -> Result {
    let folder = Folder::new()?;
    let first = scripts(&folder, 2_000)[0].clone();
    let script = folder.write("s.sql", &first)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let whole = output_rows(&folder, 0)?;
    let changed = first.replace("FROM nexmark", "-- all bids\n  FROM /* the auction house */ nexmark");
    folder.write("s.sql", &format!("\n\n{changed}\n;"))?;
    let again = buzz(&["run", &script, "--until-end", "--state", &state])?;
    let told = String::from_utf8_lossy(&again.stderr).into_owned();
    if !again.status.success() || told.contains("version") || !told.contains("rows in: 0") {
        return Err(told.into());
    }
    same("with a comment", &whole, &output_rows(&folder, 0)?)
}

/// Rows that a run left in its state come into their sink although the next run has another script.
pub(crate) fn rows_before_another_script() -> Result {
    let folder = Folder::new()?;
    let script = |condition: &str| {
        format!(
            "CREATE TABLE nexmark WITH (connector='nexmark', events='3000', real_time='false');\n\
             CREATE TABLE out WITH (connector='json', path='{}', type='sink');\nSET epoch_rows = 1000;\n\
             INSERT INTO out SELECT bid.price AS p FROM nexmark WHERE {condition};",
            folder.text("out")
        )
    };
    let path = folder.write("s.sql", &script("bid IS NOT NULL"))?.display().to_string();
    // A file in the place of the folder makes every write fail, after the record of the first epoch.
    let file = folder.write("out", "")?;
    let arguments = ["run", &path, "--until-end", "--state", &folder.text("state")];
    fails(&arguments)?;
    fs::remove_file(file)?;
    folder.write("s.sql", &script("bid.price < 0"))?;
    succeeds(&arguments)?;
    let mut count = 0;
    for file in folder.files("out")? {
        count += fs::read_to_string(file)?.lines().count();
    }
    if count == 920 { Ok(()) } else { Err(format!("{count} rows instead of 920").into()) }
}

/// Rows that make a statement fail end the run, or are left out with `on_error`.
pub(crate) fn failing_rows() -> Result {
    let folder = Folder::new()?;
    let input = folder.write("in.json", &timed_rows(&[(1, 5), (2, 0), (3, 2), (14, 1), (25, 4), (26, 4)]))?;
    let script = |setting: &str, statement: &str| {
        format!(
            "CREATE TABLE t (t TIMESTAMP, v BIGINT, WATERMARK FOR t) WITH (connector='single_file', path='{}', \
             format='json');\nSET epoch_rows = 1;\n{setting}{statement}",
            input.display()
        )
    };
    let path = folder.write("s.sql", &script("", "SELECT 100 / v AS q FROM t;"))?.display().to_string();
    let error = fails(&["run", &path, "--until-end"])?;
    if !error.contains("division by zero") || !error.contains("epoch 2, source t from {") {
        return Err(error.into());
    }
    let state = folder.text("state");
    let skip = "SET on_error = 'skip_epoch';\n";
    folder.write("s.sql", &script(skip, "SELECT 100 / v AS q FROM t;"))?;
    let output = buzz(&["run", &path, "--until-end", "--state", &state])?;
    let (rows, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let expected = "{\"q\":20}\n{\"q\":50}\n{\"q\":100}\n{\"q\":25}\n{\"q\":25}\n";
    if rows != expected || !told.contains("1 rows are left out") || !told.contains("skipped epochs: 1") {
        return Err(format!("{rows}{told}").into());
    }
    let epochs = succeeds(&["epochs", "--state", &state])?;
    if epochs.matches("skipped").count() != 1 {
        return Err(epochs.into());
    }
    // The window from 10 s has one row, and division by zero: it is left out, and the others are not.
    let statement = "SELECT s / (n - 1) AS q FROM (SELECT sum(v) AS s, count(*) AS n, tumble(interval '10 seconds') AS w \
                     FROM t GROUP BY w);";
    folder.write("s.sql", &script(skip, statement))?;
    let output = buzz(&["run", &path, "--until-end"])?;
    let (rows, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if rows == "{\"q\":3}\n{\"q\":8}\n" && told.contains("the windows that close are left out") {
        Ok(())
    } else {
        Err(format!("{rows}{told}").into())
    }
}

pub(crate) fn bounded_state() -> Result {
    let folder = Folder::new()?;
    // 40,000 slices of 50 ms.
    let script = "CREATE TABLE impulse WITH (connector='impulse', event_rate='100', events='200000', real_time='false');
        CREATE TABLE out WITH (connector='blackhole', type='sink');
        SET epoch_rows = 2000;
        INSERT INTO out SELECT counter % 10 AS k, count(*) AS n, hop(interval '50 milliseconds', interval '200 milliseconds') AS w
        FROM impulse GROUP BY 1, w;";
    let script = folder.write("s.sql", script)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    let epochs = succeeds(&["epochs", "--state", &state, "--last", "60"])?;
    let bytes: Vec<u64> =
        epochs.lines().skip(4).filter_map(|line| line.split_whitespace().nth(5)?.parse().ok()).collect();
    match bytes.iter().max() {
        Some(most) if bytes.len() > 40 && *most < 400_000 => Ok(()),
        _ => Err(format!("{bytes:?}\n{epochs}").into()),
    }
}

/// A key with 90 % of the rows has one row of state per slice.
pub(crate) fn hot_key() -> Result {
    let folder = Folder::new()?;
    let script = "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='10000', events='300000', real_time='false',
            hot_percent='90', keys='1000');
        CREATE TABLE out WITH (connector='blackhole', type='sink');
        SET epoch_rows = 20000;
        INSERT INTO out SELECT bid.auction AS a, count(*) AS n, tumble(interval '1 hour') AS w FROM nexmark GROUP BY 1, w;";
    let script = folder.write("s.sql", script)?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &script, "--until-end", "--state", &state, "--epochs", "14", "--parallelism", "4"])?;
    let record = fs::read_dir(folder.path("state/pipelines/s/v1/epochs"))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .max()
        .ok_or("no record")?;
    let record: Value = serde_json::from_str(&fs::read_to_string(record)?)?;
    let rows: Vec<u64> =
        record["state"].as_array().into_iter().flatten().filter_map(|file| file["rows"].as_u64()).collect();
    // At most 1,001 keys per epoch and partition of the map.
    if !rows.is_empty() && rows.iter().all(|rows| *rows <= 4 * 1_002) {
        Ok(())
    } else {
        Err(format!("{rows:?}").into())
    }
}
