//! Pipelines of servers: created, stopped, started, rescaled, replaced and deleted over sockets, while servers are killed.

use std::fs;

use serde_json::{Value, json};

use crate::served::{Server, wait_lines};
use crate::support::{Folder, Result};

/// Events of a counter.
const EVENTS: u64 = 2000;

/// A script that copies a counter into a file, and counts it by key in windows into another. Each epoch has `rows` events.
fn counter(folder: &Folder, name: &str, rows: u64) -> String {
    let file = |table: &str| {
        format!(
            "CREATE TABLE {table} WITH (connector='single_file', path='{}', type='sink');\n",
            folder.text(&format!("{name}-{table}.json"))
        )
    };
    format!(
        "CREATE TABLE impulse WITH (connector='impulse', event_rate='1000', events='{EVENTS}', real_time='false');\n\
         SET epoch_rows = {rows};\n{}{}INSERT INTO rows SELECT counter FROM impulse;\n\
         INSERT INTO counts SELECT counter % 7 AS k, count(*) AS n, tumble(interval '500 milliseconds') AS w FROM impulse \
         GROUP BY 1, w;",
        file("rows"),
        file("counts")
    )
}

/// Checks that the files of [`counter`] have each event once.
fn check_counter(folder: &Folder, name: &str) -> Result {
    let lines = |table: &str| -> Result<Vec<Value>> {
        let text = fs::read_to_string(folder.path(&format!("{name}-{table}.json")))?;
        text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
    };
    let values: Vec<u64> = lines("rows")?.iter().filter_map(|row| row["counter"].as_u64()).collect();
    if values != (0..EVENTS).collect::<Vec<_>>() {
        let wrong = values.iter().enumerate().find(|(index, value)| *index as u64 != **value);
        return Err(format!("{name}: {} values, the first wrong one is {wrong:?}", values.len()).into());
    }
    let counted: u64 = lines("counts")?.iter().filter_map(|row| row["n"].as_u64()).sum();
    if counted == EVENTS { Ok(()) } else { Err(format!("{name}: windows have {counted} rows").into()) }
}

fn expect(what: &str, found: &Value, expected: &Value) -> Result {
    if found == expected { Ok(()) } else { Err(format!("{what} is {found} instead of {expected}").into()) }
}

/// A pipeline is stopped with a checkpoint, started, rescaled and restarted while it runs, and its server ends and starts
/// again: each row is in the sinks once.
pub(crate) fn lifecycle() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(&folder, &[])?;
    expect("ping", &server.ok("GET", "/ping", &Value::Null)?, &json!("Pong"))?;
    let created = server.create("my counter", &counter(&folder, "a", 4))?;
    expect("id", &created["id"], &json!("my-counter"))?;
    expect("name", &created["name"], &json!("my counter"))?;
    let listed = server.ok("GET", "/pipelines", &Value::Null)?;
    expect("the list", &listed["data"][0]["id"], &json!("my-counter"))?;
    wait_lines(&folder, "a-rows.json", 300)?;

    server.ok("PATCH", "/pipelines/my-counter", &json!({"stop": "checkpoint"}))?;
    server.wait_state("my-counter", "Stopped")?;
    let before = fs::read_to_string(folder.path("a-rows.json"))?;
    let checkpoints = server.ok("GET", "/pipelines/my-counter/jobs/job_my-counter/checkpoints", &Value::Null)?;
    expect("the last checkpoint", &checkpoints["data"][0]["checkpointType"], &json!("stopping"))?;
    let job = server.ok("GET", "/pipelines/my-counter/jobs", &Value::Null)?["data"][0].clone();
    expect("the job", &json!([job["state"], job["runningDesired"], job["runId"]]), &json!(["Stopped", false, 1]))?;
    if before != fs::read_to_string(folder.path("a-rows.json"))? {
        return Err("a stopped pipeline writes rows".into());
    }

    server.ok("PATCH", "/pipelines/my-counter", &json!({"stop": "none"}))?;
    server.wait_state("my-counter", "Running")?;
    server.ok("PATCH", "/pipelines/my-counter", &json!({"parallelism": 3}))?;
    server.wait("my-counter", "rescaled", |pipeline| {
        pipeline["parallelism"] == 3
            && ["Running", "Finished"].contains(&pipeline["state"].as_str().unwrap_or_default())
    })?;
    server.ok("POST", "/pipelines/my-counter/restart", &json!({"force": true}))?;
    server.stop()?;

    let server = Server::start(&folder, &[])?;
    server.wait_state("my-counter", "Finished")?;
    check_counter(&folder, "a")?;
    let groups = server.ok("GET", "/pipelines/my-counter/jobs/job_my-counter/operator_metric_groups", &Value::Null)?;
    let nodes: Vec<&str> =
        groups["data"].as_array().into_iter().flatten().filter_map(|n| n["operatorId"].as_str()).collect();
    if !(nodes.contains(&"impulse") && nodes.contains(&"rows") && nodes.contains(&"counts")) {
        return Err(format!("groups of metrics are {nodes:?}").into());
    }
    server.stop()
}

