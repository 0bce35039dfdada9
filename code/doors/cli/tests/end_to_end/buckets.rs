//! Tests tables in buckets, which the command reads from the S3 server of the local cloud: storage settings,
//! credentials and errors.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use buzz_localcloud::ecs::{AddressKind, TaskDefinition};
use buzz_localcloud::upload::upload;
use buzz_localcloud::{ACCESS_KEY, LocalCloud, REGION, SECRET_KEY, Setup, client_environment};
use buzz_testkit::program;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::tables::{parquet_folder, partitioned_delta};

/// An S3 server with the buckets `lake`, with a Delta table `days` and a folder `rides`, and `sea`.
struct Lake {
    cloud: LocalCloud,
    folder: TempDir,
}

/// Starts an S3 server with the buckets `lake` and `sea` over `folder`.
async fn server_over(folder: &Path) -> LocalCloud {
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
        folder: folder.join("cloud"),
        buckets: vec!["lake".to_string(), "sea".to_string()],
        functions: Vec::new(),
        concurrency: 1,
        task_definition: never_run,
    };
    LocalCloud::start(setup).await.unwrap()
}

/// An S3 server with empty buckets `lake` and `sea`.
pub(crate) struct BucketServer {
    pub(crate) endpoint: String,
    _cloud: LocalCloud,
    folder: TempDir,
}

/// Starts an S3 server with empty buckets.
pub(crate) async fn bucket_server() -> BucketServer {
    let folder = tempfile::tempdir().unwrap();
    let cloud = server_over(folder.path()).await;
    BucketServer { endpoint: cloud.endpoint.clone(), _cloud: cloud, folder }
}

/// Uploads the table `rides` of `files` files with `rows` rows each to `s3://lake/tables/rides`.
pub(crate) async fn upload_rides(server: &BucketServer, files: usize, rows: usize) {
    let rides = parquet_folder(server.folder.path(), "rides", files, rows);
    upload(&server.endpoint, &rides, "s3://lake/tables/rides").await.unwrap();
}

async fn lake() -> Lake {
    let folder = tempfile::tempdir().unwrap();
    let cloud = server_over(folder.path()).await;
    let days = partitioned_delta(folder.path());
    let rides = parquet_folder(folder.path(), "rides", 3, 20);
    upload(&cloud.endpoint, &days, "s3://lake/tables/days").await.unwrap();
    upload(&cloud.endpoint, &rides, "s3://lake/tables/rides").await.unwrap();
    Lake { cloud, folder }
}

const KEYS: [(&str, &str); 2] = [("AWS_ACCESS_KEY_ID", ACCESS_KEY), ("AWS_SECRET_ACCESS_KEY", SECRET_KEY)];

