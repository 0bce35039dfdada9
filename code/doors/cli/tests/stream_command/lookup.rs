//! Streams joined with tables that are looked up.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::delta::create;
use crate::support::{Folder, Result, fails, rows, same, succeeds};

const COUNTERS: &str =
    "CREATE TABLE counters WITH (connector='impulse', events='5000', real_time='false');\nSET epoch_rows = 100;\n";

/// A script that writes each counter with the names of its remainder by 4.
fn script(folder: &Folder, table: &str) -> String {
    format!(
        "{COUNTERS}{table}\nCREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\n\
         INSERT INTO out SELECT c.counter AS counter, n.name AS name FROM counters AS c LEFT JOIN names AS n ON c.counter % 4 = n.k;",
        folder.text("out.json")
    )
}

/// The rows of [`script`] if 0 has one name, 1 has two, 2 has one that is NULL, and 3 has none.
fn expected() -> Vec<String> {
    let names = |counter: u64| match counter % 4 {
        0 => vec![Some("zero")],
        1 => vec![Some("one"), Some("uno")],
        _ => vec![None],
    };
    let row = |counter: u64, name: Option<&str>| match name {
        Some(name) => format!("{{\"counter\":{counter},\"name\":\"{name}\"}}"),
        None => format!("{{\"counter\":{counter}}}"),
    };
    let mut rows: Vec<String> =
        (0..5000).flat_map(|counter| names(counter).into_iter().map(move |name| row(counter, name))).collect();
    rows.sort();
    rows
}

const NAMES: &str = "{\"k\":0,\"name\":\"zero\"}\n{\"k\":1,\"name\":\"one\"}\n{\"k\":1,\"name\":\"uno\"}\n{\"k\":2}\n\
                     {\"name\":\"nothing\"}\n";

/// Each row of the stream finds its names once, although the process is killed and goes on with other workers.
pub(crate) fn over_kills() -> Result {
    let folder = Folder::new()?;
    fs::create_dir_all(folder.path("names"))?;
    folder.write("names/1.json", NAMES)?;
    let table = format!(
        "CREATE TABLE names (k BIGINT, name TEXT) WITH (connector='json', path='{}', type='lookup', lookup_refresh='50 ms');",
        folder.text("names")
    );
    let path = folder.write("s.sql", &script(&folder, &table))?.display().to_string();
    let state = folder.text("state");
    for round in 0..5_u64 {
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
    same("after kills", &expected(), &rows(&folder.path("out.json"))?)
}

/// CSV, Parquet and Delta tables are looked up alike. A start reads the table as it is then.
pub(crate) fn kinds_of_tables() -> Result {
    let folder = Folder::new()?;
    folder.write("names.csv", "k,name\n0,zero\n1,one\n1,uno\n2,\n,nothing\n")?;
    let copy = format!(
        "CREATE TABLE names (k BIGINT, name TEXT) WITH (connector='single_file', path='{}', format='csv');\n\
         CREATE TABLE out WITH (connector='parquet', path='{}', type='sink');\nINSERT INTO out SELECT k, nullif(name, '') AS name \
         FROM names;",
        folder.text("names.csv"),
        folder.text("parquet")
    );
    succeeds(&["run", &folder.write("copy.sql", &copy)?.display().to_string(), "--until-end"])?;
    let delta = copy
        .replace("connector='parquet'", "connector='delta'")
        .replace(&folder.text("parquet"), &folder.text("delta"));
    succeeds(&["run", &folder.write("delta.sql", &delta)?.display().to_string(), "--until-end"])?;
    for kind in ["parquet", "delta"] {
        let table =
            format!("CREATE TABLE names WITH (connector='{kind}', path='{}', type='lookup');", folder.text(kind));
        let path = folder.write("s.sql", &script(&folder, &table))?.display().to_string();
        succeeds(&["run", &path, "--until-end"])?;
        same(kind, &expected(), &rows(&folder.path("out.json"))?)?;
        fs::remove_file(folder.path("out.json"))?;
        fs::remove_dir_all(folder.path(".out.json.buzz"))
            .or_else(|_| fs::remove_file(folder.path(".out.json.buzz")))?;
    }
    // The next start finds other names.
    fs::create_dir_all(folder.path("names"))?;
    let table = format!(
        "CREATE TABLE names (k BIGINT, name TEXT) WITH (connector='json', path='{}', type='lookup');",
        folder.text("names")
    );
    let path = folder.write("s.sql", &script(&folder, &table))?.display().to_string();
    let state = folder.text("state");
    folder.write("names/1.json", "{\"k\":0,\"name\":\"old\"}\n")?;
    succeeds(&["run", &path, "--until-end", "--state", &state, "--epochs", "3"])?;
    folder.write("names/1.json", "{\"k\":0,\"name\":\"new\"}\n")?;
    succeeds(&["run", &path, "--until-end", "--state", &state])?;
    let found = fs::read_to_string(folder.path("out.json"))?;
    let counts = [found.lines().count(), found.matches("\"old\"").count(), found.matches("\"new\"").count()];
    if counts == [5000, 75, 1175] { Ok(()) } else { Err(format!("{counts:?}").into()) }
}

/// A table that is too large, that is missing or that has no end is an error which says what to do.
pub(crate) fn refused() -> Result {
    let folder = Folder::new()?;
    create(&folder.path("delta"))?;
    fs::create_dir_all(folder.path("names"))?;
    folder.write("names/1.json", NAMES)?;
    folder.write("names/2.json", "{\"k\":\"x\"}\n")?;
    let columns = "names (k BIGINT, name TEXT)";
    let (names, absent) = (folder.text("names"), folder.text("absent"));
    for (table, message) in [
        (format!("{columns} WITH (connector='json', path='{absent}', type='lookup')"), "lookup table names"),
        (format!("{columns} WITH (connector='delta', path='{absent}', type='lookup')"), "absent"),
        (format!("{columns} WITH (connector='json', path='{names}', type='lookup')"), "lookup table names"),
        (
            format!(
                "{columns} WITH (connector='json', path='{names}', type='lookup', bad_data='drop', lookup_max_bytes='40')"
            ),
            "set lookup_max_bytes to a higher number of bytes",
        ),
        (
            format!("{columns} WITH (connector='json', path='{names}', type='lookup', lookup_refresh='soon')"),
            "option `lookup_refresh` is `soon`; start, or a time such as 1 minute, is required",
        ),
        (
            format!("{columns} WITH (connector='json', path='{names}', type='lookup', late='side')"),
            "remove them from a table with type = 'lookup'",
        ),
        (
            format!("{columns} WITH (connector='json', path='{names}', type='lookup', format='debezium_json')"),
            "rows that change cannot be looked up",
        ),
        ("names WITH (connector='nexmark', type='lookup')".to_string(), "connector `nexmark` cannot be looked up"),
        (format!("{columns} WITH (connector='json', path='{names}', lookup_refresh='start')"), "lookup_refresh"),
    ] {
        let path = folder.write("s.sql", &script(&folder, &format!("CREATE TABLE {table};")))?.display().to_string();
        let error = fails(&["run", &path, "--until-end"])?;
        if !error.contains(message) {
            return Err(format!("{table}: {error}").into());
        }
    }
    // Bad rows may be left out.
    let table =
        format!("CREATE TABLE {columns} WITH (connector='json', path='{names}', type='lookup', bad_data='drop');");
    let path = folder.write("s.sql", &script(&folder, &table))?.display().to_string();
    succeeds(&["run", &path, "--until-end"])?;
    same("without bad rows", &expected(), &rows(&folder.path("out.json"))?)
}