/// A pipeline fails beside another one, which has all its rows. The failed one has its error, and fails again after a restart.
pub(crate) fn failure() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(&folder, &[])?;
    let bad = "CREATE TABLE impulse WITH (connector='impulse', event_rate='1000');\n\
               CREATE TABLE gone WITH (connector='blackhole', type='sink');\nSET epoch = '50 ms';\n\
               INSERT INTO gone SELECT 1 / (counter - 100) AS a FROM impulse;";
    server.create("good", &counter(&folder, "good", 20))?;
    server.create("bad", bad)?;
    let failed = server.wait_state("bad", "Failed")?;
    let error = failed["error"].as_str().unwrap_or_default().to_string();
    if !error.contains("division by zero") {
        return Err(format!("the error is {error}").into());
    }
    let messages = server.ok("GET", "/pipelines/bad/jobs/job_bad/errors", &Value::Null)?;
    expect(
        "the message",
        &json!([messages["data"][0]["level"], messages["data"][0]["message"]]),
        &json!(["error", error]),
    )?;
    server.ok("POST", "/pipelines/bad/restart", &Value::Null)?;
    server.wait("bad", "failed again", |pipeline| pipeline["state"] == "Failed" && pipeline["revision"] == 2)?;
    let job = server.ok("GET", "/pipelines/bad/jobs", &Value::Null)?["data"][0].clone();
    expect("the run", &json!([job["runId"], job["runningDesired"]]), &json!([2, true]))?;
    server.wait_state("good", "Finished")?;
    check_counter(&folder, "good")?;
    let metrics = server.metrics()?;
    for line in
        [&format!("buzz_stream_rows_in_total{{pipeline=\"good\"}} {EVENTS}"), "buzz_stream_running{pipeline=\"bad\"} 0"]
    {
        if !metrics.lines().any(|found| found == line) {
            return Err(format!("the metrics have no line {line}: {metrics}").into());
        }
    }
    // A failed job stays failed when its server starts again.
    server.stop()?;
    let server = Server::start(&folder, &[])?;
    let failed = server.wait_state("bad", "Failed")?;
    expect("the revision", &failed["revision"], &json!(2))?;
    server.stop()
}

/// Returns true if another server than `owner` runs a pipeline, or if no server needs to, since it has finished.
fn is_run_by_another(pipeline: &Value, owner: &Value) -> bool {
    pipeline["server"] != *owner || pipeline["state"] == "Finished"
}

/// The server that runs a pipeline is killed, several times; another one on the same state takes it over. No row is lost or
/// repeated.
pub(crate) fn take_over() -> Result {
    let folder = Folder::new()?;
    let mut servers = vec![Server::start(&folder, &[])?];
    servers[0].create("c", &counter(&folder, "c", 5))?;
    for lines in [200, 700, 1200] {
        servers.push(Server::start(&folder, &[])?);
        wait_lines(&folder, "c-rows.json", lines)?;
        let killed = servers.remove(0);
        let owner = killed.ok("GET", "/pipelines/c", &Value::Null)?["server"].clone();
        killed.kill()?;
        servers[0].wait("c", "taken over", |pipeline| is_run_by_another(pipeline, &owner))?;
    }
    // A change reaches the owner also through a server that does not run the pipeline.
    servers.push(Server::start(&folder, &[])?);
    servers[1].ok("PATCH", "/pipelines/c", &json!({"parallelism": 2}))?;
    servers[1].wait_state("c", "Finished")?;
    check_counter(&folder, "c")?;
    let tail = servers[1].events("/pipelines/c/jobs/job_c/output?fromEpoch=1", "")?;
    if tail.last().map(|(kind, _)| kind.as_str()) != Some("end") {
        return Err("the rows of a pipeline that has finished have no end".into());
    }
    servers.into_iter().try_for_each(Server::stop)
}

