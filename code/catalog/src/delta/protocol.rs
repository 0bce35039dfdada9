//! What a reader must understand of a table, checked before anything of it is read.

use buzz_protocol::{QueryError, Result};
use buzz_storage::Location;

/// Reader features that Buzz honours, by their name in the protocol.
const READER_FEATURES: &[&str] = &[
    "columnMapping",
    "deletionVectors",
    "timestampNtz",
    "typeWidening",
    "typeWidening-preview",
    "v2Checkpoint",
    "vacuumProtocolCheck",
    // Read as it is stored: a struct of the binaries `metadata` and `value`. Shredded ones are another feature.
    "variantType",
    "variantType-preview",
];

/// Refuses what a reader must understand and Buzz does not.
///
/// # Errors
/// `Data` naming the version or the feature.
pub(super) fn check(place: &Location, protocol: &serde_json::Value) -> Result<()> {
    let version = protocol.get("minReaderVersion").and_then(serde_json::Value::as_i64).unwrap_or(1);
    if version > 3 {
        return Err(QueryError::data(format!(
            "Delta table {place} wants a reader of version {version}; Buzz reads up to version 3"
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
    fn an_unknown_reader_feature_is_refused_by_name() {
        let place = Location::parse("/t", Path::new("/")).unwrap();
        let protocol = serde_json::json!({"minReaderVersion": 3, "readerFeatures": ["deletionVectors", "telepathy"]});
        let error = check(&place, &protocol).unwrap_err();
        assert_eq!(error.message, "Delta table /t uses the reader feature `telepathy`, which Buzz does not support");
        let newer = check(&place, &serde_json::json!({"minReaderVersion": 4})).unwrap_err();
        assert_eq!(newer.message, "Delta table /t wants a reader of version 4; Buzz reads up to version 3");
    }
}
