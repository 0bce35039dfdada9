//! Tests TLS between a comb and its callers: which connections succeed, and the errors of the others.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use buzz_exchange::{
    CombCertificate, DeliveryWriter, Destination, InboxNetwork, Inboxes, Network, OpenQuery, StageSpec, TcpNetwork,
    flight_server, incoming,
};
use buzz_kernel::encode_schema;
use buzz_protocol::{
    BUILD_ID, CombAddress, ErrorKind, Partitioning, QueryError, QueryId, QueryToken, StageId, TaskIndex,
};
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Longer than any answer takes, and shorter than a caller would wait for a silent comb and try again.
const SOON: Duration = Duration::from_secs(20);

/// A comb that listens on a port, without its reduce worker.
struct Comb {
    inboxes: Arc<Inboxes>,
    /// Its address without a certificate.
    plain: CombAddress,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Comb {
    /// Starts a comb on `port`, or on a free one.
    async fn start(certificate: Option<CombCertificate>, port: u16) -> Self {
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                // The comb that had it before is about to give it back.
                Err(_) if port != 0 => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("no port is free: {error}"),
            }
        };
        let plain = CombAddress(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let inboxes = Arc::new(Inboxes::default());
        let (stop, stopped) = oneshot::channel();
        let mut server = tonic::transport::Server::builder();
        let server = server.add_service(flight_server(Arc::clone(&inboxes)));
        let serving = tokio::spawn(async move {
            let stopped = async { _ = stopped.await };
            server.serve_with_incoming_shutdown(incoming(listener, certificate.as_ref()), stopped).await.unwrap();
        });
        Self { inboxes, plain, stop, serving }
    }

    /// Stops the comb, with all its connections. Returns its port.
    async fn stop(self) -> u16 {
        let port = self.port();
        _ = self.stop.send(());
        self.serving.await.unwrap();
        port
    }

    fn port(&self) -> u16 {
        self.plain.0.port().unwrap()
    }
}

/// Returns the build of the comb at `address`, over a connection of its own.
async fn build(address: &CombAddress) -> Result<String, QueryError> {
    tokio::time::timeout(SOON, TcpNetwork::default().build(address)).await.expect("an answer or an error comes soon")
}

fn pinned(certificate: &CombCertificate, comb: &Comb) -> CombAddress {
    certificate.fingerprint().pinned(&comb.plain).unwrap()
}

