//! Statements that tools send when they connect and when their users browse tables.

use crate::common::{client, with_trips};
use crate::postgres::texts;

#[tokio::test(flavor = "multi_thread")]
async fn superset_filters_by_time() {
    let served = with_trips().await;
    let client = client(&served).await;
    let sql = "SELECT count(*) FROM trips WHERE pickup_at >= TO_TIMESTAMP('2011-03-13 07:06:40.000000', 'YYYY-MM-DD HH24:MI:SS.US') \
               AND pickup_at < TO_DATE('2014-01-01', 'YYYY-MM-DD')";
    assert_eq!(texts(&client, sql).await, [row(&["1"])]);
}

/// The statements, which `make try-clients` sends too.
const TOOLS: &str = include_str!("../../try-clients/tools.sql");

/// Returns each statement with its tool.
fn statements() -> Vec<(String, String)> {
    let (mut tool, mut statement, mut all) = (String::new(), String::new(), Vec::new());
    for line in TOOLS.lines() {
        if let Some(name) = line.strip_prefix("-- Tool: ") {
            tool = name.to_string();
        } else if !line.starts_with("--") && !line.is_empty() {
            statement.push_str(line);
            statement.push('\n');
            if line.ends_with(';') {
                all.push((tool.clone(), std::mem::take(&mut statement)));
            }
        }
    }
    all
}

fn row(values: &[&str]) -> Vec<Option<String>> {
    values.iter().map(|value| Some((*value).to_string())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_tools_succeed() {
    let served = with_trips().await;
    let client = client(&served).await;
    let statements = statements();
    assert!(statements.len() > 70, "{}", statements.len());
    let mut failed = Vec::new();
    for (tool, sql) in &statements {
        if let Err(error) = client.simple_query(sql).await {
            let error = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_string());
            failed.push(format!("{tool}: {error}: {sql}"));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn column_next_to_a_star_has_its_name() {
    let served = with_trips().await;
    let client = client(&served).await;
    let sql = "SELECT n.oid, n.*, d.description FROM pg_namespace n LEFT JOIN pg_description d ON d.objoid = n.oid \
               WHERE n.nspname = 'public'";
    let statement = client.prepare(sql).await.unwrap();
    let names: Vec<&str> = statement.columns().iter().map(tokio_postgres::Column::name).collect();
    assert_eq!(names, ["oid", "oid", "nspname", "nspowner", "nspacl", "description"]);
    let rows = texts(&client, sql).await;
    assert_eq!((&rows[0][..3], rows.len()), (&row(&["2200", "2200", "public"])[..], 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn npgsql_learns_the_types() {
    let served = with_trips().await;
    let client = client(&served).await;
    let sql = "SELECT a.oid, a.typname, CASE WHEN pg_proc.proname = 'array_recv' THEN 'a' ELSE a.typtype END AS type,
                 CASE WHEN pg_proc.proname = 'array_recv' THEN a.typelem ELSE 0 END AS elemoid
               FROM pg_type AS a JOIN pg_catalog.pg_proc ON pg_proc.oid = a.typreceive
               WHERE a.typname IN ('int4', '_int4', 'numeric') ORDER BY a.oid";
    let expected =
        [row(&["23", "int4", "b", "0"]), row(&["1007", "_int4", "a", "23"]), row(&["1700", "numeric", "b", "0"])];
    assert_eq!(texts(&client, sql).await, expected);
    // That of JDBC.
    let sql = "SELECT typinput = 'pg_catalog.array_in'::regproc AS is_array FROM pg_type WHERE oid IN (23, 1007) ORDER BY oid";
    assert_eq!(texts(&client, sql).await, [row(&["f"]), row(&["t"])]);
    // That of ADBC's driver for PostgreSQL.
    let sql = "SELECT oid, typreceive FROM pg_type WHERE (typreceive != 0 OR typsend != 0) AND typreceive::TEXT != 'array_recv' \
               AND oid IN (23, 1007)";
    assert_eq!(texts(&client, sql).await, [row(&["23", "int4recv"])]);
    assert!(texts(&client, "SELECT p.oid, p.proname FROM pg_proc p").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_compared_with_patterns_lists_and_the_search_path() {
    let served = with_trips().await;
    let client = client(&served).await;
    // That of SQLAlchemy.
    let sql =
        "SELECT nspname FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg/_' || '%' ESCAPE '/' ORDER BY nspname";
    assert_eq!(texts(&client, sql).await, [row(&["information_schema"]), row(&["public"])]);
    // Statements of pgcli.
    for kinds in ["'{r,p,f}'", "ARRAY['r', 'p']", "('{r}')"] {
        let sql = format!("SELECT relname FROM pg_class c WHERE c.relkind = ANY({kinds})");
        assert_eq!(texts(&client, &sql).await, [row(&["trips"])], "{kinds}");
    }
    let sql = "SELECT c.relname, array_to_string(ARRAY(SELECT a.attname FROM pg_attribute a WHERE a.attrelid = c.oid AND \
               a.attnum = 1), ',') FROM pg_class c";
    assert_eq!(texts(&client, sql).await, [row(&["trips", "payment_type"])]);
    // That of Grafana.
    let path = "(SELECT CASE WHEN trim(s[i]) = '\"$user\"' THEN user ELSE trim(s[i]) END FROM generate_series(array_lower(\
                string_to_array(current_setting('search_path'), ','), 1), array_upper(string_to_array(current_setting(\
                'search_path'), ','), 1)) AS i, string_to_array(current_setting('search_path'), ',') s)";
    let sql = format!("SELECT table_name FROM information_schema.tables WHERE quote_ident(table_schema) IN {path}");
    assert_eq!(texts(&client, &sql).await, [row(&["trips"])]);
    client.simple_query("SET search_path = other").await.unwrap();
    assert!(texts(&client, &sql).await.is_empty());
    let sql = "SELECT format('%I.%s', 'A', 1), parse_ident('a.\"B\"'), quote_literal('o''c'), word <> ALL ('{a,b}') FROM \
               (SELECT 'b' AS word) w";
    assert_eq!(texts(&client, sql).await, [row(&["\"A\".1", "{a,B}", "'o''c'", "f"])]);
}
