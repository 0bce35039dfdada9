//! Deploys a stack with tables, and compares its answers with plain DataFusion.

#![expect(clippy::print_stdout, reason = "a test reports what it skips")]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::ipc::reader::FileReader;
use buzz_localcloud::stack::{FUSE, RESULTS, Stack};
use buzz_localcloud::upload::upload;
use buzz_localcloud::{LocalCloud, client_environment};
use buzz_testkit::{
    NO_SHARED_DATA, program_folder, same_rows, shared_data, sorted_text, target_folder, workspace_root,
};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common;

/// Location of the table in the example's catalog.
const SAMPLE: &str = "s3://cloudfuse-taxi-data/delta-tables/nyc-taxi-daily";
/// Location of the TLC trips.
pub(crate) const TRIPS: &str = "s3://buzz-local/trips";
/// Number of rows of the sample, small enough for the processes of a test on a small machine.
const SAMPLE_ROWS: &str = "60000";

/// A deployed Buzz.
pub(crate) struct Deployed {
    pub(crate) cloud: LocalCloud,
    folder: TempDir,
}

/// The response of Fuse as JSON, or the type and message of its error.
pub(crate) type Answer = Result<Value, (String, String)>;

/// Deploys a stack with both tables and at most 16 concurrent HBees.
pub(crate) async fn deploy(change: impl FnOnce(&mut Stack)) -> Deployed {
    let folder = tempfile::tempdir().unwrap();
    let mut stack = Stack::new(&program_folder(), &folder.path().join("cloud"));
    stack.comb_start_delay = Duration::from_millis(500);
    stack.fuse_environment.insert("BUZZ_HBEE_CONCURRENCY".to_string(), "16".to_string());
    change(&mut stack);
    let cloud = LocalCloud::start(stack.setup()).await.unwrap();
    upload(&cloud.endpoint, &sample(), SAMPLE).await.unwrap();
    upload(&cloud.endpoint, &months(), TRIPS).await.unwrap();
    Deployed { cloud, folder }
}

impl Deployed {
    /// Invokes Fuse with the `aws` command.
    pub(crate) async fn invoke(&self, event: &Value) -> Answer {
        self.invoke_logged(event).await.0
    }

    /// Invokes Fuse with the `aws` command. Returns the answer and the log tail.
    pub(crate) async fn invoke_logged(&self, event: &Value) -> (Answer, String) {
        self.invoke_function(FUSE, event).await
    }

    /// Invokes `function` with the `aws` command. Returns the answer and the log tail.
    pub(crate) async fn invoke_function(&self, function: &str, event: &Value) -> (Answer, String) {
        let name = format!("{}.json", uuid::Uuid::new_v4());
        let (input, output) = (self.path(&format!("in-{name}")), self.path(&format!("out-{name}")));
        std::fs::write(&input, event.to_string()).unwrap();
        let arguments =
            ["lambda", "invoke", "--function-name", function, "--cli-read-timeout", "0", "--log-type", "Tail"];
        let payload = format!("fileb://{}", input.display());
        let arguments = [&arguments[..], &["--payload", &payload, output.to_str().unwrap()]].concat();
        let printed = common::aws(&self.cloud.endpoint, self.folder.path(), &arguments).await.unwrap();
        let printed: Value = serde_json::from_str(&printed).unwrap();
        let answer: Value = serde_json::from_slice(&std::fs::read(output).unwrap()).unwrap();
        let log = printed["LogResult"].as_str().unwrap_or_default();
        let log = base64::Engine::decode(&base64::prelude::BASE64_STANDARD, log).unwrap();
        let log = String::from_utf8_lossy(&log).into_owned();
        let text = |name: &str| answer[name].as_str().unwrap_or_default().to_string();
        let failed = printed["FunctionError"].is_string();
        (if failed { Err((text("errorType"), text("errorMessage"))) } else { Ok(answer) }, log)
    }

