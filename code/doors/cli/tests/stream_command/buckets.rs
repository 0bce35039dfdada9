//! State, sources and sinks in buckets, on the S3 server of the local cloud.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use buzz_localcloud::ecs::{AddressKind, TaskDefinition};
use buzz_localcloud::upload::upload;
use buzz_localcloud::{LocalCloud, Setup, client_environment};
use buzz_testkit::program;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::served::{Server, WAIT_MAX};
use crate::support::{Folder, Result, same};

/// An S3 server with the bucket `lake`.
struct Bucket {
    cloud: LocalCloud,
    runtime: tokio::runtime::Runtime,
}

impl Bucket {
    fn start(folder: &Folder) -> Result<Self> {
        let runtime = tokio::runtime::Runtime::new()?;
        let never_run = TaskDefinition {
            cluster: String::new(),
            family: String::new(),
            container: String::new(),
            program: program("buzz"),
            environment: BTreeMap::new(),
            listen_variable: String::new(),
            port: 0,
            address: AddressKind::Ipv4,
            start_delay: Duration::ZERO,
            stop_timeout: Duration::ZERO,
        };
        let setup = Setup {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            host: None,
            folder: folder.path("cloud"),
            buckets: vec!["lake".to_string()],
            functions: Vec::new(),
            concurrency: 1,
            task_definition: never_run,
        };
        let cloud = runtime.block_on(LocalCloud::start(setup)).map_err(|error| format!("no S3 server: {error}"))?;
        Ok(Self { cloud, runtime })
    }

    /// The command with the variables that reach the server, and no other `AWS_` variables.
    fn buzz(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_buzz"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        command.args(arguments).envs(client_environment(&self.cloud.endpoint)).stdin(Stdio::null());
        command
    }

