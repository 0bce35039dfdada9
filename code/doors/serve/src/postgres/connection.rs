//! One connection: encryption, login, and the messages of both protocols, simple and extended.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use buzz_protocol::{Format, QueryError, QueryId};
use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::desk::Request;
use crate::listen::Shared;
use crate::pg_catalog::{Route, Session, literal};
use crate::planner;
use crate::postgres::cursor::{self, Column, Cursor};
use crate::postgres::error::{PgError, Stop};
use crate::postgres::params::{self, Bound};
use crate::postgres::scram::{self, Login};
use crate::postgres::session::Settings;
use crate::postgres::statement::{Statement, statement};
use crate::postgres::wire::{Bind, Message, Named, Startup, Wire, WireError, put_text};
use crate::postgres::{Registered, rows};
use crate::scan;

/// Maximum time of a login.
const LOGIN_WITHIN: Duration = Duration::from_secs(15);

/// Maximum number of prepared statements, and of portals and cursors, of one connection.
const STATEMENTS_MAX: usize = 2000;
const PORTALS_MAX: usize = 100;

/// A stream with or without encryption.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}
type AnyStream = Box<dyn Stream>;

/// State of a transaction as a client sees it. There is nothing to commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transaction {
    Idle,
    Open,
    Failed,
}

/// A prepared statement.
#[derive(Debug)]
struct Prepared {
    kind: Statement,
    /// Types of its parameters; 0 for those that are not known yet.
    oids: Vec<u32>,
    /// Its columns, once it was described.
    announced: Option<Option<SchemaRef>>,
}

/// A prepared statement with values.
#[derive(Debug)]
struct Portal {
    kind: Statement,
    bound: Bound,
    formats: Vec<i16>,
    announced: Option<SchemaRef>,
    cursor: Option<Cursor>,
}

/// A connection after its login.
struct Connection {
    shared: Shared,
    wire: Wire<AnyStream>,
    user: String,
    settings: Settings,
    registered: Registered,
    transaction: Transaction,
    statements: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Portal>,
    cursors: HashMap<String, Cursor>,
}

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

/// Sends the error of a malformed message. Returns the reason for the end of the connection.
async fn refuse_wire(wire: &mut Wire<AnyStream>, error: WireError) -> WireError {
    let sent = match &error {
        WireError::Gone => return error,
        WireError::Protocol(reason) => refuse(wire, &PgError::new("08P01", reason)).await,
        WireError::TooLong(bytes_max) => {
            let reason = format!("a message is longer than {bytes_max} bytes; send a shorter statement");
            refuse(wire, &PgError::new("54000", reason)).await
        }
    };
    sent.err().unwrap_or(error)
}

/// Sends an error that ends the connection.
async fn refuse(wire: &mut Wire<AnyStream>, error: &PgError) -> Result<(), WireError> {
    put_error(wire, b'E', "FATAL", error);
    wire.send().await?;
    wire.close().await;
    Ok(())
}

