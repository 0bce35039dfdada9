//! A server on tables that the tests make, and on an engine whose queries never end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int8Array,
    Int16Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StructArray, Time64MicrosecondArray,
    TimestampMicrosecondArray, UInt32Array, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type};
use async_trait::async_trait;
use buzz_engine::{Engine, Names, Progress, Question, Running, TableDescription};
use buzz_fuse::Fuse;
use buzz_local::LocalHost;
use buzz_protocol::catalog::{CatalogEntry, CatalogType};
use buzz_protocol::{Options, Result};
use buzz_registry::{Named, Registry};
use buzz_serve::{Bounds, HistoryFile, Keys, RegistrySettings, Settings, Stopped, StreamsSettings};
use buzz_storage::Stores;
use parquet::arrow::ArrowWriter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// The key of every server.
pub(crate) const KEY: &str = "a-key-of-the-tests";

/// A server that stops when it is dropped.
pub(crate) struct Served {
    pub(crate) http: SocketAddr,
    pub(crate) postgres: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    work: JoinHandle<Stopped>,
    _folder: Option<tempfile::TempDir>,
}

impl Served {
    /// Stops the server and waits for its end.
    pub(crate) async fn stop(mut self) -> Stopped {
        drop(self.stop.take());
        self.work.await.unwrap()
    }
}

/// Returns the columns of the table `kinds`: the second row has nulls only, apart from `id`.
fn kinds() -> RecordBatch {
    let price = Decimal128Array::from(vec![Some(-1_234_567_890_123_456_789_012_345_678_901_234_567_i128), None]);
    let price = price.with_precision_and_scale(38, 2).unwrap();
    let at = TimestampMicrosecondArray::from(vec![Some(1_700_000_000_123_456), None]);
    let pair_field = Arc::new(Field::new("a", DataType::Int32, true));
    let pair = StructArray::try_new(
        vec![pair_field].into(),
        vec![Arc::new(Int32Array::from(vec![Some(1), None]))],
        Some(vec![true, false].into()),
    );
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2])), true),
        ("i8", Arc::new(Int8Array::from(vec![Some(i8::MIN), None])), true),
        ("i16", Arc::new(Int16Array::from(vec![Some(i16::MAX), None])), true),
        ("i32", Arc::new(Int32Array::from(vec![Some(i32::MIN), None])), true),
        ("i64", Arc::new(Int64Array::from(vec![Some(i64::MAX), None])), true),
        ("u32", Arc::new(UInt32Array::from(vec![Some(u32::MAX), None])), true),
        ("u64", Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])), true),
        ("f32", Arc::new(Float32Array::from(vec![Some(0.1), None])), true),
        ("f64", Arc::new(Float64Array::from(vec![Some(-1.5e300), None])), true),
        ("price", Arc::new(price), true),
        ("name", Arc::new(StringArray::from(vec![Some("é,\"\t\\"), None])), true),
        ("raw", Arc::new(BinaryArray::from(vec![Some(b"\x00\xff".as_slice()), None])), true),
        ("yes", Arc::new(BooleanArray::from(vec![Some(true), None])), true),
        ("day", Arc::new(Date32Array::from(vec![Some(19_000), None])), true),
        ("clock", Arc::new(Time64MicrosecondArray::from(vec![Some(86_399_999_999), None])), true),
        ("at", Arc::new(at.clone()), true),
        ("at_utc", Arc::new(at.with_timezone("UTC")), true),
        ("list", Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1), None]), None])), true),
        ("pair", Arc::new(pair.unwrap()), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

fn write(path: &Path, batch: &RecordBatch) {
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(batch).unwrap();
    writer.close().unwrap();
}

/// Starts a server with the tables `kinds` and `Numbers`, which has the numbers 0 to 9,999.
pub(crate) async fn server() -> Served {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("kinds.parquet"), &kinds());
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..10_000));
    write(&folder.path().join("numbers.parquet"), &RecordBatch::try_from_iter([("n", numbers)]).unwrap());
    let tables = vec![
        CatalogEntry::new("kinds", CatalogType::Parquet, "kinds.parquet"),
        CatalogEntry::new("Numbers", CatalogType::Parquet, "numbers.parquet"),
        CatalogEntry::new("missing", CatalogType::Parquet, "missing.parquet"),
    ];
    let mut served = start(fuse(), tables, None, BOUNDS, folder.path()).await;
    served._folder = Some(folder);
    served
}

