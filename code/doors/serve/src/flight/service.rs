//! The calls of Flight SQL.

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::writer::IpcWriteOptions;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_server::FlightService;
use arrow_flight::sql::server::{FlightSqlService, PeekableFlightDataStream};
use arrow_flight::sql::{
    ActionCancelQueryRequest, ActionCancelQueryResult, ActionClosePreparedStatementRequest,
    ActionCreatePreparedStatementRequest, ActionCreatePreparedStatementResult, Any, CommandGetCatalogs,
    CommandGetCrossReference, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetImportedKeys,
    CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandPreparedStatementQuery, CommandStatementQuery, CommandStatementUpdate, DoPutPreparedStatementResult,
    ProstMessageExt, SqlInfo, TicketStatementQuery,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightData, FlightDescriptor,
    FlightEndpoint, FlightInfo, HandshakeRequest, HandshakeResponse, IpcMessage, SchemaAsIpc, Ticket,
};
use futures::{StreamExt, TryStreamExt};
use prost::Message;
use prost::bytes::Bytes;
use tonic::{Request, Response, Status, Streaming};

use crate::codes::grpc_status;
use crate::desk::{CATALOG, SCHEMA};
use crate::flight::{Asked, FlightDoor, Messages, encoded, logged_in, metadata, params};
use crate::planner::plain_schema;

type Info = Result<Response<FlightInfo>, Status>;
type Data = Result<Response<Messages<FlightData>>, Status>;

/// The type of a table.
const TABLE: &str = "TABLE";
const VIEW: &str = "VIEW";

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

/// Makes the answer of GetFlightInfo: one endpoint at this address.
fn info(ticket: Vec<u8>, schema: Option<&Schema>, request: Request<FlightDescriptor>) -> Info {
    let endpoint = FlightEndpoint::new().with_ticket(Ticket { ticket: ticket.into() });
    let info = FlightInfo::new().with_endpoint(endpoint).with_descriptor(request.into_inner());
    let info = match schema {
        Some(schema) => info.try_with_schema(schema).map_err(internal)?,
        None => info,
    };
    // The number of rows and bytes is not known.
    Ok(Response::new(info.with_total_records(-1).with_total_bytes(-1)))
}

/// Makes the answer of DoGet with one batch.
fn data(batch: RecordBatch) -> Data {
    Ok(Response::new(encoded(batch.schema(), std::iter::once(Ok(batch)))))
}

fn schema_bytes(schema: &Schema) -> Result<Bytes, Status> {
    let options = IpcWriteOptions::default();
    let IpcMessage(bytes) = IpcMessage::try_from(SchemaAsIpc::new(schema, &options)).map_err(internal)?;
    Ok(bytes)
}

fn asked(handle: &[u8]) -> Result<Asked, Status> {
    serde_json::from_slice(handle).map_err(|_| Status::invalid_argument("the ticket is not one of this server"))
}

/// Returns the query whose ticket is in `info`.
fn query_of(info: &FlightInfo) -> Result<Asked, Status> {
    let ticket = info.endpoint.first().and_then(|endpoint| endpoint.ticket.as_ref());
    let ticket = ticket.ok_or_else(|| Status::invalid_argument("the FlightInfo has no ticket"))?;
    let any = Any::decode(ticket.ticket.as_ref()).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let query: Option<TicketStatementQuery> =
        any.unpack().map_err(|error| Status::invalid_argument(error.to_string()))?;
    let query = query.ok_or_else(|| Status::invalid_argument("the ticket is not that of a statement"))?;
    asked(&query.statement_handle)
}

fn read_only() -> Status {
    Status::failed_precondition("Buzz only reads; write a SELECT")
}

