//! Tests statistics: they prune files and answer queries, and must not change rows.

use std::fs;
use std::path::Path;

use buzz_testkit::sorted_text;
use serde_json::{Value, json};

use crate::common::{Answer, ask, statement, steps};
use crate::tables::{parquet_folder, partitioned_delta, rides, write_file};

async fn sql(sql: &str, base: &Path, kind: &str, uri: &str) -> Answer {
    ask(&statement(1, sql, &[("t", kind, uri)]), base, &[]).await.unwrap()
}

/// Writes a Delta table `t` of three files of 50 rows each, with `id` 0 to 149. The first 10 rows of the second file
/// are deleted. The statistics of the third file are `third`.
fn delta(dir: &Path, third: Option<Value>) {
    let table = dir.join("t");
    fs::create_dir_all(table.join("_delta_log")).unwrap();
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let schema =
        json!({"type": "struct", "fields": [field("id", "long"), field("grp", "string"), field("amount", "double")]});
    let mut lines = vec![
        json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
                            "writerFeatures": ["deletionVectors"]}}),
        json!({"metaData": {"id": "00000000-0000-4000-8000-000000000000", "format": {"provider": "parquet", "options": {}},
            "schemaString": schema.to_string(), "partitionColumns": [], "configuration": {}, "createdTime": 0}}),
    ];
    for file in 0..3 {
        let name = format!("part-{file}.parquet");
        write_file(&table.join(&name), &rides(file * 50, 50));
        let bounds = |least: usize| {
            json!({
                "numRecords": 50, "minValues": {"id": least, "grp": "cash"}, "maxValues": {"id": least + 49, "grp": "dispute"},
                "nullCount": {"id": 0, "grp": 0}, "tightBounds": file != 1
            })
        };
        let stats = if file < 2 { Some(bounds(file * 50)) } else { third.clone() };
        let size = fs::metadata(table.join(&name)).unwrap().len();
        let mut add =
            json!({"path": name, "size": size, "partitionValues": {}, "modificationTime": 0, "dataChange": true});
        if let Some(stats) = stats {
            add["stats"] = json!(stats.to_string());
        }
        if file == 1 {
            add["deletionVector"] = ten_rows();
        }
        lines.push(json!({ "add": add }));
    }
    let log: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(table.join("_delta_log/00000000000000000000.json"), log).unwrap();
}

/// Returns an inline deletion vector of the rows 0 to 9.
fn ten_rows() -> Value {
    let rows: roaring::RoaringTreemap = (0..10).collect();
    let mut bytes = 1_681_511_377_u32.to_le_bytes().to_vec();
    rows.serialize_into(&mut bytes).unwrap();
    let size = bytes.len();
    bytes.resize(size.div_ceil(4) * 4, 0);
    json!({"storageType": "i", "pathOrInlineDv": z85::encode(&bytes), "sizeInBytes": size, "cardinality": 10})
}

#[tokio::test]
async fn footer_statistics_prune_files_and_answer_counts() {
    let dir = tempfile::tempdir().unwrap();
    parquet_folder(dir.path(), "t", 4, 50);
    let answer = sql("SELECT COUNT(*) AS n FROM t WHERE id BETWEEN 120 AND 130", dir.path(), "Parquet", "t").await;
    assert_eq!((answer.summary.files_found, answer.summary.files_read), (4, 1));
    assert_eq!(sorted_text(&answer.rows), ["11"]);

    let by_steps = steps(
        1,
        &[("m", "SELECT grp, COUNT(*) AS n FROM t WHERE id < 60 AND amount IS NOT NULL GROUP BY grp")],
        &[("r", "SELECT SUM(n) FROM m")],
        &[("t", "Parquet", "t")],
    );
    let answer = ask(&by_steps, dir.path(), &[]).await.unwrap();
    assert_eq!((answer.summary.files_read, sorted_text(&answer.rows)), (2, vec!["51".to_string()]));

    let answer = sql("SELECT COUNT(*), MIN(id), MAX(id), COUNT(amount) FROM t", dir.path(), "Parquet", "t").await;
    assert_eq!((answer.summary.tasks, sorted_text(&answer.rows)), (0, vec!["200 | 0 | 199 | 171".to_string()]));
    // Bounds of floats exclude NaN, and bounds of texts may be truncated.
    for expression in ["MIN(amount)", "MAX(grp)"] {
        let answer = sql(&format!("SELECT {expression} FROM t"), dir.path(), "Parquet", "t").await;
        assert!(answer.summary.tasks > 0, "{expression}");
    }
}

