//! A comb's inboxes over Arrow Flight.
//!
//! A delivery is one `DoPut`: the descriptor's command is a [`DeliveryHeader`] as JSON, the first message the schema,
//! and each batch carries its partition (in the numbering of all combs) in `app_metadata`, as four bytes, little
//! endian. The comb responds once, when it holds the whole delivery. `DoAction` serves the other calls, with JSON
//! bodies: `open` ([`OpenQuery`]), `commit`, `check_open`, `check_read`,
//! `abort`, `close`. Each call carries the query's token in the header
//! `x-buzz-token`, except `build`, which returns the build. A failure is a status whose details are a [`QueryError`] as
//! JSON.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::ipc::CompressionType;
use arrow::ipc::writer::{DictionaryTracker, IpcDataGenerator, IpcWriteContext, IpcWriteOptions};
use arrow_flight::decode::{DecodedPayload, FlightDataDecoder};
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest, HandshakeResponse,
    PollInfo, PutResult, SchemaResult, Ticket,
};
use async_trait::async_trait;
use buzz_protocol::{BUILD_ID, CombAddress, Place, QueryError, QueryId, QueryToken, Result, StageId};
use buzz_telemetry::{TRACEPARENT, continued, span, traced};
use bytes::Bytes;
use datafusion::common::utils::memory::get_record_batch_memory_size;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use crate::exchanged::ExchangeCount;
use crate::headers::TOKEN_HEADER;
use crate::inbox::Inboxes;
use crate::service::{Commit, DeliveryHeader, DeliverySink, InboxService, OpenQuery};
use crate::status::{from_flight, from_status, to_status};

/// Maximum number of messages in flight on one delivery before its sender waits for the network.
const MESSAGES_IN_FLIGHT: usize = 4;

/// Target size of a message, in bytes; larger batches are sent in slices.
const MESSAGE_BYTES: usize = 4 << 20;

#[derive(Serialize, Deserialize)]
struct CommitBody {
    query: QueryId,
    commits: Vec<Commit>,
}

#[derive(Serialize, Deserialize)]
struct AbortBody {
    query: QueryId,
    reason: QueryError,
}

#[derive(Serialize, Deserialize)]
struct CheckBody {
    query: QueryId,
    unread: BTreeSet<StageId>,
}

#[derive(Serialize, Deserialize)]
struct CloseBody {
    query: QueryId,
}

/// Serves `inboxes` over Flight.
pub fn flight_server(inboxes: Arc<Inboxes>) -> FlightServiceServer<impl FlightService> {
    FlightServiceServer::new(InboxFlight { inboxes }).max_decoding_message_size(usize::MAX)
}

struct InboxFlight {
    inboxes: Arc<Inboxes>,
}

type Answer<T> = std::result::Result<Response<T>, Status>;
type Answers<T> = BoxStream<'static, std::result::Result<T, Status>>;

fn broken(what: &str) -> QueryError {
    QueryError::internal(format!("a received delivery has an invalid {what}"))
}

fn not_served<T>() -> Answer<T> {
    Err(Status::unimplemented("a comb supports deliveries (DoPut) and actions (DoAction) only"))
}

#[async_trait]
impl FlightService for InboxFlight {
    type HandshakeStream = Answers<HandshakeResponse>;
    type ListFlightsStream = Answers<FlightInfo>;
    type DoGetStream = Answers<FlightData>;
    type DoPutStream = Answers<PutResult>;
    type DoExchangeStream = Answers<FlightData>;
    type DoActionStream = Answers<arrow_flight::Result>;
    type ListActionsStream = Answers<ActionType>;

    async fn do_put(&self, request: Request<Streaming<FlightData>>) -> Answer<Self::DoPutStream> {
        let token = shown(request.metadata());
        let trace = request.metadata().get(TRACEPARENT).and_then(|trace| trace.to_str().ok()).map(str::to_string);
        let taken = self.take_delivery(token, trace, request.into_inner()).await;
        taken.map_err(|error| to_status(&error))?;
        let answer = futures::stream::once(async { Ok(PutResult { app_metadata: Bytes::new() }) });
        Ok(Response::new(answer.boxed()))
    }