/// Two servers are alive: one runs a pipeline, and a stop of that server gives it to the other one.
pub(crate) fn hand_over() -> Result {
    let folder = Folder::new()?;
    let first = Server::start(&folder, &[])?;
    first.create("h", &counter(&folder, "h", 4))?;
    wait_lines(&folder, "h-rows.json", 200)?;
    let second = Server::start(&folder, &[])?;
    let owner = second.ok("GET", "/pipelines/h", &Value::Null)?["server"].clone();
    first.stop()?;
    second.wait("h", "handed over", |pipeline| is_run_by_another(pipeline, &owner))?;
    second.wait_state("h", "Finished")?;
    check_counter(&folder, "h")?;
    second.stop()
}

/// A script replaces another one: a new version, which starts from the beginning. A pipeline that is deleted and created
/// again starts from the beginning too.
pub(crate) fn replaced() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(&folder, &[])?;
    let script = |name: &str, column: &str| {
        format!(
            "CREATE TABLE impulse WITH (connector='impulse', events='50', real_time='false');\n\
             CREATE TABLE out WITH (connector='single_file', path='{}', type='sink');\n\
             INSERT INTO out SELECT {column} AS v FROM impulse;",
            folder.text(name)
        )
    };
    let values = |name: &str| -> Result<Vec<i64>> {
        let text = fs::read_to_string(folder.path(name))?;
        Ok(text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()?["v"].as_i64()).collect())
    };
    server.create("u", &script("one.json", "counter"))?;
    server.wait_state("u", "Finished")?;
    server.ok("PATCH", "/pipelines/u", &json!({"query": script("two.json", "counter * 2")}))?;
    server.wait("u", "replaced", |pipeline| pipeline["state"] == "Finished" && pipeline["revision"] == 2)?;
    if values("one.json")? != (0..50).collect::<Vec<_>>()
        || values("two.json")? != (0..50).map(|v| v * 2).collect::<Vec<_>>()
    {
        return Err("a version has other rows".into());
    }
    server.ok("DELETE", "/pipelines/u", &Value::Null)?;
    expect("the status", &json!(server.call("GET", "/pipelines/u", &Value::Null)?.0), &json!(404))?;
    server.create("u", &script("three.json", "counter + 1"))?;
    server.wait_state("u", "Finished")?;
    if values("three.json")? != (1..51).collect::<Vec<_>>() {
        return Err("a pipeline that was created again has other rows".into());
    }
    if folder.path("state/pipelines/u/v1/epochs").exists()
        && fs::read_dir(folder.path("state/pipelines/u/v1/epochs"))?.count() > 0
    {
        return Err("the epochs of a deleted pipeline remain".into());
    }
    server.stop()
}

