//! Rows that are pushed to servers, which are killed, and read by pipelines, which are killed too.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use buzz_testkit::workspace_root;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::support::{Folder, Result, fails, rows, same, succeeds};

const KEY: &str = "a-key-of-the-tests";

/// A process, killed when it is dropped.
struct Running(Child);

impl Running {
    /// Kills the process, which does not notice.
    fn kill(&mut self) -> Result {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have been killed before.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// A server.
pub(crate) struct Server {
    process: Running,
    address: String,
}

impl Server {
    /// Sends a request that succeeds, with header lines, each with its end.
    pub(crate) fn ok(&self, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<Value> {
        match send_bytes(&self.address, method, path, headers, body)? {
            (200 | 201, answer) => Ok(answer),
            (status, answer) => Err(format!("{method} {path}: {status} {answer}").into()),
        }
    }

    /// Starts a server that keeps streams in `folder`.
    pub(crate) fn start(folder: &Path) -> Result<Self> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_buzz"))
            .args(["serve", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0", "--streams"])
            .arg(folder.join("streams"))
            .current_dir(folder)
            .env("BUZZ_KEY", KEY)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().ok_or("the server has no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut seen = String::new();
        for line in lines.by_ref() {
            let line = line?;
            if let Some(address) = line.strip_prefix("HTTP:") {
                let address = address.trim().trim_start_matches("http://").to_string();
                // The pipe must not fill up.
                thread::spawn(move || lines.for_each(drop));
                return Ok(Self { process: Running(child), address });
            }
            seen.push_str(&line);
        }
        child.wait()?;
        Err(format!("the server did not start: {seen}").into())
    }
}

/// Sends a request and returns the status and the body of the response.
fn send(address: &str, method: &str, path: &str, key: Option<&str>, body: &str) -> Result<(u16, Value)> {
    let key = key.map(|key| format!("Idempotency-Key: {key}\r\n")).unwrap_or_default();
    send_bytes(address, method, path, &key, body.as_bytes())
}

fn send_bytes(address: &str, method: &str, path: &str, headers: &str, body: &[u8]) -> Result<(u16, Value)> {
    let mut stream = TcpStream::connect(address)?;
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {KEY}\r\n{headers}\
         Content-Length: {length}\r\n\r\n"
    )?;
    stream.write_all(body)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the response has no head")?;
    let status = head.split(' ').nth(1).ok_or("the response has no status")?.parse()?;
    Ok((status, serde_json::from_str(body)?))
}

fn push(server: &Server, stream: &str, key: Option<&str>, body: &str) -> Result {
    match send(&server.address, "POST", &format!("/v1/streams/{stream}"), key, body)? {
        (200, _) => Ok(()),
        (status, answer) => Err(format!("{status}: {answer}").into()),
    }
}

/// Writes a script that counts the rows of the stream `events`, and their repetitions, into `out.json`.
fn counting(folder: &Folder) -> Result<String> {
    let script = format!(
        "CREATE TABLE events (id BIGINT, ts TIMESTAMP, WATERMARK FOR ts) WITH (connector = 'http', path = '{}');\n\
         CREATE TABLE out WITH (connector = 'single_file', path = '{}', format = 'json', type = 'sink');\n\
         SET epoch = '50 ms';\n\
         INSERT INTO out SELECT id, ts FROM events;",
        folder.text("streams"),
        folder.text("out.json")
    );
    Ok(folder.write("count.sql", &script)?.display().to_string())
}

fn event(id: usize) -> String {
    format!("{{\"id\": {id}, \"ts\": \"2026-01-01T00:00:00\"}}\n")
}

/// Compares the ids that the pipeline has written with 0 to `count`.
fn each_once(folder: &Folder, count: usize) -> Result {
    let text = fs::read_to_string(folder.path("out.json"))?;
    let mut found: BTreeMap<i64, usize> = BTreeMap::new();
    for line in text.lines() {
        let row: Value = serde_json::from_str(line)?;
        *found.entry(row["id"].as_i64().ok_or("a row has no id")?).or_default() += 1;
    }
    let repeated = found.values().filter(|times| **times != 1).count();
    if found.len() == count && repeated == 0 {
        return Ok(());
    }
    Err(format!("{} of {count} ids, {repeated} of them repeated", found.len()).into())
}

/// Requests that are sent one to three times, to a server that is killed again and again, count once, for the server and
/// for a pipeline that is killed as well.
pub(crate) fn kills() -> Result {
    let kills: usize = std::env::var("BUZZ_INGEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(4);
    let folder = Folder::new()?;
    let (requests, of_request) = (40 * (kills + 1), 5);
    let mut server = Server::start(folder.path("").as_path())?;
    let address = Arc::new(Mutex::new(server.address.clone()));
    let (next, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..4)
        .map(|client| {
            let (address, next, answered) = (Arc::clone(&address), Arc::clone(&next), Arc::clone(&answered));
            thread::spawn(move || {
                let mut rng = StdRng::seed_from_u64(client);
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= requests {
                        return;
                    }
                    let body: String = (0..of_request).map(|row| event(number * of_request + row)).collect();
                    let mut wanted = rng.random_range(1..4);
                    while wanted > 0 {
                        let address = address.lock().clone();
                        let key = format!("request {number}");
                        match send(&address, "POST", "/v1/streams/events", Some(&key), &body) {
                            Ok((200, _)) => wanted -= 1,
                            // The server is down, or its answer was lost.
                            _ => thread::sleep(Duration::from_millis(1)),
                        }
                    }
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let (script, state) = (counting(&folder)?, folder.text("state"));
    let mut pipeline = None;
    for kill in 1..=kills {
        while answered.load(Ordering::SeqCst) < kill * requests / (kills + 1) {
            thread::sleep(Duration::from_millis(1));
        }
        server.process.kill()?;
        // The one before is killed.
        drop(pipeline.replace(follow(&script, &state)?));
        server = Server::start(folder.path("").as_path())?;
        address.lock().clone_from(&server.address);
    }
    for client in clients {
        client.join().map_err(|_| "a client panicked")?;
    }
    drop(pipeline);
    let (status, shown) = send(&server.address, "GET", "/v1/streams/events", None, "")?;
    if (status, &shown["rows"]) != (200, &json!(requests * of_request)) {
        return Err(format!("{} rows were sent: {status} {shown}", requests * of_request).into());
    }
    // The pipeline needs no server.
    server.process.kill()?;
    succeeds(&["run", &script, "--until-end", "--state", &state])?;
    each_once(&folder, requests * of_request)
}

/// Starts the pipeline, which follows its stream.
fn follow(script: &str, state: &str) -> Result<Running> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_buzz"));
    command.args(["stream", "run", script, "--state", state]);
    Ok(Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

/// A pipeline that ends and goes on reads each row once, also with the rows of two servers.
pub(crate) fn runs_go_on() -> Result {
    let folder = Folder::new()?;
    let servers = [Server::start(folder.path("").as_path())?, Server::start(folder.path("").as_path())?];
    let (script, state) = (counting(&folder)?, folder.text("state"));
    for round in 0..3 {
        for number in 0..10 {
            let id = round * 10 + number;
            for server in &servers {
                push(server, "events", Some(&id.to_string()), &event(id))?;
            }
        }
        succeeds(&["run", &script, "--until-end", "--state", &state])?;
        each_once(&folder, (round + 1) * 10)?;
    }
    Ok(())
}

/// The example prints the join of its two streams.
pub(crate) fn example_joins() -> Result {
    let folder = Folder::new()?;
    fs::create_dir_all(folder.path("data"))?;
    let server = Server::start(folder.path("data").as_path())?;
    let clicks: String = (0..500)
        .map(|n| format!("{{\"user_id\": {}, \"page\": \"/\", \"ts\": \"2026-01-01T00:00:0{}\"}}\n", n % 7, n % 3))
        .collect();
    let purchases: String = (0..60)
        .map(|n| format!("{{\"user_id\": {}, \"amount\": 1.25, \"ts\": \"2026-01-01T00:00:0{}.5\"}}\n", n % 9, n % 2))
        .collect();
    push(&server, "clicks", Some("c"), &clicks)?;
    push(&server, "clicks", Some("c"), &clicks)?;
    push(&server, "purchases", Some("p"), &purchases)?;
    let script = workspace_root().join("code/examples/join-streams.sql");
    let output = Command::new(env!("CARGO_BIN_EXE_buzz"))
        .args(["stream", "run", "--until-end"])
        .arg(&script)
        .current_dir(folder.path(""))
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    fs::write(folder.path("joined.json"), &output.stdout)?;
    let mut expected = Vec::new();
    for user in 0..7 {
        for second in 0..2 {
            let clicks = (0..500).filter(|n| n % 7 == user && n % 3 == second).count();
            let purchases = (0..60).filter(|n| n % 9 == user && n % 2 == second).count();
            if clicks > 0 && purchases > 0 {
                // Hundredths: an amount has two decimals.
                let cents = purchases * 125;
                expected.push(format!(
                    "{{\"amount\":{}.{:02},\"clicks\":{clicks},\"purchases\":{purchases},\"second\":\"2026-01-01T00:00:0{second}\",\
                     \"user_id\":{user}}}",
                    cents / 100,
                    cents % 100
                ));
            }
        }
    }
    fs::write(folder.path("expected.json"), expected.join("\n"))?;
    same("the join of the example", &rows(&folder.path("expected.json"))?, &rows(&folder.path("joined.json"))?)
}

/// Options and states that cannot be read say what is wrong.
pub(crate) fn mistakes() -> Result {
    let folder = Folder::new()?;
    let server = Server::start(folder.path("").as_path())?;
    push(&server, "events", None, &event(1))?;
    let script = |options: &str, columns: &str| {
        let text = format!(
            "CREATE TABLE events {columns} WITH (connector = 'http', path = '{}'{options});\nSELECT * FROM events;",
            folder.text("streams")
        );
        Ok::<_, libtest_mimic::Failed>(folder.write("s.sql", &text)?.display().to_string())
    };
    let cases = [
        (", stream = 'other'", "(id BIGINT)", "stream `other` does not exist"),
        (", stream = 'a/b'", "(id BIGINT)", "`a/b` cannot name a source"),
        (", start = 'yesterday'", "(id BIGINT)", "use earliest or latest"),
        (", format = 'csv'", "(id BIGINT)", "have the formats of their requests"),
        (", header = 'false'", "(id BIGINT)", "option `header` of table `events` is unknown"),
        ("", "", "stream `events` declares none"),
        ("", "(other BIGINT)", "none of the table's columns"),
        ("", "(\"ID\" BIGINT)", "column `ID` of the table is `id`"),
        ("", "(id BOOLEAN)", "cannot be decoded"),
    ];
    for (options, columns, message) in cases {
        let error = fails(&["run", &script(options, columns)?, "--until-end"])?;
        if !error.contains(message) {
            return Err(format!("{options} {columns}: {error}").into());
        }
    }
    let printed = succeeds(&["run", &script(", bad_data = 'drop'", "(id BIGINT)")?, "--until-end"])?;
    if printed.trim() == "{\"id\":1}" { Ok(()) } else { Err(printed.into()) }
}
