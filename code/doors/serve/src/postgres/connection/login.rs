//! The start of a connection: encryption, login, and the settings that the client sends.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::BufMut;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use super::{AnyStream, Connection, Transaction, put_status, refuse, refuse_wire};
use crate::listen::Shared;
use crate::postgres::error::{PgError, Stop};
use crate::postgres::scram::{self, Login};
use crate::postgres::session::Settings;
use crate::postgres::wire::{Message, Startup, Wire, WireError, put_text};

/// Maximum time of a login.
const LOGIN_WITHIN: Duration = Duration::from_secs(15);

/// Serves a connection until it ends. Without a permit, it is refused after its login message.
pub(crate) async fn serve(shared: Shared, stream: TcpStream, permit: Option<OwnedSemaphorePermit>) {
    let login = tokio::time::timeout(LOGIN_WITHIN, log_in(&shared, Box::new(stream), permit.is_some()));
    let connection = match login.await {
        Ok(Ok(Some(connection))) => connection,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(?error, "a connection ended before its login"),
        Err(_) => return tracing::debug!("a login took too long"),
    };
    let Err(error) = connection.run().await else { return };
    tracing::debug!(?error, "a connection ended");
}

/// Logs a client in. Returns None if the connection has ended.
async fn log_in(shared: &Shared, stream: AnyStream, is_permitted: bool) -> Result<Option<Connection>, WireError> {
    let mut wire = Wire::new(stream);
    let mut is_encrypted = false;
    loop {
        let startup = match wire.startup().await {
            Ok(startup) => startup,
            Err(error) => return Err(refuse_wire(&mut wire, error).await),
        };
        match (startup, &shared.tls) {
            (Startup::Tls, Some(acceptor)) if !is_encrypted => {
                wire.put_byte(b'S');
                wire.send().await?;
                let stream = acceptor.accept(wire.into_stream()?).await?;
                wire = Wire::new(Box::new(stream));
                is_encrypted = true;
            }
            (Startup::Tls | Startup::Gss, _) => {
                wire.put_byte(b'N');
                wire.send().await?;
            }
            (Startup::Cancel { process, secret }, _) => {
                shared.connections.cancel(process, secret);
                return Ok(None);
            }
            (Startup::Start { .. }, Some(_)) if !is_encrypted => {
                let error = PgError::new("28000", "this server requires TLS; connect with sslmode=require");
                return refuse(&mut wire, &error).await.map(|()| None);
            }
            (Startup::Start { .. }, _) if !is_permitted => {
                let error = PgError::new("53300", "too many connections; try again later");
                return refuse(&mut wire, &error).await.map(|()| None);
            }
            (Startup::Start { minor, parameters }, _) => {
                if minor > 0 || parameters.keys().any(|name| name.starts_with("_pq_.")) {
                    negotiate(&mut wire, &parameters);
                }
                return authenticate(shared, wire, parameters).await;
            }
        }
    }
}

/// Announces that the server has version 3.0 and no extensions.
fn negotiate(wire: &mut Wire<AnyStream>, parameters: &BTreeMap<String, String>) {
    let unknown: Vec<&String> = parameters.keys().filter(|name| name.starts_with("_pq_.")).collect();
    wire.put(b'v', |out| {
        out.put_i32(3 << 16);
        out.put_u32(u32::try_from(unknown.len()).unwrap_or(u32::MAX));
        unknown.iter().for_each(|name| put_text(out, name));
    });
}

/// Checks the client's key, and greets it.
async fn authenticate(
    shared: &Shared,
    mut wire: Wire<AnyStream>,
    parameters: BTreeMap<String, String>,
) -> Result<Option<Connection>, WireError> {
    let user = parameters.get("user").cloned().unwrap_or_default();
    let outcome = match scram_login(shared, &mut wire, &user).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(PgError::new("28P01", format!("password authentication failed for user \"{user}\""))),
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::Wire(error)) => return Err(refuse_wire(&mut wire, error).await),
    };
    let mut settings = Settings::new(&user, shared.desk.options.clone());
    let started = outcome.and_then(|()| start_settings(&mut settings, &parameters));
    let registered = started.and_then(|()| Ok(shared.connections.register()?));
    let registered = match registered {
        Ok(registered) => registered,
        Err(error) => return refuse(&mut wire, &error).await.map(|()| None),
    };
    wire.put(b'R', |out| out.put_i32(0));
    for (name, value) in settings.reported() {
        put_status(&mut wire, name, value);
    }
    wire.put(b'K', |out| {
        out.put_i32(registered.process);
        out.put_i32(registered.secret);
    });
    wire.put(b'Z', |out| out.put_u8(b'I'));
    wire.send().await?;
    tracing::info!(user, "a client of PostgreSQL logged in");
    Ok(Some(Connection {
        shared: shared.clone(),
        wire,
        user,
        settings,
        registered,
        transaction: Transaction::Idle,
        statements: HashMap::new(),
        portals: HashMap::new(),
        cursors: HashMap::new(),
    }))
}

/// Sets what the client sent at its start: settings by name, and `options` such as `-c name=value`.
fn start_settings(settings: &mut Settings, parameters: &BTreeMap<String, String>) -> Result<(), PgError> {
    let others = ["user", "database", "options", "replication"];
    for (name, value) in parameters {
        if !others.contains(&name.as_str()) && !name.starts_with("_pq_.") {
            settings.set(name, Some(value))?;
        }
    }
    let options = parameters.get("options").map(String::as_str).unwrap_or_default();
    let mut words = options.split_whitespace();
    while let Some(word) = words.next() {
        let assignment = match word.strip_prefix("-c").or_else(|| word.strip_prefix("--")) {
            Some("") => words.next().unwrap_or_default(),
            Some(assignment) => assignment,
            None => continue,
        };
        if let Some((name, value)) = assignment.split_once('=') {
            settings.set(name, Some(value))?;
        }
    }
    settings.started();
    Ok(())
}

/// Runs a login with SCRAM-SHA-256. Returns true if the client has the key of `user`.
async fn scram_login(shared: &Shared, wire: &mut Wire<AnyStream>, user: &str) -> Result<bool, Stop> {
    wire.put(b'R', |out| {
        out.put_i32(10);
        put_text(out, scram::MECHANISM);
        out.put_u8(0);
    });
    wire.send().await?;
    let first = password(wire).await?;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap_or_default();
    // The name of the mechanism, the length of the message, and the message.
    let mechanism = first.iter().position(|byte| *byte == 0).unwrap_or(first.len());
    let message = first.get(mechanism + 5..).map(text).unwrap_or_default();
    if text(&first[..mechanism]) != scram::MECHANISM {
        return Err(PgError::new("28000", "the client chose a login that was not offered").into());
    }
    let Some((login, answer)) = Login::start(&shared.keys, user, &message)? else { return Ok(false) };
    wire.put(b'R', |out| {
        out.put_i32(11);
        out.put_slice(answer.as_bytes());
    });
    wire.send().await?;
    let last = password(wire).await?;
    let Some(proof) = login.finish(&text(&last)) else { return Ok(false) };
    wire.put(b'R', |out| {
        out.put_i32(12);
        out.put_slice(proof.as_bytes());
    });
    Ok(true)
}

async fn password(wire: &mut Wire<AnyStream>) -> Result<bytes::Bytes, Stop> {
    match wire.message(false).await? {
        Message::Password(bytes) => Ok(bytes),
        Message::Terminate => Err(WireError::Gone.into()),
        _ => Err(WireError::Protocol("a message was sent before the login".to_string()).into()),
    }
}
