//! The processes that get the messages, and what is wrong with them afterwards.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::Error;
use crate::messages::{KEY, Speaks};

/// Time within which a server starts, and within which it answers afterwards: it may still have messages.
const PATIENCE: Duration = Duration::from_secs(60);

/// Maximum memory of a server in kilobytes.
const MEMORY_KILOBYTES: u64 = 4 << 20;

/// A running server. Dropping it ends the process.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
    pub(crate) ports: Vec<(SocketAddr, Speaks)>,
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Server {
    /// Starts a comb.
    pub(crate) fn comb(programs: &Path, folder: &Path) -> Result<Self, Error> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let log = folder.join("comb.log");
        let child = Command::new(programs.join("hcomb"))
            .env("BUZZ_COMB_LISTEN", address.ip().to_string())
            .env("BUZZ_COMB_PORT", address.port().to_string())
            .env("BUZZ_COMB_IDLE_SECONDS", "86400")
            .env("BUZZ_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()?;
        let server = Self { child, log, ports: vec![(address, Speaks::Comb)] };
        until("the comb starts", || TcpStream::connect(address).is_ok())?;
        Ok(server)
    }

    /// Starts a server with the ports of HTTP and PostgreSQL.
    pub(crate) fn serve(programs: &Path, folder: &Path) -> Result<Self, Error> {
        let mut child = Command::new(programs.join("buzz"))
            .args(["serve", "--listen", "127.0.0.1:0", "--postgres", "127.0.0.1:0"])
            .env("BUZZ_KEY", KEY)
            .env("BUZZ_LOG", "error")
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let log = folder.join("serve.log");
        let mut lines = BufReader::new(child.stderr.take().ok_or("no standard error")?);
        let mut server = Self { child, log: log.clone(), ports: Vec::new() };
        let mut printed = String::new();
        while server.ports.len() < 2 {
            let from = printed.len();
            if lines.read_line(&mut printed)? == 0 {
                return Err(format!("the server has not started: {printed}").into());
            }
            let line = &printed[from..];
            for (name, speaks) in [("HTTP:", Speaks::Http), ("PostgreSQL:", Speaks::Postgres)] {
                if let Some(address) = line.strip_prefix(name) {
                    server.ports.push((address.trim().trim_start_matches("http://").parse()?, speaks));
                }
            }
        }
        let mut kept = File::create(log)?;
        std::thread::spawn(move || std::io::copy(&mut lines, &mut kept));
        Ok(server)
    }

    /// Returns what is wrong with the server after messages to the port that `speaks`.
    pub(crate) fn findings(&mut self, speaks: Speaks) -> Result<Vec<String>, Error> {
        let name = speaks.name();
        if let Some(status) = self.child.try_wait()? {
            return Ok(vec![format!("{name}: the process has ended: {status}")]);
        }
        let mut findings = Vec::new();
        let port = self
            .ports
            .iter()
            .find(|(_, of)| *of == speaks)
            .map(|(port, _)| *port)
            .ok_or("the server does not have this port")?;
        if until("an answer", || answers(port, speaks).unwrap_or(false)).is_err() {
            findings.push(format!("{name}: it does not answer within {} seconds", PATIENCE.as_secs()));
        }
        let log = std::fs::read(&self.log)?;
        let log = String::from_utf8_lossy(&log);
        findings.extend(log.lines().find(|line| line.contains("panic")).map(|line| format!("{name}: {line}")));
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let most = most.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or_default();
        if most > MEMORY_KILOBYTES {
            findings.push(format!("{name}: it used {most} kB"));
        }
        println!("{name}: at most {} MiB of memory", most >> 10);
        Ok(findings)
    }
}

/// Calls `port` as an ordinary caller does. Returns true if the answer is the expected one.
fn answers(port: SocketAddr, speaks: Speaks) -> std::io::Result<bool> {
    let mut connection = TcpStream::connect_timeout(&port, Duration::from_secs(5))?;
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    let (asked, expected): (&[u8], &[u8]) = match speaks {
        // The server sends its settings first.
        Speaks::Comb => (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"\0\0"),
        Speaks::Http => (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", b"HTTP/1.1 200"),
        Speaks::Postgres => (b"\0\0\0\x13\0\x03\0\0user\0buzz\0\0", b"R"),
    };
    connection.write_all(asked)?;
    let mut answer = vec![0; expected.len()];
    connection.read_exact(&mut answer)?;
    Ok(answer == expected)
}

/// Waits until `holds` is true; `what` describes it.
fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Error> {
    let started = Instant::now();
    while !holds() {
        if started.elapsed() > PATIENCE {
            return Err(format!("waited in vain: {what}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
