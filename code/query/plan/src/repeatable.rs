//! Finds out if a query can be answered by the rows of an earlier run, and writes its text in one form.

use std::collections::HashSet;
use std::sync::LazyLock;

use buzz_protocol::{Query, QueryBody};
use datafusion::execution::SessionStateDefaults;
use datafusion::logical_expr::Volatility;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// Words beside the names of functions whose values depend on more than their arguments.
const WORDS: [&str; 9] = [
    "current_timestamp",
    "localtimestamp",
    "localtime",
    "current_user",
    "session_user",
    "tablesample",
    "now",
    "tomorrow",
    "yesterday",
];

/// The names of functions whose values depend on more than their arguments, and [`WORDS`], in lower case.
static CHANGING: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let functions = SessionStateDefaults::default_scalar_functions().into_iter().chain(buzz_kernel::scalar_functions());
    let changing = functions.filter(|function| function.signature().volatility != Volatility::Immutable);
    let names = changing.flat_map(|function| {
        let name = function.name().to_string();
        let aliases: Vec<String> = function.aliases().to_vec();
        std::iter::once(name).chain(aliases)
    });
    names.map(|name| name.to_lowercase()).chain(WORDS.map(str::to_string)).collect()
});

/// Returns the first word of `query` that may change its rows although its tables are the same, such as `random`. The names
/// of columns and the contents of texts count too: a query that has such a word somewhere is taken for one that changes.
pub fn changing_word(query: &Query) -> Option<String> {
    let mut texts: Vec<String> = match &query.body {
        QueryBody::Sql(sql) => vec![sql.clone()],
        QueryBody::Steps(_) => vec![query.to_json()["steps"].to_string()],
    };
    texts.push(query.to_json()["params"].to_string());
    texts.extend(query.catalogs.iter().filter_map(|entry| entry.sql.clone()));
    texts.iter().flat_map(|text| words(text)).find(|word| CHANGING.contains(word))
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|character: char| !character.is_alphanumeric() && character != '_').map(str::to_lowercase)
}

/// The text of a query in one form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalText {
    /// The text: equal for queries that differ only in blanks and comments.
    pub text: String,
    /// True if it is an `EXPLAIN`, which the text does not have.
    pub explains: bool,
}

/// Returns the text of `query`, or `None` if it is none that can be read.
pub fn normal_text(query: &Query) -> Option<NormalText> {
    let QueryBody::Sql(sql) = &query.body else {
        return Some(NormalText { text: query.to_json()["steps"].to_string(), explains: false });
    };
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().ok()?;
    let mut tokens: Vec<Token> = tokens.into_iter().filter(|token| !matches!(token, Token::Whitespace(_))).collect();
    while tokens.last() == Some(&Token::SemiColon) {
        tokens.pop();
    }
    let is = |token: &Token, words: &[&str]| {
        matches!(token, Token::Word(word) if word.quote_style.is_none()
            && words.iter().any(|name| word.value.eq_ignore_ascii_case(name)))
    };
    let explains = tokens.first().is_some_and(|token| is(token, &["explain"]));
    let skipped = match explains {
        true => 1 + tokens[1..].iter().take_while(|token| is(token, &["analyze", "verbose"])).count(),
        false => 0,
    };
    // The form for people would not tell some tokens apart.
    Some(NormalText { text: format!("{:?}", &tokens[skipped..]), explains })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(sql: &str) -> Query {
        Query { catalogs: Vec::new(), body: QueryBody::Sql(sql.to_string()), zones: 1, params: Default::default() }
    }

    #[test]
    fn words_that_change_rows_are_found() {
        for (sql, word) in [
            ("SELECT now()", Some("now")),
            ("SELECT * FROM t WHERE d < Current_Date", Some("current_date")),
            ("SELECT random() FROM t", Some("random")),
            ("SELECT uuid()", Some("uuid")),
            ("SELECT CAST('now' AS TIMESTAMP)", Some("now")),
            ("SELECT known, renown, randoms FROM t", None),
            ("SELECT sum(a), date_trunc('day', b) FROM t GROUP BY 2", None),
        ] {
            assert_eq!(changing_word(&query(sql)).as_deref(), word, "{sql}");
        }
        let params = [("a".to_string(), buzz_protocol::Param::Text("now".to_string()))].into();
        assert_eq!(changing_word(&Query { params, ..query("SELECT $a") }).as_deref(), Some("now"));
    }

    #[test]
    fn blanks_and_comments_do_not_change_the_text() {
        let text = |sql: &str| normal_text(&query(sql)).unwrap();
        assert_eq!(text("SELECT a\n  FROM t -- all\n;"), text("SELECT a FROM /* here */ t"));
        assert_ne!(text("SELECT 'a b'"), text("SELECT 'a  b'"));
        assert_ne!(text("SELECT 'a' 'b'"), text("SELECT 'a'' ''b'"));
        assert_ne!(text("SELECT a"), text("SELECT \"a\""));
        assert_ne!(text("SELECT A"), text("SELECT a"));
        let explained = text("EXPLAIN ANALYZE SELECT a FROM t");
        assert!(explained.explains && explained.text == text("SELECT a FROM t").text);
        assert_eq!(normal_text(&query("SELECT 'open")), None);
    }
}
