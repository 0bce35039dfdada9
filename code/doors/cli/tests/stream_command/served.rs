//! Servers with pipelines, as processes, and calls of their REST interface over sockets.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Folder, Result};

const KEY: &str = "a-key-of-the-tests";

/// Time after which a wait has failed. Nothing is asserted about shorter times.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(180);

/// A server that is killed when it is dropped.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Server {
    /// Starts a server on the folder `state`.
    pub(crate) fn start(folder: &Folder, more: &[&str]) -> Result<Self> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_buzz"));
        command.args(["serve", "--state", &folder.text("state")]).args(more);
        Self::of(command, folder)
    }

    /// Starts the server of `command`, with free ports.
    pub(crate) fn of(mut command: Command, folder: &Folder) -> Result<Self> {
        let child = command
            .args(["--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0"])
            .env("BUZZ_KEY", KEY)
            .current_dir(folder.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut server = Self { child, address: String::new() };
        let mut lines = BufReader::new(server.child.stderr.take().ok_or("no standard error")?).lines();
        let mut printed = String::new();
        for line in lines.by_ref() {
            let line = line?;
            if let Some(address) = line.strip_prefix("HTTP:").and_then(|rest| rest.trim().strip_prefix("http://")) {
                server.address = address.to_string();
                break;
            }
            printed.push_str(&line);
        }
        if server.address.is_empty() {
            return Err(format!("the server has not started: {printed}").into());
        }
        // A server must not wait for the reader of what it prints.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(server)
    }

    /// Kills the server, as if the power had failed.
    pub(crate) fn kill(mut self) -> Result {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Stops the server as an operator does, and waits for its end.
    pub(crate) fn stop(mut self) -> Result {
        let killed = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status()?;
        let ended = self.child.wait()?;
        if killed.success() && ended.success() { Ok(()) } else { Err(format!("the server ends with {ended}").into()) }
    }

    /// Returns the metrics.
    pub(crate) fn metrics(&self) -> Result<String> {
        Ok(self.request("GET", "/metrics", &format!("Authorization: Bearer {KEY}\r\n"), "")?.1)
    }

    /// Sends a request about pipelines, and returns the status and the body.
    pub(crate) fn send(&self, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, String)> {
        self.request(method, &format!("/api/v1{path}"), headers, body)
    }

    fn request(&self, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address)?;
        let (address, length) = (&self.address, body.len());
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\
             {headers}\r\n{body}"
        )?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        let text = String::from_utf8(text)?;
        let (head, body) = text.split_once("\r\n\r\n").ok_or("no head")?;
        let status = head.split(' ').nth(1).ok_or("no status")?.parse()?;
        let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
        Ok((status, if chunked { unchunked(body)? } else { body.to_string() }))
    }

    /// Sends a request with the key, and returns the status and the JSON.
    pub(crate) fn call(&self, method: &str, path: &str, body: &Value) -> Result<(u16, Value)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let headers = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
        let (status, body) = self.send(method, path, &headers, &body)?;
        Ok((status, if body.is_empty() { Value::Null } else { serde_json::from_str(&body)? }))
    }

    /// Sends a request with the key that succeeds.
    pub(crate) fn ok(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        match self.call(method, path, body)? {
            (200, json) => Ok(json),
            (status, json) => Err(format!("{method} {path}: {status} {json}").into()),
        }
    }

    /// Returns the server-sent events of `path` up to its end, as their kind and their data.
    pub(crate) fn events(&self, path: &str, more: &str) -> Result<Vec<(String, Value)>> {
        let (status, body) = self.send("GET", path, &format!("Authorization: Bearer {KEY}\r\n{more}"), "")?;
        if status == 200 { events(&body) } else { Err(format!("{path}: {status} {body}").into()) }
    }

    /// Posts a preview, and returns its events.
    pub(crate) fn preview(&self, query: &str) -> Result<Vec<(String, Value)>> {
        let headers = format!("Authorization: Bearer {KEY}\r\nAccept: text/event-stream\r\n");
        let (status, body) = self.send("POST", "/pipelines/preview", &headers, &json!({"query": query}).to_string())?;
        if status == 200 { events(&body) } else { Err(format!("preview: {status} {body}").into()) }
    }

    /// Creates a pipeline.
    pub(crate) fn create(&self, name: &str, query: &str) -> Result<Value> {
        self.ok("POST", "/pipelines", &json!({"name": name, "query": query, "parallelism": 1}))
    }

    /// Waits until the JSON of a pipeline is as `is_right` requires, and returns it.
    pub(crate) fn wait(&self, id: &str, what: &str, is_right: impl Fn(&Value) -> bool) -> Result<Value> {
        let started = Instant::now();
        loop {
            let pipeline = self.ok("GET", &format!("/pipelines/{id}"), &Value::Null)?;
            if is_right(&pipeline) {
                return Ok(pipeline);
            }
            if started.elapsed() > WAIT_MAX {
                return Err(format!("{id} is not {what}: {pipeline}").into());
            }
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Waits until a pipeline has a state.
    pub(crate) fn wait_state(&self, id: &str, state: &str) -> Result<Value> {
        self.wait(id, state, |pipeline| pipeline["state"] == state)
    }

    /// Runs `buzz stream` with the address of this server.
    pub(crate) fn buzz(&self, arguments: &[&str]) -> Result<Output> {
        let address = format!("http://{}", self.address);
        let mut command = Command::new(env!("CARGO_BIN_EXE_buzz"));
        let command = command.arg("stream").args(arguments).args(["--server", &address]).env("BUZZ_KEY", KEY);
        Ok(command.stdin(Stdio::null()).output()?)
    }
}

/// Waits until a file has `count` lines or more.
pub(crate) fn wait_lines(folder: &Folder, name: &str, count: usize) -> Result {
    let started = Instant::now();
    loop {
        let text = std::fs::read_to_string(folder.path(name)).unwrap_or_default();
        if text.lines().count() >= count {
            return Ok(());
        }
        if started.elapsed() > WAIT_MAX {
            return Err(format!("{name} has {} lines", text.lines().count()).into());
        }
        std::thread::sleep(Duration::from_millis(30));
    }
}

fn events(body: &str) -> Result<Vec<(String, Value)>> {
    let mut events = Vec::new();
    for event in body.split("\n\n").filter(|event| event.contains("data:")) {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let data = serde_json::from_str(field("data:").unwrap_or("null"))?;
        events.push((field("event:").unwrap_or("row").to_string(), data));
    }
    Ok(events)
}

fn unchunked(body: &str) -> Result<String> {
    let (mut rest, mut whole) = (body.as_bytes(), Vec::new());
    loop {
        let line = rest.windows(2).position(|pair| pair == b"\r\n").ok_or("a chunk has no length")?;
        let length = usize::from_str_radix(std::str::from_utf8(&rest[..line])?.trim(), 16)?;
        if length == 0 {
            return Ok(String::from_utf8(whole)?);
        }
        whole.extend_from_slice(rest.get(line + 2..line + 2 + length).ok_or("a chunk is cut")?);
        rest = rest.get(line + 4 + length..).ok_or("a chunk is cut")?;
    }
}
