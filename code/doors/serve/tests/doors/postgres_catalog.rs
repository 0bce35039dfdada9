//! Questions of tools about tables and columns.

use crate::common::{client, server};
use crate::postgres::texts;

/// Statements in the form in which psql sends them for `\d`, and how many rows each has.
const PSQL: [(&str, usize); 8] = [
    (
        r#"SELECT n.nspname as "Schema", c.relname as "Name",
           CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view' WHEN 'p' THEN 'partitioned table' END as "Type",
           pg_catalog.pg_get_userbyid(c.relowner) as "Owner"
           FROM pg_catalog.pg_class c LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           LEFT JOIN pg_catalog.pg_am am ON am.oid = c.relam
           WHERE c.relkind IN ('r','p','v','m','S','f','') AND n.nspname <> 'pg_catalog' AND n.nspname !~ '^pg_toast'
           AND n.nspname <> 'information_schema' AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 1,2"#,
        3,
    ),
    (
        "SELECT c.oid, n.nspname, c.relname FROM pg_catalog.pg_class c
         LEFT JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
         WHERE c.relname OPERATOR(pg_catalog.~) '^(kinds)$' COLLATE pg_catalog.default
         AND pg_catalog.pg_table_is_visible(c.oid) ORDER BY 2, 3",
        1,
    ),
    (
        "SELECT c.relchecks, c.relkind, c.relhasindex, '', CASE WHEN c.reloftype = 0 THEN '' ELSE
         c.reloftype::pg_catalog.regtype::pg_catalog.text END, c.relpersistence, am.amname FROM pg_catalog.pg_class c
         LEFT JOIN pg_catalog.pg_class tc ON (c.reltoastrelid = tc.oid) LEFT JOIN pg_catalog.pg_am am ON (c.relam = am.oid)
         WHERE c.oid = '16385'",
        1,
    ),
    (
        "SELECT a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod),
         (SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid, true) FROM pg_catalog.pg_attrdef d
          WHERE d.adrelid = a.attrelid AND d.adnum = a.attnum AND a.atthasdef), a.attnotnull,
         (SELECT c.collname FROM pg_catalog.pg_collation c, pg_catalog.pg_type t
          WHERE c.oid = a.attcollation AND t.oid = a.atttypid AND a.attcollation <> t.typcollation) AS attcollation,
         a.attidentity, a.attgenerated FROM pg_catalog.pg_attribute a
         WHERE a.attrelid = '16385' AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        19,
    ),
    (
        "SELECT pol.polname, pol.polpermissive, CASE WHEN pol.polroles = '{0}' THEN NULL ELSE
         pg_catalog.array_to_string(array(select rolname from pg_catalog.pg_roles where oid = any (pol.polroles) order by 1),',')
         END FROM pg_catalog.pg_policy pol WHERE pol.polrelid = '16385' ORDER BY 1",
        0,
    ),
    (
        "SELECT c.oid::pg_catalog.regclass FROM pg_catalog.pg_class c, pg_catalog.pg_inherits i
         WHERE c.oid = i.inhparent AND i.inhrelid = '16385' ORDER BY inhseqno",
        0,
    ),
    (
        r#"SELECT d.datname as "Name", pg_catalog.pg_get_userbyid(d.datdba) as "Owner",
           pg_catalog.pg_encoding_to_char(d.encoding) as "Encoding" FROM pg_catalog.pg_database d ORDER BY 1"#,
        1,
    ),
    ("SELECT typname FROM pg_type WHERE oid = ANY('{20,25}'::oid[]) ORDER BY 1", 2),
];

#[tokio::test(flavor = "multi_thread")]
async fn tables_and_columns_are_listed() {
    let served = server().await;
    let client = client(&served).await;
    for (sql, count) in PSQL {
        let rows = texts(&client, sql).await;
        assert_eq!(rows.len(), count, "{sql}: {rows:?}");
    }
    let columns = texts(&client, PSQL[3].0).await;
    let types: Vec<&str> = columns.iter().map(|row| row[1].as_deref().unwrap()).collect();
    assert_eq!(types[..4], ["bigint", "smallint", "smallint", "integer"]);
    assert_eq!(types[9], "numeric(38,2)");
    assert_eq!(types[16..], ["timestamp with time zone", "integer[]", "json"]);
    let found =
        texts(&client, "SELECT 'public.\"Numbers\"'::regclass::oid, 16384::regclass, to_regclass('nothing')").await;
    assert_eq!(found, [[Some("16384".to_string()), Some("\"Numbers\"".to_string()), None]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn information_schema_lists_the_columns() {
    let served = server().await;
    let client = client(&served).await;
    let sql =
        "SELECT column_name, data_type, numeric_precision, numeric_scale, is_nullable FROM information_schema.columns
               WHERE table_schema = $1 AND table_name = $2 ORDER BY ordinal_position";
    let rows = client.query(sql, &[&"public", &"kinds"]).await.unwrap();
    assert_eq!(rows.len(), 19);
    let price: (&str, &str, i32, i32) = (rows[9].get(0), rows[9].get(1), rows[9].get(2), rows[9].get(3));
    assert_eq!(price, ("price", "numeric", 38, 2));
    let tables = texts(&client, "SELECT table_name FROM information_schema.tables ORDER BY 1").await;
    assert_eq!(tables.len(), 3);
    let keys = texts(&client, "SELECT * FROM information_schema.table_constraints").await;
    assert!(keys.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn identifiers_have_four_bytes_in_binary_form() {
    let served = server().await;
    let client = client(&served).await;
    let sql = "SELECT oid, relname FROM pg_catalog.pg_class WHERE relname = $1";
    let row = client.query_one(sql, &[&"kinds"]).await.unwrap();
    assert_eq!((row.get::<_, u32>(0), row.get::<_, &str>(1)), (16_385, "kinds"));
}

#[tokio::test(flavor = "multi_thread")]
async fn types_of_arrays_are_looked_up_by_identifier() {
    let served = server().await;
    let client = client(&served).await;
    // The question of asyncpg, shortened.
    let sql = "WITH RECURSIVE typeinfo_tree(oid, depth) AS (
                 SELECT ti.oid, 0 FROM pg_catalog.pg_type AS ti WHERE ti.oid = any($1::oid[])
                 UNION ALL SELECT ti.oid, tt.depth + 1 FROM pg_catalog.pg_type ti, typeinfo_tree tt WHERE ti.oid = tt.elemtype)
               SELECT DISTINCT *, elemtype::regtype::text AS elemtype_name FROM typeinfo_tree ORDER BY depth DESC";
    let rows = client.query(sql, &[&vec![1007_u32]]).await.unwrap();
    let found: Vec<(u32, &str, Option<u32>)> =
        rows.iter().map(|row| (row.get("oid"), row.get("name"), row.get("elemtype"))).collect();
    assert_eq!(found, [(23, "int4", None), (1007, "_int4", Some(23))]);
}
