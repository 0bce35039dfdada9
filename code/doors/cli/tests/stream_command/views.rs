//! Materialized views: batch queries read the rows of a pipeline as of its newest epoch.

use std::process::{Command, Stdio};
use std::time::Duration;

use crate::delta::table_rows;
use crate::state::output_rows;
use crate::support::{Folder, Result, fails, same, succeeds};

const SOURCE: &str = "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='1000', events='12000', real_time='false');\n\
                      SET epoch_rows = 300;\n";

/// Selects of views, the last of which reads another one.
const VIEWS: [(&str, &str); 5] = [
    ("bids", "SELECT bid.auction AS auction, bid.price AS price, date_time FROM nexmark WHERE bid.price % 3 = 0"),
    (
        "windows",
        "SELECT bid.channel AS channel, count(*) AS n, window_start FROM TUMBLE(nexmark, date_time, INTERVAL '1' SECOND) \
                 WHERE bid IS NOT NULL GROUP BY bid.channel, window_start",
    ),
    (
        "counts",
        "SELECT bid.auction % 50 AS a, count(*) AS n, max(bid.price) AS price FROM nexmark WHERE bid IS NOT NULL GROUP BY 1",
    ),
    (
        "best",
        "SELECT auction, price FROM (SELECT bid.auction AS auction, bid.price AS price, row_number() OVER (PARTITION BY \
              bid.auction ORDER BY bid.price DESC) AS r FROM nexmark WHERE bid IS NOT NULL) WHERE r <= 2",
    ),
    ("totals", "SELECT n % 7 AS n, count(*) AS auctions FROM counts GROUP BY 1"),
];

fn script() -> String {
    let views = VIEWS.map(|(name, select)| format!("CREATE MATERIALIZED VIEW {name} AS {select};\n"));
    format!("{SOURCE}{}", views.concat())
}

/// Returns the rows that batch has for each view, over the events of the source.
fn batch(folder: &Folder) -> Result<Vec<Vec<String>>> {
    let events = format!(
        "{SOURCE}CREATE TABLE out WITH (connector='parquet', path='{}', type='sink'); INSERT INTO out SELECT * FROM nexmark;",
        folder.text("out-2")
    );
    succeeds(&["run", &folder.write("events.sql", &events)?.display().to_string(), "--until-end"])?;
    if output_rows(folder, 2)?.len() != 12_000 {
        return Err("not all events are written".into());
    }
    let windows = "SELECT bid.channel AS channel, count(*) AS n, date_trunc('second', date_time) AS window_start FROM nexmark \
                   WHERE bid IS NOT NULL GROUP BY 1, 3";
    let totals = format!("WITH counts AS ({}) {}", VIEWS[2].1, VIEWS[4].1);
    let selects = [VIEWS[0].1, windows, VIEWS[2].1, VIEWS[3].1, totals.as_str()];
    selects.iter().map(|select| query(select, &format!("nexmark={}", folder.text("out-2")))).collect()
}

fn query(select: &str, table: &str) -> Result<Vec<String>> {
    let output = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["sql", select, "--format", "ndjson", "--table", table])
        .output()?;
    if !output.status.success() {
        return Err(format!("{select}: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    let text = String::from_utf8(output.stdout)?;
    let lines = text.lines().map(|line| Ok(crate::support::normal(&serde_json::from_str(line)?).to_string()));
    let mut rows = lines.collect::<Result<Vec<String>>>()?;
    rows.sort();
    Ok(rows)
}

fn place(folder: &Folder, name: &str) -> String {
    folder.text(&format!("state/pipelines/top/views/{name}"))
}

/// After kills and with other workers, the rows of each view are those of batch. Views of the newest epoch can be read at any time.
pub(crate) fn equal_batch() -> Result {
    let folder = Folder::new()?;
    let path = folder.write("s.sql", &script())?.display().to_string();
    let state = folder.text("state");
    succeeds(&["run", &path, "--until-end", "--state", &state, "--name", "top", "--epochs", "1"])?;
    let first = table_rows(&place(&folder, "bids"))?;
    for round in 0..5_u64 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_buzz"))
            .args(["stream", "run", &path, "--until-end", "--state", &state, "--name", "top", "--parallelism"])
            .arg((round % 3 + 1).to_string())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        std::thread::sleep(Duration::from_millis(60 + 50 * round));
        // SIGKILL: the process does not notice.
        child.kill()?;
        child.wait()?;
        table_rows(&place(&folder, "best"))?;
    }
    succeeds(&["run", &path, "--until-end", "--state", &state, "--name", "top"])?;
    let last = table_rows(&place(&folder, "bids"))?;
    if first.is_empty() || first.len() >= last.len() {
        return Err(format!("{} rows after an epoch, {} at the end", first.len(), last.len()).into());
    }
    for ((name, _), expected) in VIEWS.iter().zip(batch(&folder)?) {
        same(name, &expected, &table_rows(&place(&folder, name))?)?;
    }
    // A filter and an aggregate over a view, with statistics.
    let found =
        query("SELECT count(*) AS n, max(a) AS a FROM v WHERE a < 10", &format!("v={}", place(&folder, "counts")))?;
    same("counts below 10", &["{\"a\":9,\"n\":10}".to_string()], &found)
}

/// Going back, another script, and views that do not exist.
pub(crate) fn versions() -> Result {
    let folder = Folder::new()?;
    let path = folder.write("s.sql", &script())?.display().to_string();
    let error = fails(&["run", &path, "--until-end"])?;
    if !error.contains("a materialized view are kept in the state of the pipeline, and it has none; add --state URI") {
        return Err(error.into());
    }
    let state = folder.text("state");
    let run = ["run", &path, "--until-end", "--state", &state, "--name", "top"];
    succeeds(&[&run[..], &["--epochs", "5"]].concat())?;
    let (counts, bids) = (table_rows(&place(&folder, "counts"))?, table_rows(&place(&folder, "bids"))?);
    succeeds(&[&run[..], &["--epochs", "5"]].concat())?;
    if table_rows(&place(&folder, "counts"))? == counts {
        return Err("five more epochs change nothing".into());
    }
    // The rows of an earlier epoch are those that the views had then, and the epochs after it come again.
    succeeds(&[&run[..], &["--from-epoch", "2", "--epochs", "3"]].concat())?;
    same("counts", &counts, &table_rows(&place(&folder, "counts"))?)?;
    same("bids", &bids, &table_rows(&place(&folder, "bids"))?)?;
    succeeds(&run)?;
    for ((name, _), expected) in VIEWS.iter().zip(batch(&folder)?) {
        same(name, &expected, &table_rows(&place(&folder, name))?)?;
    }
    // Another script starts without rows.
    let other =
        format!("{SOURCE}CREATE MATERIALIZED VIEW bids AS SELECT bid.price AS price FROM nexmark WHERE bid.price < 0;");
    folder.write("s.sql", &other)?;
    succeeds(&run)?;
    let none = query("SELECT count(price) AS n FROM v", &format!("v={}", place(&folder, "bids")))?;
    same("an empty view has columns", &["{\"n\":0}".to_string()], &none)?;
    let error = table_rows(&place(&folder, "counts")).expect_err("the view is not in the script any more");
    let message = error.message().unwrap_or_default().to_string();
    if message.contains("the pipeline has no materialized view `counts`") { Ok(()) } else { Err(message.into()) }
}