/// Rows without a table are followed with curl and with the command; a preview keeps nothing.
pub(crate) fn followed() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(&folder, &[])?;
    let script = "CREATE TABLE impulse WITH (connector='impulse', events='40', real_time='false');\n\
                  SET epoch_rows = 10;\nSELECT counter FROM impulse;";
    let file = folder.write("shown.sql", script)?.display().to_string();
    let started = server.buzz(&["start", "--file", &file])?;
    expect("the exit code", &json!(started.status.code()), &json!(0))?;
    let printed = server.buzz(&["tail", "shown", "--from-epoch", "1"])?;
    let expected: Vec<Value> = (0..40).map(|counter| json!({"counter": counter})).collect();
    let lines = String::from_utf8(printed.stdout)?;
    let rows: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<std::result::Result<_, _>>()?;
    expect("the rows of the command", &json!(rows), &json!(expected))?;
    let path = "/pipelines/shown/jobs/job_shown/output";
    let rows = |events: &[(String, Value)]| -> Result<Vec<Value>> {
        let rows = events.iter().filter(|(kind, _)| kind == "row");
        rows.map(|(_, data)| Ok(serde_json::from_str(data["value"].as_str().unwrap_or_default())?)).collect()
    };
    expect("the rows", &json!(rows(&server.events(path, "")?)?), &json!(expected))?;
    let rest = rows(&server.events(path, "Last-Event-ID: 2-4\r\n")?)?;
    expect("the rows behind the fourth of epoch 2", &json!(rest), &json!(&expected[14..]))?;
    let preview = server.preview(script)?;
    expect("the rows of the preview", &json!(rows(&preview)?), &json!(expected))?;
    expect("the end", &json!(preview.last().map(|(kind, _)| kind)), &json!("end"))?;
    let listed = String::from_utf8(server.buzz(&["list"])?.stdout)?;
    if !listed.contains("shown") || !listed.contains("Finished") || listed.contains("preview") {
        return Err(format!("the list is {listed}").into());
    }
    let state = folder.text("state");
    let by_state = crate::support::succeeds(&["list", "--state", &state])?;
    expect("the list of the state", &json!(by_state), &json!(listed))?;
    for arguments in [&["rescale", "shown", "2"][..], &["stop", "shown"], &["drop", "shown"]] {
        let output = server.buzz(arguments)?;
        if !output.status.success() {
            return Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
    }
    let unknown = server.buzz(&["stop", "shown"])?;
    let error = String::from_utf8(unknown.stderr)?;
    if unknown.status.success() || !error.contains("pipeline `shown` does not exist") {
        return Err(format!("the error is {error}").into());
    }
    server.stop()
}

/// Wrong requests have an error that names the thing.
pub(crate) fn refused() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(&folder, &[])?;
    let script = counter(&folder, "r", 20);
    let post = |body: Value| ("POST", "/pipelines", body);
    let patch = |body: Value| ("PATCH", "/pipelines/r", body);
    server.create("r", &script)?;
    for ((method, path, body), status, message) in [
        (post(json!({"query": script})), 400, "missing field `name`"),
        (post(json!({"name": "x"})), 400, "missing field `query`"),
        (post(json!({"name": "x", "query": script, "workers": 3})), 400, "unknown field `workers`"),
        (post(json!({"name": "x", "query": "SELEC 1"})), 400, "SELEC"),
        (post(json!({"name": "x", "query": "SELECT a FROM t"})), 400, "`t`"),
        (post(json!({"name": "///", "query": script})), 400, "is not a valid name of a pipeline"),
        (post(json!({"name": "x", "query": script, "parallelism": 0})), 400, "from 1 to 1024"),
        (post(json!({"name": "x", "query": script, "checkpointIntervalMicros": 1})), 400, "an epoch of 1 microseconds"),
        (post(json!({"name": "x", "query": script, "udfs": [{}]})), 400, "udfs"),
        (post(json!({"name": "r", "query": script})), 409, "pipeline `r` exists"),
        (patch(json!({})), 400, "nothing is to change"),
        (patch(json!({"stop": "later"})), 400, "stop `later` is unknown"),
        (patch(json!({"query": "SELEC 1"})), 400, "SELEC"),
        (("PATCH", "/pipelines/s", json!({"stop": "none"})), 404, "pipeline `s` does not exist"),
        (("GET", "/pipelines/..%2Fr", Value::Null), 404, "does not exist"),
        (("GET", "/pipelines/r/jobs/s/errors", Value::Null), 404, "job `s` does not exist"),
        (
            ("GET", "/pipelines/r/jobs/job_r/checkpoints/9999/operator_checkpoint_groups", Value::Null),
            404,
            "epoch `9999`",
        ),
        (("POST", "/pipelines/s/restart", Value::Null), 404, "pipeline `s` does not exist"),
        (("DELETE", "/pipelines/s", Value::Null), 404, "pipeline `s` does not exist"),
    ] {
        let (found, json) = server.call(method, path, &body)?;
        let error = json["error"].as_str().unwrap_or_default();
        if found != status || !error.contains(message) {
            return Err(format!("{method} {path} {body}: {found} {json}").into());
        }
    }
    described(&server)?;
    let (status, _) = server.send("GET", "/pipelines", "", "")?;
    expect("the status without a key", &json!(status), &json!(401))?;
    let checked = server.ok("POST", "/pipelines/validate_query", &json!({"query": "SELECT a FROM t"}))?;
    if !checked["errors"][0].as_str().unwrap_or_default().contains("`t`") || !checked["graph"].is_null() {
        return Err(format!("the check returns {checked}").into());
    }
    let checked = server.ok("POST", "/pipelines/validate_query", &json!({"query": script}))?;
    expect("the errors", &checked["errors"], &json!([]))?;
    expect("the edges", &json!(checked["graph"]["edges"].as_array().map(Vec::len)), &json!(4))?;
    server.stop()?;
    let server = Server::start(&folder, &["--names", "read"])?;
    let (status, json) = server.call("DELETE", "/pipelines/r", &Value::Null)?;
    if status != 403 || !json["error"].as_str().unwrap_or_default().contains("--names change") {
        return Err(format!("{status} {json}").into());
    }
    server.stop()
}

