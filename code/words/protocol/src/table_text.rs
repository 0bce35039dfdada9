//! Tables as they are written on the command line: `name=uri`, with a version or with fields of the catalog entry.

use serde_json::{Value, json};

use crate::{CatalogEntry, CatalogType, ColumnSpec, QueryError, Result, split_version};

/// The fields of a catalog entry that can follow a URI.
const FIELDS: [&str; 14] = [
    "type",
    "version",
    "timestamp",
    "partition_columns",
    "schema",
    "header",
    "delimiter",
    "escape",
    "quote",
    "comment",
    "null",
    "newlines_in_values",
    "encoding",
    "compression",
];

impl CatalogEntry {
    /// Creates the entry of a table from `text`: a URI, which may be followed by fields, as in
    /// `rides/*.csv?delimiter=;&schema=id Int64, at Timestamp(µs)`, or by a version, as in `lake/t@v12`. If `exists`
    /// returns true for a text, it is a URI as it is.
    ///
    /// # Errors
    /// `Invalid` if a field does not exist or its value is wrong.
    pub fn of_text(name: &str, text: &str, exists: impl Fn(&str) -> bool) -> Result<CatalogEntry> {
        let (uri, fields) = if exists(text) { (text, None) } else { split_fields(text) };
        let (uri, version, timestamp) = if exists(uri) { (uri, None, None) } else { split_version(uri) };
        let mut entry = json!({"name": name, "uri": uri});
        for field in fields.into_iter().flat_map(|fields| fields.split('&')) {
            let (key, value) = field.split_once('=').unwrap_or((field, ""));
            if !FIELDS.contains(&key) {
                return Err(QueryError::invalid(format!(
                    "table `{name}`: there is no field `{key}`; the fields are {}, separated by `&`",
                    FIELDS.join(", ")
                )));
            }
            entry[key] = field_value(key, value).map_err(|error| error.at(format!("table `{name}`, `{key}`")))?;
        }
        let entry: CatalogEntry =
            serde_json::from_value(entry).map_err(|error| QueryError::invalid(format!("table `{name}`: {error}")))?;
        let timestamp = timestamp.map(str::to_string);
        Ok(CatalogEntry { version: version.or(entry.version), timestamp: timestamp.or(entry.timestamp), ..entry })
    }

    /// Replaces the URI, and the fields that `other` sets. A version or a time replaces both.
    pub fn replace_with(&mut self, other: CatalogEntry) {
        if other.version.is_some() || other.timestamp.is_some() {
            (self.version, self.timestamp) = (other.version, other.timestamp);
        }
        if other.kind != CatalogType::Auto || self.is_view() {
            (self.kind, self.sql) = (other.kind, other.sql);
        }
        (self.uri, self.columns) = (other.uri, None);
        macro_rules! replace {
            ($($field:ident),*) => {
                $(if other.$field.is_some() { self.$field = other.$field; })*
            };
        }
        replace!(
            partition_columns,
            schema,
            header,
            delimiter,
            escape,
            quote,
            comment,
            null,
            newlines_in_values,
            encoding,
            compression
        );
    }
}

/// Splits `uri?field=value&field=value`. A `?` that no field follows belongs to the URI, as in a glob.
fn split_fields(text: &str) -> (&str, Option<&str>) {
    let starts =
        |rest: &str| FIELDS.iter().any(|field| rest.strip_prefix(field).is_some_and(|rest| rest.starts_with('=')));
    let at = text.match_indices('?').map(|(at, _)| at).find(|at| starts(&text[at + 1..]));
    at.map_or((text, None), |at| (&text[..at], Some(&text[at + 1..])))
}

fn field_value(key: &str, value: &str) -> Result<Value> {
    let wrong = |wanted: &str| QueryError::invalid(format!("`{value}` is not {wanted}"));
    Ok(match key {
        "schema" | "partition_columns" => json!(columns(value)?),
        "header" | "newlines_in_values" => json!(value.parse::<bool>().map_err(|_| wrong("true or false"))?),
        "version" => json!(value.parse::<u64>().map_err(|_| wrong("a version"))?),
        _ => json!(value),
    })
}

/// Parses columns such as `id Int64, amount Decimal128(10, 2), "my name" Utf8`. A name with blanks or commas is in double
/// quotes.
fn columns(text: &str) -> Result<Vec<ColumnSpec>> {
    let wrong = |why: &str| {
        QueryError::invalid(format!("{why}; write columns as `id Int64, amount Decimal128(10, 2), \"my name\" Utf8`"))
    };
    let mut columns = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').ok_or_else(|| wrong("a double quote is not closed"))?,
            None => rest.split_once(char::is_whitespace).ok_or_else(|| wrong(&format!("`{rest}` has no type")))?,
        };
        let mut depth = 0_i32;
        let ends = |c: char| {
            depth += i32::from(matches!(c, '(' | '<')) - i32::from(matches!(c, ')' | '>'));
            c == ',' && depth == 0
        };
        let end = after.find(ends).unwrap_or(after.len());
        let column = ColumnSpec { name: name.to_string(), data_type: after[..end].trim().to_string() };
        column.field()?;
        columns.push(column);
        rest = after[end..].trim_start_matches(',').trim();
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Compression;

    #[test]
    fn fields_and_versions_follow_the_uri() {
        let entry = |text: &str| CatalogEntry::of_text("t", text, |_| false).unwrap();
        let csv = entry("rides/?/*.csv?delimiter=;&header=false&schema=id Int64, \"a b\" Decimal128(10, 2)");
        assert_eq!((csv.uri.as_str(), csv.delimiter.as_deref(), csv.header), ("rides/?/*.csv", Some(";"), Some(false)));
        let columns: Vec<_> = csv.schema.unwrap().into_iter().map(|column| (column.name, column.data_type)).collect();
        let expected = [("id", "Int64"), ("a b", "Decimal128(10, 2)")];
        assert_eq!(columns, expected.map(|(name, kind)| (name.to_string(), kind.to_string())));
        assert_eq!(entry("t@v12").version, Some(12));
        assert_eq!(entry("t?version=3").version, Some(3));
        assert_eq!(entry("x?").uri, "x?");
        assert_eq!(entry("x?type=Json").kind, CatalogType::Json);
        assert_eq!(CatalogEntry::of_text("t", "snap@2024-01-31", |_| true).unwrap().uri, "snap@2024-01-31");
        let existing = CatalogEntry::of_text("t", "a@v2?header=true", |uri| uri == "a@v2").unwrap();
        assert_eq!((existing.uri.as_str(), existing.version, existing.header), ("a@v2", None, Some(true)));

        let wrong = |text: &str| CatalogEntry::of_text("t", text, |_| false).unwrap_err().to_string();
        assert!(wrong("a.csv?header=yes").contains("table `t`, `header`: `yes` is not true or false"));
        assert!(wrong("a.csv?header=true&sep=x").contains("there is no field `sep`"));
        assert!(wrong("a.csv?schema=id").contains("`id` has no type"));
        assert!(wrong("a.csv?schema=id Int").contains("unknown type `Int`"));
    }

    #[test]
    fn fields_of_the_command_line_replace_those_of_the_query() {
        let mut entry = CatalogEntry::of_text("t", "a.csv?header=true&null=NA", |_| false).unwrap();
        entry.replace_with(CatalogEntry::of_text("t", "b.csv?null=-&compression=gzip", |_| false).unwrap());
        assert_eq!(entry.compression, Some(Compression::Gzip));
        assert_eq!((entry.uri.as_str(), entry.header, entry.null.as_deref()), ("b.csv", Some(true), Some("-")));
    }
}
