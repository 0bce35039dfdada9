//! Checks the parameters of a query: each `$name` in its SQL has a value, and each value is used. Converts their values.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;

use arrow::datatypes::DataType;
use buzz_protocol::query::name_help;
use buzz_protocol::{Param, Place, Query, QueryBody, QueryError, Result};
use datafusion::common::DFSchema;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::ExprSchemable;
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Expr, TableFactor, Value, ValueWithSpan, VisitorMut};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::sql_types::sql_type;
use crate::visit::{each_expression_mut, visit_mut};

/// Checks the parameters of `query`. Returns a warning for each that no SQL names.
///
/// # Errors
/// `Invalid` if a parameter has no value.
pub(crate) fn check(query: &Query) -> Result<Vec<String>> {
    let mut named = BTreeSet::new();
    match &query.body {
        QueryBody::Sql(sql) => named.extend(checked(sql, &query.params)?),
        QueryBody::Steps(steps) => {
            for step in steps {
                let place = |error: QueryError| error.at(Place::Step(step.name.clone()));
                named.extend(checked(&step.sql, &query.params).map_err(place)?);
                if let Some(filter) = &step.partition_filter {
                    named.extend(checked(filter, &query.params).map_err(place)?);
                }
            }
        }
    }
    let unused = query.params.keys().filter(|name| !named.contains(*name));
    let named: Vec<&str> = named.iter().map(String::as_str).collect();
    Ok(unused
        .map(|name| format!("parameter `${name}` is not used{}", name_help(name, named.iter().copied())))
        .collect())
}

/// Returns the parameters that `sql` names.
fn checked(sql: &str, params: &BTreeMap<String, Param>) -> Result<Vec<String>> {
    let named = placeholders(sql);
    if let Some(missing) = named.iter().find(|name| !params.contains_key(*name)) {
        return Err(QueryError::invalid(match missing.as_str() {
            "" => "parameter `?` has no name; write `$name` and set it with --param name=VALUE".to_string(),
            // Clients of the server write numbers.
            name if name.bytes().all(|byte| byte.is_ascii_digit()) => format!(
                "parameter `${name}` has no value; bind one with the statement, or set it with --param {name}=VALUE on the \
                 command line"
            ),
            name => format!(
                "parameter `${name}` has no value; set it with --param {name}=VALUE, or in `params` of a query file{}",
                name_help(name, params.keys().map(String::as_str))
            ),
        }));
    }
    Ok(named)
}

/// Returns the names of the placeholders in `sql`, which is empty for `?`.
fn placeholders(sql: &str) -> Vec<String> {
    // The parser reports what cannot be divided into words.
    let tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize().unwrap_or_default();
    let name = |token| match token {
        Token::Placeholder(text) => Some(text.trim_start_matches(['$', '?', ':', '@']).to_string()),
        _ => None,
    };
    tokens.into_iter().filter_map(name).collect()
}

/// Returns the values of `params` by name.
///
/// # Errors
/// `Invalid` if the text of a typed parameter is not of its type, or the type does not exist.
pub(crate) fn values(state: &SessionState, params: &BTreeMap<String, Param>) -> Result<HashMap<String, ScalarValue>> {
    params.iter().map(|(name, param)| Ok((name.clone(), value(state, name, param)?))).collect()
}

fn value(state: &SessionState, name: &str, param: &Param) -> Result<ScalarValue> {
    Ok(match param {
        Param::Bool(value) => ScalarValue::from(*value),
        Param::Int(value) => ScalarValue::from(*value),
        Param::Float(value) => ScalarValue::from(*value),
        Param::Text(value) => ScalarValue::from(value.as_str()),
        Param::Null => ScalarValue::Null,
        Param::Typed { value, data_type } => {
            let data_type = parsed_type(state, data_type).map_err(|error| {
                let shown: String = data_type.chars().take(100).collect();
                QueryError::invalid(format!("parameter `${name}`: type `{shown}` is not known: {}", error.message))
            })?;
            let typed = ScalarValue::from(value.as_str()).cast_to(&data_type);
            typed.map_err(|_| misfit(name, value, &data_type))?
        }
    })
}