    async fn do_action(&self, request: Request<Action>) -> Answer<Self::DoActionStream> {
        let token = shown(request.metadata());
        let Action { r#type, body } = request.into_inner();
        if r#type == "build" {
            let answer = arrow_flight::Result { body: Bytes::from_static(BUILD_ID.as_bytes()) };
            return Ok(Response::new(futures::stream::once(async { Ok(answer) }).boxed()));
        }
        let body = self.act(token, &r#type, &body).await.map_err(|error| to_status(&error))?;
        let answer = body.map(|body| Ok(arrow_flight::Result { body }));
        Ok(Response::new(futures::stream::iter(answer).boxed()))
    }

    async fn handshake(&self, _: Request<Streaming<HandshakeRequest>>) -> Answer<Self::HandshakeStream> {
        not_served()
    }

    async fn list_flights(&self, _: Request<Criteria>) -> Answer<Self::ListFlightsStream> {
        not_served()
    }

    async fn get_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<FlightInfo> {
        not_served()
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Answer<PollInfo> {
        not_served()
    }

    async fn get_schema(&self, _: Request<FlightDescriptor>) -> Answer<SchemaResult> {
        not_served()
    }

    async fn do_get(&self, _: Request<Ticket>) -> Answer<Self::DoGetStream> {
        not_served()
    }

    async fn do_exchange(&self, _: Request<Streaming<FlightData>>) -> Answer<Self::DoExchangeStream> {
        not_served()
    }

    async fn list_actions(&self, _: Request<Empty>) -> Answer<Self::ListActionsStream> {
        not_served()
    }
}

impl InboxFlight {
    /// Takes a delivery of a caller with `token`, whose span is `trace`.
    async fn take_delivery(
        &self,
        token: QueryToken,
        trace: Option<String>,
        mut messages: Streaming<FlightData>,
    ) -> Result<()> {
        let first = messages.message().await.map_err(|status| from_status(&status))?;
        let first = first.ok_or_else(|| broken("first message"))?;
        let command = first.flight_descriptor.as_ref().map(|descriptor| descriptor.cmd.clone());
        let header: DeliveryHeader = from_json(&command.ok_or_else(|| broken("descriptor"))?)?;
        self.inboxes.check(header.query, &token)?;
        let span = continued(
            trace.as_deref(),
            || span!("receive", otel.kind = "server", query_id = %header.query, stage = header.stage.0, task = header.task.0),
        );
        traced(span, self.hold(header, first, messages)).await
    }

    /// Holds the delivery of `header`, whose first message is `first`.
    async fn hold(&self, header: DeliveryHeader, first: FlightData, messages: Streaming<FlightData>) -> Result<()> {
        let all = futures::stream::once(async { Ok(first) }).chain(messages.map_err(FlightError::from));
        let mut decoded = FlightDataDecoder::new(all);
        let mut sink: Option<Box<dyn DeliverySink>> = None;
        while let Some(message) = decoded.try_next().await.map_err(from_flight)? {
            match message.payload {
                DecodedPayload::None => {}
                DecodedPayload::Schema(schema) => sink = Some(self.inboxes.deliver(header.clone(), schema).await?),
                DecodedPayload::RecordBatch(batch) => {
                    let partition = message.inner.app_metadata.as_ref().try_into().map(u32::from_le_bytes);
                    let partition = partition.map_err(|_| broken("partition"))?;
                    let sink = sink.as_mut().ok_or_else(|| broken("schema"))?;
                    sink.send(partition as usize, batch).await?;
                }
            }
        }
        sink.ok_or_else(|| broken("schema"))?.finish().await
    }

    /// Runs an action. Returns the body of the answer, if it has one.
    async fn act(&self, token: QueryToken, name: &str, body: &[u8]) -> Result<Option<Bytes>> {
        let done = match name {
            "open" => {
                let open: OpenQuery = from_json(body)?;
                // Opening an open query does nothing; the caller must have the query's token.
                self.inboxes.check(open.query, &token)?;
                self.inboxes.open(open).await
            }
            "commit" => {
                let CommitBody { query, commits } = from_json(body)?;
                self.inboxes.check(query, &token)?;
                self.inboxes.commit(query, commits).await
            }
            "check_open" => {
                let CloseBody { query } = from_json(body)?;
                self.inboxes.check(query, &token)?;
                self.inboxes.check_open(query).await
            }
            "check_read" => {
                let CheckBody { query, unread } = from_json(body)?;
                self.inboxes.check(query, &token)?;
                let counts = self.inboxes.check_read(query, unread).await?;
                return to_json(&counts).map(Some);
            }
            "abort" => {
                let AbortBody { query, reason } = from_json(body)?;
                self.inboxes.check(query, &token)?;
                self.inboxes.abort(query, reason).await
            }
            "close" => {
                let CloseBody { query } = from_json(body)?;
                self.inboxes.check(query, &token)?;
                self.inboxes.close(query).await
            }
            _ => Err(QueryError::internal(format!("a comb has no action `{name}`"))),
        };
        done.map(|()| None)
    }
}

/// Returns the token in the headers of a call; empty if there is none.
fn shown(metadata: &MetadataMap) -> QueryToken {
    QueryToken::shown(metadata.get(TOKEN_HEADER).and_then(|token| token.to_str().ok()).unwrap_or_default())
}

fn from_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| QueryError::internal(format!("a message to a comb cannot be decoded: {error}")))
}

