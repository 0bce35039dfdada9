//! The names of columns in texts, where they are not those of the table.

use std::collections::{BTreeMap, BTreeSet};

use arrow::datatypes::Schema;
use buzz_protocol::{QueryError, Result};
use serde::de::IgnoredAny;

/// Checks that no column of `own` is missing in a file that has it with other capital letters: its values would all be
/// null. A name without quotes in CREATE TABLE has none.
///
/// # Errors
/// `Data`, with both names.
pub fn check_capitals<'a>(own: &Schema, file: impl IntoIterator<Item = &'a str>) -> Result<()> {
    let file: BTreeSet<&str> = file.into_iter().collect();
    // A name of the file that is a column of its own is not another spelling.
    let unknown: Vec<&str> = file.iter().copied().filter(|name| own.field_with_name(name).is_err()).collect();
    for field in own.fields().iter().filter(|field| !file.contains(field.name().as_str())) {
        let wanted = field.name().to_lowercase();
        if let Some(name) = unknown.iter().find(|name| name.to_lowercase() == wanted) {
            return Err(QueryError::data(format!(
                "column `{}` of the table is `{name}` in the file; write it in quotes in CREATE TABLE, as \"{name}\"",
                field.name()
            )));
        }
    }
    Ok(())
}

/// Returns the reason why the JSON object `row` would have null in all columns of `own`, or in one that it spells with other
/// capital letters. A row that is not an object is left to the decoder.
pub fn foreign_row(own: &Schema, row: &[u8]) -> Option<String> {
    let keys: BTreeMap<String, IgnoredAny> = serde_json::from_slice(row).ok()?;
    if let Err(error) = check_capitals(own, keys.keys().map(String::as_str)) {
        return Some(error.message);
    }
    if keys.is_empty() || keys.keys().any(|key| own.field_with_name(key).is_ok()) {
        return None;
    }
    let known: Vec<String> = keys.keys().take(8).map(|key| format!("`{key}`")).collect();
    Some(format!("it has none of the table's columns; it has {}", known.join(", ")))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::{DataType, Field};

    use super::*;

    fn own(names: &[&str]) -> Schema {
        Schema::new(names.iter().map(|name| Field::new(*name, DataType::Int64, true)).collect::<Vec<_>>())
    }

    #[test]
    fn name_with_other_capitals_is_told_with_its_spelling() {
        let error = check_capitals(&own(&["id", "userid"]), ["id", "userId"]).expect_err("the letters differ");
        assert!(error.message.contains("`userid` of the table is `userId` in the file"), "{error}");
        check_capitals(&own(&["UserId"]), ["userid"]).expect_err("the letters differ");
        // Each name of the file is a column, or the column is only missing.
        check_capitals(&own(&["error", "Error"]), ["Error"]).expect("it is another column");
        check_capitals(&own(&["id", "absent"]), ["id", "more"]).expect("a missing column is null");
        check_capitals(&own(&["id"]), ["id", "ID"]).expect("the column is there");
    }

    #[test]
    fn row_is_foreign_without_a_column_of_the_table() {
        let own = own(&["id", "n"]);
        assert_eq!(foreign_row(&own, b"{\"id\": null, \"more\": 1}"), None);
        assert_eq!(foreign_row(&own, b"{}"), None);
        assert_eq!(foreign_row(&own, b"7"), None);
        let reason = foreign_row(&own, b"{\"other\": [1]}").expect("it has no column");
        assert_eq!(reason, "it has none of the table's columns; it has `other`");
        assert!(foreign_row(&own, b"{\"ID\": 2, \"n\": 1}").expect("it has other letters").contains("`ID`"));
    }
}
