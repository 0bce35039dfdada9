//! Mistakes of users, and the errors that report them.

use std::fs;
use std::path::Path;

use buzz_protocol::ErrorKind;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{ask, statement, steps};
use crate::snapshots;
use crate::tables::{parquet_folder, partitioned_delta};

fn good() -> Value {
    steps(
        1,
        &[("m", "SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp")],
        &[("r", "SELECT SUM(n) AS n FROM m")],
        &[("rides", "Parquet", "rides")],
    )
}

async fn told(query: &Value, base: &Path) -> (ErrorKind, String) {
    let error = ask(query, base, &[]).await.expect_err(&query.to_string());
    (error.kind, error.to_string())
}

/// Mistakes in the SQL of the map step `m`.
const MAP: [&str; 14] = [
    "SELEC grp FROM rides",
    "SELECT grp FROM rides WHERE",
    "SELECT group FROM rides)",
    "SELECT grp FROM rides; SELECT 1",
    "",
    "SELECT gruop FROM rides",
    "SELECT id FROM ridse",
    "SELECT 1 AS one",
    "DROP TABLE rides",
    "INSERT INTO rides VALUES (1)",
    "COPY rides TO 'x.parquet'",
    "SELECT sum(grp, 3, 4) FROM rides",
    "SELECT nosuchfunction(id) FROM rides",
    "SELECT CAST(grp AS INT) AS n FROM rides WHERE id = 0",
];

/// Mistakes in the SQL of the reduce step `r`.
const REDUCE: [&str; 4] =
    ["SELECT 1 / (n - n) AS n FROM m", "SELECT m FROM elsewhere", "SELECT * FROM rides", "SELECT * FROM r"];

/// Mistakes in the `partition_filter` of a table with the partition columns `day`, `kind` and `level`.
const FILTER: [&str; 6] =
    ["amount > 3", "dya = '2024-01-01'", "day < 'yesterday'", "day <", "level + 1", "max(level) = 1"];

/// Catalog entries, `(type, uri)`, that name no table.
const TABLE: [(&str, &str); 7] = [
    ("Parquet", "ftp://host/x"),
    ("Parquet", "nowhere"),
    ("Parquet", "empty"),
    ("Parquet", "rides/*.csv"),
    ("DeltaLake", "rides"),
    ("DeltaLake", "nowhere"),
    ("Static", "nowhere.json"),
];

/// Returns a correct query with one field replaced.
fn with(field: impl Fn(&mut Value)) -> Value {
    let mut query = good();
    field(&mut query);
    query
}

/// Returns each mistake with its description.
fn mistakes() -> Vec<(String, Value)> {
    let map = MAP.iter().map(|sql| (format!("step m: {sql}"), with(|query| query["steps"][0]["sql"] = json!(sql))));
    let reduce =
        REDUCE.iter().map(|sql| (format!("step r: {sql}"), with(|query| query["steps"][1]["sql"] = json!(sql))));
    let filter = FILTER.iter().map(|filter| {
        let query = with(|query| {
            query["catalogs"][0] = json!({"name": "rides", "type": "DeltaLake", "uri": "partitioned"});
            query["steps"][0]["partition_filter"] = json!(filter);
        });
        (format!("partition_filter: {filter}"), query)
    });
    let table = TABLE.iter().map(|(kind, uri)| {
        let query = with(|query| query["catalogs"][0] = json!({"name": "rides", "type": kind, "uri": uri}));
        (format!("catalog: {kind} {uri}"), query)
    });
    map.chain(reduce).chain(filter).chain(table).chain(wrong_steps()).collect()
}

