//! One connection after its login: its state, and the messages of the simple protocol.

mod extended;
mod login;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use buzz_protocol::{Format, QueryError, QueryId};
use pgwire::messages::PgWireFrontendMessage as Message;
use pgwire::messages::response::{
    CommandComplete, EmptyQueryResponse, ErrorResponse, NoticeResponse, ReadyForQuery, TransactionStatus,
};
use pgwire::messages::startup::ParameterStatus;
use pgwire::tokio::server::MaybeTls;
use tokio::sync::OwnedSemaphorePermit;

use crate::desk::Request;
use crate::listen::Shared;
use crate::pg_catalog::{Route, Session, literal};
use crate::postgres::cursor::Cursor;
use crate::postgres::error::{PgError, Stop};
use crate::postgres::frame::Phase;
use crate::postgres::params::Bound;
use crate::postgres::session::Settings;
use crate::postgres::statement::{Statement, statement};
use crate::postgres::wire::{Wire, WireError};
use crate::postgres::{Registered, rows};
use crate::scan;

use self::extended::{missing_statement, too_many};
pub(crate) use self::login::serve;

/// Maximum number of portals, and of cursors, of one connection.
const PORTALS_MAX: usize = 100;

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
    wire: Wire<MaybeTls>,
    user: String,
    settings: Settings,
    registered: Registered,
    /// State of the transaction as the client sees it. There is nothing to commit.
    transaction: TransactionStatus,
    statements: HashMap<String, Arc<Prepared>>,
    portals: HashMap<String, Portal>,
    cursors: HashMap<String, Cursor>,
    /// Counts this connection among those that have logged in.
    _place: OwnedSemaphorePermit,
}