/// Checks that each route of the description exists.
fn described(server: &Server) -> Result {
    let document = server.ok("GET", "/openapi.json", &Value::Null)?;
    let paths = document["paths"].as_object().ok_or("the description has no paths")?;
    if paths.len() < 15 {
        return Err(format!("the description has {} paths", paths.len()).into());
    }
    for (path, operations) in paths {
        for (method, operation) in operations.as_object().into_iter().flatten() {
            let path = path.trim_start_matches("/api/v1");
            let path = path
                .replace("{id}", "none")
                .replace("{job}", "job_none")
                .replace("{epoch}", "1")
                .replace("{name}", "none");
            let body = if operation["requestBody"].is_null() { Value::Null } else { json!({}) };
            let (status, answer) = server.call(&method.to_uppercase(), &path, &body)?;
            let error = answer["error"].as_str().unwrap_or_default();
            let is_known = status == 200 || status == 400 || (status == 404 && error.contains("`none`"));
            if !is_known {
                return Err(format!("{method} {path}: {status} {answer}").into());
            }
        }
    }
    Ok(())
}

/// Sources are kept over restarts of the server, and their statements declare tables that pipelines read.
pub(crate) fn sources() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(&folder, &["--streams", &folder.text("streams")])?;
    expect("the list", &server.ok("GET", "/connection_tables", &Value::Null)?["data"], &json!([]))?;
    let statement = "CREATE TABLE five WITH (connector = 'impulse', events = '5', real_time = 'false')";
    let source = json!({"name": "five", "statement": format!(" {statement};\n")});
    let kept = server.ok("POST", "/connection_tables", &source)?;
    let expected = json!(["five", "impulse", statement, "source"]);
    expect("the source", &json!([kept["name"], kept["connector"], kept["statement"], kept["tableType"]]), &expected)?;
    expect("a second one", &json!(server.call("POST", "/connection_tables", &source)?.0), &json!(409))?;
    let wrong = [
        ("Five", statement, "not a valid name of a source"),
        ("other", statement, "`other`"),
        ("five", "CREATE TABLE five WITH (connector = 'nonsense')", "nonsense"),
        ("five", "CREATE VIEW five AS SELECT 1 AS a", "reads no stream"),
        (
            "five",
            "CREATE TABLE five WITH (connector = 'impulse'); CREATE TABLE out WITH (connector = 'blackhole', type = 'sink'); \
             INSERT INTO out SELECT counter FROM five",
            "one statement",
        ),
    ];
    for (name, statement, message) in wrong {
        let (status, error) =
            server.call("POST", "/connection_tables", &json!({"name": name, "statement": statement}))?;
        if status != 400 || !error["error"].as_str().unwrap_or_default().contains(message) {
            return Err(format!("{name}, {statement}: {status} {error}").into());
        }
    }
    server.stop()?;

    let server = Server::start(&folder, &[])?;
    let listed = server.ok("GET", "/connection_tables", &Value::Null)?;
    expect("the list", &listed["data"], &json!([kept]))?;
    let rows = server.preview(&format!("{statement};\nSELECT counter FROM five;"))?;
    expect("rows", &json!(rows.iter().filter(|(kind, _)| kind == "row").count()), &json!(5))?;
    expect("removal", &json!(server.call("DELETE", "/connection_tables/five", &Value::Null)?.0), &json!(200))?;
    for name in ["five", "..%2Fjobs"] {
        let path = format!("/connection_tables/{name}");
        expect(name, &json!(server.call("DELETE", &path, &Value::Null)?.0), &json!(404))?;
    }
    expect("the list", &server.ok("GET", "/connection_tables", &Value::Null)?["data"], &json!([]))
}
