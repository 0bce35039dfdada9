//! Measures the intake rate of a comb. `comb-intake HCOMB FOLDER` starts the program HCOMB and repeatedly delivers the
//! Parquet files of FOLDER to it, as HBees do. It prints one line of JSON per number of concurrent deliveries.
//!
//! The comb stores and commits the deliveries, and reduces nothing. Bytes are those of the batches in memory; fewer
//! bytes are sent, since batches are compressed (LZ4). Processor time is reported for each side.

#![expect(clippy::print_stdout, reason = "a program prints")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use buzz_exchange::{
    Commit, DeliveryWriter, Destination, InboxNetwork, InboxService, Network, OpenQuery, StageSpec, TcpNetwork,
};
use buzz_kernel::encode_schema;
use buzz_protocol::{BUILD_ID, CombAddress, Partitioning, QueryId, QueryToken, StageId, TaskIndex};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::process::{Child, Command};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// Number of partitions of the comb: that of a comb with two processors.
const PARTITIONS: usize = 2;
/// Bytes of one delivery, about as many as a task delivers.
const DELIVERY_BYTES: u64 = 32 << 20;
/// Bytes that are delivered before the query is closed; less than the memory of the comb.
const ROUND_BYTES: u64 = 512 << 20;
/// Total bytes delivered for each number of concurrent deliveries.
const ALL_BYTES: u64 = 4 << 30;
/// Memory of the comb in MB.
const MEMORY_MB: &str = "4096";

#[tokio::main]
async fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [program, folder] = arguments.as_slice() else {
        return Err("usage: comb-intake HCOMB FOLDER".into());
    };
    let (schema, batches) = read(Path::new(folder))?;
    let comb = RunningComb::start(Path::new(program)).await?;
    for at_once in [1, 4] {
        let (comb_before, own_before) = (comb.cpu_seconds()?, cpu_seconds("self")?);
        let (started, mut bytes) = (Instant::now(), 0);
        while bytes < ALL_BYTES {
            bytes += comb.round(&schema, &batches, at_once).await?;
        }
        let seconds = started.elapsed().as_secs_f64();
        let measured = serde_json::json!({
            "at_once": at_once,
            "bytes": bytes,
            "seconds": seconds,
            "comb_cpu_seconds": comb.cpu_seconds()? - comb_before,
            "sender_cpu_seconds": cpu_seconds("self")? - own_before,
        });
        println!("{measured}");
    }
    Ok(())
}

/// A comb in a child process, which ends with this process.
struct RunningComb {
    process: Child,
    address: CombAddress,
    network: Arc<dyn InboxNetwork>,
}

impl RunningComb {
    async fn start(program: &Path) -> Result<Self, Error> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let process = Command::new(program)
            .env("BUZZ_COMB_LISTEN", "127.0.0.1")
            .env("BUZZ_COMB_PORT", port.to_string())
            .env("BUZZ_COMB_MEMORY_MB", MEMORY_MB)
            .env("BUZZ_LOG", "warn")
            .kill_on_drop(true)
            .spawn()?;
        let address = CombAddress(format!("http://127.0.0.1:{port}").parse()?);
        let network = Arc::new(TcpNetwork::default());
        for _ in 0..100 {
            if network.build(&address).await.is_ok() {
                return Ok(Self { process, address, network });
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Err(format!("{} does not respond", program.display()).into())
    }

    /// Sends the deliveries of one query, `at_once` concurrently. Returns their bytes.
    async fn round(&self, schema: &SchemaRef, batches: &[RecordBatch], at_once: usize) -> Result<u64, Error> {
        let (query, token) = (QueryId::fresh(), QueryToken::fresh());
        let inbox = self.network.inbox(&self.address, &token).await?;
        let tasks = ROUND_BYTES / DELIVERY_BYTES;
        let stage = StageSpec {
            stage: StageId(0),
            step: "intake".to_string(),
            schema: encode_schema(schema).into(),
            partitions: 0..PARTITIONS,
            tasks: u32::try_from(tasks)?,
            readers: 1,
        };
        inbox
            .open(OpenQuery {
                build: BUILD_ID.to_string(),
                query,
                token: token.clone(),
                deadline_ms: None,
                lease_ms: None,
                stages: vec![stage],
                flowing: false,
                paced: false,
                ahead: false,
                memory_bytes: 2 * ROUND_BYTES,
                disk_bytes: 0,
            })
            .await?;
        let destination = |task| Destination {
            query,
            token: token.clone(),
            stage: StageId(0),
            task,
            partitioning: Partitioning::RoundRobin { count: PARTITIONS },
            combs: vec![self.address.clone()],
            objects: None,
            inline_bytes: 0,
            batch_size: 8192,
        };
        let mut bytes = 0;
        let mut running = tokio::task::JoinSet::new();
        for task in (0..u32::try_from(tasks)?).map(TaskIndex) {
            if running.len() == at_once {
                bytes += running.join_next().await.ok_or("no delivery is running")???;
            }
            let writer = DeliveryWriter::new(Arc::clone(&self.network), destination(task), Arc::clone(schema))?;
            running.spawn(deliver(writer, batches.to_vec(), Arc::clone(&inbox), query, task));
        }
        while let Some(delivered) = running.join_next().await {
            bytes += delivered??;
        }
        inbox.close(query).await?;
        Ok(bytes)
    }

    fn cpu_seconds(&self) -> Result<f64, Error> {
        cpu_seconds(&self.process.id().ok_or("the comb has ended")?.to_string())
    }
}

/// Delivers batches in a cycle up to the size of a delivery, and commits it. Returns the bytes delivered.
async fn deliver(
    mut writer: DeliveryWriter,
    batches: Vec<RecordBatch>,
    inbox: Arc<dyn InboxService>,
    query: QueryId,
    task: TaskIndex,
) -> Result<u64, Error> {
    let mut bytes = 0;
    for batch in batches.iter().cycle().skip(task.0 as usize % batches.len()) {
        if bytes >= DELIVERY_BYTES {
            break;
        }
        bytes += batch.get_array_memory_size() as u64;
        writer.write(batch.clone()).await?;
    }
    let delivery = writer.finish().await?;
    let commit = Commit { stage: StageId(0), task, delivery: delivery.delivery, rows: delivery.rows };
    inbox.commit(query, vec![commit]).await?;
    Ok(delivery.bytes)
}

/// Reads batches of Parquet files below `folder`, which all have the same schema, up to the size of a delivery.
fn read(folder: &Path) -> Result<(SchemaRef, Vec<RecordBatch>), Error> {
    let mut batches = Vec::new();
    let mut bytes = 0;
    for path in files(folder)? {
        for batch in ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.build()? {
            let batch = batch?;
            bytes += batch.get_array_memory_size() as u64;
            batches.push(batch);
        }
        if bytes >= DELIVERY_BYTES {
            break;
        }
    }
    let schema = batches.first().ok_or_else(|| format!("{} has no rows", folder.display()))?.schema();
    Ok((schema, batches))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "parquet")
            && !path.to_string_lossy().contains("_delta_log")
        {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

/// Returns the user and system time of a process so far, in seconds. The kernel reports hundredths of a second.
fn cpu_seconds(process: &str) -> Result<f64, Error> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').ok_or("cannot parse /proc/PID/stat")?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    Ok((fields[11].parse::<f64>()? + fields[12].parse::<f64>()?) / 100.0)
}