#[tokio::test]
async fn step_returns_one_count_per_file_despite_pruning() {
    let dir = tempfile::tempdir().unwrap();
    parquet_folder(dir.path(), "t", 4, 50);
    let maps = [("m", "SELECT COUNT(*) AS n, MAX(id) AS greatest FROM t WHERE id < 60")];
    let query = steps(1, &maps, &[("r", "SELECT n, greatest FROM m")], &[("t", "Parquet", "t")]);
    let answer = ask(&query, dir.path(), &[]).await.unwrap();
    assert_eq!(sorted_text(&answer.rows), ["0 | NULL", "0 | NULL", "10 | 59", "50 | 49"]);
}

#[tokio::test]
async fn deletion_vectors_are_subtracted_from_counts_and_disable_bounds() {
    let dir = tempfile::tempdir().unwrap();
    let third = json!({"numRecords": 50, "minValues": {"id": 100}, "maxValues": {"id": 149}, "nullCount": {"id": 0}});
    delta(dir.path(), Some(third));
    let answer = sql("SELECT COUNT(*) FROM t", dir.path(), "DeltaLake", "t").await;
    assert_eq!((answer.summary.tasks, sorted_text(&answer.rows)), (0, vec!["140".to_string()]));
    let answer = sql("SELECT MIN(id), COUNT(id) FROM t WHERE id >= 50", dir.path(), "DeltaLake", "t").await;
    assert_eq!((answer.summary.files_read, sorted_text(&answer.rows)), (2, vec!["60 | 90".to_string()]));
    let answer = sql("SELECT MAX(id) FROM t", dir.path(), "DeltaLake", "t").await;
    assert!(answer.summary.tasks > 0);
    assert_eq!(sorted_text(&answer.rows), ["149"]);
}

#[tokio::test]
async fn grouping_set_totals_are_returned_when_all_files_are_pruned() {
    let dir = tempfile::tempdir().unwrap();
    parquet_folder(dir.path(), "t", 4, 50);
    let answer = sql("SELECT SUM(id) FROM t WHERE id > 999 GROUP BY CUBE (grp)", dir.path(), "Parquet", "t").await;
    assert_eq!(sorted_text(&answer.rows), ["NULL"]);
    let answer = sql("SELECT SUM(id) FROM t WHERE id > 999 GROUP BY grp", dir.path(), "Parquet", "t").await;
    assert_eq!((answer.summary.files_read, answer.summary.rows), (0, 0));
}

#[tokio::test]
async fn file_without_statistics_is_always_read() {
    let dir = tempfile::tempdir().unwrap();
    delta(dir.path(), None);
    let answer = sql("SELECT COUNT(*), MAX(id) FROM t WHERE id > 145", dir.path(), "DeltaLake", "t").await;
    assert_eq!((answer.summary.files_read, sorted_text(&answer.rows)), (1, vec!["4 | 149".to_string()]));
    let answer = sql("SELECT COUNT(*) FROM t", dir.path(), "DeltaLake", "t").await;
    assert!(answer.summary.tasks > 0);
    assert_eq!(sorted_text(&answer.rows), ["140"]);
    partitioned_delta(dir.path());
    let answer = sql("SELECT COUNT(*), MIN(day) FROM t", dir.path(), "DeltaLake", "partitioned").await;
    assert_eq!(sorted_text(&answer.rows), ["300 | 2024-01-01"]);
}

/// Writes a Delta table `t` with the partition column `day`, and `id` 0 to 249. It has files of 50 rows: two on each of
/// two days, and one whose day is null. The first 10 rows of the file that starts with `id` 150 are deleted.
fn days(dir: &Path) {
    let table = dir.join("t");
    fs::create_dir_all(table.join("_delta_log")).unwrap();
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let schema =
        json!({"type": "struct", "fields": [field("id", "long"), field("grp", "string"), field("day", "date")]});
    let mut lines = vec![
        json!({"protocol": {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
                            "writerFeatures": ["deletionVectors"]}}),
        json!({"metaData": {"id": "00000000-0000-4000-8000-000000000000", "format": {"provider": "parquet", "options": {}},
            "schemaString": schema.to_string(), "partitionColumns": ["day"], "configuration": {}, "createdTime": 0}}),
    ];
    for (file, day) in
        [Some("2024-01-01"), Some("2024-01-01"), Some("2024-01-02"), Some("2024-01-02"), None].into_iter().enumerate()
    {
        let (name, least) = (format!("part-{file}.parquet"), file * 50);
        write_file(&table.join(&name), &rides(least, 50));
        let stats = json!({"numRecords": 50, "minValues": {"id": least}, "maxValues": {"id": least + 49},
                           "nullCount": {"id": 0}});
        let size = fs::metadata(table.join(&name)).unwrap().len();
        let mut add = json!({"path": name, "size": size, "partitionValues": {"day": day}, "modificationTime": 0,
                             "dataChange": true, "stats": stats.to_string()});
        if file == 3 {
            add["deletionVector"] = ten_rows();
        }
        lines.push(json!({ "add": add }));
    }
    let log: String = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(table.join("_delta_log/00000000000000000000.json"), log).unwrap();
}