fn to_json<T: Serialize>(value: &T) -> Result<Bytes> {
    let bytes = serde_json::to_vec(value);
    bytes.map(Bytes::from).map_err(|error| QueryError::internal(format!("a message cannot be encoded: {error}")))
}

fn comb(address: &CombAddress) -> Place {
    Place::Comb(address.to_string())
}

/// The inboxes of a remote comb.
#[derive(Debug)]
pub(crate) struct FlightInbox {
    address: CombAddress,
    client: FlightServiceClient<Channel>,
    token: QueryToken,
}

impl FlightInbox {
    /// Creates a client for the comb at `address`, connected by `channel`. All calls carry `token`.
    pub(crate) fn new(address: CombAddress, channel: Channel, token: QueryToken) -> Self {
        Self { address, client: FlightServiceClient::new(channel), token }
    }

    /// Returns the comb's build.
    ///
    /// # Errors
    /// `Unavailable` when the comb does not respond.
    pub(crate) async fn build(&self) -> Result<String> {
        let failed = |status: Status| from_status(&status).at(comb(&self.address));
        let action = Action { r#type: "build".to_string(), body: Bytes::new() };
        let answers = self.client.clone().do_action(action).await.map_err(failed)?;
        let answers: Vec<_> = answers.into_inner().try_collect().await.map_err(failed)?;
        let build = answers.first().map(|answer| String::from_utf8_lossy(&answer.body).into_owned());
        build.ok_or_else(|| QueryError::unavailable("it did not report its build").at(comb(&self.address)))
    }

    fn request<T>(&self, message: T) -> Result<Request<T>> {
        let mut request = Request::new(message);
        let token = self.token.as_str().parse();
        let token = token.map_err(|_| QueryError::internal("the token is not ASCII"))?;
        request.metadata_mut().insert(TOKEN_HEADER, token);
        if let Some(traceparent) = buzz_telemetry::current().and_then(|traceparent| traceparent.parse().ok()) {
            request.metadata_mut().insert(TRACEPARENT, traceparent);
        }
        Ok(request)
    }

    /// Calls an action. Returns the bodies of its answer.
    async fn act<T: Serialize + Sync>(&self, name: &str, body: &T) -> Result<Vec<arrow_flight::Result>> {
        let action = Action { r#type: name.to_string(), body: to_json(body)? };
        let failed = |status: Status| from_status(&status).at(comb(&self.address));
        let answers = self.client.clone().do_action(self.request(action)?).await.map_err(failed)?;
        answers.into_inner().try_collect().await.map_err(failed)
    }
}

#[async_trait]
impl InboxService for FlightInbox {
    async fn open(&self, open: OpenQuery) -> Result<()> {
        self.act("open", &open).await.map(drop)
    }

    async fn deliver(&self, header: DeliveryHeader, schema: SchemaRef) -> Result<Box<dyn DeliverySink>> {
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::LZ4_FRAME))?;
        // Batches refer to dictionaries by the numbers assigned in the schema.
        let mut dictionaries = DictionaryTracker::new(false);
        let encoded =
            IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(&schema, &mut dictionaries, &options);
        let mut first = FlightData::from(encoded);
        first.flight_descriptor = Some(FlightDescriptor::new_cmd(to_json(&header)?));

        let (sender, receiver) = mpsc::channel(MESSAGES_IN_FLIGHT);
        let mut client = self.client.clone();
        let messages = futures::stream::once(async { first }).chain(ReceiverStream::new(receiver));
        let request = self.request(messages)?;
        let put = tokio::spawn(async move {
            let answers = client.do_put(request).await?.into_inner();
            answers.try_collect::<Vec<PutResult>>().await.map(|answers| answers.len())
        });
        Ok(Box::new(FlightDelivery {
            address: self.address.clone(),
            sender: Some(sender),
            put: Some(put),
            options,
            dictionaries,
            write_context: IpcWriteContext::default(),
        }))
    }

