//! Common table expressions that are computed once.
//!
//! The planner replaces each reference to a common table expression by a copy of its plan. Two copies of `SELECT id FROM
//! t LIMIT 100` may return different rows. An expression that is read more than once and whose rows the query does not
//! determine is therefore planned as a reduce step of its own, whose rows become a stage.

use std::collections::HashMap;
use std::ops::ControlFlow;

use buzz_protocol::Result;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{
    Cte, Distinct, Expr, Function, FunctionArgumentClause, FunctionArguments, Ident, ObjectName, Query, Select,
    Statement as SqlStatement, Visitor, WindowFrameUnits, WindowType,
};

use crate::sql::parse_statement;
use crate::visit::visit;

/// A statement without the common table expressions that are computed once.
pub(crate) struct Divided {
    /// The name of each expression that is computed once, and the statement that returns its rows.
    pub(crate) shared: Vec<(String, Statement)>,
    /// The rest. It reads the expressions as tables.
    pub(crate) rest: Statement,
}

/// Divides `statement`, which is a query.
///
/// # Errors
/// `Invalid` if the name of an expression cannot be parsed.
pub(crate) fn divide(mut statement: Statement) -> Result<Divided> {
    let Some(query) = query_of(&mut statement) else {
        return Ok(Divided { shared: Vec::new(), rest: statement });
    };
    let Some(with) = query.with.as_mut().filter(|with| !with.recursive) else {
        return Ok(Divided { shared: Vec::new(), rest: statement });
    };
    let expressions = std::mem::take(&mut with.cte_tables);
    let once = computed_once(&expressions, query);
    let (mut kept, mut shared): (Vec<Cte>, Vec<(String, Statement)>) = (Vec::new(), Vec::new());
    for (expression, once) in expressions.into_iter().zip(once) {
        if !once {
            kept.push(expression);
            continue;
        }
        let mut alone = parse_statement(&format!("WITH x AS (SELECT 1) SELECT * FROM {}", expression.alias.name))?;
        let name = normal(&expression.alias.name);
        if let Some(with) = query_of(&mut alone).and_then(|query| query.with.as_mut()) {
            with.cte_tables = kept.iter().cloned().chain([expression]).collect();
        }
        shared.push((name, alone));
    }
    if kept.is_empty() {
        query.with = None;
    } else if let Some(with) = &mut query.with {
        with.cte_tables = kept;
    }
    Ok(Divided { shared, rest: statement })
}

fn query_of(statement: &mut Statement) -> Option<&mut Query> {
    let Statement::Statement(sql) = statement else { return None };
    match sql.as_mut() {
        SqlStatement::Query(query) => Some(query),
        _ => None,
    }
}

/// Returns for each of `expressions` of `query` if it must be computed once.
fn computed_once(expressions: &[Cte], query: &Query) -> Vec<bool> {
    let names: HashMap<String, usize> =
        expressions.iter().enumerate().map(|(index, expression)| (normal(&expression.alias.name), index)).collect();
    let found: Vec<Found> =
        expressions.iter().map(|expression| Found::within(expression.query.as_ref(), &names)).collect();
    let mut varies: Vec<bool> = Vec::new();
    for (index, found) in found.iter().enumerate() {
        let read = found.reads.iter().any(|(other, _)| *other < index && varies[*other]);
        varies.push(found.varies || read);
    }
    let mut reads = vec![0_usize; expressions.len()];
    let mut count = |found: &Found, before: usize, times: usize| {
        for (other, count) in found.reads.iter().filter(|(other, _)| **other < before) {
            reads[*other] = reads[*other].saturating_add(count.saturating_mul(times));
        }
        reads.clone()
    };
    let mut read = count(&Found::within(query, &names), expressions.len(), 1);
    let mut once = vec![false; expressions.len()];
    for index in (0..expressions.len()).rev() {
        once[index] = varies[index] && read[index] > 1;
        // An expression that is computed once reads others once, and one that is not read does not.
        let times = if once[index] { 1 } else { read[index] };
        read = count(&found[index], index, times);
    }
    once
}

/// The reads of common table expressions within a query, and if the query leaves its rows open.
struct Found<'a> {
    names: &'a HashMap<String, usize>,
    reads: HashMap<usize, usize>,
    varies: bool,
}