/// Runs a query. Returns its rows, and true if it ran tasks.
async fn told(query: &str, base: &Path, kind: &str) -> (Vec<String>, bool) {
    let answer = sql(query, base, kind, "t").await;
    assert_eq!(answer.plan.stages.is_empty(), answer.summary.tasks == 0, "{query}");
    (sorted_text(&answer.rows), answer.summary.tasks > 0)
}

#[tokio::test]
async fn partition_filters_keep_statistics_exact() {
    let dir = tempfile::tempdir().unwrap();
    days(dir.path());
    let all = "SELECT COUNT(*), MIN(id), MAX(id) FROM t WHERE";
    let count = "SELECT COUNT(*) FROM t WHERE";
    let cases = [
        (format!("{all} day = '2024-01-01'"), "100 | 0 | 99", false),
        (format!("{all} day IS NULL"), "50 | 200 | 249", false),
        (format!("{all} day < '2024-01-02' OR day IS NULL"), "150 | 0 | 249", false),
        (
            "SELECT MIN(day), MAX(day) FROM t WHERE extract(day FROM day) < 2".to_string(),
            "2024-01-01 | 2024-01-01",
            false,
        ),
        // Deleted rows are subtracted from counts. A bound may belong to a deleted row.
        (format!("{count} day > '2024-01-01'"), "90", false),
        (format!("{all} day > '2024-01-01'"), "90 | 100 | 199", true),
        (format!("{count} day = '2024-01-01' AND id % 2 = 0"), "50", true),
        (format!("{count} day = '2024-01-01' OR id = 249"), "101", true),
        (format!("{count} day = '2025-01-01'"), "0", false),
        ("SELECT MIN(id) FROM t WHERE day = '2025-01-01'".to_string(), "NULL", false),
        (format!("{count} day = '2024-01-01' AND random() < 2"), "100", true),
        (
            "SELECT (SELECT COUNT(*) FROM t WHERE day IS NULL) + MAX(id) FROM t WHERE day < '2024-01-02'".to_string(),
            "149",
            false,
        ),
    ];
    for (query, rows, reads) in cases {
        let (found, read) = told(&query, dir.path(), "DeltaLake").await;
        assert_eq!((found, read), (vec![rows.to_string()], reads), "{query}");
    }
    for (day, rows) in [("2025-01-01", vec!["NULL"]), ("2024-01-01", vec!["1617", "1650", "1683", "4950"])] {
        let cube = format!("SELECT SUM(id) FROM t WHERE day = '{day}' GROUP BY CUBE (grp)");
        assert_eq!(sorted_text(&sql(&cube, dir.path(), "DeltaLake", "t").await.rows), rows, "{cube}");
    }
    let join = "SELECT COUNT(*), MIN(a.day), MAX(b.id) FROM t a JOIN t b ON a.id + 100 = b.id
                WHERE a.day = '2024-01-01' AND b.day = '2024-01-02'";
    let answer = sql(join, dir.path(), "DeltaLake", "t").await;
    assert_eq!(sorted_text(&answer.rows), ["90 | 2024-01-01 | 199"]);
    assert_eq!((answer.summary.files_found, answer.summary.files_read), (10, 4));
}

#[tokio::test]
async fn partition_filters_on_a_folder_keep_footer_statistics_exact() {
    let dir = tempfile::tempdir().unwrap();
    for (file, year) in [2023, 2024, 2024].into_iter().enumerate() {
        let folder = dir.path().join(format!("t/year={year}/kind=even"));
        fs::create_dir_all(&folder).unwrap();
        write_file(&folder.join(format!("part-{file}.parquet")), &rides(file * 50, 50));
    }
    let query = "SELECT COUNT(*), MIN(id), MAX(id), COUNT(amount) FROM t WHERE year = 2024";
    assert_eq!(told(query, dir.path(), "Parquet").await, (vec!["100 | 50 | 149 | 86".to_string()], false));
    let query =
        "SELECT COUNT(*), MAX(kind), MIN(u.year) FROM (SELECT * FROM t WHERE year = 2024 UNION ALL SELECT * FROM t) u";
    assert_eq!(told(query, dir.path(), "Parquet").await, (vec!["250 | even | 2023".to_string()], false));
    let query = "SELECT COUNT(*) FROM t WHERE year = 2024 AND id < 60";
    assert_eq!(told(query, dir.path(), "Parquet").await, (vec!["10".to_string()], true));
}
