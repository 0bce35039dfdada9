//! Puts the maximum number of rows into a statement, so that the query stops when it has them.

use buzz_protocol::{QueryError, Result};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{LimitClause, Query, Statement as SqlStatement};

use crate::planner::parsed;
use crate::scan::{Kind, Token, tokens};

/// First words of statements that read.
const READING: [&str; 9] = ["SELECT", "WITH", "VALUES", "TABLE", "FROM", "DESCRIBE", "DESC", "SHOW", "EXPLAIN"];

/// Checks that `sql` begins as a statement that reads.
///
/// # Errors
/// `Invalid` if it does not.
pub(super) fn check_reads(sql: &str) -> Result<()> {
    let tokens = tokens(sql);
    let first = tokens.iter().find(|token| !token.is_symbol(sql, '('));
    match first {
        Some(first) if READING.iter().any(|word| first.is_word(sql, word)) => Ok(()),
        Some(first) => Err(QueryError::invalid(format!(
            "a statement that begins with `{}` is not run by this tool, which only reads; write a SELECT",
            first.text(sql)
        ))),
        None => Err(QueryError::invalid("the SQL is empty; write a SELECT")),
    }
}

/// Returns `sql` with `LIMIT rows`, or None if it is not a query, has a lower limit, or cannot be limited by a change of its
/// text. The rows are the first of `sql`.
pub(super) fn limited(sql: &str, rows: usize) -> Option<String> {
    let query = query(sql)?;
    let tokens = tokens(sql);
    let text = match limit(&query) {
        None => {
            let last = tokens.iter().rfind(|token| !token.is_symbol(sql, ';'))?;
            // A comment at the end of the text would hide a limit on the same line.
            format!("{}\nLIMIT {rows}", &sql[..last.at.end])
        }
        Some(limit) if limit.parse::<u64>().ok()? > rows as u64 => {
            let own = number_of_last_limit(sql, &tokens)?;
            format!("{}{rows}{}", &sql[..own.at.start], &sql[own.at.end..])
        }
        Some(_) => return None,
    };
    let mut limited = self::query(&text)?;
    if limit(&limited)? != rows.to_string() {
        return None;
    }
    // Apart from its limit, it must be the same query.
    set_limit(&mut limited, &query);
    (limited == query).then_some(text)
}

fn query(sql: &str) -> Option<Query> {
    let Statement::Statement(statement) = parsed(sql).ok()? else { return None };
    let SqlStatement::Query(query) = *statement else { return None };
    Some(*query)
}

/// Returns the text of the limit of `query`.
fn limit(query: &Query) -> Option<String> {
    match query.limit_clause.as_ref()? {
        LimitClause::LimitOffset { limit, .. } => limit.as_ref().map(ToString::to_string),
        LimitClause::OffsetCommaLimit { limit, .. } => Some(limit.to_string()),
    }
}

/// Gives `query` the limit of `other`. Its offset stays.
fn set_limit(query: &mut Query, other: &Query) {
    let own = match &other.limit_clause {
        Some(LimitClause::LimitOffset { limit, .. }) => limit.clone(),
        _ => None,
    };
    if let Some(LimitClause::LimitOffset { limit, offset, limit_by }) = &mut query.limit_clause {
        *limit = own;
        if limit.is_none() && offset.is_none() && limit_by.is_empty() {
            query.limit_clause = None;
        }
    }
}

/// Returns the number after the last LIMIT that is in no parentheses.
fn number_of_last_limit<'a>(sql: &str, tokens: &'a [Token]) -> Option<&'a Token> {
    let (mut depth, mut found) = (0_usize, None);
    for pair in tokens.windows(2) {
        if pair[0].is_symbol(sql, '(') {
            depth += 1;
        } else if pair[0].is_symbol(sql, ')') {
            depth = depth.saturating_sub(1);
        } else if depth == 0 && pair[0].is_word(sql, "limit") && pair[1].kind == Kind::Number {
            found = Some(&pair[1]);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limit_is_put_into_the_text() {
        for (sql, expect) in [
            ("SELECT a FROM t", "SELECT a FROM t\nLIMIT 9"),
            ("SELECT a FROM t ; -- all", "SELECT a FROM t\nLIMIT 9"),
            ("SELECT a FROM t -- all", "SELECT a FROM t\nLIMIT 9"),
            ("WITH x AS (SELECT 1 LIMIT 50) SELECT * FROM x", "WITH x AS (SELECT 1 LIMIT 50) SELECT * FROM x\nLIMIT 9"),
            ("SELECT 1 UNION ALL SELECT 2 ORDER BY 1 DESC", "SELECT 1 UNION ALL SELECT 2 ORDER BY 1 DESC\nLIMIT 9"),
            ("(SELECT 1 LIMIT 50) UNION (SELECT 2)", "(SELECT 1 LIMIT 50) UNION (SELECT 2)\nLIMIT 9"),
            ("VALUES (1), (2)", "VALUES (1), (2)\nLIMIT 9"),
            ("SELECT a FROM t OFFSET 3", "SELECT a FROM t OFFSET 3\nLIMIT 9"),
            ("SELECT a FROM t LIMIT 1000000 OFFSET 3;", "SELECT a FROM t LIMIT 9 OFFSET 3;"),
            ("SELECT (SELECT 1 LIMIT 70) FROM t LIMIT 80", "SELECT (SELECT 1 LIMIT 70) FROM t LIMIT 9"),
        ] {
            assert_eq!(limited(sql, 9).as_deref(), Some(expect), "{sql}");
        }
    }

    #[test]
    fn other_statements_and_lower_limits_stay() {
        for sql in [
            "SELECT a FROM t LIMIT 9",
            "SELECT a FROM t LIMIT 5 OFFSET 2",
            "SELECT a FROM t LIMIT 10 * 10",
            "SELECT a FROM t LIMIT $1",
            "SELECT a FROM t FETCH FIRST 100 ROWS ONLY",
            "SELECT a FROM t FOR UPDATE",
            "DESCRIBE t",
            "SHOW TABLES",
            "EXPLAIN SELECT a FROM t",
            "SELECT 1; SELECT 2",
            "SELECT",
            "",
        ] {
            assert_eq!(limited(sql, 9), None, "{sql}");
        }
    }

    #[test]
    fn only_statements_that_read_are_run() {
        for sql in
            ["select 1", "-- a\n((SELECT 1))", "WITH a AS (SELECT 1) SELECT * FROM a", "SHOW TABLES", "/* */ desc t"]
        {
            check_reads(sql).unwrap();
        }
        for sql in
            ["INSERT INTO t VALUES (1)", "create view v as select 1", "\"select\"", "COPY t TO 'x'", "DROP TABLE t"]
        {
            let error = check_reads(sql).unwrap_err().to_string();
            assert!(error.contains("which only reads"), "{sql}: {error}");
        }
        for sql in ["", "(", ";", " -- nothing"] {
            assert!(check_reads(sql).is_err(), "{sql}");
        }
    }
}