fn opening(query: QueryId, token: &QueryToken, schema: &Schema) -> OpenQuery {
    let stage = StageSpec {
        stage: StageId(0),
        step: "m".to_string(),
        schema: encode_schema(schema).into(),
        partitions: 0..1,
        tasks: 1,
        readers: 1,
    };
    OpenQuery {
        build: BUILD_ID.to_string(),
        query,
        token: token.clone(),
        deadline_ms: None,
        lease_ms: None,
        stages: vec![stage],
        flowing: false,
        paced: false,
        ahead: false,
        memory_bytes: 1 << 30,
        disk_bytes: 1 << 30,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_delivered_to_the_comb_with_the_pinned_certificate() {
    let certificate = CombCertificate::fresh().unwrap();
    let comb = Comb::start(Some(certificate.clone()), 0).await;
    let address = pinned(&certificate, &comb);
    let network: Arc<dyn InboxNetwork> = Arc::new(TcpNetwork::default());
    let (query, token) = (QueryId::fresh(), QueryToken::fresh());
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
    let inbox = network.inbox(&address, &token).await.unwrap();
    inbox.open(opening(query, &token, &schema)).await.unwrap();
    assert_eq!(comb.inboxes.open_queries(), 1);

    let destination = Destination {
        query,
        token: token.clone(),
        stage: StageId(0),
        task: TaskIndex(0),
        partitioning: Partitioning::RoundRobin { count: 1 },
        combs: vec![address.clone()],
        objects: None,
        inline_bytes: 0,
        batch_size: 8192,
    };
    let mut writer = DeliveryWriter::new(Arc::clone(&network), destination, Arc::clone(&schema)).unwrap();
    // More bytes than one record of TLS has.
    let batch = RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from_iter_values(0..100_000))]).unwrap();
    writer.write(batch).await.unwrap();
    let delivery = writer.finish().await.unwrap();
    assert_eq!(delivery.rows.iter().sum::<u64>(), 100_000);
    assert_eq!(build(&address).await.unwrap(), BUILD_ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn comb_with_another_certificate_is_lost_and_gets_no_call() {
    let (expected, other) = (CombCertificate::fresh().unwrap(), CombCertificate::fresh().unwrap());
    let comb = Comb::start(Some(other), 0).await;
    let address = pinned(&expected, &comb);
    let error = build(&address).await.unwrap_err();
    assert_eq!((error.kind, error.comb()), (ErrorKind::Unavailable, Some(address.to_string().as_str())));
    assert!(error.to_string().contains("not that of the comb which was started"), "{error}");

    let token = QueryToken::fresh();
    let inbox = TcpNetwork::default().inbox(&address, &token).await.unwrap();
    let error = inbox.open(opening(QueryId::fresh(), &token, &Schema::empty())).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert_eq!(comb.inboxes.open_queries(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn comb_that_takes_the_address_of_another_is_not_talked_to() {
    let (first, second) = (CombCertificate::fresh().unwrap(), CombCertificate::fresh().unwrap());
    let comb = Comb::start(Some(first.clone()), 0).await;
    let address = pinned(&first, &comb);
    let network = TcpNetwork::default();
    assert_eq!(network.build(&address).await.unwrap(), BUILD_ID);

    let thief = Comb::start(Some(second.clone()), comb.stop().await).await;
    let mut errors = Vec::new();
    // The first call may still see that the connection ended.
    for _ in 0..2 {
        errors.push(network.build(&address).await.unwrap_err());
    }
    assert!(errors.iter().all(|error| error.kind == ErrorKind::Unavailable), "{errors:?}");
    let error = errors.pop().unwrap();
    assert!(error.to_string().contains("not that of the comb which was started"), "{error}");
    assert_eq!(build(&pinned(&second, &thief)).await.unwrap(), BUILD_ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn ends_that_do_not_agree_on_tls_say_so() {
    let certificate = CombCertificate::fresh().unwrap();
    let secure = Comb::start(Some(certificate.clone()), 0).await;
    let errors = join_all((0..10).map(|_| build(&secure.plain))).await;
    let errors: Vec<QueryError> = errors.into_iter().map(Result::unwrap_err).collect();
    assert!(errors.iter().all(|error| error.kind == ErrorKind::Unavailable), "{errors:?}");
    // A call that was not sent in time learns only that its connection ended.
    assert!(errors.iter().any(|error| error.to_string().contains("this comb requires TLS")), "{errors:?}");

    let plain = Comb::start(None, 0).await;
    let error = build(&pinned(&certificate, &plain)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("TLS"), "{error}");
    assert_eq!(build(&plain.plain).await.unwrap(), BUILD_ID);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_without_a_handshake_do_not_hinder_others() {
    let certificate = CombCertificate::fresh().unwrap();
    let comb = Comb::start(Some(certificate.clone()), 0).await;
    // Silent, garbage, the start of a handshake, and a caller of HTTP/1.
    let starts = [&b""[..], &[0xff; 4096], &[0x16, 3, 1, 2], b"GET / HTTP/1.1\r\n\r\n"];
    let mut streams = Vec::new();
    for start in starts.iter().cycle().take(200) {
        let mut stream = TcpStream::connect(("127.0.0.1", comb.port())).await.unwrap();
        // The comb may have closed the connection already.
        _ = stream.write_all(start).await;
        streams.push(stream);
    }
    let address = pinned(&certificate, &comb);
    let builds = join_all((0..20).map(|_| build(&address))).await;
    assert!(builds.iter().all(|build| build.as_deref() == Ok(BUILD_ID)), "{builds:?}");

    // None of them keeps its connection for long.
    for mut stream in streams {
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "a connection without a handshake stays open");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn comb_that_never_answers_a_handshake_is_lost_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = CombAddress(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
    let fingerprint = CombCertificate::fresh().unwrap().fingerprint();
    let error = build(&fingerprint.pinned(&silent).unwrap()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(error.to_string().contains("did not complete a TLS handshake within 3 seconds"), "{error}");
}