impl FlightDoor {
    async fn statement_info(&self, asked: Asked, request: Request<FlightDescriptor>) -> Info {
        let user = Self::user(&request)?;
        let planned = self.schema(&asked.sql, &user).await?;
        let handle = serde_json::to_vec(&asked).map_err(internal)?;
        let ticket = TicketStatementQuery { statement_handle: handle.into() };
        info(ticket.as_any().encode_to_vec(), planned.as_ref().map(|planned| planned.schema.as_ref()), request)
    }
}

#[tonic::async_trait]
impl FlightSqlService for FlightDoor {
    type FlightService = FlightDoor;

    async fn do_handshake(
        &self,
        request: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Messages<HandshakeResponse>>, Status> {
        let header = request.metadata().get("authorization").and_then(|header| header.to_str().ok());
        let user = header.and_then(|header| self.keys.user_of_header(header));
        let user = user.ok_or_else(|| Status::unauthenticated("the user or the key is wrong"))?;
        let answer = HandshakeResponse { protocol_version: 0, payload: Bytes::new() };
        let mut response: Response<Messages<HandshakeResponse>> =
            Response::new(futures::stream::iter([Ok(answer)]).boxed());
        response.metadata_mut().insert("authorization", logged_in(&self.keys, &user)?);
        Ok(response)
    }

    async fn get_flight_info_statement(
        &self,
        query: CommandStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Info {
        self.statement_info(Asked::new(&query.query), request).await
    }

    async fn do_get_statement(&self, ticket: TicketStatementQuery, request: Request<Ticket>) -> Data {
        let user = Self::user(&request)?;
        Ok(Response::new(self.rows(asked(&ticket.statement_handle)?, user).await?))
    }

    async fn do_action_create_prepared_statement(
        &self,
        query: ActionCreatePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<ActionCreatePreparedStatementResult, Status> {
        let user = Self::user(&request)?;
        let planned = self.schema(&query.query, &user).await?;
        let (mut dataset_schema, mut parameter_schema) = (Bytes::new(), Bytes::new());
        if let Some(planned) = planned {
            let mut params: Vec<(String, Option<DataType>)> = planned.params.into_iter().collect();
            params.sort_by_key(|(name, _)| name[1..].parse::<u32>().unwrap_or(u32::MAX));
            // Without types of its parameters, a client binds what it has.
            if params.iter().all(|(_, data_type)| data_type.is_some()) {
                let fields = params
                    .iter()
                    .map(|(name, data_type)| Field::new(name, data_type.clone().unwrap_or(DataType::Null), true));
                let schema = plain_schema(&Schema::new(fields.collect::<Vec<_>>()));
                parameter_schema = schema_bytes(&schema)?;
            }
            dataset_schema = schema_bytes(&planned.schema)?;
        }
        let handle = self.prepare(user, Asked::new(&query.query))?;
        Ok(ActionCreatePreparedStatementResult {
            prepared_statement_handle: handle.into(),
            dataset_schema,
            parameter_schema,
        })
    }

    async fn do_action_close_prepared_statement(
        &self,
        query: ActionClosePreparedStatementRequest,
        request: Request<Action>,
    ) -> Result<(), Status> {
        self.close(&query.prepared_statement_handle, &Self::user(&request)?);
        Ok(())
    }

    async fn do_put_prepared_statement_query(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<DoPutPreparedStatementResult, Status> {
        let user = Self::user(&request)?;
        let sql = self.prepared_text(&query.prepared_statement_handle, &user)?;
        let messages = request.into_inner().map_err(|status| FlightError::Tonic(Box::new(status)));
        let mut batches = FlightRecordBatchStream::new_from_flight_data(messages);
        let mut rows: Option<RecordBatch> = None;
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| Status::invalid_argument(error.to_string()))?;
            if batch.num_rows() > 0 && rows.replace(batch).is_some() {
                return Err(Status::invalid_argument("several batches of parameters were bound; bind one row"));
            }
        }
        if let Some(row) = rows {
            let (sql, values) = params::bound(&sql, &row).map_err(|error| grpc_status(&error))?;
            self.bind(&query.prepared_statement_handle, &user, sql, values)?;
        }
        Ok(DoPutPreparedStatementResult { prepared_statement_handle: Some(query.prepared_statement_handle) })
    }

    async fn get_flight_info_prepared_statement(
        &self,
        query: CommandPreparedStatementQuery,
        request: Request<FlightDescriptor>,
    ) -> Info {
        let asked = self.prepared_to_run(&query.prepared_statement_handle, &Self::user(&request)?)?;
        self.statement_info(asked, request).await
    }

    async fn do_get_prepared_statement(&self, query: CommandPreparedStatementQuery, request: Request<Ticket>) -> Data {
        let user = Self::user(&request)?;
        let asked = self.prepared_to_run(&query.prepared_statement_handle, &user)?;
        Ok(Response::new(self.rows(asked, user).await?))
    }

    async fn do_put_statement_update(
        &self,
        update: CommandStatementUpdate,
        request: Request<PeekableFlightDataStream>,
    ) -> Result<i64, Status> {
        let user = Self::user(&request)?;
        if !buzz_registry::may_change_names(&update.query) {
            return Err(read_only());
        }
        self.answer(Asked::new(&update.query), user).await?;
        // No row of a table changed.
        Ok(0)
    }

    async fn do_action_cancel_query(
        &self,
        query: ActionCancelQueryRequest,
        request: Request<Action>,
    ) -> Result<ActionCancelQueryResult, Status> {
        let info = FlightInfo::decode(query.info).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let cancelled = self.desk.cancel(query_of(&info)?.id, &Self::user(&request)?);
        // 1 is cancelled, 3 is not cancellable.
        Ok(ActionCancelQueryResult { result: if cancelled { 1 } else { 3 } })
    }

    async fn do_action_fallback(
        &self,
        request: Request<Action>,
    ) -> Result<Response<<Self as FlightService>::DoActionStream>, Status> {
        let user = Self::user(&request)?;
        let body: Vec<u8> = match request.get_ref().r#type.as_str() {
            "CancelFlightInfo" => {
                let asked = CancelFlightInfoRequest::decode(request.get_ref().body.clone())
                    .map_err(|error| Status::invalid_argument(error.to_string()))?;
                let info = asked.info.ok_or_else(|| Status::invalid_argument("the request has no FlightInfo"))?;
                let cancelled = self.desk.cancel(query_of(&info)?.id, &user);
                let status = if cancelled { CancelStatus::Cancelled } else { CancelStatus::NotCancellable };
                CancelFlightInfoResult::new(status).encode_to_vec()
            }
            // Nothing is kept for a session. The answer is CloseSessionResult with the status CLOSED.
            "CloseSession" => vec![0x08, 0x01],
            other => return Err(Status::unimplemented(format!("action `{other}` does not exist"))),
        };
        let result = arrow_flight::Result { body: body.into() };
        Ok(Response::new(futures::stream::iter([Ok(result)]).boxed()))
    }

    async fn get_flight_info_catalogs(&self, query: CommandGetCatalogs, request: Request<FlightDescriptor>) -> Info {
        info(query.as_any().encode_to_vec(), Some(&query.into_builder().schema()), request)
    }

    async fn do_get_catalogs(&self, query: CommandGetCatalogs, _: Request<Ticket>) -> Data {
        let mut builder = query.into_builder();
        builder.append(CATALOG);
        data(builder.build()?)
    }

    async fn get_flight_info_schemas(&self, query: CommandGetDbSchemas, request: Request<FlightDescriptor>) -> Info {
        info(query.as_any().encode_to_vec(), Some(&query.into_builder().schema()), request)
    }

    async fn do_get_schemas(&self, query: CommandGetDbSchemas, _: Request<Ticket>) -> Data {
        let mut builder = query.into_builder();
        builder.append(CATALOG, SCHEMA);
        data(builder.build()?)
    }

    async fn get_flight_info_tables(&self, query: CommandGetTables, request: Request<FlightDescriptor>) -> Info {
        info(query.as_any().encode_to_vec(), Some(&query.into_builder().schema()), request)
    }

    async fn do_get_tables(&self, query: CommandGetTables, _: Request<Ticket>) -> Data {
        let mut builder = query.into_builder();
        for table in self.desk.names.tables().await {
            // A table that cannot be opened is listed without columns.
            let schema =
                table.schema().map_or_else(|_| SchemaRef::new(Schema::empty()), |schema| plain_schema(&schema));
            let kind = if table.is_view { VIEW } else { TABLE };
            builder.append(CATALOG, SCHEMA, &table.name, kind, &schema)?;
        }
        data(builder.build()?)
    }

    async fn get_flight_info_table_types(
        &self,
        query: CommandGetTableTypes,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(query.as_any().encode_to_vec(), Some(&query.into_builder().schema()), request)
    }

    async fn do_get_table_types(&self, query: CommandGetTableTypes, _: Request<Ticket>) -> Data {
        let mut builder = query.into_builder();
        builder.append(TABLE);
        builder.append(VIEW);
        data(builder.build()?)
    }

    async fn get_flight_info_sql_info(&self, query: CommandGetSqlInfo, request: Request<FlightDescriptor>) -> Info {
        let (ticket, known) = (query.as_any().encode_to_vec(), metadata::sql_info()?);
        info(ticket, Some(&query.into_builder(&known).schema()), request)
    }

    async fn do_get_sql_info(&self, query: CommandGetSqlInfo, _: Request<Ticket>) -> Data {
        let known = metadata::sql_info()?;
        data(query.into_builder(&known).build()?)
    }

    async fn get_flight_info_xdbc_type_info(
        &self,
        query: CommandGetXdbcTypeInfo,
        request: Request<FlightDescriptor>,
    ) -> Info {
        let (ticket, known) = (query.as_any().encode_to_vec(), metadata::types()?);
        info(ticket, Some(&query.into_builder(&known).schema()), request)
    }

    async fn do_get_xdbc_type_info(&self, query: CommandGetXdbcTypeInfo, _: Request<Ticket>) -> Data {
        let known = metadata::types()?;
        data(query.into_builder(&known).build()?)
    }

    async fn get_flight_info_primary_keys(
        &self,
        query: CommandGetPrimaryKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(query.as_any().encode_to_vec(), Some(&metadata::primary_keys()), request)
    }

    async fn do_get_primary_keys(&self, _: CommandGetPrimaryKeys, _: Request<Ticket>) -> Data {
        data(RecordBatch::new_empty(metadata::primary_keys()))
    }

    async fn get_flight_info_exported_keys(
        &self,
        query: CommandGetExportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(query.as_any().encode_to_vec(), Some(&metadata::foreign_keys()), request)
    }

    async fn do_get_exported_keys(&self, _: CommandGetExportedKeys, _: Request<Ticket>) -> Data {
        data(RecordBatch::new_empty(metadata::foreign_keys()))
    }

    async fn get_flight_info_imported_keys(
        &self,
        query: CommandGetImportedKeys,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(query.as_any().encode_to_vec(), Some(&metadata::foreign_keys()), request)
    }

    async fn do_get_imported_keys(&self, _: CommandGetImportedKeys, _: Request<Ticket>) -> Data {
        data(RecordBatch::new_empty(metadata::foreign_keys()))
    }

    async fn get_flight_info_cross_reference(
        &self,
        query: CommandGetCrossReference,
        request: Request<FlightDescriptor>,
    ) -> Info {
        info(query.as_any().encode_to_vec(), Some(&metadata::foreign_keys()), request)
    }

    async fn do_get_cross_reference(&self, _: CommandGetCrossReference, _: Request<Ticket>) -> Data {
        data(RecordBatch::new_empty(metadata::foreign_keys()))
    }

    async fn register_sql_info(&self, _: i32, _: &SqlInfo) {}
}
