//! Values as literals, for statements that run in the catalog.

use std::collections::BTreeMap;

use buzz_protocol::Param;

use crate::scan::{self, Kind};

/// Returns `sql` with the values of its parameters written into it.
pub(crate) fn literal(sql: &str, params: &BTreeMap<String, Param>) -> String {
    scan::replaced(sql, |_, token| {
        let name = (token.kind == Kind::Parameter).then(|| &token.text(sql)[1..])?;
        Some(match params.get(name)? {
            Param::Bool(value) => value.to_string(),
            Param::Int(value) => format!("({value})"),
            Param::Float(value) => format!("({value:e})"),
            Param::Text(text) | Param::Typed { value: text, .. } => format!("'{}'", text.replace('\'', "''")),
            Param::Null => "NULL".to_string(),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_become_literals() {
        let params = [("1", Param::Text("o'c\\".to_string())), ("2", Param::Int(-3)), ("3", Param::Null)];
        let params = params.map(|(name, value)| (name.to_string(), value)).into();
        assert_eq!(literal("SELECT $1::text - $2, $3, '$1'", &params), "SELECT 'o''c\\'::text - (-3), NULL, '$1'");
    }
}
