//! Fuzzes the ports: `buzz-fuzz-messages MESSAGES FOLDER [SEED]` sends that many random messages to a comb, to both ports of a
//! server, and to the reader of Fuse's events. `hcomb` and `buzz` are in FOLDER. Answers and errors are expected. A panic,
//! a process that ends, or one that does not answer afterwards or uses more than 4 GiB is a finding; the last messages of
//! each connection are kept in a folder that is printed.

#![expect(clippy::print_stdout, reason = "a program prints")]

mod events;
mod messages;
mod server;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use messages::Speaks;
use server::Server;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Threads that send to each server.
const SENDERS: u64 = 4;

/// Maximum messages on one connection.
const ON_ONE_CONNECTION: u64 = 16;

/// Maximum time to wait for the rest of an answer. A server may keep a connection open.
const ANSWER_MAX: Duration = Duration::from_millis(50);

fn main() -> Result<ExitCode, Error> {
    let usage = "usage: buzz-fuzz-messages MESSAGES FOLDER [SEED]";
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let messages: u64 = arguments.first().ok_or(usage)?.parse()?;
    let programs = Path::new(arguments.get(1).ok_or(usage)?);
    let seed: u64 = match arguments.get(2) {
        Some(seed) => seed.parse()?,
        None => rand::rng().random(),
    };
    let folder = std::env::temp_dir().join(format!("buzz-fuzz-messages-{seed}"));
    std::fs::create_dir_all(&folder)?;
    println!("seed {seed}: {messages} messages to each of a comb, HTTP, PostgreSQL and Fuse's events");

    let mut findings = events::fuzz(messages, &mut StdRng::seed_from_u64(seed));
    for mut server in [Server::comb(programs, &folder)?, Server::serve(programs, &folder)?] {
        for (port, speaks) in server.ports.clone() {
            send_all(port, speaks, messages, seed, &folder)?;
            findings.extend(server.findings(speaks)?);
        }
    }
    for finding in &findings {
        println!("FINDING: {finding}");
    }
    println!("{} findings", findings.len());
    if findings.is_empty() {
        std::fs::remove_dir_all(&folder)?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("the logs and the last messages are in {}", folder.display());
    Ok(ExitCode::FAILURE)
}

/// Sends `messages` random messages to `port`, from several threads, and keeps the last ones in `folder`.
fn send_all(port: SocketAddr, speaks: Speaks, messages: u64, seed: u64, folder: &Path) -> Result<(), Error> {
    let senders = (0..SENDERS).map(|sender| {
        let folder = folder.to_path_buf();
        let share = messages / SENDERS + u64::from(sender < messages % SENDERS);
        std::thread::spawn(move || {
            let mut random = StdRng::seed_from_u64(seed ^ ((sender + 1) << 32) ^ (speaks as u64));
            let mut left = share;
            let mut last = Vec::new();
            while left > 0 {
                let some = random.random_range(1..=ON_ONE_CONNECTION.min(left));
                last = messages::connection(speaks, some, &mut random);
                // A server may refuse a connection, and close one early.
                _ = send(port, &last);
                left -= some;
            }
            std::fs::write(folder.join(format!("last-{}-{sender}", speaks.name())), last)
        })
    });
    for sender in senders.collect::<Vec<_>>() {
        sender.join().map_err(|_| "a sender panicked")??;
    }
    Ok(())
}

/// Sends `bytes` on a connection of its own, and reads what comes.
fn send(port: SocketAddr, bytes: &[u8]) -> std::io::Result<()> {
    let mut connection = TcpStream::connect_timeout(&port, Duration::from_secs(5))?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(ANSWER_MAX))?;
    connection.set_write_timeout(Some(Duration::from_secs(5)))?;
    connection.write_all(bytes)?;
    connection.shutdown(Shutdown::Write)?;
    let mut answer = [0; 16 << 10];
    while connection.read(&mut answer)? > 0 {}
    Ok(())
}
