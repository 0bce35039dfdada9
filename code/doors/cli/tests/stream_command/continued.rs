//! Another script of a pipeline that goes on after the rows that the one before has read.

use std::fs;

use serde_json::{Value, json};

use crate::served::{Server, wait_lines};
use crate::support::{Folder, Result, buzz};

fn script(folder: &Folder, name: &str, statements: &str) -> Result<String> {
    let text = format!(
        "CREATE TABLE t (id BIGINT, ts TIMESTAMP, WATERMARK FOR ts) WITH (connector = 'json', path = '{}');\n\
         CREATE TABLE a WITH (connector = 'single_file', path = '{}', type = 'sink');\n\
         CREATE TABLE b WITH (connector = 'single_file', path = '{}', type = 'sink');\n{statements}",
        folder.text("in"),
        folder.text("a.json"),
        folder.text("b.json"),
    );
    Ok(folder.write(name, &text)?.display().to_string())
}

fn input(folder: &Folder, name: &str, rows: &[(u64, u64)]) -> Result {
    let row = |(id, second): &(u64, u64)| format!("{{\"id\":{id},\"ts\":\"2026-01-01T00:00:{second:02}\"}}\n");
    fs::create_dir_all(folder.path("in"))?;
    folder.write(&format!("in/{name}"), &rows.iter().map(row).collect::<String>())?;
    Ok(())
}

fn values(folder: &Folder, name: &str, key: &str) -> Result<Vec<u64>> {
    let text = fs::read_to_string(folder.path(name)).unwrap_or_default();
    let rows = text.lines().map(|line| Ok(serde_json::from_str::<Value>(line)?[key].as_u64().unwrap_or_default()));
    rows.collect()
}

const COUNT: &str = "INSERT INTO a SELECT sum(id) AS s, tumble(interval '10 seconds') AS w FROM t GROUP BY w;\n";

/// The statement that has not changed keeps the rows of its open window, and no row is read again.
pub(crate) fn offsets_and_state() -> Result {
    let folder = Folder::new()?;
    input(&folder, "1.json", &[(1, 1), (2, 11), (4, 12)])?;
    let run = |script: &str, more: &[&str]| -> Result<String> {
        let state = folder.text("state");
        let output = buzz(&[&["run", script, "--name", "p", "--state", &state][..], more].concat())?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(told) } else { Err(told.into()) }
    };
    run(&script(&folder, "one.sql", COUNT)?, &["--epochs", "1"])?;
    // The window of 1 is closed; 2 and 4 are in an open one.
    let first = values(&folder, "a.json", "s")?;
    input(&folder, "2.json", &[(8, 13), (16, 25)])?;
    let both = format!("{COUNT}INSERT INTO b SELECT id FROM t;\n");
    let told = run(&script(&folder, "two.sql", &both)?, &["--continue", "--until-end"])?;
    let says = ["version 2 goes on after the offsets of version 1", "sources: t;", "stages that keep their state: s0-"];
    if let Some(missing) = says.iter().find(|text| !told.contains(**text)) {
        return Err(format!("`{missing}` is missing: {told}").into());
    }
    let (sums, ids) = (values(&folder, "a.json", "s")?, values(&folder, "b.json", "id")?);
    if first != [1] || sums != [1, 14, 16] || ids != [8, 16] {
        return Err(format!("{first:?} {sums:?} {ids:?}").into());
    }
    // Another aggregate over the same source: offsets go on, and its state does not.
    input(&folder, "3.json", &[(32, 41), (64, 51)])?;
    let max = COUNT.replace("sum(id)", "max(id)");
    let told = run(&script(&folder, "three.sql", &max)?, &["--continue", "--until-end"])?;
    let sums = values(&folder, "a.json", "s")?;
    if sums != [1, 14, 16, 32, 64] || !told.contains("keep their state: none") {
        return Err(format!("{sums:?} {told}").into());
    }
    // Without the flag, a changed script starts again.
    let min = COUNT.replace("sum(id)", "min(id)");
    let told = run(&script(&folder, "four.sql", &min)?, &["--until-end"])?;
    let sums = values(&folder, "a.json", "s")?;
    if sums.len() == 10 && told.contains("version 4 starts without state") {
        Ok(())
    } else {
        Err(format!("{sums:?} {told}").into())
    }
}

/// A pipeline of a server gets another script while it runs, and goes on.
pub(crate) fn pipelines() -> Result {
    let folder = Folder::new()?;
    input(&folder, "1.json", &[(1, 1), (2, 2)])?;
    let statement = |factor: u64| format!("SET epoch = '50 ms';\nINSERT INTO b SELECT id * {factor} AS id FROM t;\n");
    let server = Server::start(&folder, &[])?;
    server.create("p", &fs::read_to_string(script(&folder, "one.sql", &statement(1))?)?)?;
    wait_lines(&folder, "b.json", 2)?;
    let (status, answer) = server.call("PATCH", "/pipelines/p", &json!({"continue": true, "stop": "none"}))?;
    if status != 400 || !answer.to_string().contains("only another script can continue") {
        return Err(format!("{status} {answer}").into());
    }
    let second = fs::read_to_string(script(&folder, "two.sql", &statement(10))?)?;
    server.ok("PATCH", "/pipelines/p", &json!({"query": second, "continue": true}))?;
    input(&folder, "2.json", &[(3, 3)])?;
    wait_lines(&folder, "b.json", 3)?;
    let errors = server.ok("GET", "/pipelines/p/jobs/job_p/errors", &Value::Null)?.to_string();
    if !errors.contains("goes on after the offsets") {
        return Err(errors.into());
    }
    let third = script(&folder, "three.sql", &statement(100))?;
    let output = server.buzz(&["start", "p", "--file", &third, "--continue"])?;
    input(&folder, "3.json", &[(4, 4)])?;
    wait_lines(&folder, "b.json", 4)?;
    let ids = values(&folder, "b.json", "id")?;
    // A run that is about to stop may read a new row too.
    let in_time = ids[..2] == [1, 2] && matches!(ids[2..], [3 | 30, 40 | 400]);
    if output.status.success() && in_time { Ok(()) } else { Err(format!("{ids:?} {output:?}").into()) }
}