/// Returns queries whose steps cannot read what they read.
fn wrong_steps() -> [(String, Value); 3] {
    let (rides, others) = (("rides", "Parquet", "rides"), ("others", "Parquet", "others"));
    let two_catalogs = "SELECT rides.id FROM rides JOIN others ON rides.id = others.id";
    let map = ("m", "SELECT id FROM rides");
    [
        (
            "an HBee step reads two catalogs".to_string(),
            steps(1, &[("m", two_catalogs)], &[("r", "SELECT * FROM m")], &[rides, others]),
        ),
        (
            "a step reads a later one".to_string(),
            steps(1, &[map], &[("x", "SELECT * FROM y"), ("y", "SELECT * FROM m")], &[rides]),
        ),
        (
            "an HBee step reads another".to_string(),
            steps(1, &[map, ("o", "SELECT id FROM m")], &[("r", "SELECT * FROM o")], &[rides]),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn error_names_the_mistake_and_its_step_or_catalog() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    parquet_folder(dir.path(), "others", 1, 10);
    partitioned_delta(dir.path());
    fs::create_dir(dir.path().join("empty")).unwrap();

    let mut all = String::new();
    for (mistake, query) in mistakes() {
        let (kind, message) = told(&query, dir.path()).await;
        assert!(matches!(kind, ErrorKind::Invalid | ErrorKind::Data), "{mistake}: {kind}: {message}");
        assert!(!message.contains('\n') && !message.contains("DataFusion"), "{message:?}");
        all += &format!("{mistake}\n    {kind}: {message}\n");
    }
    snapshots::compare("errors", &all, dir.path());
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_or_missing_file_is_named_in_the_error() {
    let dir = tempdir().unwrap();
    let table = partitioned_delta(dir.path());
    let mut query = good();
    query["catalogs"][0] = json!({"name": "rides", "type": "DeltaLake", "uri": "partitioned"});
    let broken = table.join("day=2024-01-02/kind=a/level=1/part-0.parquet");
    let whole = fs::read(&broken).unwrap();

    let mut garbled = whole.clone();
    garbled[4..whole.len() / 2].fill(0xff);
    let cases = [whole[..whole.len() / 2].to_vec(), b"not parquet at all, whatever it is called".to_vec(), garbled];
    for bytes in cases {
        fs::write(&broken, &bytes).unwrap();
        let (kind, message) = told(&query, dir.path()).await;
        assert_eq!(kind, ErrorKind::Data, "{message}");
        assert!(message.contains("day=2024-01-02/kind=a/level=1/part-0.parquet"), "{message}");
        assert!(message.contains("step `m`, task"), "{message}");
    }
    fs::remove_file(&broken).unwrap();
    let (kind, message) = told(&query, dir.path()).await;
    assert_eq!(kind, ErrorKind::Data, "{message}");
    assert!(message.contains("does not exist") && message.contains("part-0.parquet"), "{message}");

    // For a folder of Parquet, planning reads the footers.
    let folder = parquet_folder(dir.path(), "cut", 2, 10);
    let file = folder.join("part-1.parquet");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..20]).unwrap();
    query["catalogs"][0] = json!({"name": "rides", "type": "Parquet", "uri": "cut"});
    let (kind, message) = told(&query, dir.path()).await;
    assert_eq!(kind, ErrorKind::Data, "{message}");
    assert!(message.contains("part-1.parquet"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_page_in_a_task_of_many_files_names_its_file() {
    let dir = tempdir().unwrap();
    let folder = parquet_folder(dir.path(), "rides", 5, 1000);
    let broken = folder.join("part-3.parquet");
    let mut bytes = fs::read(&broken).unwrap();
    // The first page, of `id`, starts after the magic number.
    bytes[4..600].fill(0xff);
    fs::write(&broken, &bytes).unwrap();
    for sql in
        ["SELECT SUM(id) FROM t", "SELECT grp, MAX(id) FROM t GROUP BY grp", "SELECT COUNT(*) FROM t WHERE id > 7"]
    {
        let query = statement(1, sql, &[("t", "Parquet", "rides")]);
        let error = ask(&query, dir.path(), &["tasks=1"]).await.expect_err(sql);
        assert_eq!(error.kind, ErrorKind::Data, "{sql}: {error}");
        let message = error.to_string();
        assert_eq!(message.matches("part-3.parquet` of table `t`").count(), 1, "{sql}: {message}");
        assert!(!message.contains("part-0.parquet"), "{sql}: {message}");
    }
}
