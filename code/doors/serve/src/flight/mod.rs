//! The Arrow Flight SQL door, for ADBC, JDBC, polars and pandas.
//!
//! A ticket carries the statement and its parameters, so that the server keeps nothing between the two calls of a query;
//! DoGet runs it. The schema that GetFlightInfo announces is the one in which DoGet sends the rows: clients refuse rows
//! whose schema differs. [`metadata`] answers questions about the server and its tables.

mod metadata;
mod params;
mod service;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightServiceServer;
use buzz_protocol::{Format, Options, Param, QueryError, QueryId, Result};
use futures::{Stream, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tonic::{Request, Status};

use crate::codes::grpc_status;
use crate::desk::{self, Answered, Desk};
use crate::http::guard::User;
use crate::keys::Keys;
use crate::listen::Shared;
use crate::pg_catalog::{Catalog, Route, Session, literal};
use crate::planner;

/// Maximum number of prepared statements of all clients. The oldest is dropped when there are more.
const PREPARED_MAX: usize = 10_000;

/// Maximum bytes of a message of a client.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Messages of a stream.
pub(super) type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service that all connections share.
#[derive(Debug, Clone)]
pub(crate) struct FlightDoor {
    desk: Arc<Desk>,
    catalog: Arc<Catalog>,
    keys: Arc<Keys>,
    prepared: Arc<Mutex<Prepared>>,
}

/// Prepared statements by handle, and the order in which they were made.
#[derive(Debug, Default)]
struct Prepared {
    statements: HashMap<String, PreparedStatement>,
    order: VecDeque<String>,
}

/// A prepared statement.
#[derive(Debug)]
struct PreparedStatement {
    user: String,
    /// The statement as it was prepared.
    asked: Asked,
    /// The statement with the values that were bound last.
    bound: Option<Asked>,
}

/// A statement with its parameters, as it travels in a ticket.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Asked {
    id: QueryId,
    sql: String,
    #[serde(default)]
    params: BTreeMap<String, Param>,
}

impl Asked {
    fn new(sql: &str) -> Self {
        Self { id: QueryId::fresh(), sql: sql.to_string(), params: BTreeMap::new() }
    }
}

impl FlightDoor {
    /// Makes the door of a server.
    pub(crate) fn new(desk: Arc<Desk>, catalog: Arc<Catalog>, keys: Arc<Keys>) -> Self {
        Self { desk, catalog, keys, prepared: Arc::default() }
    }

    /// Returns the user that the guard found for `request`.
    fn user<T>(request: &Request<T>) -> Result<String, Status> {
        let user = request.extensions().get::<User>();
        user.map(|User(user)| user.clone()).ok_or_else(|| Status::unauthenticated("the request has no user"))
    }

    /// Returns the columns of the rows of `sql`, or None if they cannot be known before it runs.
    async fn schema(&self, sql: &str, user: &str) -> Result<Option<planner::Planned>, Status> {
        let options = Options::default();
        match self.route(sql)? {
            Route::Catalog => {
                let planned = self.catalog.plan(sql, &Session::of_user(user)).await;
                planned.map(Some).map_err(|error| Status::invalid_argument(error.message))
            }
            Route::Engine => {
                if buzz_registry::may_change_names(sql) {
                    return Ok(None);
                }
                let Ok(statement) = planner::parsed(sql) else { return Ok(None) };
                if planner::is_explain(&statement) {
                    return Ok(Some(planner::explained()));
                }
                // A statement that cannot be planned here fails when it runs, with the engine's reason.
                Ok(planner::plan(&self.desk.names, sql, &options).await.ok())
            }
        }
    }

    fn route(&self, sql: &str) -> Result<Route, Status> {
        self.catalog.route(sql).map_err(|error| Status::invalid_argument(error.message))
    }

    /// Runs a statement and returns its rows as messages.
    async fn rows(&self, asked: Asked, user: String) -> Result<Messages<FlightData>, Status> {
        let planned = self.schema(&asked.sql, &user).await?;
        if self.route(&asked.sql)? == Route::Catalog {
            let literal = literal(&asked.sql, &asked.params);
            let answered = self.catalog.query(&literal, &Session::of_user(&user)).await;
            let (schema, batches) = answered.map_err(|error| Status::invalid_argument(error.message))?;
            let schema = planned.map_or(schema, |planned| planned.schema);
            return Ok(encoded(schema, batches.into_iter().map(Ok)));
        }
        let answered = self.answer(asked, user).await?;
        let actual = planner::plain_schema(&answered.rows.schema());
        let schema = planned.map_or(actual, |planned| planned.schema);
        let batches = answered.rows.batches().map_err(|error| grpc_status(&error))?;
        // The answer is kept until its last row is sent.
        let kept = batches.inspect(move |_| {
            let _kept = &answered;
        });
        Ok(encoded(schema, kept))
    }

