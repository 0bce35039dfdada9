//! Statements about tables, names of columns in other case, and parameters.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use buzz_protocol::ErrorKind;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{ask, statement, steps};
use crate::tables::{kinds_folder, parquet_folder, write_file};

/// Returns the rows of `sql` as CSV without its header.
async fn csv(sql: &str, base: &Path, catalogs: &[(&str, &str, &str)], zones: usize) -> String {
    let answer = ask(&statement(zones, sql, catalogs), base, &[]).await;
    let rows = answer.unwrap_or_else(|error| panic!("{sql}: {error}")).rows;
    let mut out = Vec::new();
    let mut writer = arrow::csv::WriterBuilder::new().with_header(false).build(&mut out);
    rows.iter().for_each(|batch| writer.write(batch).unwrap());
    drop(writer);
    String::from_utf8(out).unwrap()
}

async fn error(query: &Value, base: &Path) -> String {
    let error = ask(query, base, &[]).await.map(|_| ()).expect_err(&query.to_string());
    assert_eq!(error.kind, ErrorKind::Invalid, "{error}");
    error.to_string()
}

const TABLES: [(&str, &str, &str); 2] = [("rides", "Parquet", "rides"), ("Kinds", "Parquet", "kinds")];

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_columns_are_described() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 2, 10);
    kinds_folder(dir.path());
    let described = "id,BIGINT,YES\ngrp,VARCHAR,YES\namount,DOUBLE,YES\n";
    let columns = "SELECT c.column_name, c.data_type, c.ordinal_position FROM information_schema.tables t \
                   JOIN information_schema.columns c ON t.table_name = c.table_name AND t.table_schema = c.table_schema \
                   WHERE t.table_name = 'rides' ORDER BY c.ordinal_position";
    for zones in [1, 2] {
        for (sql, expected) in [
            ("DESCRIBE rides", described),
            ("desc RIDES;", described),
            ("DESCRIBE public.rides", described),
            ("SHOW COLUMNS FROM rides", described),
            ("SHOW COLUMNS IN rides LIKE 'g%'", "grp,VARCHAR,YES\n"),
            ("DESCRIBE \"Kinds\"", "grp,VARCHAR,YES\nlabel,VARCHAR,YES\n"),
            ("DESCRIBE SELECT count(*) AS n, max(grp) AS g FROM rides", "n,BIGINT,NO\ng,VARCHAR,YES\n"),
            ("SHOW TABLES", "Kinds\nrides\n"),
            ("SHOW TABLES LIKE 'r%'", "rides\n"),
            (
                "SELECT table_schema, table_name FROM information_schema.tables ORDER BY 2",
                "public,Kinds\npublic,rides\n",
            ),
            ("SELECT count(*) FROM datafusion.information_schema.columns", "5\n"),
            (columns, "id,BIGINT,1\ngrp,VARCHAR,2\namount,DOUBLE,3\n"),
            ("SELECT schema_name FROM information_schema.schemata", "public\n"),
            (
                "WITH names AS (SELECT column_name FROM information_schema.columns WHERE table_name = 'Kinds') \
                 SELECT r.id, n.column_name FROM rides r JOIN names n ON r.grp = 'cash' AND r.id < 3 ORDER BY 2",
                "0,grp\n0,label\n",
            ),
            (
                "SELECT columns.column_name FROM information_schema.columns WHERE columns.data_type = 'DOUBLE'",
                "amount\n",
            ),
        ] {
            assert_eq!(csv(sql, dir.path(), &TABLES, zones).await, expected, "{sql}");
        }
    }
    assert_eq!(csv("SHOW TABLES", dir.path(), &[], 1).await, "");
    assert_eq!(csv("SELECT * FROM information_schema.columns", dir.path(), &[], 1).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_statements_about_tables_name_the_supported_ones() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 10);
    kinds_folder(dir.path());
    for (sql, words) in [
        ("SHOW ALL", "`SHOW ALL` is not supported; there are SHOW TABLES, SHOW COLUMNS FROM t and DESCRIBE t"),
        ("SHOW SCHEMAS", "is not supported; there are SHOW TABLES"),
        ("DESCRIBE ride", "table `ride` does not exist; did you mean `rides`?"),
        ("SELECT * FROM information_schema.views", "available: `tables`, `columns`, `schemata`"),
        ("SELECT * FROM 'a b.csv'", "a file becomes a table with --table t=a b.csv"),
        ("SELECT * FROM \"data/x.parquet\"", "a file becomes a table with --table t=data/x.parquet"),
        ("SELECT * FROM read_csv('x.csv')", "function `read_csv` does not exist; name the file with --table t=PLACE"),
        ("SELECT * FROM read_parquet('x/*.parquet') AS p", "function `read_parquet` does not exist"),
        ("SELECT * FROM TUMBLE(rides, id, INTERVAL '1' MINUTE)", "`buzz stream run` runs it"),
        ("SELECT * FROM TABLE(TUMBLE(TABLE rides, DESCRIPTOR(id), INTERVAL '1' MINUTE))", "`buzz stream run` runs it"),
        ("SELECT tumble(id, INTERVAL '1' MINUTE) FROM rides", "`buzz stream run` runs it"),
        ("SELECT 1; SELECT 2; SELECT 3;", "the SQL contains 3 statements; write one query, or run them"),
        (" -- nothing\n", "the SQL is empty"),
    ] {
        let told = error(&statement(1, sql, &TABLES), dir.path()).await;
        assert!(told.contains(words), "{sql}: {told}");
    }
}

