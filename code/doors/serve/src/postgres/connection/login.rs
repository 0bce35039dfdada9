//! The start of a connection: encryption, login, and the settings that the client sends.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use buzz_protocol::Result as QueryResult;
use pgwire::api::auth::sasl::SCRAM_SHA_256_METHOD;
use pgwire::api::auth::sasl::scram::{SCRAM_ITERATIONS, ScramSecret, ScramServerAuth, gen_salted_password};
use pgwire::error::PgWireError;
use pgwire::messages::response::{ReadyForQuery, SslResponse, TransactionStatus};
use pgwire::messages::startup::{
    Authentication, BackendKeyData, NegotiateProtocolVersion, PasswordMessageFamily, SecretKey, Startup,
};
use pgwire::messages::{PgWireFrontendMessage, SslNegotiationMetaMessage};
use pgwire::tokio::server::MaybeTls;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use super::{Connection, put_status, refuse, refuse_wire};
use crate::Keys;
use crate::keys::random;
use crate::listen::Shared;
use crate::postgres::error::{PgError, Stop};
use crate::postgres::frame::Phase;
use crate::postgres::session::Settings;
use crate::postgres::wire::{Wire, WireError};

/// Maximum time of a login.
const LOGIN_WITHIN: Duration = Duration::from_secs(15);

/// Serves a connection until it ends. `places` bounds the connections that have logged in. Those before their login are bounded
/// by themselves: a silent client takes no place from another one.
pub(crate) async fn serve(shared: Shared, stream: TcpStream, places: Arc<Semaphore>) {
    let connections = Arc::clone(&shared.connections);
    let (waiting, displaced) = connections.enter();
    let login = tokio::time::timeout(LOGIN_WITHIN, log_in(&shared, MaybeTls::Plain(stream), &places));
    let login = tokio::select! {
        login = login => login,
        () = displaced.cancelled() => return tracing::debug!("a login was displaced by later ones"),
        () = shared.desk.stopping.cancelled() => return,
    };
    drop(waiting);
    let connection = match login {
        Ok(Ok(Some(connection))) => connection,
        Ok(Ok(None)) => return,
        Ok(Err(error)) => return tracing::debug!(?error, "a connection ended before its login"),
        Err(_) => return tracing::debug!("a login took too long"),
    };
    let Err(error) = connection.run().await else { return };
    tracing::debug!(?error, "a connection ended");
}

/// Logs a client in. Returns None if the connection has ended.
async fn log_in(shared: &Shared, stream: MaybeTls, places: &Arc<Semaphore>) -> Result<Option<Connection>, WireError> {
    let mut wire = Wire::new(stream);
    let mut is_encrypted = false;
    loop {
        let message = match wire.startup().await {
            Ok(message) => message,
            Err(error) => return Err(refuse_wire(&mut wire, error).await),
        };
        match (message, &shared.tls) {
            (PgWireFrontendMessage::SslNegotiation(SslNegotiationMetaMessage::PostgresSsl(_)), Some(acceptor))
                if !is_encrypted =>
            {
                wire.put(&SslResponse::Accept)?;
                wire.send().await?;
                let MaybeTls::Plain(stream) = wire.into_stream()? else { return Ok(None) };
                wire = Wire::new(MaybeTls::Tls(Box::new(acceptor.accept(stream).await?)));
                is_encrypted = true;
            }
            // The answer to a request for encryption by GSSAPI is the same byte.
            (PgWireFrontendMessage::SslNegotiation(_), _) => {
                wire.put(&SslResponse::Refuse)?;
                wire.send().await?;
            }
            (PgWireFrontendMessage::CancelRequest(request), _) => {
                if let Some(secret) = request.secret_key.as_i32() {
                    shared.connections.cancel(request.pid, secret);
                }
                return Ok(None);
            }
            (PgWireFrontendMessage::Startup(_), Some(_)) if !is_encrypted => {
                let error = PgError::new("28000", "this server requires TLS; connect with sslmode=require");
                return refuse(&mut wire, &error).await.map(|()| None);
            }
            (PgWireFrontendMessage::Startup(startup), _) => return start(shared, wire, startup, places).await,
            _ => return Err(WireError::Protocol("a message was sent before the login".to_string())),
        }
    }
}

