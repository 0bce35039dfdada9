//! The queries of the tutorial, the JSON form, and `buzz stream check`.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::support::{Folder, Result, fails, succeeds};

pub(crate) const TUTORIAL: &str = "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='100');\n";

pub(crate) fn tutorial(statement: &str, epochs: &str) -> Result<Vec<Value>> {
    let folder = Folder::new()?;
    let path = folder.write("script.sql", &format!("{TUTORIAL}SET epoch = '200 ms';\n{statement}"))?;
    let out = succeeds(&["run", &path.display().to_string(), "--epochs", epochs])?;
    out.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

pub(crate) fn tutorial_filter() -> Result {
    let rows = tutorial("SELECT bid FROM nexmark WHERE bid IS NOT NULL;", "6")?;
    if rows.len() < 50 || !rows.iter().all(|row| row["bid"]["auction"].is_number()) {
        return Err(format!("{} rows, the first is {:?}", rows.len(), rows.first()).into());
    }
    Ok(())
}

pub(crate) fn tutorial_hop() -> Result {
    let statement = "SELECT avg(bid.price) as avg_price FROM nexmark WHERE bid IS NOT NULL \
                     GROUP BY hop(interval '2 seconds', interval '10 seconds');";
    let rows = tutorial(statement, "25")?;
    // In 5 s, two or three windows close.
    match rows.len() {
        2 | 3 => Ok(()),
        other => Err(format!("{other} rows").into()),
    }
}

pub(crate) fn tutorial_top() -> Result {
    let statement = "SELECT * FROM (
        SELECT *, ROW_NUMBER() OVER (
            PARTITION BY window
            ORDER BY count DESC) AS row_num
        FROM (SELECT count(*) AS count, bid.auction AS auction,
            hop(interval '2 seconds', interval '60 seconds') AS window
                FROM nexmark WHERE bid is not null
                GROUP BY 2, window)) WHERE row_num <= 5";
    let rows = tutorial(statement, "25")?;
    let ranks: BTreeSet<u64> = rows.iter().filter_map(|row| row["row_num"].as_u64()).collect();
    if rows.len() >= 6 && ranks == BTreeSet::from([1, 2, 3, 4, 5]) { Ok(()) } else { Err(format!("{rows:?}").into()) }
}

pub(crate) fn check_names_stages() -> Result {
    let folder = Folder::new()?;
    let script = format!("{TUTORIAL}SELECT count(*) AS n, tumble(interval '10 seconds') AS w FROM nexmark GROUP BY w;");
    let path = folder.write("s.sql", &script)?.display().to_string();
    let text = succeeds(&["check", &path])?;
    for part in [
        "HBee",
        "HComb",
        "tumble(10 s)",
        "one row per key and slice of 10 s",
        "watermark: date_time",
        "epoch: every 1 s",
    ] {
        if !text.contains(part) {
            return Err(format!("`{part}` is not in\n{text}").into());
        }
    }
    Ok(())
}

pub(crate) fn unknown_option() -> Result {
    let folder = Folder::new()?;
    let path = folder.write("s.sql", "CREATE TABLE n WITH (connector='nexmark', rate='5'); SELECT bid FROM n;")?;
    let error = fails(&["check", &path.display().to_string()])?;
    if error.contains("option `rate` of table `n` is unknown") { Ok(()) } else { Err(error.into()) }
}

/// A name that no table or view has leads to an error with what to add.
pub(crate) fn unknown_table() -> Result {
    let folder = Folder::new()?;
    let source = "CREATE TABLE n WITH (connector='impulse', events='5');";
    let sink = "CREATE TABLE s WITH (connector='blackhole', type='sink'); INSERT INTO s SELECT counter FROM n; \
                SELECT counter FROM s;";
    let chain = "CREATE VIEW v AS SELECT * FROM absent; CREATE VIEW w AS SELECT * FROM v; SELECT * FROM w;";
    let circle = "CREATE VIEW v AS SELECT * FROM w; CREATE VIEW w AS SELECT * FROM v; SELECT * FROM v;";
    for (rest, message) in [
        ("SELECT counter FROM absent;", "table `absent` is not declared; add CREATE TABLE absent (…)"),
        (chain, "view v: table `absent` is not declared"),
        (circle, "in turn"),
        (sink, "table `s` is a sink, because INSERT INTO writes to it"),
    ] {
        let path = folder.write("s.sql", &format!("{source}\n{rest}"))?.display().to_string();
        let error = fails(&["check", &path])?;
        if !error.contains(message) || error.contains("datafusion") {
            return Err(format!("{rest}: {error}").into());
        }
    }
    // Views may stand in any order.
    let views = "CREATE VIEW w AS SELECT * FROM v; CREATE VIEW v AS SELECT counter FROM n; SELECT * FROM w;";
    let path = folder.write("s.sql", &format!("{source}\n{views}"))?.display().to_string();
    let out = succeeds(&["run", &path, "--until-end"])?;
    if out.lines().count() == 5 { Ok(()) } else { Err(out.into()) }
}

pub(crate) fn json_form() -> Result {
    let folder = Folder::new()?;
    let query = r#"{ "stream": { "name": "busy" },
        "steps": [ { "name": "m", "step_type": "HBee", "sql": "SELECT bid.auction % 3 AS a, count(*) AS n, hop(interval '2 seconds', interval '10 seconds') AS w FROM nexmark WHERE bid IS NOT NULL GROUP BY 1, 3" },
                   { "name": "r", "step_type": "HComb", "sql": "SELECT sum(n) AS n, w FROM m GROUP BY w" } ],
        "catalogs": [ { "name": "nexmark", "type": "Nexmark", "options": { "events": 5000, "real_time": false } } ] }"#;
    let path = folder.write("q.json", query)?.display().to_string();
    let out = succeeds(&["run", &path, "--until-end"])?;
    let total: u64 = out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["n"].as_u64()).sum();
    // Each bid is in five windows.
    if total == 4600 * 5 { Ok(()) } else { Err(format!("{total}\n{out}").into()) }
}

/// A condition with escaped quotes and a literal with blanks mean in a sink what they mean in a query.
pub(crate) fn literals() -> Result {
    let folder = Folder::new()?;
    let input = folder.write("in.json", "{\"k\":\"a\"}\n{\"k\":\"b\"}\n")?;
    let script = format!(
        "CREATE TABLE p (k TEXT) WITH (connector='single_file', path='{}', format='json');\n\
         SELECT k FROM p WHERE k <> 'x'' AND k <> ''a';\n\
         CREATE SINK s AS SELECT k || ' ( ' || 'a . b' || 'x :: y' AS \"a\"\"b\" FROM p \
         WITH (connector='single_file', path='{}');",
        input.display(),
        folder.text("out.json")
    );
    let path = folder.write("s.sql", &script)?.display().to_string();
    let out = succeeds(&["run", &path, "--until-end"])?;
    let written = std::fs::read_to_string(folder.path("out.json"))?;
    let expected = "{\"a\\\"b\":\"a ( a . bx :: y\"}\n{\"a\\\"b\":\"b ( a . bx :: y\"}\n";
    if out == "{\"k\":\"a\"}\n{\"k\":\"b\"}\n" && written == expected {
        Ok(())
    } else {
        Err(format!("{out}{written}").into())
    }
}
