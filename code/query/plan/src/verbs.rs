//! Errors of statements that are not queries, and of words that are none of SQL.

use buzz_protocol::{QueryError, Result, nearest};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// Remedies for statements that only other engines have. The others only read here as well.
const REMEDIES: [(&[&str], &str); 7] = [
    (
        &["CREATE", "COPY", "UNLOAD", "EXPORT", "SELECT INTO"],
        "write a SELECT, and keep its rows with --output FILE or the client's own means; CREATE VIEW and CREATE EXTERNAL TABLE \
         add names",
    ),
    (&["SET", "RESET", "PRAGMA"], "set options outside of the SQL, with --set KEY=VALUE or the client's own means"),
    (&["USE", "ATTACH", "DETACH"], "all tables are in one schema: write FROM t"),
    (&["TABLE"], "write SELECT * FROM t"),
    (&["SUMMARIZE"], "write DESCRIBE t, or SELECT min(x), max(x), count(x) FROM t"),
    (&["PIVOT", "UNPIVOT"], "write SELECT sum(x) FILTER (WHERE kind = 'a') AS a FROM t for each value"),
    (&["REFRESH", "MSCK", "ANALYZE", "VACUUM", "OPTIMIZE", "CALL"], "each query lists the files: leave it out"),
];

/// Words that begin a clause, in whose place a misspelled one stands.
const WORDS: [&str; 14] = [
    "SELECT", "FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "JOIN", "UNION", "WITH", "DESCRIBE",
    "EXPLAIN", "SHOW",
];

/// Returns the message about a statement that begins with `verb` and is not a query.
pub(crate) fn not_a_query(verb: &str) -> String {
    let remedy = REMEDIES.iter().find(|(verbs, _)| verbs.contains(&verb));
    format!("{verb} is not a query; Buzz only reads, {}", remedy.map_or("write a SELECT", |(_, remedy)| remedy))
}

/// Checks that no number is followed by a name without a blank: `1_000` would be the number 1 with the name `_000`.
///
/// # Errors
/// `Invalid`, naming such a number.
pub(crate) fn check_numbers(sql: &str) -> Result<()> {
    let has_any = sql.as_bytes().windows(2).any(|pair| pair[0].is_ascii_digit() && pair[1] == b'_');
    // The parser reports what cannot be divided into words.
    let tokens =
        if has_any { Tokenizer::new(&GenericDialect {}, sql).tokenize().unwrap_or_default() } else { Vec::new() };
    for pair in tokens.windows(2) {
        if let [Token::Number(number, _), Token::Word(word)] = pair
            && word.quote_style.is_none()
            && word.value.starts_with('_')
        {
            let (written, plain) = (format!("{number}{word}"), format!("{number}{}", word.value.replace('_', "")));
            return Err(QueryError::invalid(format!("`{written}` is not a number; write {plain}")));
        }
    }
    Ok(())
}

/// Adds a remedy to the error of the parser about `sql`, if there is one.
pub(crate) fn with_hint(error: QueryError, sql: &str) -> QueryError {
    let first = sql.trim_start();
    if first.starts_with(['.', '\\']) {
        let command = first.split_whitespace().next().unwrap_or_default();
        let message = format!("`{command}` is not SQL; commands that begin with it work in `buzz shell`");
        return QueryError::invalid(message);
    }
    let verb = first.split(|letter: char| !letter.is_alphabetic()).next().unwrap_or_default().to_uppercase();
    // CREATE VIEW and CREATE EXTERNAL TABLE exist, so the parser says what is wrong with them.
    if verb != "CREATE" && REMEDIES.iter().any(|(verbs, _)| verbs.contains(&verb.as_str())) {
        return QueryError::invalid(not_a_query(&verb));
    }
    let found = error.message.split_once("found: ").and_then(|(_, rest)| rest.split_whitespace().next());
    let near = found.filter(|word| word.len() > 2 && !WORDS.contains(&word.to_uppercase().as_str()));
    match near.and_then(|word| nearest(word, WORDS)) {
        Some(near) => QueryError { message: format!("{}; did you mean {near}?", error.message), ..error },
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use crate::sql::parse_query;

    #[test]
    fn statements_of_other_engines_have_a_remedy() {
        for (sql, words) in [
            (
                "COPY t TO 'x.parquet' (FORMAT parquet)",
                "COPY is not a query; Buzz only reads, write a SELECT, and keep its rows",
            ),
            ("UNLOAD (SELECT 1) TO 's3://x/' WITH (format='PARQUET')", "UNLOAD is not a query"),
            ("SUMMARIZE t", "write DESCRIBE t"),
            ("PIVOT t ON name USING sum(price)", "FILTER (WHERE"),
            ("SET x = 1", "SET is not a query; Buzz only reads, set options outside"),
            ("USE lake", "write FROM t"),
            ("TABLE t", "write SELECT * FROM t"),
            ("SELECT 1_000", "`1_000` is not a number; write 1000"),
            ("SELECT a FROM t WHERE b > 10_000.5", "write 10000"),
            ("DELETE FROM t", "DELETE is not a query; Buzz only reads, write a SELECT"),
            ("\\d t", "`\\d` is not SQL; commands that begin with it work in `buzz shell`"),
            (".tables", "`.tables` is not SQL"),
            ("CREATE VIEW v AS SELEC 1", "SQL syntax: "),
            ("SELEC 1", "did you mean SELECT?"),
            ("SELECT * FORM t", "did you mean FROM?"),
            ("SELECT a FROM t WHERE a = 1 GRUOP BY a", "did you mean GROUP?"),
        ] {
            let error = parse_query(sql).expect_err(sql).to_string();
            assert!(error.contains(words), "{sql}: {error}");
        }
        for sql in ["SELECT 1 _a, a1_000, '1_000', \"1_0\" FROM t1_0", "SELECT 1 AS \"_000\" -- 1_000"] {
            parse_query(sql).unwrap();
        }
        for sql in ["SELECT (1", "SELECT 'a", "SELECT 1 FROM t WHERE", "SELECT ,1"] {
            let error = parse_query(sql).expect_err(sql).to_string();
            assert!(!error.contains("did you mean"), "{sql}: {error}");
        }
    }
}
