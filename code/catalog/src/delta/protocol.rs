//! Checks that Buzz supports the reader version and features that a table requires, before its files are read.

use buzz_protocol::{QueryError, Result};
use buzz_storage::Location;

/// Reader features that Buzz supports, by their name in the protocol.
const READER_FEATURES: &[&str] = &[
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    // Read as stored: a struct of the binaries `metadata` and `value`. Shredded variants are a separate feature.
    "variantType",
    "variantType-preview",
];

/// Rejects a table that requires a reader version or feature that Buzz does not support.
///
/// # Errors
/// `Data` naming the version or the feature.
pub(super) fn check(place: &Location, protocol: &serde_json::Value) -> Result<()> {
    let version = protocol.get("minReaderVersion").and_then(serde_json::Value::as_i64).unwrap_or(1);
    if version > 3 {
        return Err(QueryError::data(format!(
            "Delta table {place} requires reader version {version}; Buzz supports versions up to 3"
        )));
    }
    let features = protocol.get("readerFeatures").and_then(serde_json::Value::as_array);
    let unknown = features
        .into_iter()
        .flatten()
        .filter_map(serde_json::Value::as_str)
        .find(|feature| !READER_FEATURES.contains(feature));
    match unknown {
        Some(feature) => Err(QueryError::data(format!(
            "Delta table {place} uses the reader feature `{feature}`, which Buzz does not support"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn unknown_reader_feature_is_rejected_by_name() {
        let place = Location::parse("/t", Path::new("/")).unwrap();
        let protocol = serde_json::json!({"minReaderVersion": 3, "readerFeatures": ["deletionVectors", "telepathy"]});
        let error = check(&place, &protocol).unwrap_err();
        assert_eq!(error.message, "Delta table /t uses the reader feature `telepathy`, which Buzz does not support");
        let newer = check(&place, &serde_json::json!({"minReaderVersion": 4})).unwrap_err();
        assert_eq!(newer.message, "Delta table /t requires reader version 4; Buzz supports versions up to 3");
    }
}