/// Sends the error of a malformed message. Returns the reason for the end of the connection.
async fn refuse_wire(wire: &mut Wire<MaybeTls>, error: WireError) -> WireError {
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
async fn refuse(wire: &mut Wire<MaybeTls>, error: &PgError) -> Result<(), WireError> {
    wire.put(&ErrorResponse::new(fields("FATAL", error)))?;
    wire.send().await?;
    wire.close().await;
    Ok(())
}

/// Returns the fields of an error or notice.
fn fields(severity: &str, error: &PgError) -> Vec<(u8, String)> {
    let fields = [(b'S', severity), (b'V', severity), (b'C', error.code), (b'M', error.message.as_str())];
    fields.map(|(field, text)| (field, text.replace('\0', " "))).into()
}

fn put_status(wire: &mut Wire<MaybeTls>, name: &str, value: &str) -> Result<(), PgError> {
    wire.put(&ParameterStatus::new(name.to_string(), value.to_string()))
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
                message = self.wire.message(Phase::Ready) => message,
            };
            let message = match message {
                Ok(message) => message,
                Err(error) => return Err(refuse_wire(&mut self.wire, error).await),
            };
            let outcome = match message {
                Message::Terminate(_) => return Ok(()),
                Message::Sync(_) => {
                    is_skipping = false;
                    self.ready().await?;
                    continue;
                }
                Message::Query(query) => {
                    is_skipping = false;
                    self.registered.begin();
                    let outcome = self.simple(&query.query).await;
                    self.registered.end();
                    outcome?;
                    self.ready().await?;
                    continue;
                }
                Message::Flush(_) => {
                    self.wire.send().await?;
                    continue;
                }
                _ if is_skipping => continue,
                other => {
                    self.registered.begin();
                    let outcome = self.extended(other).await;
                    self.registered.end();
                    outcome
                }
            };
            match outcome {
                // A client may send any number of messages before it asks for the answers.
                Ok(()) => {
                    self.wire.send_if_full().await?;
                }
                Err(Stop::Error(error)) => {
                    self.fail(&error)?;
                    is_skipping = true;
                    self.wire.send().await?;
                }
                Err(Stop::Wire(error)) => return Err(refuse_wire(&mut self.wire, error).await),
            }
        }
    }

    async fn ready(&mut self) -> Result<(), WireError> {
        if self.transaction == TransactionStatus::Idle {
            // Portals end with their transaction.
            self.portals.clear();
        }
        self.wire.put(&ReadyForQuery::new(self.transaction))?;
        self.wire.send().await
    }

    fn fail(&mut self, error: &PgError) -> Result<(), PgError> {
        self.transaction = self.transaction.to_error_state();
        self.wire.put(&ErrorResponse::new(fields("ERROR", error)))
    }

    /// Runs all statements of a message of the simple protocol.
    async fn simple(&mut self, sql: &str) -> Result<(), WireError> {
        let statements = scan::statements(sql);
        if statements.is_empty() {
            self.wire.put(&EmptyQueryResponse::new())?;
        }
        for sql in statements {
            let outcome = match statement(sql) {
                Ok(kind) => self.execute_simple(kind).await,
                Err(error) => Err(error.into()),
            };
            match outcome {
                Ok(()) => {
                    self.wire.send_if_full().await?;
                }
                Err(Stop::Error(error)) => {
                    self.fail(&error)?;
                    break;
                }
                Err(Stop::Wire(error)) => return Err(error),
            }
        }
        Ok(())
    }

    async fn execute_simple(&mut self, kind: Statement) -> Result<(), Stop> {
        self.check_transaction(&kind)?;
        let (zone, token) = (self.settings.zone, self.registered.token());
        match kind {
            Statement::Query(sql) => {
                let mut cursor = self.start(Bound { sql, params: BTreeMap::new() }, None).await?;
                self.notices(&mut cursor)?;
                rows::put_description(&mut self.wire, &cursor.columns, &[])?;
                let (count, _) = rows::send(&mut self.wire, &mut cursor, &[], zone, usize::MAX, &token).await?;
                self.complete(&format!("SELECT {count}"))?;
            }
            Statement::Fetch { name, rows_max, is_move } => {
                let mut cursor = self.take_cursor(&name)?;
                if !is_move {
                    rows::put_description(&mut self.wire, &cursor.columns, &[])?;
                }
                let outcome = self.fetch(&mut cursor, &[], rows_max, is_move).await;
                self.cursors.insert(name, cursor);
                self.complete(&format!("{} {}", if is_move { "MOVE" } else { "FETCH" }, outcome?))?;
            }
            Statement::Show(_) | Statement::ShowAll => {
                let mut cursor = self.shown(&kind)?;
                rows::put_description(&mut self.wire, &cursor.columns, &[])?;
                rows::send(&mut self.wire, &mut cursor, &[], zone, usize::MAX, &token).await?;
                self.complete("SHOW")?;
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
        let token = self.registered.token();
        if !is_move {
            return Ok(rows::send(&mut self.wire, cursor, formats, self.settings.zone, rows_max, &token).await?.0);
        }
        let mut count = 0;
        while count < rows_max && cursor.next()?.is_some() {
            count += 1;
            if count % 1024 == 0 {
                rows::check_cancelled(&token)?;
            }
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
            Statement::Empty => self.wire.put(&EmptyQueryResponse::new())?,
            Statement::Copy { query, format } => {
                let mut cursor = self.start(Bound { sql: query, params: BTreeMap::new() }, None).await?;
                self.notices(&mut cursor)?;
                let token = self.registered.token();
                let count = rows::copy(&mut self.wire, &mut cursor, &format, self.settings.zone, &token).await?;
                self.complete(&format!("COPY {count}"))?;
            }
            Statement::Change { sql, tag } => {
                self.change_name(sql).await?;
                self.complete(tag)?;
            }
            Statement::Set { name, value, tag } => {
                self.change(|settings| settings.set(&name, value.as_deref()))?;
                self.complete(tag)?;
            }
            Statement::ResetAll { tag } => {
                self.change(Settings::reset_all)?;
                if tag == "DISCARD ALL" {
                    self.statements.clear();
                    self.portals.clear();
                    self.cursors.clear();
                }
                self.complete(tag)?;
            }
            Statement::Begin => {
                self.transaction = TransactionStatus::Transaction;
                self.complete("BEGIN")?;
            }
            Statement::Commit | Statement::Rollback => {
                let is_commit = kind == Statement::Commit && self.transaction != TransactionStatus::Error;
                self.transaction = TransactionStatus::Idle;
                self.cursors.clear();
                self.complete(if is_commit { "COMMIT" } else { "ROLLBACK" })?;
            }
            Statement::Nothing(tag) => {
                if tag == "ROLLBACK" && self.transaction == TransactionStatus::Error {
                    self.transaction = TransactionStatus::Transaction;
                }
                self.complete(tag)?;
            }
            Statement::Deallocate(name) => {
                match name {
                    Some(name) if self.statements.remove(&name).is_none() => {
                        return Err(missing_statement(&name).into());
                    }
                    Some(_) => {}
                    None => self.statements.clear(),
                }
                self.complete("DEALLOCATE")?;
            }
            Statement::Declare { name, query } => {
                if self.cursors.len() >= PORTALS_MAX {
                    return Err(too_many("cursors", PORTALS_MAX).into());
                }
                let mut cursor = self.start(Bound { sql: query, params: BTreeMap::new() }, None).await?;
                self.notices(&mut cursor)?;
                self.cursors.insert(name, cursor);
                self.complete("DECLARE CURSOR")?;
            }
            Statement::CloseCursor(name) => {
                match name {
                    Some(name) => drop(self.take_cursor(&name)?),
                    None => self.cursors.clear(),
                }
                self.complete("CLOSE CURSOR")?;
            }
            Statement::Query(_) | Statement::Fetch { .. } | Statement::Show(_) | Statement::ShowAll => {
                return Err(QueryError::internal("a statement with rows was run as one without").into());
            }
        }
        Ok(())
    }

    /// Runs a statement that creates or drops a name, and tells its effect.
    async fn change_name(&mut self, sql: String) -> Result<(), Stop> {
        let mut cursor = self.start(Bound { sql, params: BTreeMap::new() }, None).await?;
        self.notices(&mut cursor)?;
        if let Some(effect) = cursor.next_text()? {
            self.wire.put(&NoticeResponse::new(fields("NOTICE", &PgError::new("00000", effect))))?;
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
                put_status(&mut self.wire, name, value)?;
            }
        }
        Ok(())
    }

    fn check_transaction(&self, kind: &Statement) -> Result<(), PgError> {
        let is_end = matches!(kind, Statement::Commit | Statement::Rollback | Statement::Nothing("ROLLBACK"));
        if self.transaction == TransactionStatus::Error && !is_end {
            let message = "current transaction is aborted, commands ignored until end of transaction block";
            return Err(PgError::new("25P02", message));
        }
        Ok(())
    }

    fn complete(&mut self, tag: &str) -> Result<(), PgError> {
        self.wire.put(&CommandComplete::new(tag.to_string()))
    }

    /// Sends warnings of a query, and what it cost.
    fn notices(&mut self, cursor: &mut Cursor) -> Result<(), PgError> {
        for warning in std::mem::take(&mut cursor.warnings) {
            self.wire.put(&NoticeResponse::new(fields("WARNING", &PgError::new("01000", warning))))?;
        }
        let cost = cursor.summary.as_ref().and_then(|summary| Some((summary, summary.cost_usd?)));
        if let Some((summary, cost)) = cost.filter(|_| self.settings.has_notices()) {
            let started = summary.started_note().map(|started| format!(", started: {started}")).unwrap_or_default();
            let message = format!(
                "tasks: {}, files: {} of {}, bytes: {}, cost: ${cost:.6}{started}",
                summary.tasks, summary.files_read, summary.files_found, summary.bytes_read
            );
            self.wire.put(&NoticeResponse::new(fields("NOTICE", &PgError::new("00000", message))))?;
        }
        Ok(())
    }

    /// Runs the query of the statement to its end. Meanwhile notices if the client cancels it or goes away.
    async fn start(&mut self, bound: Bound, announced: Option<SchemaRef>) -> Result<Cursor, Stop> {
        let token = self.registered.token();
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
        let timeout = self.settings.timeout;
        let late = async {
            match timeout {
                Some(timeout) => tokio::time::sleep(timeout).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = work => outcome.map_err(Stop::from),
            () = token.cancelled() => Err(PgError::cancelled().into()),
            () = late => Err(PgError::timed_out().into()),
            error = self.wire.gone() => Err(error.into()),
        }
    }
}