/// Announces that the server has version 3.0 and no extensions.
fn negotiate(wire: &mut Wire<MaybeTls>, startup: &Startup) -> Result<(), PgError> {
    let unknown = startup.parameters.keys().filter(|name| name.starts_with("_pq_."));
    let unknown: Vec<String> = unknown.cloned().collect();
    if startup.protocol_number_minor == 0 && unknown.is_empty() {
        return Ok(());
    }
    wire.put(&NegotiateProtocolVersion::new(Startup::PROTOCOL_VERSION_3_0, unknown))
}

/// Checks the client's key, and greets it.
async fn start(
    shared: &Shared,
    mut wire: Wire<MaybeTls>,
    startup: Startup,
    places: &Arc<Semaphore>,
) -> Result<Option<Connection>, WireError> {
    negotiate(&mut wire, &startup)?;
    let parameters = startup.parameters;
    let user = parameters.get("user").cloned().unwrap_or_default();
    let outcome = match scram_login(shared, &mut wire, &user).await {
        Ok(()) => Ok(()),
        Err(Stop::Error(error)) => Err(error),
        Err(Stop::Wire(error)) => return Err(refuse_wire(&mut wire, error).await),
    };
    let mut settings = Settings::new(&user, shared.desk.options.clone());
    let started = outcome.and_then(|()| {
        start_settings(&mut settings, &parameters)?;
        let full = |_| PgError::new("53300", "too many connections; try again later");
        let place = Arc::clone(places).try_acquire_owned().map_err(full)?;
        Ok((place, shared.connections.register()?))
    });
    let (place, registered) = match started {
        Ok(started) => started,
        Err(error) => return refuse(&mut wire, &error).await.map(|()| None),
    };
    wire.put(&Authentication::Ok)?;
    for (name, value) in settings.reported() {
        put_status(&mut wire, name, value)?;
    }
    wire.put(&BackendKeyData::new(registered.process, SecretKey::I32(registered.secret)))?;
    wire.put(&ReadyForQuery::new(TransactionStatus::Idle))?;
    wire.send().await?;
    tracing::info!(user, "a client of PostgreSQL logged in");
    Ok(Some(Connection {
        shared: shared.clone(),
        wire,
        user,
        settings,
        registered,
        transaction: TransactionStatus::Idle,
        statements: HashMap::new(),
        portals: HashMap::new(),
        cursors: HashMap::new(),
        _place: place,
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

/// Returns what a login of `user` is checked with. An unknown user gets a random secret, so that its login continues like any
/// other and fails at its end.
fn secret(keys: &Keys, user: &str) -> QueryResult<ScramSecret> {
    // The same salt at each login of a user, whether it is known or not.
    let salt = keys.derived(&format!("salt {user}"))[..16].to_vec();
    let salted = match keys.key_of(user) {
        Some(key) => gen_salted_password(key, &salt, SCRAM_ITERATIONS),
        None => random::<32>()?.to_vec(),
    };
    Ok(ScramSecret::verifier_from_salted_password(salt, salted, SCRAM_ITERATIONS))
}

/// Runs a login with SCRAM-SHA-256, without channel binding: the key itself is never sent.
///
/// # Errors
/// If the client does not have the key of `user`, or the connection fails.
async fn scram_login(shared: &Shared, wire: &mut Wire<MaybeTls>, user: &str) -> Result<(), Stop> {
    wire.put(&Authentication::SASL(vec![SCRAM_SHA_256_METHOD.to_string()]))?;
    wire.send().await?;
    let first = password(wire, Phase::LoginFirst).await?.into_sasl_initial_response().map_err(WireError::from)?;
    if first.auth_method != SCRAM_SHA_256_METHOD {
        return Err(PgError::new("28000", "the client chose a login that was not offered").into());
    }
    let wrong = |error: PgWireError| {
        tracing::debug!(%error, user, "a login failed");
        PgError::new("28P01", format!("password authentication failed for user \"{user}\""))
    };
    let secret = secret(&shared.keys, user)?;
    let begun = ScramServerAuth::new().on_client_first_message_with_secret(&first.data.unwrap_or_default(), secret);
    let (answer, login) = begun.map_err(wrong)?;
    wire.put(&Authentication::SASLContinue(answer.into()))?;
    wire.send().await?;
    let last = password(wire, Phase::LoginLast).await?.into_sasl_response().map_err(WireError::from)?;
    let proof = login.on_client_final_message(&last.data).map_err(wrong)?;
    Ok(wire.put(&Authentication::SASLFinal(proof.into()))?)
}

async fn password(wire: &mut Wire<MaybeTls>, phase: Phase) -> Result<PasswordMessageFamily, WireError> {
    match wire.message(phase).await? {
        PgWireFrontendMessage::PasswordMessageFamily(message) => Ok(message),
        PgWireFrontendMessage::Terminate(_) => Err(WireError::Gone),
        _ => Err(WireError::Protocol("a message was sent before the login".to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    /// Computes the client's last message as RFC 5802 describes it.
    fn answer(key: &str, server_first: &str) -> String {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        use ring::{digest, hmac};

        let sign =
            |key: &[u8], data: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec();
        let field = |name: &str| server_first.split(',').find_map(|field| field.strip_prefix(name)).unwrap();
        let salt = STANDARD.decode(field("s=")).unwrap();
        let salted = gen_salted_password(key, &salt, field("i=").parse().unwrap());
        let client_key = sign(&salted, b"Client Key");
        let without_proof = format!("c=biws,r={}", field("r="));
        let signed = format!("n=,r=abc,{server_first},{without_proof}");
        let stored = digest::digest(&digest::SHA256, &client_key);
        let signature = sign(stored.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(one, other)| one ^ other).collect();
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    fn begin(
        keys: &Keys,
        user: &str,
        first: &str,
    ) -> Result<(String, pgwire::api::auth::sasl::scram::ScramServerAuthWaitingForClientFinal), PgWireError> {
        ScramServerAuth::new().on_client_first_message_with_secret(first.as_bytes(), secret(keys, user).unwrap())
    }

    fn login(keys: &Keys, user: &str, key: &str) -> Result<String, PgWireError> {
        let (server_first, login) = begin(keys, user, "n,,n=,r=abc").unwrap();
        login.on_client_final_message(answer(key, &server_first).as_bytes())
    }

    #[test]
    fn only_the_right_key_logs_in() {
        let keys = Keys::of_users([("ann".to_string(), KEY.to_string())].into()).unwrap();
        assert!(login(&keys, "ann", KEY).unwrap().starts_with("v="));
        login(&keys, "ann", "0123456789abcdeX").unwrap_err();
        login(&keys, "bob", KEY).unwrap_err();
        // The same salt at each login, also of an unknown user.
        let salt = |user| begin(&keys, user, "n,,n=,r=abc").unwrap().0.split(',').nth(1).unwrap().to_string();
        assert_eq!((salt("ann"), salt("bob")), (salt("ann"), salt("bob")));
        assert_ne!(salt("ann"), salt("bob"));
    }

    #[test]
    fn malformed_messages_are_refused() {
        let keys = Keys::one(KEY).unwrap();
        let firsts =
            ["", "n", "n,,", "n,,n=", "n,,r=", "p=tls-server-end-point,,n=,r=abc", "x,,n=,r=abc", "n,,m=x,n=,r=abc"];
        for first in firsts {
            assert!(begin(&keys, "ann", first).is_err(), "{first}");
        }
        for last in ["", "c=biws", "c=biws,r=abc,p=", "c=!,r=,p=AAAA", ",p=", "c=biws,r=abc,p=AAAA"] {
            let (_, login) = begin(&keys, "ann", "n,,n=,r=abc").unwrap();
            assert!(login.on_client_final_message(last.as_bytes()).is_err(), "{last}");
        }
    }
}
