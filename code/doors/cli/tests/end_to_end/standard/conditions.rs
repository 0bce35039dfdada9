//! Conditions, patterns and nulls.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use tempfile::tempdir;

use super::{TABLES, batch, check, check_on, table};

#[tokio::test(flavor = "multi_thread")]
async fn simplified_conditions_keep_nulls() {
    check(
        &[],
        &[
            ("SELECT id FROM t WHERE (a IN (1) AND a IN (2)) IS NULL", &["4", "8"]),
            ("SELECT id FROM t WHERE a NOT IN (1) OR a NOT IN (2)", &["1", "2", "3", "5", "6", "7"]),
            ("SELECT id FROM t WHERE (a NOT IN (1, 2) OR a NOT IN (3, 4)) IS NULL", &["4", "8"]),
            ("SELECT id, a IN (1) AND b < 9 AND a IN (2) FROM t WHERE id IN (1, 4)", &["1 | false", "4 | NULL"]),
            ("SELECT id FROM t WHERE a IN (1, 2) AND a IN (2, 3)", &["3"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_are_those_of_the_standard() {
    check(&[], &[
        ("SELECT id FROM t WHERE arrow_cast(a / 2.0, 'Int64') = 1", &["3", "5", "6", "7"]),
        ("SELECT named_struct('p', nullif(named_struct('x', id), named_struct('x', 2)))['p']['x'] FROM t WHERE id < 4", &["1", "3", "NULL"]),
        ("SELECT id FROM t WHERE nullif(named_struct('x', id), named_struct('x', 2))['x'] < 4", &["1", "3"]),
        (
            "SELECT (array_agg(CASE WHEN id <> 2 THEN named_struct('x', id) END) OVER (PARTITION BY id))[1]['x'] FROM t WHERE id < 4",
            &["1", "3", "NULL"],
        ),
        ("SELECT id FROM t WHERE s SIMILAR TO 'hel%'", &["1", "2"]),
        ("SELECT id FROM t WHERE s SIMILAR TO 'a.c'", &["3"]),
        ("SELECT id FROM t WHERE s SIMILAR TO 'a_c'", &["3", "4"]),
        ("SELECT id FROM t WHERE s SIMILAR TO '(hello|abc)'", &["1", "4"]),
        ("SELECT id FROM t WHERE s SIMILAR TO 'el'", &[]),
        (r"SELECT id FROM t WHERE s SIMILAR TO '[0-9]{2}\%'", &["5"]),
        ("SELECT id FROM t WHERE s SIMILAR TO '50#%' ESCAPE '#'", &["5"]),
        ("SELECT id FROM t WHERE s NOT SIMILAR TO 'hel%'", &["3", "4", "5", "6", "8"]),
        ("SELECT id FROM t WHERE s SIMILAR TO s || '%'", &["1", "2", "3", "4", "5", "6", "8"]),
        ("SELECT id FROM t WHERE arrow_cast(s, 'Dictionary(Int32, Utf8)') SIMILAR TO 'hel%'", &["1", "2"]),
        ("SELECT id FROM t WHERE s LIKE '50!%' ESCAPE '!'", &["5"]),
        ("SELECT id FROM t WHERE s LIKE '50#_' ESCAPE '#'", &[]),
        ("SELECT id FROM t WHERE s NOT LIKE 'h%' ESCAPE '$'", &["3", "4", "5", "6", "8"]),
        ("SELECT id FROM t WHERE s LIKE CASE WHEN id = 5 THEN '50!%' ELSE 'x' END ESCAPE '!'", &["5"]),
        ("SELECT id FROM t WHERE arrow_cast(s, 'Dictionary(Int32, Utf8)') LIKE 'h%' AND id > 1", &["2"]),
        ("SELECT count(*) FROM (SELECT arrow_cast(s, 'Dictionary(Int32, Utf8)') AS s FROM t WHERE id > 99) WHERE s LIKE 'h%'", &["0"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_guard_others() {
    check(
        &[],
        &[
            ("SELECT id FROM t WHERE b <> 0 AND 10 / b > 1", &["2", "4", "5"]),
            ("SELECT id FROM t WHERE 10 / b > 1 AND b <> 0", &["2", "4", "5"]),
            ("SELECT id FROM (SELECT * FROM t WHERE b <> 0) WHERE 10 / b > 1", &["2", "4", "5"]),
            ("SELECT id FROM (SELECT id, 10 / b AS q, b FROM t) WHERE b <> 0 AND q > 1", &["2", "4", "5"]),
            ("SELECT count(*) FROM t WHERE b > 0 AND id % b = 0", &["5"]),
            ("SELECT count(*) FROM t JOIN u ON t.b <> 0 AND u.k / t.b = 0", &["13"]),
            ("SELECT id FROM t WHERE s SIMILAR TO '[0-9]+' AND CAST(s AS INT) > 3", &[]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn is_distinct_from_binds_closer_than_and_or_and_not() {
    check(
        &[],
        &[
            ("SELECT true IS DISTINCT FROM false AND false", &["false"]),
            ("SELECT count(*) FROM t WHERE a IS DISTINCT FROM 3 AND b > 0", &["3"]),
            ("SELECT id FROM t WHERE a IS NOT DISTINCT FROM 3 AND b > 0 OR id = 1", &["1", "5", "7"]),
            ("SELECT id FROM t WHERE NOT a IS DISTINCT FROM 3 AND b = 0", &["6"]),
            ("SELECT id FROM t WHERE id < 6 AND a IS NOT DISTINCT FROM NULL OR id = 7", &["4", "7"]),
            ("SELECT t.id, u.v FROM t JOIN u ON t.a IS NOT DISTINCT FROM u.k AND t.id > 7", &["8 | none"]),
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_is_null_if_all_its_parts_are() {
    check(&[], &[
        ("SELECT count(*) FROM t WHERE (a, s) IS NOT NULL", &["5"]),
        ("SELECT count(*) FROM t WHERE (a, s) IS NULL", &["0"]),
        ("SELECT count(*) FROM t WHERE NOT (a, s) IS NOT NULL", &["3"]),
        ("SELECT (NULL, NULL) IS NULL, (1, NULL) IS NULL, (1, NULL) IS NOT NULL, ROW(NULL, 1) IS NOT NULL, NOT (1, NULL) IS NULL", &["true | false | false | false | true"]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_match_texts_of_every_encoding() {
    let dir = tempdir().unwrap();
    let texts = vec![Some("hello"), Some("help"), None, Some("50%")];
    let text: ArrayRef = Arc::new(StringArray::from(texts));
    let encoded = |to: DataType| cast(&text, &to).unwrap();
    let dictionary = |values| encoded(DataType::Dictionary(Box::new(DataType::Int32), Box::new(values)));
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        ("k", dictionary(DataType::Utf8)),
        ("l", dictionary(DataType::LargeUtf8)),
        ("s", text.clone()),
    ];
    table(dir.path(), "t", &batch(columns));
    let texts = ["k", "l", "s", "arrow_cast(s, 'Utf8View')", "arrow_cast(s, 'LargeUtf8')", "CAST(k AS VARCHAR)"];
    let conditions: [(&str, &[&str]); 11] = [
        ("? LIKE 'hel%'", &["1", "2"]),
        ("? LIKE 'hel!%' ESCAPE '!'", &[]),
        ("? LIKE 'help'", &["2"]),
        ("? NOT LIKE 'hel%'", &["4"]),
        ("? ILIKE 'HEL%'", &["1", "2"]),
        ("? ~ '^hel'", &["1", "2"]),
        ("? !~ '^hel'", &["4"]),
        ("? SIMILAR TO 'hel(p|x)'", &["2"]),
        ("starts_with(?, 'hel')", &["1", "2"]),
        ("ends_with(?, 'p') OR strpos(?, '%') > 0", &["2", "4"]),
        ("upper(?) LIKE 'HEL%' AND ? || 'x' <> 'helpx'", &["1"]),
    ];
    let mut statements = Vec::new();
    for text in texts {
        for (condition, ids) in &conditions {
            statements.push((format!("SELECT id FROM t WHERE {}", condition.replace('?', text)), *ids));
        }
    }
    let cases: Vec<(&str, &[&str])> = statements.iter().map(|(sql, ids)| (sql.as_str(), *ids)).collect();
    check_on(&dir, &TABLES[..1], &[], &cases).await;
}