/// Starts a server that knows the names in `buzz.json` of `folder`, and a file `numbers.parquet` there.
pub(crate) async fn server_with_registry(folder: &Path, can_change: bool) -> Served {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
    write(&folder.join("numbers.parquet"), &RecordBatch::try_from_iter([("n", numbers)]).unwrap());
    let named = Arc::new(named(folder));
    let registry = RegistrySettings {
        registry: Arc::clone(&named) as Arc<dyn Names>,
        read_again_after: Duration::ZERO,
        can_change,
    };
    let own = vec![CatalogEntry::new("own", CatalogType::Parquet, "numbers.parquet")];
    start(named, own, Some(registry), BOUNDS, folder).await
}

/// Makes an engine with the names in `buzz.json` of `folder`.
pub(crate) fn named(folder: &Path) -> Named {
    Named::new(fuse(), Arc::new(Registry::of_file(folder.join("buzz.json"))))
}

const BOUNDS: Bounds = Bounds { running: 2, waiting: 8, answers: 8 };

fn fuse() -> Arc<dyn Engine> {
    let host = LocalHost::new(Arc::new(Stores::default()), &Options::default(), 2).unwrap();
    Arc::new(Fuse::new(host.host()))
}

/// Starts a server whose queries end only when they are cancelled.
pub(crate) async fn endless(bounds: Bounds) -> Served {
    start(Arc::new(Endless), vec![CatalogEntry::new("t", CatalogType::Parquet, "t")], None, bounds, Path::new("/"))
        .await
}

/// Starts a server that keeps streams.
pub(crate) async fn with_streams(streams: StreamsSettings) -> Served {
    start_with(fuse(), Vec::new(), None, BOUNDS, Path::new("/"), Some(streams), None).await
}

/// Starts a server with the table `trips`, which has two rows.
pub(crate) async fn with_trips() -> Served {
    let folder = tempfile::tempdir().unwrap();
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("payment_type", Arc::new(StringArray::from(vec!["CASH", "Credit"])), true),
        (
            "pickup_at",
            Arc::new(TimestampMicrosecondArray::from(vec![1_300_000_000_000_000, 1_400_000_000_000_000])),
            true,
        ),
        ("fare_amount", Arc::new(Float32Array::from(vec![7.5, 8.25])), true),
    ];
    let trips = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    write(&folder.path().join("trips.parquet"), &trips);
    let tables = vec![CatalogEntry::new("trips", CatalogType::Parquet, "trips.parquet")];
    let mut served = start(fuse(), tables, None, BOUNDS, folder.path()).await;
    served._folder = Some(folder);
    served
}

/// Starts a server that keeps its history in the file `history` of `folder`, and knows a table `numbers`.
pub(crate) async fn with_history(folder: &Path) -> Served {
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
    write(&folder.join("numbers.parquet"), &RecordBatch::try_from_iter([("n", numbers)]).unwrap());
    let tables = vec![CatalogEntry::new("numbers", CatalogType::Parquet, "numbers.parquet")];
    let history = HistoryFile::open(&folder.join("history")).unwrap();
    start_with(fuse(), tables, None, BOUNDS, folder, None, Some(history)).await
}

async fn start(
    engine: Arc<dyn Engine>,
    tables: Vec<CatalogEntry>,
    registry: Option<RegistrySettings>,
    bounds: Bounds,
    base: &Path,
) -> Served {
    start_with(engine, tables, registry, bounds, base, None, None).await
}

