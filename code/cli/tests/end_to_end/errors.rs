//! Mistakes of users, and the errors that report them.

use std::fs;
use std::path::Path;

use buzz_protocol::ErrorKind;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{ask, statement, steps};
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

#[tokio::test(flavor = "multi_thread")]
async fn error_names_the_mistake_and_its_step_or_catalog() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    parquet_folder(dir.path(), "others", 1, 10);
    partitioned_delta(dir.path());
    fs::create_dir(dir.path().join("empty")).unwrap();

    let map = |sql: &str| {
        let mut query = good();
        query["steps"][0]["sql"] = json!(sql);
        query
    };
    let reduce = |sql: &str| {
        let mut query = good();
        query["steps"][1]["sql"] = json!(sql);
        query
    };
    let table = |kind: &str, uri: &str| {
        let mut query = good();
        query["catalogs"][0]["type"] = json!(kind);
        query["catalogs"][0]["uri"] = json!(uri);
        query
    };
    let filter = |filter: &str| {
        let mut query = good();
        query["catalogs"][0]["type"] = json!("DeltaLake");
        query["catalogs"][0]["uri"] = json!("partitioned");
        query["steps"][0]["partition_filter"] = json!(filter);
        query
    };
    let two_catalogs = steps(
        1,
        &[("m", "SELECT a.id FROM a JOIN b ON a.id = b.id")],
        &[("r", "SELECT * FROM m")],
        &[("a", "Parquet", "rides"), ("b", "Parquet", "others")],
    );
    let later = steps(
        1,
        &[("m", "SELECT id FROM rides")],
        &[("x", "SELECT * FROM y"), ("y", "SELECT * FROM m")],
        &[("rides", "Parquet", "rides")],
    );
    let map_reads_step = steps(
        1,
        &[("m", "SELECT id FROM rides"), ("o", "SELECT id FROM m")],
        &[("r", "SELECT * FROM o")],
        &[("rides", "Parquet", "rides")],
    );

    let invalid: &[(Value, &[&str])] = &[
        (map("SELEC grp FROM rides"), &["step `m`: SQL syntax", "found: SELEC"]),
        (map("SELECT grp FROM rides WHERE"), &["step `m`: SQL syntax", "EOF"]),
        (map("SELECT group FROM rides)"), &["step `m`: SQL syntax"]),
        (map("SELECT grp FROM rides; SELECT 1"), &["step `m`", "several statements"]),
        (map(""), &["step `m`", "SQL is empty"]),
        (map("SELECT gruop FROM rides"), &["step `m`: column `gruop`", "did you mean `grp`?"]),
        (map("SELECT id FROM ridse"), &["step `m`: table `ridse` does not exist", "did you mean `rides`?"]),
        (map("SELECT 1 AS one"), &["step `m`", "write FROM rides"]),
        (map("DROP TABLE rides"), &["step `m`: DROP is not a query", "write a SELECT"]),
        (map("INSERT INTO rides VALUES (1)"), &["step `m`: INSERT is not a query"]),
        (map("COPY rides TO 'x.parquet'"), &["step `m`: COPY is not a query"]),
        (map("SELECT sum(grp, 3, 4) FROM rides"), &["step `m`", "sum"]),
        (map("SELECT nosuchfunction(id) FROM rides"), &["step `m`", "nosuchfunction"]),
        (map("SELECT CAST(grp AS INT) AS n FROM rides"), &["step `m`, task", "Cannot cast string"]),
        (reduce("SELECT 1 / (n - n) AS n FROM m"), &["division by zero"]),
        (reduce("SELECT m FROM elsewhere"), &["step `r`: table `elsewhere` does not exist", "`rides`, `m`, `r`"]),
        (reduce("SELECT * FROM rides"), &["step `r`", "reads the catalog `rides`", "write an HBee step"]),
        (reduce("SELECT * FROM r"), &["step `r`: the step reads itself"]),
        (two_catalogs, &["step `m`", "`a` and `b`", "one HBee step for each", "`r`"]),
        (later, &["step `x`", "reads the later step `y`"]),
        (map_reads_step, &["step `o`", "reads the step `m`", "HComb"]),
        (table("Parquet", "ftp://host/x"), &["catalog `rides`", "scheme `ftp://` is not supported"]),
        (
            filter("amount > 3"),
            &["step `m`", "`amount` is not a partition column of `rides`", "filter it in the step's SQL"],
        ),
        (filter("dya = '2024-01-01'"), &["column `dya`", "did you mean `day`?"]),
        (filter("day < 'yesterday'"), &["'yesterday' is not a value of type Date32"]),
        (filter("day <"), &["partition_filter \"day <\"", "SQL"]),
        (filter("level + 1"), &["not a condition"]),
        (filter("max(level) = 1"), &["it cannot contain an aggregate"]),
    ];
    for (query, words) in invalid {
        let (kind, message) = told(query, dir.path()).await;
        assert_eq!(kind, ErrorKind::Invalid, "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message:?} lacks some of {words:?}");
        assert!(!message.contains('\n') && !message.contains("DataFusion"), "{message:?}");
    }

    let data: &[(Value, &[&str])] = &[
        (table("Parquet", "nowhere"), &["catalog `rides`", "does not exist or is empty", "nowhere"]),
        (table("Parquet", "empty"), &["catalog `rides`", "empty"]),
        (table("Parquet", "rides/*.csv"), &["catalog `rides`", "matches `*.csv`"]),
        (table("DeltaLake", "rides"), &["catalog `rides`", "there is no Delta table at", "rides"]),
        (table("DeltaLake", "nowhere"), &["catalog `rides`", "there is no Delta table at", "nowhere"]),
        (table("Static", "nowhere.json"), &["catalog `rides`", "nowhere.json", "nyc_taxi_cloudfuse_sample"]),
    ];
    for (query, words) in data {
        let (kind, message) = told(query, dir.path()).await;
        assert_eq!(kind, ErrorKind::Data, "{message}");
        assert!(words.iter().all(|word| message.contains(word)), "{message:?} lacks some of {words:?}");
    }
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
