//! Keeps long statements from exhausting the stack.
//!
//! The parser reads `a OR b OR c …` into a tree that is as deep as the chain is long. Planning recurses into it, and
//! takes time that grows with the square of its depth: 3,200 terms took 28 s, balanced 0.4 s. Chains of AND, OR and `||`
//! are therefore rebuilt as balanced trees; other chains and the whole statement have a maximum length.

use std::ops::ControlFlow;

use buzz_protocol::{QueryError, Result, SqlLength};
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Value, VisitorMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::standard;
use crate::visit::visit_mut;

/// Maximum number of set operations in `SELECT … UNION SELECT …`, and of joins in one FROM.
const INPUTS_MAX: usize = 500;

/// Maximum number of conditions that AND combines. DataFusion divides them and combines them again as a chain: 20,000
/// conditions exhausted the stack.
const CONDITIONS_MAX: usize = 3500;

/// Terms of a chain of AND or OR that are not rebuilt. The left edge of a balanced tree is a shorter chain, so a tree is
/// not rebuilt again.
const TERMS_MAX: usize = 64;

/// Terms of a chain of `||` that are not rebuilt: `||` is associative for texts, but `[1] || 2 || 3` is not.
const CONCATENATED_MAX: usize = 200;

/// Checks the length of `sql` and of its chains. Works on words and signs, since even dropping a deep tree recurses.
///
/// # Errors
/// `Limit`, naming the bound.
pub(crate) fn check_length(sql: &str) -> Result<()> {
    // The parser reports what cannot be divided into words.
    let Ok(tokens) = Tokenizer::new(&GenericDialect {}, sql).tokenize() else {
        return Ok(());
    };
    SqlLength::of(&tokens).check()?;
    let mut levels = vec![Chains::default()];
    for token in tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_))) {
        let Some(chains) = levels.last_mut() else { break };
        chains.count(token);
        if let Some((most, what)) = chains.exceeded() {
            return Err(QueryError::limit(format!(
                "the SQL has more than {most} {what} in one chain; divide it with parentheses or into steps"
            )));
        }
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => levels.push(Chains::default()),
            Token::RParen | Token::RBracket | Token::RBrace if levels.len() > 1 => {
                let inner = levels.pop().unwrap_or_default();
                if let Some(outer) = levels.last_mut() {
                    outer.close(&inner);
                }
            }
            _ => {}
        }
        if levels.last().is_some_and(|chains| chains.depth() > SqlLength::OPERATORS_MAX) {
            return Err(QueryError::limit(format!(
                "chains of operators with parentheses in each other are more than {} operators deep; divide the SQL into steps",
                SqlLength::OPERATORS_MAX
            )));
        }
    }
    Ok(())
}

/// The chains that are open within one pair of parentheses.
#[derive(Default)]
struct Chains {
    operators: usize,
    sets: usize,
    joins: usize,
    /// The depth of the deepest parentheses that are a part of the chain.
    inner: usize,
    /// The depth of the deepest chain that has ended.
    ended: usize,
}

impl Chains {
    fn count(&mut self, token: &Token) {
        match token {
            Token::Word(word) => match word.keyword {
                Keyword::AND | Keyword::OR => self.end(),
                Keyword::SELECT | Keyword::WHEN | Keyword::THEN | Keyword::ELSE => self.end(),
                Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT => {
                    self.end();
                    (self.sets, self.joins) = (self.sets + 1, 0);
                }
                Keyword::FROM | Keyword::WHERE => {
                    self.end();
                    self.joins = 0;
                }
                Keyword::JOIN => {
                    self.end();
                    self.joins += 1;
                }
                Keyword::IS | Keyword::LIKE | Keyword::ILIKE | Keyword::COLLATE | Keyword::AT => self.operators += 1,
                _ => {}
            },
            Token::Comma | Token::StringConcat => self.end(),
            Token::Plus
            | Token::Minus
            | Token::Mul
            | Token::Div
            | Token::Mod
            | Token::Caret
            | Token::Pipe
            | Token::Ampersand
            | Token::Eq
            | Token::Neq
            | Token::Lt
            | Token::Gt
            | Token::LtEq
            | Token::GtEq
            | Token::DoubleColon
            | Token::LBracket => self.operators += 1,
            _ => {}
        }
    }

