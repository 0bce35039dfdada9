//! Keys of JSON objects that are given twice: the last value would win silently.

use std::collections::BTreeSet;
use std::fmt;

use buzz_protocol::{QueryError, Result};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Checks that each object of a JSON text has each key once.
///
/// # Errors
/// `Invalid`, naming the key and its place.
pub(crate) fn check_keys(text: &str) -> Result<()> {
    let checked: std::result::Result<Checked, _> = serde_json::from_str(text);
    checked.map(|_| ()).map_err(|error| QueryError::invalid(error.to_string()))
}

/// A value of which the keys were checked.
struct Checked;

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(Check)
    }
}

struct Check;

impl<'de> Visitor<'de> for Check {
    type Value = Checked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> std::result::Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_bool<E: Error>(self, _: bool) -> std::result::Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_i64<E: Error>(self, _: i64) -> std::result::Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_u64<E: Error>(self, _: u64) -> std::result::Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_f64<E: Error>(self, _: f64) -> std::result::Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_str<E: Error>(self, _: &str) -> std::result::Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut values: A) -> std::result::Result<Checked, A::Error> {
        while values.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> std::result::Result<Checked, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            if keys.contains(&key) {
                return Err(Error::custom(format!("key `{key}` is given twice in one object; remove one of them")));
            }
            entries.next_value::<Checked>()?;
            keys.insert(key);
        }
        Ok(Checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_that_is_given_twice_is_named_with_its_place() {
        for text in [r#"{"sql": 1, "sql": 1}"#, "{\"a\": [{\"n\": null,\n\"sql\": {}, \"s\\u0071l\": 2.5}]}"] {
            let error = check_keys(text).expect_err("it is given twice").to_string();
            assert!(error.contains("key `sql` is given twice") && error.contains("line "), "{error}");
        }
        check_keys(r#"{"a": {"b": true, "c": -1}, "b": {"b": [1, 1, "b"]}, "c": 1e3}"#)
            .expect("each object has each key once");
    }
}