impl<'a> Found<'a> {
    fn within(query: &Query, names: &'a HashMap<String, usize>) -> Self {
        let mut found = Self { names, reads: HashMap::new(), varies: false };
        let _: ControlFlow<()> = visit(query, &mut found);
        found
    }
}

/// Functions whose value differs each time.
const VOLATILE: [&str; 3] = ["random", "rand", "uuid"];

/// Aggregates that depend on the order of their rows.
const ORDERED: [&str; 6] = ["any_value", "array_agg", "first_value", "last_value", "nth_value", "string_agg"];

/// Window functions that depend on the order of rows that are equal in the window's order.
const RANKED: [&str; 7] = ["row_number", "ntile", "lag", "lead", "first_value", "last_value", "nth_value"];

impl Visitor for Found<'_> {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        self.varies |= query.limit_clause.is_some() || query.fetch.is_some();
        ControlFlow::Continue(())
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<()> {
        self.varies |= select.top.is_some() || matches!(select.distinct, Some(Distinct::On(_)));
        ControlFlow::Continue(())
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<()> {
        if let [part] = relation.0.as_slice()
            && let Some(index) = part.as_ident().and_then(|name| self.names.get(&normal(name)))
        {
            *self.reads.entry(*index).or_default() += 1;
        }
        ControlFlow::Continue(())
    }

    fn pre_visit_expr(&mut self, expression: &Expr) -> ControlFlow<()> {
        if let Expr::Function(function) = expression {
            self.varies |= varies(function);
        }
        ControlFlow::Continue(())
    }
}

fn varies(function: &Function) -> bool {
    let name = function.name.to_string().to_lowercase();
    let named = |names: &[&str]| names.contains(&name.as_str());
    match &function.over {
        Some(WindowType::NamedWindow(_)) => true,
        Some(WindowType::WindowSpec(window)) => {
            let by_rows = window.window_frame.as_ref().is_some_and(|frame| frame.units == WindowFrameUnits::Rows);
            named(&RANKED) || by_rows || named(&ORDERED)
        }
        None => named(&VOLATILE) || (named(&ORDERED) && !is_ordered(function)),
    }
}

fn is_ordered(function: &Function) -> bool {
    let FunctionArguments::List(list) = &function.args else { return false };
    list.clauses.iter().any(|clause| matches!(clause, FunctionArgumentClause::OrderBy(_)))
}

/// Returns a name as DataFusion compares it.
fn normal(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(sql: &str) -> Vec<String> {
        divide(parse_statement(sql).unwrap()).unwrap().shared.into_iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn only_undetermined_expressions_that_are_read_twice_are_shared() {
        let twice = "SELECT * FROM c x JOIN c y ON x.id = y.id";
        for body in [
            "SELECT id FROM t LIMIT 5",
            "SELECT DISTINCT ON (g) g AS id FROM t",
            "SELECT id, row_number() OVER () FROM t",
            "SELECT id, random() FROM t",
            "SELECT first_value(id) AS id FROM t",
        ] {
            assert_eq!(shared(&format!("WITH c AS ({body}) {twice}")), ["c"], "{body}");
            assert!(shared(&format!("WITH c AS ({body}) SELECT * FROM c")).is_empty(), "{body}");
        }
        for body in ["SELECT id FROM t", "SELECT id, sum(id) OVER () FROM t", "SELECT array_agg(id ORDER BY id) FROM t"]
        {
            assert!(shared(&format!("WITH c AS ({body}) {twice}")).is_empty(), "{body}");
        }
        // `a` is read by two copies of `c`, so `c` is shared, and `a` with its only reader is a part of it.
        assert_eq!(shared(&format!("WITH a AS (SELECT id FROM t LIMIT 5), c AS (SELECT id FROM a) {twice}")), ["c"]);
        let sql = "WITH a AS (SELECT id FROM t LIMIT 5), c AS (SELECT id FROM a) SELECT * FROM a, c";
        let divided = divide(parse_statement(sql).unwrap()).unwrap();
        assert_eq!(divided.shared[0].1.to_string(), "WITH a AS (SELECT id FROM t LIMIT 5) SELECT * FROM a");
        assert_eq!(divided.rest.to_string(), "WITH c AS (SELECT id FROM a) SELECT * FROM a, c");
    }
}