    /// Ends the chain of operators.
    fn end(&mut self) {
        (self.ended, self.operators, self.inner) = (self.depth(), 0, 0);
    }

    /// Adds the parentheses `inner`, which end, to the chain.
    fn close(&mut self, inner: &Self) {
        self.inner = self.inner.max(inner.depth());
    }

    /// Returns an upper bound for the depth of the tree of this level: a chain that has parentheses at its start is as
    /// deep as both together.
    fn depth(&self) -> usize {
        self.ended.max(self.operators + self.inner)
    }

    /// Returns the bound that a chain exceeds.
    fn exceeded(&self) -> Option<(usize, &'static str)> {
        let all = [
            (self.operators, SqlLength::OPERATORS_MAX, "operators"),
            (self.sets, INPUTS_MAX, "set operations"),
            (self.joins, INPUTS_MAX, "joins"),
        ];
        all.into_iter().find(|(count, most, _)| count > most).map(|(_, most, what)| (most, what))
    }
}

/// Rebuilds the chains of AND, OR and `||` in `statement` as balanced trees. Terms keep their order.
///
/// # Errors
/// `Limit` if AND combines too many conditions.
pub(crate) fn balanced(mut statement: Statement) -> Result<Statement> {
    let mut inner = &mut statement;
    while let Statement::Explain(explain) = inner {
        inner = explain.statement.as_mut();
    }
    if let Statement::Statement(sql) = inner
        && let ControlFlow::Break(error) = visit_mut(sql, &mut Balancing)
    {
        return Err(error);
    }
    Ok(statement)
}

struct Balancing;

impl VisitorMut for Balancing {
    type Break = QueryError;

    fn pre_visit_expr(&mut self, expression: &mut Expr) -> ControlFlow<QueryError> {
        // Terms of a chain that the parser has put below another operator belong to the chain.
        standard::reassociated(expression);
        let Expr::BinaryOp { op, .. } = expression else {
            return ControlFlow::Continue(());
        };
        let op = op.clone();
        if !matches!(op, BinaryOperator::And | BinaryOperator::Or | BinaryOperator::StringConcat) {
            return ControlFlow::Continue(());
        }
        if op == BinaryOperator::And && conditions(expression) > CONDITIONS_MAX {
            return ControlFlow::Break(QueryError::limit(format!(
                "AND combines more than {CONDITIONS_MAX} conditions; use `NOT IN` or join a table of values"
            )));
        }
        let length = chain_length(expression, &op);
        let left_alone = if op == BinaryOperator::StringConcat { CONCATENATED_MAX } else { TERMS_MAX };
        if length > left_alone {
            let terms = terms_of(std::mem::replace(expression, Expr::value(Value::Null)), &op);
            *expression = tree_of(terms, &op);
        }
        ControlFlow::Continue(())
    }
}

/// Returns the number of conditions that AND combines in `expression`, also in parentheses; at most one more than the
/// bound.
fn conditions(expression: &Expr) -> usize {
    let (mut open, mut found) = (vec![expression], 0);
    while let Some(expression) = open.pop()
        && found <= CONDITIONS_MAX
    {
        match expression {
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => open.extend([left.as_ref(), right.as_ref()]),
            Expr::Nested(inner) => open.push(inner),
            _ => found += 1,
        }
    }
    found
}

/// Returns the number of terms of the chain of `op` that ends with `expression`.
fn chain_length(mut expression: &Expr, op: &BinaryOperator) -> usize {
    let mut length = 1;
    while let Expr::BinaryOp { left, op: other, .. } = expression
        && other == op
    {
        length += 1;
        expression = left;
    }
    length
}