    /// Runs `make queries`' program, with the query to cancel, if any. Returns its output, or its error.
    pub(crate) async fn queries(&self, cancel: Option<&str>) -> Result<String, String> {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let aws = common::aws_command().parent().map(Path::to_path_buf);
        let path = std::env::join_paths(aws.into_iter().chain(std::env::split_paths(&folders))).unwrap();
        let mut command = tokio::process::Command::new(workspace_root().join("infra/bin/queries.py"));
        command.envs([("STAGE", "local"), ("REGION", "us-east-2"), ("RESULTS", RESULTS)]).env("PATH", path);
        common::printed(&self.cloud.endpoint, command.envs(cancel.map(|query| ("CANCEL", query)))).await
    }

    /// Runs `make doctor`'s program on the stack. Returns its output.
    pub(crate) async fn doctor(&self, combs: bool) -> String {
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let aws = common::aws_command().parent().map(Path::to_path_buf);
        let path = std::env::join_paths(aws.into_iter().chain(std::env::split_paths(&folders))).unwrap();
        let mut command = tokio::process::Command::new(workspace_root().join("infra/bin/doctor.py"));
        command.envs([("STAGE", "local"), ("REGION", "us-east-2"), ("RESULTS", RESULTS), ("WHEN", "after")]);
        command.env("COMB_NETWORK", if combs { "public_ipv4" } else { "none" }).env("PATH", path);
        command
            .envs(client_environment(&self.cloud.endpoint))
            .env_remove("AWS_PROFILE")
            .env_remove("AWS_SESSION_TOKEN");
        let output = command.stdin(Stdio::null()).output().await.unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output)
    }

    /// Builds a `buzz` command that queries this stack.
    pub(crate) fn buzz(&self, arguments: &[&str]) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program_folder().join("buzz"));
        command.args(arguments).args(["--stack", "local"]).envs(client_environment(&self.cloud.endpoint));
        command.env_remove("AWS_PROFILE").env_remove("AWS_SESSION_TOKEN").env_remove("BUZZ_LOG");
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `buzz` and returns the rows that it writes.
    pub(crate) async fn buzz_rows(&self, arguments: &[&str]) -> Vec<RecordBatch> {
        let file = self.path(&format!("{}.arrow", uuid::Uuid::new_v4()));
        let output = ["--format", "arrow", "--output", file.to_str().unwrap()];
        let done = self.buzz(&[arguments, &output].concat()).output().await.unwrap();
        assert!(done.status.success(), "{}", stderr(&done));
        assert!(done.stdout.is_empty());
        FileReader::try_new(File::open(file).unwrap(), None).unwrap().map(|batch| batch.unwrap()).collect()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Waits up to a minute until `holds` is true; `what` describes the condition.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&LocalCloud) -> bool) {
        for _ in 0..3000 {
            if holds(&self.cloud) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("timed out after a minute waiting for: {what}");
    }
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Creates the sample once for all tests and returns its folder.
pub(crate) fn sample() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock();
    let folder = target_folder(&format!("sample-{SAMPLE_ROWS}"));
    let buzz = program_folder().join("buzz");
    let made = std::process::Command::new(buzz).arg("sample").arg(&folder).args(["--rows", SAMPLE_ROWS]).output();
    let made = made.expect("`buzz` exists; build it with `cargo build --workspace --bins`");
    assert!(made.status.success(), "{}", stderr(&made));
    folder
}

/// Returns the folder of the TLC trips: the real months if this machine has them, otherwise three generated months.
pub(crate) fn months() -> PathBuf {
    let real = shared_data().map(|data| data.join("tables/nyc-tlc")).filter(|folder| folder.is_dir());
    real.unwrap_or_else(|| {
        println!("{NO_SHARED_DATA}; using generated months");
        made_months()
    })
}

