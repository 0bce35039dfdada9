//! The keys of JSON files.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::decode::Format;
use crate::records::records;

/// Rows of a JSON file whose keys are compared with the columns.
const COMPARED_ROWS: usize = 100;

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
    use super::*;

    #[test]
    fn keys_are_those_of_the_first_objects() {
        let keys = first_keys(b"{\"a\":1}\nnonsense\n{\"B\":{\"c\":2}}\n");
        assert_eq!(keys.into_iter().collect::<Vec<_>>(), ["B", "a"]);
    }
}