impl Lake {
    /// Runs the command with `variables` and no other `AWS_` variables.
    async fn buzz(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let mut command = tokio::process::Command::new(program("buzz"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AWS_")) {
            command.env_remove(name);
        }
        let home = self.folder.path();
        command.args(arguments).current_dir(home).env("HOME", home).env("AWS_EC2_METADATA_DISABLED", "true");
        command.envs(variables.iter().copied()).stdin(Stdio::null()).output().await.unwrap()
    }

    /// Counts the rows of the table at `uri` with the settings `storage`.
    async fn count(&self, kind: &str, uri: &str, storage: &Value, variables: &[(&str, &str)]) -> Output {
        let catalog = json!({"name": "t", "type": kind, "uri": uri, "storage": storage});
        let query = json!({"sql": "SELECT COUNT(*) AS n, SUM(id) AS s FROM t", "catalogs": [catalog]});
        fs::write(self.folder.path().join("query.json"), query.to_string()).unwrap();
        self.buzz(&["query", "query.json", "--format", "csv"], variables).await
    }

    fn reached(&self) -> Value {
        json!({"endpoint": self.cloud.endpoint, "region": REGION, "path_style": true})
    }
}

fn rows(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Returns the error of a failed command, which must be one line.
fn told(output: &Output) -> String {
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(told.trim_end().lines().count(), 1, "{told}");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn catalog_storage_settings_override_environment_variables() {
    let lake = lake().await;
    let days = lake.count("DeltaLake", "s3://lake/tables/days", &lake.reached(), &KEYS).await;
    assert_eq!(rows(&days), "n,s\n300,44850\n");
    let rides = lake.count("Parquet", "s3://lake/tables/rides/*.parquet", &lake.reached(), &KEYS).await;
    assert_eq!(rows(&rides), "n,s\n60,1770\n");

    let variables = client_environment(&lake.cloud.endpoint);
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    let sql = "SELECT COUNT(*) AS n FROM days WHERE day = '2024-01-01' AND id % 2 = 0";
    let table = ["--table", "days=s3://lake/tables/days", "--format", "csv"];
    assert_eq!(rows(&lake.buzz(&[&["sql", sql], &table[..]].concat(), &variables).await), "n\n50\n");
    // Settings of the catalog entry override the variables.
    let wrong = [&KEYS[..], &[("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_REGION", "eu-west-1")]].concat();
    let days = lake.count("DeltaLake", "s3://lake/tables/days", &lake.reached(), &wrong).await;
    assert_eq!(rows(&days), "n,s\n300,44850\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_read_from_the_aws_profile() {
    let lake = lake().await;
    let aws = lake.folder.path().join(".aws");
    fs::create_dir(&aws).unwrap();
    let keys = format!("aws_access_key_id={ACCESS_KEY}\naws_secret_access_key={SECRET_KEY}\n");
    fs::write(aws.join("credentials"), format!("[default]\n{keys}\n[lake]\n{keys}")).unwrap();
    for variables in [&[][..], &[("AWS_PROFILE", "lake")]] {
        let days = lake.count("DeltaLake", "s3://lake/tables/days", &lake.reached(), variables).await;
        assert_eq!(rows(&days), "n,s\n300,44850\n");
    }
    fs::write(aws.join("config"), "[profile signed-on]\nsso_start_url = https://example.com\nsso_region = us-east-2\nsso_account_id = 1\nsso_role_name = r\n").unwrap();
    let signed_on =
        lake.count("Parquet", "s3://lake/tables/rides", &lake.reached(), &[("AWS_PROFILE", "signed-on")]).await;
    assert!(told(&signed_on).contains("aws sso login"), "{}", told(&signed_on));
    let absent = lake.count("Parquet", "s3://lake/tables/rides", &lake.reached(), &[("AWS_PROFILE", "none")]).await;
    assert!(told(&absent).contains("credentials"), "{}", told(&absent));
}

/// Keys that are valid for a minute are renewed before each request, since they could expire during it.
#[tokio::test(flavor = "multi_thread")]
async fn temporary_credentials_are_renewed_before_they_expire() {
    let lake = lake().await;
    let variables = lake.cloud.renewing_environment();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    let sql =
        ["sql", "SELECT COUNT(*) AS n, SUM(id) AS s FROM t", "--table", "t=s3://lake/tables/rides", "--format", "csv"];
    assert_eq!(rows(&lake.buzz(&sql, &variables).await), "n,s\n60,1770\n");
    assert_eq!(lake.cloud.keys.fetched(), 1, "keys that are valid for hours are fetched once");

    lake.cloud.keys.set_valid(Duration::from_secs(60));
    assert_eq!(rows(&lake.buzz(&sql, &variables).await), "n,s\n60,1770\n");
    assert!(lake.cloud.keys.fetched() > 2, "{} times", lake.cloud.keys.fetched());

    lake.cloud.keys.set_valid(Duration::ZERO);
    let expired = told(&lake.buzz(&sql, &variables).await);
    assert!(expired.contains("ExpiredToken"), "{expired}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_one_table_can_be_in_several_stores() {
    let lake = lake().await;
    let folder = lake.folder.path();
    let far = parquet_folder(folder, "far", 2, 300);
    upload(&lake.cloud.endpoint, &far, "s3://sea/far").await.unwrap();
    // A shallow clone: its own file is local, the other files stay in their original stores.
    let clone = parquet_folder(folder, "clone", 1, 200);
    let size = |path: &Path| fs::metadata(path).unwrap().len();
    let (near, middle, last) = (clone.join("part-0.parquet"), far.join("part-0.parquet"), far.join("part-1.parquet"));
    let added = |path: &str, size: u64| json!({"add": {"path": path, "size": size, "partitionValues": {}, "modificationTime": 0, "dataChange": true}});
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let fields = [field("id", "long"), field("grp", "string"), field("amount", "double")];
    let schema = json!({"type": "struct", "fields": fields}).to_string();
    let format = json!({"provider": "parquet", "options": {}});
    let actions = [
        json!({"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}),
        json!({"metaData": {"id": "a", "format": format, "schemaString": schema, "partitionColumns": [],
            "configuration": {}, "createdTime": 0}}),
        added("part-0.parquet", size(&near)),
        added("s3a://sea/far/part-0.parquet", size(&middle)),
        added(&format!("file:{}", last.display()), size(&last)),
    ];
    let log: String = actions.iter().map(|action| format!("{action}\n")).collect();
    fs::create_dir(clone.join("_delta_log")).unwrap();
    fs::write(clone.join("_delta_log/00000000000000000000.json"), log).unwrap();
    let files = json!([
        {"uri": "s3://lake/tables/rides/part-0.parquet", "size": size(&folder.join("rides/part-0.parquet"))},
        {"uri": "s3://sea/far/part-1.parquet", "size": size(&last)},
    ]);
    let columns = json!([{"name": "id", "type": "Int64"}]);
    fs::write(folder.join("list.json"), json!({"schema": columns, "files": files}).to_string()).unwrap();

    let variables = client_environment(&lake.cloud.endpoint);
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    let ask = async |sql: &str, table: &str| {
        let sets = ["--set", "split_bytes=1", "--set", "tasks=3", "--format", "csv"];
        lake.buzz(&[&["sql", sql, "--table", table], &sets[..]].concat(), &variables).await
    };
    let sum = "SELECT COUNT(*) AS n, SUM(id) AS s FROM t";
    assert_eq!(rows(&ask(sum, "t=clone").await), format!("n,s\n800,{}\n", 199 * 100 + 599 * 300));
    // Row groups are pruned in each of the stores.
    let few = "SELECT MIN(id) AS a, MAX(id) AS b, COUNT(*) AS n FROM t WHERE id BETWEEN 190 AND 310 AND grp <> 'cash'";
    assert_eq!(rows(&ask(few, "t=clone").await), "a,b,n\n190,310,88\n");
    let catalog = json!({"name": "t", "type": "Static", "uri": "list.json"});
    fs::write(folder.join("query.json"), json!({"sql": sum, "catalogs": [catalog]}).to_string()).unwrap();
    let listed = lake.buzz(&["query", "query.json", "--format", "csv"], &variables).await;
    assert_eq!(rows(&listed), format!("n,s\n320,{}\n", 19 * 10 + (300..600).sum::<i32>()));

    let gone = fs::read_to_string(clone.join("_delta_log/00000000000000000000.json")).unwrap();
    let gone = gone.replace("far/part-0", "far/part-7");
    fs::write(clone.join("_delta_log/00000000000000000000.json"), gone).unwrap();
    let told = told(&ask(sum, "t=clone").await);
    assert!(told.contains("s3://sea/far/part-7.parquet") && told.contains("table `t`"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_paths_in_two_buckets_are_distinct_files() {
    let lake = lake().await;
    let folder = lake.folder.path();
    // Files of equal size with different bounds. Mixing up their footers would prune the wrong file.
    for (bucket, start) in [("lake", 100_000), ("sea", 200_000)] {
        let twin = folder.join(bucket);
        fs::create_dir(&twin).unwrap();
        crate::tables::write_file(&twin.join("x.parquet"), &crate::tables::rides(start, 100));
        upload(&lake.cloud.endpoint, &twin, &format!("s3://{bucket}/twin")).await.unwrap();
    }
    let size = |bucket: &str| fs::metadata(folder.join(bucket).join("x.parquet")).unwrap().len();
    assert_eq!(size("lake"), size("sea"));
    let variables = client_environment(&lake.cloud.endpoint);
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (&**name, &**value)).collect();
    let sql = "SELECT COUNT(*) AS n FROM a WHERE id >= 100000 AND id < 150000 UNION ALL SELECT COUNT(*) FROM b WHERE id > 150000";
    let tables = ["--table", "a=s3://lake/twin/x.parquet", "--table", "b=s3://sea/twin/x.parquet", "--format", "csv"];
    for _ in 0..3 {
        assert_eq!(rows(&lake.buzz(&[&["sql", sql], &tables[..]].concat(), &variables).await), "n\n100\n100\n");
    }
}

/// Type and URI of a table, storage settings, variables, and words of the expected error.
type Case<'a> = (&'a str, &'a str, Value, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[tokio::test(flavor = "multi_thread")]
async fn unreadable_bucket_error_names_the_cause() {
    let lake = lake().await;
    let with = |key: &str, value: Value| {
        let mut storage = lake.reached();
        storage[key] = value;
        storage
    };
    let wrong_secret = [KEYS[0], ("AWS_SECRET_ACCESS_KEY", "wrong")];
    let wrong_key = [("AWS_ACCESS_KEY_ID", "AKIANOBODY"), KEYS[1]];
    let (days, rides) = ("s3://lake/tables/days", "s3://lake/tables/rides");
    let refused = "check AWS_ACCESS_KEY_ID";
    let cases: [Case<'_>; 12] = [
        ("DeltaLake", "s3://pond/days", lake.reached(), &KEYS, &["the bucket does not exist", "s3://pond/days"]),
        ("Parquet", "s3://pond/rides", lake.reached(), &KEYS, &["the bucket does not exist", "s3://pond/rides"]),
        ("Parquet", "s3://lake/nothing", lake.reached(), &KEYS, &["file or folder s3://lake/nothing does not exist"]),
        ("DeltaLake", "s3://lake/nothing", lake.reached(), &KEYS, &["there is no Delta table at s3://lake/nothing"]),
        ("DeltaLake", days, lake.reached(), &wrong_secret, &["no permission", "SignatureDoesNotMatch", refused]),
        ("Parquet", rides, lake.reached(), &wrong_secret, &["no permission", "SignatureDoesNotMatch", refused]),
        ("Parquet", rides, lake.reached(), &wrong_key, &["no permission", "InvalidAccessKeyId", refused]),
        ("DeltaLake", days, lake.reached(), &[], &["there are no credentials", "AWS_PROFILE"]),
        ("DeltaLake", days, with("anonymous", json!(true)), &KEYS, &["no permission", "AccessDenied"]),
        ("Parquet", rides, with("anonymous", json!(true)), &[], &["no permission", "AccessDenied"]),
        (
            "DeltaLake",
            days,
            with("endpoint", json!("http://127.0.0.1:1")),
            &KEYS,
            &["http://127.0.0.1:1 does not answer"],
        ),
        (
            "Parquet",
            rides,
            with("endpoint", json!("localhost:9000")),
            &KEYS,
            &["endpoint `localhost:9000` is not a URL"],
        ),
    ];
    for (kind, uri, storage, variables, words) in cases {
        let told = told(&lake.count(kind, uri, &storage, variables).await);
        assert!(told.starts_with("error: catalog `t`"), "{told}");
        assert!(words.iter().all(|word| told.contains(word)), "{told:?} lacks some of {words:?}");
        assert!(!told.contains("Kernel") && !told.contains("<Error>"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_object_is_named_in_the_error() {
    let lake = lake().await;
    let stored = lake.folder.path().join("cloud/s3/lake/tables/days/day=2024-01-02/kind=a/level=1/part-0.parquet");
    fs::remove_file(&stored).unwrap();
    let told = told(&lake.count("DeltaLake", "s3://lake/tables/days", &lake.reached(), &KEYS).await);
    let named = "file `s3://lake/tables/days/day=2024-01-02/kind=a/level=1/part-0.parquet` of table `t`";
    assert!(told.contains(named) && told.contains("does not exist"), "{told}");
    assert!(Path::new(&stored).parent().unwrap().exists());
}
