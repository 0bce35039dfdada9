//! The length of SQL, checked on its words and signs before it is parsed: the parser recurses into what it reads, and
//! even dropping a deep tree recurses.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::Token;

use crate::{QueryError, Result};

/// Counts of a statement or a script.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct SqlLength {
    /// Words and signs, without white space and comments.
    pub tokens: usize,
    /// Operators that can form chains such as `a + b + c`: the tree of a chain is as deep as the chain is long.
    pub operators: usize,
    /// The largest number of parentheses that are open at one place.
    pub levels: usize,
}

impl SqlLength {
    /// Maximum number of words and signs of a statement.
    pub const TOKENS_MAX: usize = 500_000;

    /// Maximum number of operators in a chain.
    pub const OPERATORS_MAX: usize = 3000;

    /// Maximum number of open parentheses. The parser has a bound for those of expressions, and none for those of types.
    pub const LEVELS_MAX: usize = 1000;

    /// Counts `tokens`.
    pub fn of(tokens: &[Token]) -> Self {
        let (mut length, mut open) = (Self::default(), 0_usize);
        for token in tokens {
            match token {
                Token::Whitespace(_) => continue,
                Token::LParen | Token::LBracket | Token::LBrace => open += 1,
                Token::RParen | Token::RBracket | Token::RBrace => open = open.saturating_sub(1),
                _ => {}
            }
            length.tokens += 1;
            length.operators += usize::from(is_operator(token));
            length.levels = length.levels.max(open);
        }
        length
    }

    /// Checks the number of words and of open parentheses. Chains are left to the caller.
    ///
    /// # Errors
    /// `Limit`, naming the bound.
    pub fn check(&self) -> Result<()> {
        if self.tokens > Self::TOKENS_MAX {
            return Err(QueryError::limit(format!(
                "the SQL has more than {} words and signs; put long lists of values into a table and join it",
                Self::TOKENS_MAX
            )));
        }
        if self.levels > Self::LEVELS_MAX {
            return Err(QueryError::limit(format!(
                "the SQL nests more than {} parentheses; divide it into steps",
                Self::LEVELS_MAX
            )));
        }
        Ok(())
    }
}

/// Returns true if `token` can continue a chain.
fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => matches!(
            word.keyword,
            Keyword::AND
                | Keyword::OR
                | Keyword::UNION
                | Keyword::EXCEPT
                | Keyword::INTERSECT
                | Keyword::JOIN
                | Keyword::IS
                | Keyword::LIKE
                | Keyword::ILIKE
                | Keyword::COLLATE
                | Keyword::AT
        ),
        Token::Plus
        | Token::Minus
        | Token::Mul
        | Token::Div
        | Token::Mod
        | Token::Caret
        | Token::Pipe
        | Token::Ampersand
        | Token::StringConcat
        | Token::Eq
        | Token::Neq
        | Token::Lt
        | Token::Gt
        | Token::LtEq
        | Token::GtEq
        | Token::DoubleColon
        | Token::LBracket => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::tokenizer::Tokenizer;

    use super::*;
    use crate::ErrorKind;

    fn length(sql: &str) -> SqlLength {
        SqlLength::of(&Tokenizer::new(&GenericDialect {}, sql).tokenize().expect("all literals end"))
    }

    #[test]
    fn blanks_comments_and_literals_do_not_count_as_parentheses() {
        let found = length("SELECT (a + f(b[1])) /* (( */ FROM t -- (\nWHERE s = '(((' AND \"(\" IS NULL");
        assert_eq!(found, SqlLength { tokens: 22, operators: 5, levels: 3 });
    }

    #[test]
    fn parentheses_and_words_have_a_bound_that_the_error_names() {
        let nested = |levels: usize| length(&format!("SELECT {}1{}", "(".repeat(levels), ")".repeat(levels)));
        nested(SqlLength::LEVELS_MAX).check().expect("the bound is allowed");
        let error = nested(SqlLength::LEVELS_MAX + 1).check().expect_err("one more is not");
        assert_eq!(error.kind, ErrorKind::Limit);
        assert!(error.message.contains("1000 parentheses"), "{error}");
        let list = length(&format!("SELECT {}", vec!["1"; 300_000].join(", ")));
        assert!(list.check().expect_err("the list is too long").message.contains("500000 words"));
        // Parentheses that follow each other are not nested.
        length(&"(1)".repeat(2000)).check().expect("they are flat");
    }
}