fn put_error(wire: &mut Wire<AnyStream>, kind: u8, severity: &str, error: &PgError) {
    wire.put(kind, |out| {
        for (field, text) in [(b'S', severity), (b'V', severity), (b'C', error.code), (b'M', error.message.as_str())] {
            out.put_u8(field);
            put_text(out, &text.replace('\0', " "));
        }
        out.put_u8(0);
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

fn put_status(wire: &mut Wire<AnyStream>, name: &str, value: &str) {
    wire.put(b'S', |out| {
        put_text(out, name);
        put_text(out, value);
    });
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

impl Connection {
    /// Handles messages until the client leaves or the server stops.
    async fn run(mut self) -> Result<(), WireError> {
        let stopping = self.shared.desk.stopping.clone();
        // After an error of the extended protocol, messages are skipped up to Sync.
        let mut is_skipping = false;
        loop {
            let message = tokio::select! {
                biased;
                () = stopping.cancelled() => {
                    return refuse(&mut self.wire, &PgError::new("57P01", "the server is stopping")).await;
                }
                message = self.wire.message(true) => message,
            };
            let message = match message {
                Ok(message) => message,
                Err(error) => return Err(refuse_wire(&mut self.wire, error).await),
            };
            let outcome = match message {
                Message::Terminate => return Ok(()),
                Message::Sync => {
                    is_skipping = false;
                    self.ready().await?;
                    continue;
                }
                Message::Query(sql) => {
                    is_skipping = false;
                    self.simple(&sql).await?;
                    self.ready().await?;
                    continue;
                }
                Message::Flush => {
                    self.wire.send().await?;
                    continue;
                }
                _ if is_skipping => continue,
                other => self.extended(other).await,
            };
            match outcome {
                Ok(()) => {}
                Err(Stop::Error(error)) => {
                    self.fail(&error);
                    is_skipping = true;
                    self.wire.send().await?;
                }
                Err(Stop::Wire(error)) => return Err(refuse_wire(&mut self.wire, error).await),
            }
        }
    }

    async fn ready(&mut self) -> Result<(), WireError> {
        let state = match self.transaction {
            Transaction::Idle => b'I',
            Transaction::Open => b'T',
            Transaction::Failed => b'E',
        };
        if self.transaction == Transaction::Idle {
            // Portals end with their transaction.
            self.portals.clear();
        }
        self.wire.put(b'Z', |out| out.put_u8(state));
        self.wire.send().await
    }

    fn fail(&mut self, error: &PgError) {
        if self.transaction == Transaction::Open {
            self.transaction = Transaction::Failed;
        }
        put_error(&mut self.wire, b'E', "ERROR", error);
    }

    /// Runs all statements of a message of the simple protocol.
    async fn simple(&mut self, sql: &str) -> Result<(), WireError> {
        let statements = scan::statements(sql);
        if statements.is_empty() {
            self.wire.put(b'I', |_| {});
        }
        for sql in statements {
            let outcome = match statement(sql) {
                Ok(kind) => self.execute_simple(kind).await,
                Err(error) => Err(error.into()),
            };
            match outcome {
                Ok(()) => {}
                Err(Stop::Error(error)) => {
                    self.fail(&error);
                    break;
                }
                Err(Stop::Wire(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn execute_simple(&mut self, kind: Statement) -> Result<(), Stop> {
        self.check_transaction(&kind)?;
        let zone = self.settings.zone;
        match kind {
            Statement::Query(sql) => {
                let mut cursor = self.start(Bound { sql, params: BTreeMap::new() }, None).await?;
                self.notices(&mut cursor);
                rows::put_description(&mut self.wire, &cursor.columns, &[]);
                let (count, _) = rows::send(&mut self.wire, &mut cursor, &[], zone, usize::MAX).await?;
                self.complete(&format!("SELECT {count}"));
            }
            Statement::Fetch { name, rows_max, is_move } => {
                let mut cursor = self.take_cursor(&name)?;
                if !is_move {
                    rows::put_description(&mut self.wire, &cursor.columns, &[]);
                }
                let outcome = self.fetch(&mut cursor, &[], rows_max, is_move).await;
                self.cursors.insert(name, cursor);
                self.complete(&format!("{} {}", if is_move { "MOVE" } else { "FETCH" }, outcome?));
            }
            Statement::Show(_) | Statement::ShowAll => {
                let mut cursor = self.shown(&kind)?;
                rows::put_description(&mut self.wire, &cursor.columns, &[]);
                rows::send(&mut self.wire, &mut cursor, &[], zone, usize::MAX).await?;
                self.complete("SHOW");
            }
            other => self.execute_other(other).await?,
        }
        Ok(())
    }

    async fn fetch(
        &mut self,
        cursor: &mut Cursor,
        formats: &[i16],
        rows_max: usize,
        is_move: bool,
    ) -> Result<usize, Stop> {
        if !is_move {
            return Ok(rows::send(&mut self.wire, cursor, formats, self.settings.zone, rows_max).await?.0);
        }
        let mut count = 0;
        while count < rows_max && cursor.next()?.is_some() {
            count += 1;
        }
        Ok(count)
    }

    fn take_cursor(&mut self, name: &str) -> Result<Cursor, PgError> {
        let missing = || PgError::new("34000", format!("cursor \"{name}\" does not exist"));
        self.cursors.remove(name).ok_or_else(missing)
    }

    /// Returns the rows of SHOW.
    fn shown(&self, kind: &Statement) -> Result<Cursor, PgError> {
        let rows = match kind {
            Statement::Show(name) => vec![(name.clone(), self.settings.show(name)?)],
            _ => self.settings.all().iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        };
        let is_all = matches!(kind, Statement::ShowAll);
        crate::pg_catalog::shown(rows, is_all)
    }

    /// Runs a statement that returns no rows, in either protocol.
    async fn execute_other(&mut self, kind: Statement) -> Result<(), Stop> {
        match kind {
            Statement::Empty => self.wire.put(b'I', |_| {}),
            Statement::Copy { query, format } => {
                let mut cursor = self.start(Bound { sql: query, params: BTreeMap::new() }, None).await?;
                self.notices(&mut cursor);
                let count = rows::copy(&mut self.wire, &mut cursor, &format, self.settings.zone).await?;
                self.complete(&format!("COPY {count}"));
            }
            Statement::Set { name, value, tag } => {
                self.change(|settings| settings.set(&name, value.as_deref()))?;
                self.complete(tag);
            }
            Statement::ResetAll { tag } => {
                self.change(Settings::reset_all)?;
                if tag == "DISCARD ALL" {
                    self.statements.clear();
                    self.portals.clear();
                    self.cursors.clear();
                }
                self.complete(tag);
            }
            Statement::Begin => {
                self.transaction = Transaction::Open;
                self.complete("BEGIN");
            }
            Statement::Commit | Statement::Rollback => {
                let is_commit = kind == Statement::Commit && self.transaction != Transaction::Failed;
                self.transaction = Transaction::Idle;
                self.cursors.clear();
                self.complete(if is_commit { "COMMIT" } else { "ROLLBACK" });
            }
            Statement::Nothing(tag) => {
                if tag == "ROLLBACK" && self.transaction == Transaction::Failed {
                    self.transaction = Transaction::Open;
                }
                self.complete(tag);
            }
            Statement::Deallocate(name) => {
                match name {
                    Some(name) if self.statements.remove(&name).is_none() => {
                        return Err(missing_statement(&name).into());
                    }
                    Some(_) => {}
                    None => self.statements.clear(),
                }
                self.complete("DEALLOCATE");
            }
            Statement::Declare { name, query } => {
                if self.cursors.len() >= PORTALS_MAX {
                    return Err(too_many("cursors", PORTALS_MAX).into());
                }
                let mut cursor = self.start(Bound { sql: query, params: BTreeMap::new() }, None).await?;
                self.notices(&mut cursor);
                self.cursors.insert(name, cursor);
                self.complete("DECLARE CURSOR");
            }
            Statement::CloseCursor(name) => {
                match name {
                    Some(name) => drop(self.take_cursor(&name)?),
                    None => self.cursors.clear(),
                }
                self.complete("CLOSE CURSOR");
            }
            Statement::Query(_) | Statement::Fetch { .. } | Statement::Show(_) | Statement::ShowAll => {
                return Err(QueryError::internal("a statement with rows was run as one without").into());
            }
        }
        Ok(())
    }

    /// Changes settings, and sends those that are reported and have changed.
    fn change(&mut self, change: impl FnOnce(&mut Settings) -> Result<(), PgError>) -> Result<(), PgError> {
        let before: Vec<(&'static str, String)> =
            self.settings.reported().map(|(name, value)| (name, value.to_string())).collect();
        change(&mut self.settings)?;
        for ((name, value), (_, old)) in self.settings.reported().zip(before) {
            if value != old {
                put_status(&mut self.wire, name, value);
            }
        }
        Ok(())
    }

    fn check_transaction(&self, kind: &Statement) -> Result<(), PgError> {
        let is_end = matches!(kind, Statement::Commit | Statement::Rollback | Statement::Nothing("ROLLBACK"));
        if self.transaction == Transaction::Failed && !is_end {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(PgError::new("25P02", message));
        }
        Ok(())
    }

    fn complete(&mut self, tag: &str) {
        self.wire.put(b'C', |out| put_text(out, tag));
    }

    /// Sends warnings of a query, and what it cost.
    fn notices(&mut self, cursor: &mut Cursor) {
        for warning in std::mem::take(&mut cursor.warnings) {
            put_error(&mut self.wire, b'N', "WARNING", &PgError::new("01000", warning));
        }
        let cost = cursor.summary.as_ref().and_then(|summary| Some((summary, summary.cost_usd?)));
        if let Some((summary, cost)) = cost.filter(|_| self.settings.has_notices()) {
            let message = format!(
                "tasks: {}, files: {} of {}, bytes: {}, cost: ${cost:.6}",
                summary.tasks, summary.files_read, summary.files_found, summary.bytes_read
            );
            put_error(&mut self.wire, b'N', "NOTICE", &PgError::new("00000", message));
        }
    }

    /// Runs a query to its end. Meanwhile notices if the client cancels it or goes away.
    async fn start(&mut self, bound: Bound, announced: Option<SchemaRef>) -> Result<Cursor, Stop> {
        let token = self.registered.begin();
        let desk = Arc::clone(&self.shared.desk);
        let catalog = Arc::clone(&self.shared.catalog);
        let session = Session { user: self.user.clone(), settings: self.settings.all().clone() };
        let request = Request {
            id: QueryId::fresh(),
            user: self.user.clone(),
            sql: bound.sql.clone(),
            params: bound.params.clone(),
            options: self.settings.options.clone(),
            format: Format::Arrow,
        };
        let work = async {
            match catalog.route(&bound.sql)? {
                Route::Catalog => {
                    let (schema, batches) = catalog.query(&literal(&bound.sql, &bound.params), &session).await?;
                    Cursor::of_batches(schema, batches, announced)
                }
                Route::Engine => match desk.answer(request).await {
                    Ok(answered) => Cursor::of_answer(answered, announced),
                    Err(error) => Err(PgError::of_query(error, &desk.names, &bound.sql).await),
                },
            }
        };
        let outcome = tokio::select! {
            biased;
            outcome = work => outcome.map_err(Stop::from),
            () = token.cancelled() => Err(PgError::new("57014", "canceling statement due to user request").into()),
            error = self.wire.gone() => Err(error.into()),
        };
        self.registered.end();
        outcome
    }

    /// Handles one message of the extended protocol.
    async fn extended(&mut self, message: Message) -> Result<(), Stop> {
        match message {
            Message::Parse { name, sql, types } => self.parse(name, &sql, types),
            Message::Bind(bind) => self.bind(bind).await,
            Message::Describe(Named::Statement, name) => self.describe_statement(&name).await,
            Message::Describe(Named::Portal, name) => self.describe_portal(&name).await,
            Message::Execute { portal, rows_max } => self.execute(&portal, rows_max).await,
            Message::Close(named, name) => {
                match named {
                    Named::Statement => drop(self.statements.remove(&name)),
                    Named::Portal => {
                        if self.portals.remove(&name).is_none() {
                            self.cursors.remove(&name);
                        }
                    }
                }
                self.wire.put(b'3', |_| {});
                Ok(())
            }
            Message::FunctionCall => Err(PgError::unsupported("function calls are not supported; use SELECT").into()),
            Message::Password(_) | Message::Copy => {
                Err(PgError::new("08P01", "the message is not expected at this time").into())
            }
            Message::Query(_) | Message::Sync | Message::Flush | Message::Terminate => Ok(()),
        }
    }

    fn parse(&mut self, name: String, sql: &str, types: Vec<u32>) -> Result<(), Stop> {
        let statements = scan::statements(sql);
        let sql = match statements.as_slice() {
            [] => "",
            [one] => one,
            _ => return Err(PgError::syntax("cannot insert multiple commands into a prepared statement").into()),
        };
        if self.statements.len() >= STATEMENTS_MAX && !self.statements.contains_key(&name) {
            return Err(too_many("prepared statements", STATEMENTS_MAX).into());
        }
        if !name.is_empty() && self.statements.contains_key(&name) {
            return Err(PgError::new("42P05", format!("prepared statement \"{name}\" already exists")).into());
        }
        let kind = statement(sql)?;
        let mut oids = types;
        let count = params::count(sql)?;
        oids.resize(count.max(oids.len()), 0);
        let prepared = Prepared { kind, oids, announced: None };
        self.statements.insert(name, Arc::new(prepared));
        self.wire.put(b'1', |_| {});
        Ok(())
    }

    fn prepared(&self, name: &str) -> Result<Arc<Prepared>, PgError> {
        self.statements.get(name).cloned().ok_or_else(|| missing_statement(name))
    }

    /// Returns the statement with the types of all its parameters, and its columns if they can be known before it runs.
    async fn planned(&mut self, name: &str) -> Result<(Arc<Prepared>, Result<(), PgError>), PgError> {
        let prepared = self.prepared(name)?;
        if prepared.announced.is_some() {
            return Ok((prepared, Ok(())));
        }
        let sql = match &prepared.kind {
            Statement::Query(sql) => params::typed(sql, &prepared.oids),
            _ => String::new(),
        };
        let (mut types, mut announced, mut outcome) = (BTreeMap::new(), None, Ok(()));
        if !sql.is_empty() {
            match self.plan(&sql).await {
                Ok(planned) => {
                    announced = Some(Some(planned.schema));
                    types = planned.params;
                }
                Err(error) => outcome = Err(error),
            }
        } else {
            announced = Some(None);
        }
        let oids = (0..prepared.oids.len()).map(|index| params::oid(&prepared.oids, index, &types)).collect();
        let planned = Arc::new(Prepared { kind: prepared.kind.clone(), oids, announced });
        if outcome.is_ok() {
            self.statements.insert(name.to_string(), Arc::clone(&planned));
        }
        Ok((planned, outcome))
    }

    async fn plan(&mut self, sql: &str) -> Result<planner::Planned, PgError> {
        let desk = &self.shared.desk;
        if planner::parsed(sql).is_ok_and(|statement| planner::is_explain(&statement)) {
            return Ok(planner::explained());
        }
        match self.shared.catalog.route(sql)? {
            Route::Catalog => {
                let session = Session { user: self.user.clone(), settings: self.settings.all().clone() };
                self.shared.catalog.plan(sql, &session).await
            }
            Route::Engine => match planner::plan(&desk.names, sql, &self.settings.options).await {
                Ok(planned) => Ok(planned),
                Err(error) => Err(PgError::of_query(error, &desk.names, sql).await),
            },
        }
    }

    async fn bind(&mut self, bind: Bind) -> Result<(), Stop> {
        let mut prepared = self.prepared(&bind.statement)?;
        if prepared.oids.iter().any(|oid| [0, 705].contains(oid)) {
            // Without a plan, all parameters whose types are not given are texts; running the query reports the error.
            prepared = self.planned(&bind.statement).await?.0;
        }
        if self.portals.len() >= PORTALS_MAX && !self.portals.contains_key(&bind.portal) {
            return Err(too_many("portals", PORTALS_MAX).into());
        }
        let sql = match &prepared.kind {
            Statement::Query(sql) => sql.as_str(),
            _ => "",
        };
        let bound =
            params::bound(sql, &prepared.oids, &bind).map_err(|error| PgError::new("22P02", error.to_string()))?;
        let announced = prepared.announced.clone().flatten();
        let portal = Portal {
            kind: prepared.kind.clone(),
            bound,
            formats: bind.result_formats,
            // The catalog decides on its types with the values.
            announced,
            cursor: None,
        };
        self.portals.insert(bind.portal, portal);
        self.wire.put(b'2', |_| {});
        Ok(())
    }

    async fn describe_statement(&mut self, name: &str) -> Result<(), Stop> {
        let (prepared, outcome) = self.planned(name).await?;
        outcome?;
        let oids = prepared.oids.clone();
        let columns = match &prepared.kind {
            Statement::Query(sql) => {
                let is_catalog = self.shared.catalog.route(sql)? == Route::Catalog;
                let schema = prepared.announced.clone().flatten();
                schema.map(|schema| cursor::columns(&schema, is_catalog)).transpose()?
            }
            other => self.columns_of(other)?,
        };
        self.wire.put(b't', |out| {
            out.put_u16(u16::try_from(oids.len()).unwrap_or(u16::MAX));
            oids.iter().for_each(|oid| out.put_u32(*oid));
        });
        self.put_columns(columns.as_deref(), &[]);
        Ok(())
    }

    /// Returns the columns of a statement that is not a query.
    fn columns_of(&self, kind: &Statement) -> Result<Option<Vec<Column>>, PgError> {
        Ok(match kind {
            Statement::Show(_) | Statement::ShowAll => Some(self.shown(kind)?.columns),
            Statement::Fetch { name, is_move: false, .. } => match self.cursors.get(name) {
                Some(cursor) => Some(cursor.columns.clone()),
                None => return Err(PgError::new("34000", format!("cursor \"{name}\" does not exist"))),
            },
            _ => None,
        })
    }

    fn put_columns(&mut self, columns: Option<&[Column]>, formats: &[i16]) {
        match columns {
            Some(columns) => rows::put_description(&mut self.wire, columns, formats),
            None => self.wire.put(b'n', |_| {}),
        }
    }

    /// Runs the query of a portal if it has not run. Then its columns are known exactly.
    async fn run_portal(&mut self, name: &str) -> Result<(), Stop> {
        let portal = self.portals.get(name).ok_or_else(|| missing_portal(name))?;
        if portal.cursor.is_some() || !matches!(portal.kind, Statement::Query(_)) {
            return Ok(());
        }
        let (bound, announced) = (portal.bound.clone(), portal.announced.clone());
        let mut cursor = self.start(bound, announced).await?;
        self.notices(&mut cursor);
        let portal = self.portals.get_mut(name).ok_or_else(|| missing_portal(name))?;
        rows::check_formats(&portal.formats, cursor.columns.len())?;
        portal.cursor = Some(cursor);
        Ok(())
    }

    async fn describe_portal(&mut self, name: &str) -> Result<(), Stop> {
        // A cursor that was declared is a portal too.
        if let Some(cursor) = self.cursors.get(name).filter(|_| !self.portals.contains_key(name)) {
            let columns = cursor.columns.clone();
            self.put_columns(Some(&columns), &[]);
            return Ok(());
        }
        let portal = self.portals.get(name).ok_or_else(|| missing_portal(name))?;
        self.check_transaction(&portal.kind)?;
        self.run_portal(name).await?;
        let portal = self.portals.get(name).ok_or_else(|| missing_portal(name))?;
        let columns = match &portal.cursor {
            Some(cursor) => Some(cursor.columns.clone()),
            None => self.columns_of(&portal.kind)?,
        };
        let formats = portal.formats.clone();
        self.put_columns(columns.as_deref(), &formats);
        Ok(())
    }

    async fn execute(&mut self, name: &str, rows_max: usize) -> Result<(), Stop> {
        let portal = self.portals.get(name).ok_or_else(|| missing_portal(name))?;
        let (kind, formats) = (portal.kind.clone(), portal.formats.clone());
        self.check_transaction(&kind)?;
        match kind {
            Statement::Query(_) => {
                self.run_portal(name).await?;
                let portal = self.portals.get_mut(name).ok_or_else(|| missing_portal(name))?;
                let Some(cursor) = &mut portal.cursor else { return Err(missing_portal(name).into()) };
                let (count, is_done) =
                    rows::send(&mut self.wire, cursor, &formats, self.settings.zone, rows_max).await?;
                if is_done {
                    self.complete(&format!("SELECT {count}"));
                } else {
                    self.wire.put(b's', |_| {});
                }
            }
            Statement::Fetch { name, rows_max, is_move } => {
                let mut cursor = self.take_cursor(&name)?;
                let outcome = self.fetch(&mut cursor, &formats, rows_max, is_move).await;
                self.cursors.insert(name, cursor);
                self.complete(&format!("{} {}", if is_move { "MOVE" } else { "FETCH" }, outcome?));
            }
            Statement::Show(_) | Statement::ShowAll => {
                let mut cursor = self.shown(&kind)?;
                rows::send(&mut self.wire, &mut cursor, &formats, self.settings.zone, usize::MAX).await?;
                self.complete("SHOW");
            }
            other => self.execute_other(other).await?,
        }
        Ok(())
    }
}

fn missing_statement(name: &str) -> PgError {
    PgError::new("26000", format!("prepared statement \"{name}\" does not exist"))
}

fn missing_portal(name: &str) -> PgError {
    PgError::new("34000", format!("portal \"{name}\" does not exist"))
}

fn too_many(things: &str, most: usize) -> PgError {
    PgError::new("53400", format!("the connection has {most} {things}, which is the maximum; close some"))
}