/// Writes tables whose columns have capital letters.
fn cased(dir: &Path) {
    fs::create_dir_all(dir.join("users")).unwrap();
    fs::create_dir_all(dir.join("orders")).unwrap();
    let numbers = |numbers: [i64; 3]| Arc::new(Int64Array::from_iter_values(numbers)) as ArrayRef;
    let times = Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3])) as ArrayRef;
    let names = Arc::new(StringArray::from(vec!["a", "b", "c"])) as ArrayRef;
    let users = [("userId", numbers([1, 2, 3])), ("fullName", names), ("createdAt", times)];
    write_file(&dir.join("users/part-0.parquet"), &RecordBatch::try_from_iter(users).unwrap());
    let orders = [
        ("userId", numbers([1, 1, 3])),
        ("total", numbers([5, 6, 7])),
        ("Total", numbers([50, 60, 70])),
        ("KEY", numbers([8, 9, 10])),
        ("Key", numbers([1, 1, 1])),
    ];
    write_file(&dir.join("orders/part-0.parquet"), &RecordBatch::try_from_iter(orders).unwrap());
}

const CASED: [(&str, &str, &str); 2] = [("users", "Parquet", "users"), ("orders", "Parquet", "orders")];

#[tokio::test(flavor = "multi_thread")]
async fn unquoted_name_finds_the_only_column_that_differs_by_case() {
    let dir = tempdir().unwrap();
    cased(dir.path());
    for (sql, expected) in [
        ("SELECT userId, FULLNAME FROM users WHERE userid > 1 ORDER BY USERID DESC", "3,c\n2,b\n"),
        (
            "SELECT u.fullName, count(*) AS n FROM users u JOIN orders o ON u.userId = o.userId GROUP BY u.fullName HAVING count(*) < 9 ORDER BY n",
            "c,1\na,2\n",
        ),
        (
            "SELECT fullname, sum(total) AS s FROM users JOIN orders USING (userId) GROUP BY fullname ORDER BY s",
            "c,7\na,11\n",
        ),
        (
            "WITH c AS (SELECT userId, createdAt FROM users) SELECT max(userId) FROM c WHERE createdAt > '1970-01-01T00:00:00.000001'",
            "3\n",
        ),
        ("SELECT userId AS userid FROM users ORDER BY userid LIMIT 1", "1\n"),
        (
            "SELECT fullName FROM users u WHERE EXISTS (SELECT 1 FROM orders o WHERE o.userId = u.\"userId\" AND total = 7)",
            "c\n",
        ),
        ("SELECT \"userId\" FROM users WHERE fullName IN (SELECT fullName FROM users WHERE userId = 2)", "2\n"),
        (
            "SELECT sum(userId) OVER (PARTITION BY fullName ORDER BY createdAt) AS s FROM users ORDER BY s LIMIT 1",
            "1\n",
        ),
        // The lowercase column is preferred.
        ("SELECT sum(total) AS a, sum(TOTAL) AS b, sum(\"Total\") AS c FROM orders", "18,18,180\n"),
        ("SELECT userId FROM (SELECT 5 AS userid)", "5\n"),
    ] {
        assert_eq!(csv(sql, dir.path(), &CASED, 1).await, expected, "{sql}");
    }
    let query = steps(
        1,
        &[("m", "SELECT userId, fullName FROM users WHERE userId > 1")],
        &[("r", "SELECT max(fullName) AS n, sum(userId) AS s FROM m")],
        &CASED,
    );
    let rows = ask(&query, dir.path(), &[]).await.unwrap().rows;
    assert_eq!(rows.iter().map(RecordBatch::num_rows).sum::<usize>(), 1);

    for (sql, words) in [
        (
            "SELECT key FROM orders",
            "column `key` does not exist in table `orders`; write it in double quotes: `\"KEY\"` or `\"Key\"`",
        ),
        ("SELECT \"userid\" FROM users", "write it in double quotes: `\"userId\"`"),
        ("SELECT userId FROM users, orders", "mbiguous"),
        ("SELECT o.userId FROM users", "`o"),
        ("SELECT nothing FROM users", "column `nothing` does not exist"),
        // DataFusion gives no place for these names, so they are not replaced.
        (
            "SELECT count(*) FROM users u HAVING max(u.userId) < 9",
            "column `userid` does not exist in table `u`; write it in double quotes: `\"userId\"`",
        ),
    ] {
        let told = error(&statement(1, sql, &CASED), dir.path()).await;
        assert!(told.contains(words), "{sql}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_named_by_errors_and_warnings() {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 10);
    kinds_folder(dir.path());
    let with = |sql: &str, params: Value| {
        let mut query = statement(1, sql, &TABLES);
        query["params"] = params;
        query
    };
    for (sql, params, words) in [
        (
            "SELECT * FROM rides WHERE id > $low",
            json!({}),
            "parameter `$low` has no value; set it with --param low=VALUE",
        ),
        ("SELECT * FROM rides WHERE id > $low", json!({"lwo": 3}), "did you mean `lwo`?"),
        ("SELECT * FROM rides WHERE id > ?", json!({"low": 3}), "parameter `?` has no name"),
        (
            "SELECT * FROM rides WHERE id > $low",
            json!({"low": "ten"}),
            "parameter `$low` is `ten`, which is not BIGINT",
        ),
    ] {
        let told = error(&with(sql, params), dir.path()).await;
        assert!(told.contains(words), "{sql}: {told}");
    }
    let answer =
        ask(&with("SELECT id FROM rides WHERE id > $low", json!({"low": 3, "hgih": 4})), dir.path(), &[]).await;
    assert_eq!(answer.unwrap().warnings, ["parameter `$hgih` is not used; available: `low`"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn format_that_cannot_represent_a_column_fails_before_the_query_runs() {
    use buzz_engine::{Engine, Want};
    use buzz_fuse::Fuse;
    use buzz_protocol::Format;
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 1, 10);
    let sql = "SELECT id, INTERVAL '1 day' AS i FROM rides";
    let (question, _) = crate::common::question(&statement(1, sql, &TABLES[..1]), dir.path(), &[]);
    let fuse = Fuse::new(crate::common::host(&[]).host());
    let mut running = fuse.start(question.with_want(Want::Rows(Format::Parquet)));
    let error = running.answer().await.unwrap_err();
    assert!(error.to_string().contains("column `i` has the type Interval(MonthDayNano)"), "{error}");
    assert_eq!(running.progress().report(buzz_protocol::QueryId::fresh()).tasks_done, 0);
}