/// Writes the parameters among the arguments of table functions, such as `generate_series(1, $n)`, as literals: the planner calls
/// these functions before it knows values.
pub(crate) fn in_table_functions(mut statement: Statement, params: &BTreeMap<String, Param>) -> Statement {
    if let Statement::Statement(sql) = &mut statement
        && !params.is_empty()
    {
        let _: ControlFlow<()> = visit_mut(sql.as_mut(), &mut TableFunctions(params));
    }
    statement
}

struct TableFunctions<'a>(&'a BTreeMap<String, Param>);

impl VisitorMut for TableFunctions<'_> {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<()> {
        let TableFactor::Table { args: Some(args), .. } = factor else { return ControlFlow::Continue(()) };
        for arg in &mut args.args {
            each_expression_mut(arg, &mut |expression| {
                let Expr::Value(ValueWithSpan { value: Value::Placeholder(name), .. }) = &*expression else { return };
                if let Some(literal) = self.0.get(name.trim_start_matches('$')).and_then(literal) {
                    *expression = literal;
                }
            });
        }
        ControlFlow::Continue(())
    }
}

/// Returns the value of `param` as SQL. `None` if its type has a name that is parsed later.
fn literal(param: &Param) -> Option<Expr> {
    Some(Expr::value(match param {
        Param::Bool(value) => Value::Boolean(*value),
        Param::Int(value) => Value::Number(value.to_string(), false),
        Param::Float(value) => Value::Number(value.to_string(), false),
        Param::Text(value) => Value::SingleQuotedString(value.clone()),
        Param::Null => Value::Null,
        Param::Typed { .. } => return None,
    }))
}

/// Maximum number of bytes of the name of a type. Deeply nested ones would exhaust the stack.
const TYPE_BYTES_MAX: usize = 1000;

fn parsed_type(state: &SessionState, text: &str) -> Result<DataType> {
    if text.len() > TYPE_BYTES_MAX {
        return Err(QueryError::invalid(format!("it has more than {TYPE_BYTES_MAX} bytes")));
    }
    let mut parser = Parser::new(&GenericDialect {}).try_with_sql(text).map_err(DataFusionError::from)?;
    let data_type = parser.parse_data_type().map_err(DataFusionError::from)?;
    parser.expect_token(&Token::EOF).map_err(DataFusionError::from)?;
    let schema = DFSchema::empty();
    Ok(state.create_logical_expr(&format!("CAST(NULL AS {data_type})"), &schema)?.get_type(&schema)?)
}

fn misfit(name: &str, text: &str, expected: &DataType) -> QueryError {
    QueryError::invalid(format!("parameter `${name}` is `{text}`, which is not {}", sql_type(expected)))
}

/// Replaces an error of planning by one that names the parameter, if the text of a parameter is not of the type that its
/// place in the statement has. `types` are the types by placeholder.
pub(crate) fn explained(
    error: QueryError,
    types: &HashMap<String, Option<DataType>>,
    values: &HashMap<String, ScalarValue>,
) -> QueryError {
    let wrong = values.iter().filter_map(|(name, value)| {
        let expected = types.get(&format!("${name}"))?.as_ref()?;
        value.cast_to(expected).is_err().then(|| (name, value.to_string(), expected))
    });
    // The first by name, so that the message is the same each time.
    wrong.min_by_key(|(name, ..)| *name).map_or(error, |(name, text, expected)| misfit(name, &text, expected))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_words_and_not_texts() {
        assert_eq!(placeholders("SELECT '$a', $b -- $c\n, \"$d\" FROM t WHERE x > $e"), ["b", "e"]);
        assert_eq!(placeholders("SELECT ?"), [""]);
    }
}