fn terms_of(mut chain: Expr, op: &BinaryOperator) -> Vec<Expr> {
    let mut terms = Vec::new();
    loop {
        match chain {
            Expr::BinaryOp { left, op: other, right } if other == *op => {
                terms.push(*right);
                chain = *left;
            }
            first => {
                terms.push(first);
                break;
            }
        }
    }
    terms.reverse();
    terms
}

fn tree_of(mut terms: Vec<Expr>, op: &BinaryOperator) -> Expr {
    if terms.len() == 1 {
        return terms.remove(0);
    }
    let right = terms.split_off(terms.len() / 2);
    let (left, right) = (tree_of(terms, op), tree_of(right, op));
    Expr::BinaryOp { left: Box::new(left), op: op.clone(), right: Box::new(right) }
}

#[cfg(test)]
mod tests {
    use crate::visit::any_expression;
    use buzz_protocol::ErrorKind;

    use super::*;
    use crate::sql::parse_statement;

    #[test]
    fn balanced_chain_keeps_its_terms_in_order() {
        let terms = (0..1000).map(|term| format!("x = {term}")).collect::<Vec<_>>();
        for op in [" OR ", " AND "] {
            let sql = format!("SELECT * FROM t WHERE {}", terms.join(op));
            assert_eq!(parse_statement(&sql).unwrap().to_string(), sql);
        }
    }

    fn depth(expression: &Expr) -> usize {
        match expression {
            Expr::BinaryOp { left, right, .. } => 1 + depth(left).max(depth(right)),
            _ => 0,
        }
    }

    #[test]
    fn balanced_chain_is_shallow() {
        let terms = (0..1000).map(|term| format!("s LIKE '{term}'")).collect::<Vec<_>>();
        let statement = parse_statement(&format!("SELECT {}", terms.join(" OR "))).unwrap();
        let Statement::Statement(sql) = &statement else { panic!("{statement}") };
        let mut depths = Vec::new();
        any_expression(sql, &mut |expression| {
            depths.push(depth(expression));
            false
        });
        assert_eq!(depths.into_iter().max(), Some(10));
    }

    #[test]
    fn long_chains_are_rejected_and_long_lists_are_not() {
        let rejected = |sql: &str| check_length(sql).unwrap_err().to_string();
        let sum = vec!["x"; 3002].join(" + ");
        assert!(rejected(&format!("SELECT {sum} FROM t")).contains("3000 operators"));
        let conditions = vec!["x <> 1"; 3501].join(" AND ");
        assert_eq!(parse_statement(&format!("SELECT {conditions}")).unwrap_err().kind, ErrorKind::Limit);
        let union = vec!["SELECT 1"; 502].join(" UNION ALL ");
        assert!(rejected(&union).contains("500 set operations"));
        let columns = vec!["x + 1"; 5000].join(", ");
        check_length(&format!("SELECT {columns} FROM t WHERE x IN ({})", vec!["1"; 100_000].join(", "))).unwrap();
        assert!(rejected(&format!("SELECT {}", vec!["1"; 300_000].join(", "))).contains("500000 words"));
        // The chain of a pair of parentheses is the first term of the next chain, so their depths add up.
        let chain = vec!["x"; 400].join(" + ");
        let nested = (0..9).fold(chain.clone(), |nested, _| format!("({nested}) + {chain}"));
        assert!(rejected(&format!("SELECT {nested} FROM t")).contains("3000 operators deep"));
        let beside = vec![format!("({chain})"); 100].join(" + ");
        check_length(&format!("SELECT {beside}, {beside} FROM t WHERE ({chain}) > 1 AND ({chain}) > 2")).unwrap();
        let types = format!("SELECT CAST(x AS {}INT{})", "Tuple(".repeat(1001), ")".repeat(1001));
        assert!(rejected(&types).contains("1000 parentheses"));
    }
}