    async fn commit(&self, query: QueryId, commits: Vec<Commit>) -> Result<()> {
        self.act("commit", &CommitBody { query, commits }).await.map(drop)
    }

    async fn check_read(&self, query: QueryId, unread: BTreeSet<StageId>) -> Result<Vec<ExchangeCount>> {
        let answers = self.act("check_read", &CheckBody { query, unread }).await?;
        let answer = answers.first().ok_or_else(|| QueryError::internal("a comb did not report its rows"))?;
        from_json(&answer.body)
    }

    async fn check_open(&self, query: QueryId) -> Result<()> {
        self.act("check_open", &CloseBody { query }).await.map(drop)
    }

    async fn abort(&self, query: QueryId, reason: QueryError) -> Result<()> {
        self.act("abort", &AbortBody { query, reason }).await.map(drop)
    }

    async fn close(&self, query: QueryId) -> Result<()> {
        self.act("close", &CloseBody { query }).await.map(drop)
    }
}

struct FlightDelivery {
    address: CombAddress,
    sender: Option<mpsc::Sender<FlightData>>,
    put: Option<JoinHandle<Result<usize, Status>>>,
    options: IpcWriteOptions,
    dictionaries: DictionaryTracker,
    write_context: IpcWriteContext,
}

impl std::fmt::Debug for FlightDelivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlightDelivery").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Drop for FlightDelivery {
    fn drop(&mut self) {
        // An abandoned delivery must not look complete: the call is aborted before its stream ends.
        if let Some(put) = self.put.take() {
            put.abort();
        }
    }
}

impl FlightDelivery {
    async fn post(&mut self, data: FlightData) -> Result<()> {
        let sent = match &self.sender {
            Some(sender) => sender.send(data).await.is_ok(),
            None => false,
        };
        // If the comb closed the stream early, its response contains the reason.
        if sent {
            Ok(())
        } else {
            Err(self.answer().await.err().unwrap_or_else(|| self.lost("the comb closed the delivery")))
        }
    }

    async fn answer(&mut self) -> Result<usize> {
        let Some(put) = self.put.take() else {
            return Err(self.lost("the delivery has already ended"));
        };
        match put.await {
            Ok(Ok(answers)) => Ok(answers),
            Ok(Err(status)) => Err(from_status(&status).at(comb(&self.address))),
            Err(_) => Err(self.lost("the delivery was aborted")),
        }
    }

    fn lost(&self, why: &str) -> QueryError {
        QueryError::unavailable(why).at(comb(&self.address))
    }
}

#[async_trait]
impl DeliverySink for FlightDelivery {
    async fn send(&mut self, partition: usize, batch: RecordBatch) -> Result<()> {
        let partition = u32::try_from(partition).map_err(|_| QueryError::internal("the partition exceeds 32 bits"))?;
        let messages = get_record_batch_memory_size(&batch).div_ceil(MESSAGE_BYTES).clamp(1, batch.num_rows().max(1));
        let rows_each = batch.num_rows().div_ceil(messages).max(1);
        let mut start = 0;
        while start < batch.num_rows() {
            let slice = batch.slice(start, rows_each.min(batch.num_rows() - start));
            start += rows_each;
            let (dictionaries, encoded) = IpcDataGenerator::default().encode(
                &slice,
                &mut self.dictionaries,
                &self.options,
                &mut self.write_context,
            )?;
            for dictionary in dictionaries {
                self.post(dictionary.into()).await?;
            }
            let mut data = FlightData::from(encoded);
            data.app_metadata = Bytes::copy_from_slice(&partition.to_le_bytes());
            self.post(data).await?;
        }
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        self.sender = None;
        match self.answer().await? {
            0 => Err(self.lost("the comb did not confirm the delivery")),
            _ => Ok(()),
        }
    }
}