/// Generates three months once for all tests and returns their folder.
fn made_months() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = MAKING.lock();
    let folder = target_folder("months");
    std::fs::create_dir_all(&folder).unwrap();
    for month in 1..=3 {
        let file = folder.join(format!("green_tripdata_2024-{month:02}.parquet"));
        if file.is_file() {
            continue;
        }
        let sql = format!(
            "SELECT arrow_cast(value * value % 263, 'Int32') AS \"PULocationID\", \
             to_timestamp_seconds(1704067200 + {month} * 2600000 + value * 60) AS lpep_pickup_datetime, \
             arrow_cast(value % 7, 'Float64') AS passenger_count, value % 1000 / 100.0 AS trip_distance, \
             value % 3333 / 100.0 AS total_amount FROM generate_series(1, 20000)"
        );
        let buzz = program_folder().join("buzz");
        let arguments = ["sql", &sql, "--format", "parquet", "--output", file.to_str().unwrap()];
        let made = std::process::Command::new(buzz).args(arguments).output().unwrap();
        assert!(made.status.success(), "{}", stderr(&made));
    }
    folder
}

/// Runs `sql` with plain DataFusion on the sample (`nyc_taxi`) and the trips (`trips`).
pub(crate) async fn plain(sql: &str) -> Vec<RecordBatch> {
    let ctx = SessionContext::new();
    let partitioned =
        ParquetReadOptions::default().table_partition_cols(vec![("pickup_date".to_string(), DataType::Utf8)]);
    ctx.register_parquet("nyc_taxi", sample().to_str().unwrap(), partitioned).await.unwrap();
    let folder = format!("{}/", months().display());
    ctx.register_parquet("trips", &folder, ParquetReadOptions::default()).await.unwrap();
    ctx.sql(sql).await.unwrap().collect().await.unwrap()
}

/// Asserts that Arrow rows are equal, in the same order if `ordered`.
#[track_caller]
pub(crate) fn assert_same(rows: &[RecordBatch], expected: &[RecordBatch], ordered: bool) {
    assert!(same_rows(rows, expected, ordered), "{:#?} instead of {:#?}", sorted_text(rows), sorted_text(expected));
}

/// Asserts that the JSON rows of an answer are as expected, in any order. Rows must not contain floats.
#[track_caller]
pub(crate) fn assert_answers(answer: &Answer, expected: &[RecordBatch]) {
    let answer = answer.as_ref().expect("the query is answered");
    let rows = answer["rows"].as_array().unwrap_or_else(|| panic!("no rows: {answer}"));
    let cell = |value: &Value| match value {
        Value::Null => "NULL".to_string(),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let line = |row: &Value| row.as_object().expect("a row").values().map(cell).collect::<Vec<_>>().join(" | ");
    let mut lines: Vec<String> = rows.iter().map(line).collect();
    lines.sort();
    assert_eq!(lines, sorted_text(expected));
    assert_eq!(answer["row_count"], lines.len());
}

/// Returns the example query from its file, unchanged.
pub(crate) fn example() -> Value {
    let path = workspace_root().join("code/examples/query-delta-taxi.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The SQL equivalent of the example query.
pub(crate) const EXAMPLE_SQL: &str =
    "SELECT payment_type, COUNT(payment_type) FROM nyc_taxi WHERE pickup_date <= '2009-01-05' GROUP BY payment_type";

/// Builds a Fuse event for a statement over the sample, with options.
pub(crate) fn ask(sql: &str, zones: usize, options: Value) -> Value {
    let catalogs = json!([{"name": "nyc_taxi", "type": "DeltaLake", "uri": SAMPLE}]);
    let query = json!({"sql": sql, "capacity": {"zones": zones}, "catalogs": catalogs});
    json!({"query": query, "options": options})
}

/// A statement that reads every file and merges its groups at the combs.
pub(crate) const GROUPS: &str = "SELECT pickup_date, payment_type, COUNT(*) AS n, SUM(passenger_count) AS passengers, \
                                 MIN(pickup_at) AS first FROM nyc_taxi GROUP BY pickup_date, payment_type";

/// A statement with about 20 MB of text: all columns of the sample, three times.
pub(crate) const LARGE: &str =
    "SELECT *, 1 AS turn FROM nyc_taxi UNION ALL SELECT *, 2 FROM nyc_taxi UNION ALL SELECT *, 3 FROM nyc_taxi";
