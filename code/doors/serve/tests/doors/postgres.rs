//! PostgreSQL's protocol: values, parameters, portals, COPY, settings, errors.

use buzz_serve::Bounds;
use futures::StreamExt;
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::types::Type;

use crate::common::{client, connect, endless, server, until_running};

/// Returns the rows of the simple protocol, in which all values are texts.
pub(crate) async fn texts(client: &tokio_postgres::Client, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    rows.map(|row| (0..row.len()).map(|index| row.get(index).map(str::to_string)).collect()).collect()
}

/// Returns the code of the error of `sql`.
async fn code(client: &tokio_postgres::Client, sql: &str) -> String {
    let error = client.simple_query(sql).await.err().unwrap_or_else(|| panic!("{sql} succeeds"));
    error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).code().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_type_is_exact_as_text() {
    let served = server().await;
    let client = client(&served).await;
    let rows = texts(&client, "SELECT * FROM kinds ORDER BY id").await;
    let expected = [
        "1",
        "-128",
        "32767",
        "-2147483648",
        "9223372036854775807",
        "4294967295",
        "18446744073709551615",
        "0.1",
        "-1.5e+300",
        "-12345678901234567890123456789012345.67",
        "é,\"\t\\",
        "\\x00ff",
        "t",
        "2022-01-08",
        "23:59:59.999999",
        "2023-11-14 22:13:20.123456",
        "2023-11-14 22:13:20.123456+00",
        "{1,NULL}",
        "{\"a\":1}",
    ];
    assert_eq!(rows[0], expected.map(|text| Some(text.to_string())));
    assert!(rows[1][1..].iter().all(Option::is_none), "{:?}", rows[1]);
    client.simple_query("SET TIME ZONE 'Asia/Kolkata'").await.unwrap();
    let zoned = texts(&client, "SELECT at_utc FROM kinds WHERE id = 1").await;
    assert_eq!(zoned[0][0].as_deref(), Some("2023-11-15 03:43:20.123456+05:30"));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_type_is_exact_in_binary_form() {
    let served = server().await;
    let client = client(&served).await;
    let statement = client.prepare("SELECT * FROM kinds ORDER BY id").await.unwrap();
    let types: Vec<Type> = statement.columns().iter().map(|column| column.type_().clone()).collect();
    assert_eq!(types[..4], [Type::INT8, Type::INT2, Type::INT2, Type::INT4]);
    assert_eq!(types[5..8], [Type::INT8, Type::NUMERIC, Type::FLOAT4]);
    assert_eq!(types[13..], [Type::DATE, Type::TIME, Type::TIMESTAMP, Type::TIMESTAMPTZ, Type::INT4_ARRAY, Type::JSON]);
    let rows = client.query(&statement, &[]).await.unwrap();
    let row = &rows[0];
    assert_eq!((row.get::<_, i16>(1), row.get::<_, i32>(3), row.get::<_, i64>(4)), (-128, i32::MIN, i64::MAX));
    assert_eq!((row.get::<_, i64>(5), row.get::<_, f32>(7), row.get::<_, f64>(8)), (4_294_967_295, 0.1, -1.5e300));
    assert_eq!((row.get::<_, &str>(10), row.get::<_, &[u8]>(11)), ("é,\"\t\\", &b"\x00\xff"[..]));
    assert!(row.get::<_, bool>(12));
    for column in 1..types.len() {
        assert_eq!(rows[1].try_get::<_, Raw>(column).unwrap().0, None, "{column}");
    }
    let binary = |column| row.get::<_, Raw>(column).0.unwrap();
    assert_eq!(binary(13), (19_000_i32 - 10_957).to_be_bytes());
    assert_eq!(binary(15), (1_700_000_000_123_456_i64 - 946_684_800_000_000).to_be_bytes());
    assert_eq!(binary(16), binary(15));
    assert_eq!(binary(18), b"{\"a\":1}");
}

/// The bytes of a value of any type.
struct Raw(Option<Vec<u8>>);

impl<'a> tokio_postgres::types::FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(Some(raw.to_vec())))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_have_the_types_of_their_columns() {
    let served = server().await;
    let client = client(&served).await;
    let sql = "SELECT id FROM kinds WHERE i32 = $1 AND name = $2 AND yes = $3 AND f64 < $4";
    let statement = client.prepare(sql).await.unwrap();
    assert_eq!(statement.params(), [Type::INT4, Type::TEXT, Type::BOOL, Type::FLOAT8]);
    let rows = client.query(&statement, &[&i32::MIN, &"é,\"\t\\", &true, &0.0]).await.unwrap();
    assert_eq!((rows.len(), rows[0].get::<_, i64>(0)), (1, 1));
    let none = client.query(&statement, &[&i32::MIN, &"' OR true --", &true, &0.0]).await.unwrap();
    assert!(none.is_empty());
    let null: Option<i32> = None;
    assert!(client.query(&statement, &[&null, &"x", &true, &0.0]).await.unwrap().is_empty());
    let count: i64 = client.query_one("SELECT count(*) FROM \"Numbers\" WHERE n < $1", &[&7_i64]).await.unwrap().get(0);
    assert_eq!(count, 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn portals_and_cursors_return_rows_in_parts() {
    let served = server().await;
    let mut client = client(&served).await;
    let transaction = client.transaction().await.unwrap();
    let portal = transaction.bind("SELECT n FROM \"Numbers\" ORDER BY n", &[]).await.unwrap();
    let mut seen = Vec::new();
    loop {
        let rows = transaction.query_portal(&portal, 3000).await.unwrap();
        if rows.is_empty() {
            break;
        }
        assert!(rows.len() <= 3000);
        seen.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
    }
    assert_eq!(seen, (0..10_000).collect::<Vec<_>>());
    transaction.commit().await.unwrap();

    client.simple_query("BEGIN; DECLARE c CURSOR FOR SELECT n FROM \"Numbers\" ORDER BY n").await.unwrap();
    assert_eq!(texts(&client, "FETCH FORWARD 2 FROM c").await, [[Some("0".to_string())], [Some("1".to_string())]]);
    client.simple_query("MOVE 5 FROM c").await.unwrap();
    assert_eq!(texts(&client, "FETCH c").await, [[Some("7".to_string())]]);
    assert_eq!(texts(&client, "FETCH ALL FROM c").await.len(), 9992);
    assert!(texts(&client, "FETCH ALL FROM c").await.is_empty());
    client.simple_query("COMMIT").await.unwrap();
    assert_eq!(code(&client, "FETCH c").await, "34000");
}

#[tokio::test(flavor = "multi_thread")]
async fn query_is_copied_to_the_client() {
    let served = server().await;
    let client = client(&served).await;
    let copied = async |sql: &str| {
        let stream = client.copy_out(sql).await.unwrap();
        let parts: Vec<_> = Box::pin(stream).map(|part| part.unwrap().to_vec()).collect().await;
        String::from_utf8_lossy(&parts.concat()).into_owned()
    };
    assert_eq!(copied("COPY (SELECT id, name FROM kinds ORDER BY id) TO STDOUT").await, "1\té,\"\\t\\\\\n2\t\\N\n");
    let csv = copied("COPY (SELECT id, name FROM kinds ORDER BY id) TO STDOUT (FORMAT csv, HEADER)").await;
    assert_eq!(csv, "id,name\n1,\"é,\"\"\t\\\"\n2,\n");
    assert!(copied("COPY (SELECT id FROM kinds) TO STDOUT BINARY").await.starts_with("PGCOPY\n"));
    assert_eq!(copied("COPY \"Numbers\" TO STDOUT").await.lines().count(), 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_have_the_codes_of_postgresql() {
    let served = server().await;
    let client = client(&served).await;
    let cases = [
        ("SELEC 1", "42601"),
        ("SELECT * FROM kindz", "42P01"),
        ("SELECT nam FROM kinds", "42703"),
        ("INSERT INTO kinds VALUES (1)", "25006"),
        ("COPY kinds FROM STDIN", "25006"),
        ("SELECT * FROM missing", "XX001"),
        ("SELECT * FROM kinds, pg_class", "0A000"),
        ("SHOW nothing", "42704"),
        ("SET timezone = 'Mars'", "22023"),
        ("DEALLOCATE nothing", "26000"),
    ];
    for (sql, expected) in cases {
        assert_eq!(code(&client, sql).await, expected, "{sql}");
    }
    let error = client.query("SELECT * FROM kindz", &[]).await.unwrap_err();
    let message = error.as_db_error().unwrap().message();
    assert_eq!(message, "table `kindz` does not exist; did you mean `kinds`?");
    assert_eq!(texts(&client, "SELECT id FROM kinds ORDER BY id LIMIT 1").await.len(), 1, "the connection still works");
}

#[tokio::test(flavor = "multi_thread")]
async fn value_that_does_not_fit_is_an_error_that_names_the_column() {
    let served = server().await;
    let client = client(&served).await;
    let sql = "SELECT id, arrow_cast(i64, 'Timestamp(Second, None)') AS far FROM kinds ORDER BY id";
    let error = client.simple_query(sql).await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert!(error.message().starts_with("column `far`: "), "{}", error.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_of_drivers_are_accepted() {
    let served = server().await;
    let client = client(&served).await;
    client.batch_execute("SET extra_float_digits = 3; SET application_name = 'x'; BEGIN; SAVEPOINT a").await.unwrap();
    assert_eq!(code(&client, "SELECT nam FROM kinds").await, "42703");
    assert_eq!(code(&client, "SELECT 1").await, "25P02");
    client.batch_execute("ROLLBACK TO SAVEPOINT a").await.unwrap();
    assert_eq!(texts(&client, "SELECT 1").await, [[Some("1".to_string())]]);
    client.batch_execute("COMMIT; DISCARD ALL; UNLISTEN *; CLOSE ALL; RESET ALL").await.unwrap();
    let shown = texts(&client, "SHOW TRANSACTION ISOLATION LEVEL; SHOW server_version; SELECT version()").await;
    assert_eq!(shown[0][0].as_deref(), Some("read committed"));
    assert!(shown[2][0].as_deref().unwrap().starts_with("PostgreSQL 15.0 (Buzz "), "{shown:?}");
    client.batch_execute("SET buzz.tasks = 3").await.unwrap();
    assert_eq!(texts(&client, "SHOW buzz.tasks").await, [[Some("3".to_string())]]);
    assert!(texts(&client, "EXPLAIN SELECT id FROM kinds").await.len() > 1);
    assert_eq!(texts(&client, "SELECT buzz.public.kinds.id FROM buzz.public.kinds WHERE id = 2").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn statements_without_a_table_are_computed_by_the_engine() {
    let served = server().await;
    let client = client(&served).await;
    assert_eq!(texts(&client, "SELECT 1.5 + 1, 'a' || 'b'").await, [[Some("2.5".to_string()), Some("ab".to_string())]]);
    assert_eq!(code(&client, "SELECT 9223372036854775807 + 1").await, "42000");
    let text: String = client.query_one("SELECT $1", &[&"x"]).await.unwrap().get(0);
    assert_eq!(text, "x");
    let null: Option<&str> = None;
    let nothing: Option<String> = client.query_one("SELECT $1", &[&null]).await.unwrap().get(0);
    assert_eq!(nothing, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_query_has_microseconds() {
    let served = server().await;
    let client = client(&served).await;
    // Nanoseconds would be an error in 999 of 1000 queries.
    for _ in 0..5 {
        let sql = "SELECT now(), now() - interval '1 day', current_time, n FROM \"Numbers\" WHERE n = 7";
        let row = client.query_one(sql, &[]).await.unwrap();
        let microseconds = |column| i64::from_be_bytes(row.get::<_, Raw>(column).0.unwrap().try_into().unwrap());
        assert_eq!(microseconds(0) - microseconds(1), 86_400_000_000);
        assert_eq!(texts(&client, sql).await.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn statement_that_is_too_slow_is_cancelled() {
    let served = endless(Bounds { running: 1, waiting: 1, answers: 1 }).await;
    let client = client(&served).await;
    client.simple_query("SET statement_timeout = '50ms'").await.unwrap();
    let error = client.simple_query("SELECT a FROM t").await.unwrap_err();
    let error = error.as_db_error().unwrap();
    assert_eq!((error.code().code(), error.message()), ("57014", "canceling statement due to statement timeout"));
    until_running(&served, 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_ends_an_answer_that_is_being_sent() {
    let served = server().await;
    let client = client(&served).await;
    // More than the buffers of both ends hold.
    let sql =
        "SELECT a.n, 'some text that makes the row longer' FROM \"Numbers\" a, (SELECT n FROM \"Numbers\" LIMIT 100) b";
    let none: [&str; 0] = [];
    let mut rows = Box::pin(client.query_raw(sql, none).await.unwrap());
    rows.next().await.unwrap().unwrap();
    client.cancel_token().cancel_query(tokio_postgres::NoTls).await.unwrap();
    let mut count = 1;
    let error = loop {
        match rows.next().await.expect("an answer that was cancelled does not end as a whole one") {
            Ok(_) => count += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.code().map(|code| code.code()), Some("57014"), "{error:?}");
    assert!(count < 1_000_000, "{count}");
    assert_eq!(texts(&client, "SELECT 1").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_statements_do_not_end_the_connection() {
    let served = server().await;
    let client = client(&served).await;
    let long = format!("SET application_name = '{}'", "x".repeat(50_000));
    assert_eq!(code(&client, &long).await, "22023");
    for sql in ["SET application_name = '", "SET application_name = E'", "SET application_name = 'é"] {
        drop(client.simple_query(sql).await);
        assert!(!client.is_closed(), "{sql}");
    }
    assert_eq!(texts(&client, "SELECT 1").await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_key_is_refused() {
    let served = server().await;
    let error = connect(&served, "a-key-that-is-wrong").await.expect_err("a wrong key is refused");
    assert_eq!(error.code().map(|code| code.code()), Some("28P01"), "{error:?}");
    client(&served).await;
}