async fn start_with(
    engine: Arc<dyn Engine>,
    tables: Vec<CatalogEntry>,
    registry: Option<RegistrySettings>,
    bounds: Bounds,
    base: &Path,
    streams: Option<StreamsSettings>,
    history: Option<HistoryFile>,
) -> Served {
    let any = "127.0.0.1:0".parse().unwrap();
    let settings = Settings {
        tables,
        registry,
        base: base.to_path_buf(),
        options: Options::default(),
        bounds,
        listen: any,
        postgres: any,
        tls: None,
        hosts: Vec::new(),
        keys: Keys::one(KEY).unwrap(),
        streams,
        pipelines: None,
        history,
    };
    let server = buzz_serve::bind(engine, settings).await.unwrap();
    let (http, postgres) = (server.http_address().unwrap(), server.postgres_address().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let work = tokio::spawn(server.run(async move { drop(stopped.await) }));
    Served { http, postgres, stop: Some(stop), work, _folder: None }
}

/// An engine whose queries never end by themselves.
#[derive(Debug)]
struct Endless;

#[async_trait]
impl Engine for Endless {
    async fn describe(&self, question: &Question) -> Result<Vec<TableDescription>> {
        let described = question.query.catalogs.iter().map(|entry| TableDescription {
            name: entry.name.clone(),
            kind: "Parquet".to_string(),
            uri: entry.uri.clone(),
            version: None,
            files: 1,
            bytes: 1,
            partition_columns: Vec::new(),
            columns: vec![("a".to_string(), "Int64".to_string())],
            warnings: Vec::new(),
            file_list: Vec::new(),
        });
        Ok(described.collect())
    }

    fn start_with(&self, _: Question, progress: Arc<Progress>) -> Running {
        let own = Arc::clone(&progress);
        Running::spawn(progress, async move { own.unless_stopped(std::future::pending()).await })
    }
}

/// Sends an HTTP request and returns the status, the head and the body of the response.
pub(crate) async fn http(
    served: &Served,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> (u16, String, Vec<u8>) {
    http_bytes(served, method, path, headers, body.as_bytes()).await
}

/// Sends an HTTP request with a body of any bytes, and returns the status, the head and the body of the response.
pub(crate) async fn http_bytes(
    served: &Served,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(served.http).await.unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str(&format!("Host: {}\r\n", served.http));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    let request = [request.as_bytes(), body].concat();
    stream.write_all(&request).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    let end = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(response[..end].to_vec()).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let body = response[end + 4..].to_vec();
    let is_chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    (status, head, if is_chunked { unchunked(&body) } else { body })
}

fn unchunked(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|window| window == b"\r\n").unwrap();
        let length = usize::from_str_radix(std::str::from_utf8(&body[..line]).unwrap(), 16).unwrap();
        if length == 0 {
            return whole;
        }
        whole.extend(&body[line + 2..line + 2 + length]);
        body = &body[line + 4 + length..];
    }
}

/// The header with the key, and that of a JSON body.
pub(crate) const AUTH: (&str, &str) = ("Authorization", "Bearer a-key-of-the-tests");
pub(crate) const JSON: (&str, &str) = ("Content-Type", "application/json");

/// Waits until the server runs `count` queries.
pub(crate) async fn until_running(served: &Served, count: usize) {
    let expected = format!("buzz_queries_running {count}\n");
    loop {
        let (_, _, body) = http(served, "GET", "/metrics", &[AUTH], "").await;
        if String::from_utf8(body).unwrap().contains(&expected) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Connects with tokio-postgres.
pub(crate) async fn client(served: &Served) -> tokio_postgres::Client {
    connect(served, KEY).await.unwrap()
}

/// Connects with `key`.
pub(crate) async fn connect(served: &Served, key: &str) -> Result<tokio_postgres::Client, tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(served.postgres.port()).user("ann").password(key).dbname("buzz");
    let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}
