//! Names of columns in files that differ from those of the table in their capital letters.

use std::collections::BTreeSet;

use arrow::datatypes::Schema;
use buzz_protocol::{QueryError, Result};
use serde_json::Value;

use crate::decode::Format;
use crate::records::records;

/// Rows of a JSON file whose keys are compared with the columns.
const COMPARED_ROWS: usize = 100;

/// Checks that no column of `own` is missing in a file that has it with other capital letters: its values would all be
/// null. A name without quotes in CREATE TABLE has none.
///
/// # Errors
/// `Data`, with both names.
pub(crate) fn check_capitals<'a>(own: &Schema, file: impl IntoIterator<Item = &'a str>) -> Result<()> {
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

/// Returns the keys of the first objects of a JSON file.
pub(crate) fn first_keys(bytes: &[u8]) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for record in records(&Format::Json { unstructured: false }, bytes).take(COMPARED_ROWS) {
        if let Ok(Value::Object(row)) = serde_json::from_slice(record.text) {
            keys.extend(row.into_iter().map(|(key, _)| key));
        }
    }
    keys
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
    fn keys_are_those_of_the_first_objects() {
        let keys = first_keys(b"{\"a\":1}\nnonsense\n{\"B\":{\"c\":2}}\n");
        assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["B", "a"]);
    }
}