    fn succeeds(&self, arguments: &[&str]) -> Result<String> {
        let output = self.buzz(arguments).output()?;
        if !output.status.success() {
            return Err(format!("{arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The rows of a folder of JSON files, sorted.
    fn rows(&self, uri: &str) -> Result<Vec<String>> {
        let table = format!("t={uri}");
        let text = self.succeeds(&["sql", "SELECT * FROM t", "--format", "ndjson", "--table", &table])?;
        let mut rows: Vec<String> = text.lines().map(str::to_string).collect();
        rows.sort();
        Ok(rows)
    }
}

/// Writes events in ten files, and uploads them to `s3://lake/in`.
fn upload_events(folder: &Folder, bucket: &Bucket) -> Result {
    let script = format!(
        "CREATE TABLE nexmark WITH (connector='nexmark', event_rate='1000', events='10000', real_time='false', \
         disorder='1s');\nSET epoch_rows = 1000;\n\
         CREATE TABLE out WITH (connector='json', path='{}', type='sink');\n\
         INSERT INTO out SELECT bid.auction AS auction, bid.price AS price, date_time AS ts FROM nexmark \
         WHERE bid IS NOT NULL;",
        folder.text("in")
    );
    let path = folder.write("events.sql", &script)?.display().to_string();
    bucket.succeeds(&["stream", "run", &path, "--until-end"])?;
    let count = folder.files("in")?.len();
    if count != 10 {
        return Err(format!("{count} files instead of 10").into());
    }
    let uploaded = bucket.runtime.block_on(upload(&bucket.cloud.endpoint, &folder.path("in"), "s3://lake/in"));
    uploaded.map_err(|error| format!("no upload: {error}"))?;
    Ok(())
}

fn script(input: &str, output: &str) -> String {
    format!(
        "CREATE TABLE bids (auction BIGINT, price BIGINT, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '1 second') WITH \
         (connector='json', path='{input}');\nSET epoch_rows = 300;\n\
         CREATE TABLE out WITH (connector='json', path='{output}', type='sink');\n\
         INSERT INTO out SELECT auction % 50 AS a, count(*) AS n, sum(price) AS s, tumble(interval '1 second') AS w \
         FROM bids GROUP BY 1, w;"
    )
}

/// State, source and sink in a bucket: kills change no row, nor do two processes that race for each record.
pub(crate) fn kills_and_races() -> Result {
    let folder = Folder::new()?;
    let bucket = Bucket::start(&folder)?;
    upload_events(&folder, &bucket)?;
    let local = folder.write("local.sql", &script(&folder.text("in"), &folder.text("out")))?.display().to_string();
    bucket.succeeds(&["stream", "run", &local, "--until-end"])?;
    let expected = bucket.rows(&folder.text("out"))?;
    if expected.len() < 400 {
        return Err(format!("{} rows", expected.len()).into());
    }

    let killed = folder.write("killed.sql", &script("s3://lake/in", "s3://lake/killed"))?.display().to_string();
    let run = |script: &str, state: &str| {
        let mut command = bucket.buzz(&["stream", "run", script, "--until-end", "--state", state]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..6 {
        let mut child = run(&killed, "s3://lake/state/killed").spawn()?;
        std::thread::sleep(Duration::from_millis(rng.random_range(100..600)));
        child.kill()?;
        child.wait()?;
    }
    bucket.succeeds(&["stream", "run", &killed, "--until-end", "--state", "s3://lake/state/killed"])?;
    same("after kills", &expected, &bucket.rows("s3://lake/killed")?)?;
    let epochs = bucket.succeeds(&["stream", "epochs", "--state", "s3://lake/state/killed"])?;
    if !epochs.contains("pipeline killed, version 1") || !epochs.contains("end") {
        return Err(epochs.into());
    }

    let raced = folder.write("raced.sql", &script("s3://lake/in", "s3://lake/raced"))?.display().to_string();
    let mut children = [run(&raced, "s3://lake/state/raced").spawn()?, run(&raced, "s3://lake/state/raced").spawn()?];
    for child in &mut children {
        child.wait()?;
    }
    // One of them may have stopped because the other was faster.
    bucket.succeeds(&["stream", "run", &raced, "--until-end", "--state", "s3://lake/state/raced"])?;
    same("two processes", &expected, &bucket.rows("s3://lake/raced")?)
}

/// A pipeline of a server, with its state and its sink in a bucket, is stopped, and goes on in the next server.
pub(crate) fn pipelines() -> Result {
    let folder = Folder::new()?;
    let bucket = Bucket::start(&folder)?;
    let server = || Server::of(bucket.buzz(&["serve", "--state", "s3://lake/jobs"]), &folder);
    let script = "CREATE TABLE impulse WITH (connector='impulse', events='2000', real_time='false');\nSET epoch_rows = 50;\n\
                  CREATE TABLE out WITH (connector='json', path='s3://lake/counted', type='sink');\n\
                  INSERT INTO out SELECT counter FROM impulse;";
    let first = server()?;
    first.create("counter", script)?;
    first.wait_state("counter", "Running")?;
    first.ok("PATCH", "/pipelines/counter", &json!({"stop": "checkpoint"}))?;
    first.wait_state("counter", "Stopped")?;
    first.stop()?;
    let second = server()?;
    second.wait_state("counter", "Stopped")?;
    second.ok("PATCH", "/pipelines/counter", &json!({"stop": "none", "parallelism": 2}))?;
    second.wait_state("counter", "Finished")?;
    let checkpoints = second.ok("GET", "/pipelines/counter/jobs/job_counter/checkpoints", &Value::Null)?;
    let stops = checkpoints["data"].as_array().into_iter().flatten();
    let stops = stops.filter(|checkpoint| checkpoint["checkpointType"] == "stopping").count();
    if !(1..=2).contains(&stops) {
        return Err(format!("{stops} stops in {checkpoints}").into());
    }
    second.stop()?;
    let mut expected: Vec<String> = (0..2000).map(|counter| json!({"counter": counter}).to_string()).collect();
    expected.sort();
    same("in a bucket", &expected, &bucket.rows("s3://lake/counted")?)
}

/// A way to a server that can be closed, as if the server were away.
struct Gate {
    address: SocketAddr,
    is_open: Arc<AtomicBool>,
    passing: Arc<Mutex<Vec<TcpStream>>>,
}

impl Gate {
    fn to(server: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let gate = Self { address: listener.local_addr()?, is_open: Arc::new(true.into()), passing: Arc::default() };
        let (is_open, passing) = (Arc::clone(&gate.is_open), Arc::clone(&gate.passing));
        let server = server.trim_start_matches("http://").trim_end_matches('/').to_string();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(std::result::Result::ok) {
                if !is_open.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&server) else { continue };
                let (Ok(from_client), Ok(from_server)) = (client.try_clone(), server.try_clone()) else { continue };
                passing.lock().extend([client.try_clone(), server.try_clone()].into_iter().flatten());
                carry(from_client, server);
                carry(from_server, client);
            }
        });
        Ok(gate)
    }

    /// Closes all connections, and accepts no more.
    fn close(&self) {
        self.is_open.store(false, Ordering::SeqCst);
        for stream in self.passing.lock().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    fn open(&self) {
        self.is_open.store(true, Ordering::SeqCst);
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    std::thread::spawn(move || {
        drop(std::io::copy(&mut from, &mut to));
        drop(to.shutdown(Shutdown::Both));
    });
}

/// The store of state and sink is away twice while a pipeline runs. The pipeline waits, and each row is in the sink once.
pub(crate) fn store_away() -> Result {
    let folder = Folder::new()?;
    let bucket = Bucket::start(&folder)?;
    let gate = Gate::to(&bucket.cloud.endpoint)?;
    let mut command = bucket.buzz(&["serve", "--state", "s3://lake/jobs"]);
    command.env("AWS_ENDPOINT_URL", format!("http://{}", gate.address));
    let server = Server::of(command, &folder)?;
    let script = "CREATE TABLE impulse WITH (connector='impulse', events='3000', real_time='false');\nSET epoch_rows = 20;\n\
                  CREATE TABLE out WITH (connector='json', path='s3://lake/away', type='sink');\n\
                  INSERT INTO out SELECT counter FROM impulse;";
    server.create("a", script)?;
    server.wait_state("a", "Running")?;
    for _ in 0..2 {
        gate.close();
        std::thread::sleep(Duration::from_secs(3));
        gate.open();
        std::thread::sleep(Duration::from_millis(500));
    }
    let started = Instant::now();
    loop {
        // The server may have answered that its store is away.
        let (status, pipeline) = server.call("GET", "/pipelines/a", &Value::Null)?;
        match (status, pipeline["state"].as_str()) {
            (200, Some("Finished")) => break,
            (200, Some("Failed")) => return Err(format!("the pipeline has failed: {pipeline}").into()),
            _ if started.elapsed() > WAIT_MAX => return Err(format!("the pipeline has not ended: {pipeline}").into()),
            _ => std::thread::sleep(Duration::from_millis(100)),
        }
    }
    server.stop()?;
    let mut expected: Vec<String> = (0..3000).map(|counter| json!({"counter": counter}).to_string()).collect();
    expected.sort();
    same("after the store was away", &expected, &bucket.rows("s3://lake/away")?)
}
