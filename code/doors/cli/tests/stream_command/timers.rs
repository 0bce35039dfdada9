//! Windows that are due while no process runs: their timers fire once, after the next start.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use arrow::temporal_conversions::timestamp_ms_to_datetime;
use buzz_protocol::now_ms;
use serde_json::Value;

use crate::support::{Folder, Result, succeeds};

/// Length of the windows, after which they are due.
const WINDOW_MS: u64 = 2000;

/// A row is in a window that ends while nothing runs. The first run after that emits it, and no later one does.
pub(crate) fn fire_once() -> Result {
    for (kind, time, options) in
        [("event", "t TIMESTAMP, v BIGINT, WATERMARK FOR t", ", idle_timeout = '100ms'"), ("arrival", "v BIGINT", "")]
    {
        let folder = Folder::new()?;
        fs::create_dir(folder.path("in"))?;
        // The row must be read before its window ends, also where processes start slowly.
        while now_ms() % WINDOW_MS > WINDOW_MS / 10 {
            thread::sleep(Duration::from_millis(10));
        }
        let now = timestamp_ms_to_datetime(i64::try_from(now_ms())?).ok_or("the clock has no time")?;
        folder.write("in/a.json", &format!("{{\"t\":\"{now:?}\",\"v\":7}}\n"))?;
        let script = format!(
            "CREATE TABLE t ({time}) WITH (connector = 'json', path = '{}'{options});\n\
             CREATE TABLE o WITH (connector = 'single_file', path = '{}', type = 'sink');\nSET epoch = '50 ms';\n\
             INSERT INTO o SELECT sum(v) AS s, tumble(interval '{WINDOW_MS} milliseconds') AS w FROM t GROUP BY w;",
            folder.text("in"),
            folder.text("out.json"),
        );
        let script = folder.write("s.sql", &script)?.display().to_string();
        let arguments = ["run", &script, "--state", &folder.text("state")];
        // The record of the first epoch has the row, and the process has ended before, or just when, the window is due.
        succeeds(&[&arguments[..], &["--epochs", "1"]].concat())?;
        thread::sleep(Duration::from_millis(WINDOW_MS + 1000));
        if sums(&folder)?.is_empty() {
            succeeds(&[&arguments[..], &["--epochs", "1"]].concat())?;
        }
        if sums(&folder)? != [7] {
            return Err(format!("{kind}: {:?} after the first start", sums(&folder)?).into());
        }
        for _ in 0..2 {
            let mut child = Command::new(env!("CARGO_BIN_EXE_buzz"))
                .arg("stream")
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()?;
            thread::sleep(Duration::from_millis(WINDOW_MS + 1000));
            child.kill()?;
            child.wait()?;
        }
        if sums(&folder)? != [7] {
            return Err(format!("{kind}: {:?} after further starts", sums(&folder)?).into());
        }
    }
    Ok(())
}

/// Returns the sums that the sink has.
fn sums(folder: &Folder) -> Result<Vec<u64>> {
    let text = fs::read_to_string(folder.path("out.json")).unwrap_or_default();
    let sums = text.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?["s"].as_u64().unwrap_or_default()));
    sums.collect()
}