    /// Runs a statement with the engine.
    async fn answer(&self, asked: Asked, user: String) -> Result<Answered, Status> {
        let request = desk::Request {
            id: asked.id,
            user,
            sql: asked.sql,
            params: asked.params,
            options: self.desk.options.clone(),
            format: Format::Arrow,
        };
        self.desk.answer(request).await.map_err(|error| grpc_status(&error))
    }

    /// Keeps a prepared statement and returns its handle.
    fn prepare(&self, user: String, asked: Asked) -> Result<String, Status> {
        let handle = Keys::fresh().map_err(|error| grpc_status(&error))?;
        let mut prepared = self.prepared.lock();
        while prepared.statements.len() >= PREPARED_MAX {
            let Some(oldest) = prepared.order.pop_front() else { break };
            prepared.statements.remove(&oldest);
        }
        prepared.order.push_back(handle.clone());
        prepared.statements.insert(handle.clone(), PreparedStatement { user, asked, bound: None });
        Ok(handle)
    }

    /// Calls `with` with a prepared statement of `user`.
    fn with_prepared<T>(
        &self,
        handle: &[u8],
        user: &str,
        with: impl FnOnce(&mut PreparedStatement) -> T,
    ) -> Result<T, Status> {
        let mut prepared = self.prepared.lock();
        let handle = std::str::from_utf8(handle).unwrap_or_default();
        let found = prepared.statements.get_mut(handle).filter(|statement| statement.user == user);
        found.map(with).ok_or_else(|| Status::not_found("the prepared statement does not exist; prepare it again"))
    }

    /// Returns the text of a prepared statement of `user`.
    fn prepared_text(&self, handle: &[u8], user: &str) -> Result<String, Status> {
        self.with_prepared(handle, user, |statement| statement.asked.sql.clone())
    }

    /// Returns a prepared statement of `user` with its values, for one run.
    fn prepared_to_run(&self, handle: &[u8], user: &str) -> Result<Asked, Status> {
        let asked =
            self.with_prepared(handle, user, |statement| statement.bound.as_ref().unwrap_or(&statement.asked).clone())?;
        Ok(Asked { id: QueryId::fresh(), ..asked })
    }

    /// Binds values to a prepared statement of `user`.
    fn bind(&self, handle: &[u8], user: &str, sql: String, params: BTreeMap<String, Param>) -> Result<(), Status> {
        let bound = Asked { id: QueryId::fresh(), sql, params };
        self.with_prepared(handle, user, |statement| statement.bound = Some(bound))
    }

    fn close(&self, handle: &[u8], user: &str) {
        let mut prepared = self.prepared.lock();
        let Ok(handle) = std::str::from_utf8(handle) else { return };
        if prepared.statements.get(handle).is_some_and(|statement| statement.user == user) {
            prepared.statements.remove(handle);
            prepared.order.retain(|other| other != handle);
        }
    }
}

/// The path of all calls.
pub(crate) const PATH: &str = "/arrow.flight.protocol.FlightService/{call}";

/// Makes the service for the routes of a connection.
pub(crate) fn service(shared: &Shared) -> FlightServiceServer<FlightDoor> {
    FlightServiceServer::new(shared.flight.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

/// Encodes batches, each cast to `schema`.
fn encoded(
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch>> + Send + 'static,
) -> Messages<FlightData> {
    let target = Arc::clone(&schema);
    let batches = batches.map(move |batch| as_schema(&batch?, &target));
    let stream = futures::stream::iter(batches).map_err(|error| FlightError::Tonic(Box::new(grpc_status(&error))));
    FlightDataEncoderBuilder::new().with_schema(schema).build(stream).map_err(Status::from).boxed()
}

fn as_schema(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let exact = CastOptions { safe: false, ..Default::default() };
    if batch.num_columns() != schema.fields().len() {
        return Err(QueryError::internal("the answer has other columns than were announced"));
    }
    let columns = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        if planner::keeps_values(column.data_type(), field.data_type()) {
            return cast_with_options(column, field.data_type(), &exact).map_err(QueryError::from);
        }
        Err(QueryError::invalid(format!(
            "column `{}` was announced with the type {} and has the type {}, which could change its values; write a CAST of \
             it in the statement, such as CAST(… AS DOUBLE)",
            field.name(),
            field.data_type(),
            column.data_type()
        )))
    });
    let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
    let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(Arc::clone(schema), columns, &rows)?)
}

/// Returns the headers of a login's answer.
fn logged_in(keys: &Keys, user: &str) -> Result<tonic::metadata::MetadataValue<tonic::metadata::Ascii>, Status> {
    let token = format!("Bearer {}", keys.token(user));
    token.parse().map_err(|_| Status::internal("the token is not a header"))
}
