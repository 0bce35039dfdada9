//! Checks the parameters of a query: each `$name` in its SQL has a value, and each value is used.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use arrow::datatypes::DataType;
use buzz_protocol::query::name_help;
use buzz_protocol::{Param, Place, Query, QueryBody, QueryError, Result};
use datafusion::scalar::ScalarValue;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

use crate::sql::param_value;
use crate::sql_types::sql_type;

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
                named.extend(step.partition_filter.as_deref().map(placeholders).unwrap_or_default());
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

/// Replaces an error of planning by one that names the parameter, if the text of a parameter is not of the type that its
/// place in the statement has. `types` are the types by placeholder.
pub(crate) fn explained(
    error: QueryError,
    types: &HashMap<String, Option<DataType>>,
    params: &BTreeMap<String, Param>,
) -> QueryError {
    let misfit = params.iter().find_map(|(name, param)| {
        let expected = types.get(&format!("${name}"))?.as_ref()?;
        let value: ScalarValue = param_value(param);
        let text = match param {
            Param::Text(text) => text.clone(),
            _ => value.to_string(),
        };
        value.cast_to(expected).is_err().then_some((name, text, expected))
    });
    match misfit {
        Some((name, text, expected)) => {
            QueryError::invalid(format!("parameter `${name}` is `{text}`, which is not {}", sql_type(expected)))
        }
        None => error,
    }
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
