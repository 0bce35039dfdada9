//! The query of a user: its JSON, parsed and checked once on arrival.
//!
//! The format is that of the original Buzz (`steps`, `capacity.zones`, `catalogs`) with later additions. Unknown fields
//! are ignored with a warning.

use std::collections::{BTreeMap, HashSet};
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{CatalogEntry, Place, QueryError, Result, nearest};

/// Maximum number of combs that one query can request.
pub const ZONES_MAX: usize = 16;

/// A parsed query. Its names are unique and its steps are in an order that can run. The SQL is checked later, by the
/// planner.
#[derive(Debug, Clone, PartialEq)]
pub struct Query {
    /// The steps or the statement.
    pub body: QueryBody,
    /// Number of combs, 1 to [`ZONES_MAX`].
    pub zones: usize,
    /// The tables and views that the query reads. Names that it lacks can be known to a registry.
    pub catalogs: Vec<CatalogEntry>,
    /// Values of the `$name` parameters in the SQL, by name.
    pub params: BTreeMap<String, Param>,
}

/// The value of a parameter. It is a typed value, and is never inserted into the SQL as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "expected true, false, a number (a whole one of 64 bits with a sign), a text, null, or \
                 {\"value\": text, \"type\": SQL type}"
)]
pub enum Param {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    #[serde(deserialize_with = "fraction")]
    Float(f64),
    /// A text. It is read as a value of the type that its place in the SQL requires, such as a date.
    Text(String),
    /// `null`.
    Null,
    /// A text that is read as a value of an SQL type, wherever it stands. For types that JSON lacks.
    Typed {
        /// The value as text.
        value: String,
        /// The SQL type, such as `TIMESTAMP(6)` or `DECIMAL(38, 10)`.
        #[serde(rename = "type")]
        data_type: String,
    },
}

/// Reads a number that is not whole. A whole one of more than 63 bits would be rounded.
fn fraction<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<f64, D::Error> {
    let number = serde_json::Number::deserialize(deserializer)?;
    let value = number.is_f64().then(|| number.as_f64()).flatten();
    value.ok_or_else(|| serde::de::Error::custom("a whole number has up to 64 bits with its sign"))
}

/// The work of a query, in one of two forms.
#[derive(Debug, Clone, PartialEq)]
pub enum QueryBody {
    /// One or several `HBee` steps, then one or several `HComb` steps, each run verbatim.
    Steps(Vec<Step>),
    /// One statement over catalogs, whose plan Fuse divides between HBees and combs.
    Sql(String),
}

/// One step: SQL, run verbatim, whose result later steps read by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// The SQL text.
    pub sql: String,
    /// The table name that later steps use.
    pub name: String,
    /// The role that runs it.
    pub step_type: StepType,
    /// On an `HBee` step: a boolean SQL expression over partition columns, `key` and `length` that chooses files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition_filter: Option<String>,
    /// On an `HBee` step: the unit for which the SQL is evaluated.
    #[serde(default, skip_serializing_if = "Split::is_default")]
    pub split: Split,
}

/// The role that runs a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepType {
    /// HBees, over the files of one catalog: once per file, or once per part of a file if the step is split further.
    HBee,
    /// Combs, once over the results of earlier steps.
    HComb,
}

impl fmt::Display for StepType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The unit for which the SQL of an `HBee` step is evaluated, once each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// A whole file. The rows do not depend on the number of tasks.
    #[default]
    File,
    /// Consecutive row groups of a file, which allows smaller tasks. The author of the SQL must ensure that its rows
    /// can be computed this way.
    RowGroups,
}

impl Split {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

#[derive(Deserialize)]
struct RawQuery {
    steps: Option<Vec<Step>>,
    sql: Option<String>,
    #[serde(default)]
    capacity: RawCapacity,
    #[serde(default)]
    catalogs: Vec<CatalogEntry>,
    #[serde(default)]
    params: BTreeMap<String, Param>,
}

#[derive(Deserialize)]
struct RawCapacity {
    zones: i64,
}

impl Default for RawCapacity {
    fn default() -> Self {
        Self { zones: 1 }
    }
}

impl Query {
    /// Parses `json`, which came from `source` (a file name, for messages). Returns the query and warnings.
    ///
    /// # Errors
    /// `Invalid`, naming the place, if the JSON is malformed, a field is missing or has the wrong type, or the steps
    /// cannot run in their order.
    pub fn parse(json: &str, source: &str) -> Result<(Query, Vec<String>)> {
        // Some editors put a byte order mark at the start of a file.
        let json = json.trim_start_matches('\u{feff}');
        let mut ignored = Vec::new();
        let mut track = serde_path_to_error::Track::new();
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let raw: Result<RawQuery, serde_json::Error> =
            serde_ignored::deserialize(serde_path_to_error::Deserializer::new(&mut deserializer, &mut track), |path| {
                ignored.push(path.to_string())
            });
        let raw = raw.and_then(|raw| deserializer.end().map(|()| raw)).map_err(|error| {
            // Malformed JSON in the place of a field name has no path of its own.
            let path = track.path().to_string().trim_end_matches(".?").to_string();
            let place = if path == "." || path == "?" { String::new() } else { format!(" in `{path}`") };
            QueryError::invalid(error.to_string()).at(Place::Query(format!("{source}{place}")))
        })?;

        let mut warnings: Vec<String> =
            ignored.into_iter().map(|path| format!("{source}: unknown field `{path}` is ignored")).collect();
        let query = Query::checked(raw, &mut warnings).map_err(|error| error.at(Place::Query(source.to_string())))?;
        Ok((query, warnings))
    }

    fn checked(raw: RawQuery, warnings: &mut Vec<String>) -> Result<Query> {
        let zones = usize::try_from(raw.capacity.zones).ok().filter(|zones| (1..=ZONES_MAX).contains(zones));
        let zones = zones.ok_or_else(|| {
            QueryError::invalid(format!("`capacity.zones` is {}; it must be 1 to {ZONES_MAX}", raw.capacity.zones))
        })?;

        let mut names = HashSet::new();
        let steps = raw.steps.as_deref().unwrap_or_default();
        let all_names = raw.catalogs.iter().map(|c| &c.name).chain(steps.iter().map(|s| &s.name));
        for name in all_names {
            if name.is_empty() {
                return Err(QueryError::invalid("a catalog or step has an empty name; set its `name`"));
            }
            if !names.insert(name.to_lowercase()) {
                return Err(QueryError::invalid(format!("the name `{name}` is used twice, ignoring case; rename one")));
            }
        }

        for step in steps {
            if step.step_type == StepType::HComb && step.partition_filter.is_some() {
                warnings.push(format!("step `{}`: `partition_filter` has no effect on an HComb step", step.name));
            }
            if step.step_type == StepType::HComb && step.split != Split::File {
                warnings.push(format!("step `{}`: `split` has no effect on an HComb step", step.name));
            }
        }
        for catalog in &raw.catalogs {
            catalog.check()?;
            warnings.extend(catalog.unused_field_warnings());
        }
        let body = match (raw.steps, raw.sql) {
            (None, Some(sql)) => QueryBody::Sql(sql),
            (Some(mut steps), None) => match steps.as_mut_slice() {
                [only] if only.step_type == StepType::HComb => QueryBody::Sql(std::mem::take(&mut only.sql)),
                _ => {
                    check_order(&steps)?;
                    QueryBody::Steps(steps)
                }
            },
            (Some(_), Some(_)) => return Err(QueryError::invalid("the query has both `steps` and `sql`; remove one")),
            (None, None) => return Err(QueryError::invalid("the query has neither `steps` nor `sql`; add one")),
        };
        Ok(Query { body, zones, catalogs: raw.catalogs, params: raw.params })
    }

    /// Returns the JSON form, which [`Query::parse`] reads back as an equal query without warnings.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = serde_json::json!({
            "capacity": {"zones": self.zones}, "catalogs": self.catalogs, "params": self.params,
        });
        match &self.body {
            QueryBody::Steps(steps) => json["steps"] = serde_json::json!(steps),
            QueryBody::Sql(sql) => json["sql"] = serde_json::json!(sql),
        }
        json
    }

    /// Replaces the URI of the catalog that `entry` names, and the fields that `entry` sets, for `--table name=uri`.
    ///
    /// # Errors
    /// `Invalid` if the query has no catalog of that name.
    pub fn replace_table(&mut self, entry: CatalogEntry) -> Result<()> {
        let name = entry.name.clone();
        match self.catalogs.iter_mut().find(|catalog| catalog.name == name) {
            Some(catalog) => {
                catalog.replace_with(entry);
                Ok(())
            }
            None => Err(QueryError::invalid(format!(
                "--table {name}: the query has no catalog `{name}`{}",
                name_help(&name, self.catalogs.iter().map(|catalog| catalog.name.as_str()))
            ))),
        }
    }
}

/// Returns a remedy for an unknown `name`: "; did you mean `x`?", "; available: `a`, `b`", or an empty text.
pub fn name_help<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match nearest(name, names.iter().copied()) {
        Some(near) => format!("; did you mean `{near}`?"),
        None if names.is_empty() => String::new(),
        None => {
            format!("; available: {}", names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
        }
    }
}

fn check_order(steps: &[Step]) -> Result<()> {
    if steps.is_empty() {
        return Err(QueryError::invalid("`steps` is empty; add an HBee step and an HComb step that reads it"));
    }
    let Some(first_comb) = steps.iter().position(|step| step.step_type == StepType::HComb) else {
        let last = &steps[steps.len() - 1].name;
        return Err(QueryError::invalid(format!(
            "the query has no HComb step; add one that reads an HBee step: {{\"name\": \"result\", \
             \"step_type\": \"HComb\", \"sql\": \"SELECT * FROM {last}\"}}"
        )));
    };
    if first_comb == 0 {
        return Err(QueryError::invalid(format!(
            "the first step, `{}`, is an HComb step; put an HBee step that reads a catalog before it",
            steps[0].name
        )));
    }
    if let Some(late) = steps[first_comb..].iter().find(|step| step.step_type == StepType::HBee) {
        return Err(QueryError::invalid(format!(
            "HBee step `{}` comes after an HComb step; put all HBee steps first",
            late.name
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{
        "steps": [
            {"sql": "SELECT a FROM t", "name": "map", "step_type": "HBee", "partition_filter": "d='x'"},
            {"sql": "SELECT * FROM map", "name": "reduce", "step_type": "HComb"}
        ],
        "capacity": {"zones": 2},
        "catalogs": [{"name": "t", "type": "DeltaLake", "uri": "s3://b/t"}]
    }"#;

    fn error(json: &str) -> String {
        Query::parse(json, "q.json").unwrap_err().to_string()
    }

    #[test]
    fn original_format_parses() {
        let (query, warnings) = Query::parse(GOOD, "q.json").unwrap();
        assert_eq!(query.zones, 2);
        let QueryBody::Steps(steps) = &query.body else { panic!("the query has steps") };
        assert_eq!(steps[0].partition_filter.as_deref(), Some("d='x'"));
        assert_eq!(query.catalogs[0].kind, crate::CatalogType::DeltaLake);
        assert!(warnings.is_empty());
        let again = Query::parse(&query.to_json().to_string(), "q.json").unwrap();
        assert_eq!(again, (query, warnings));
    }

    #[test]
    fn parameters_keep_their_values() {
        let text = r#"{"sql": "SELECT $a", "params": {"a": -9223372036854775808, "b": 0.83674538284635371, "c": null,
            "d": {"value": "1", "type": "DECIMAL(3, 2)"}}}"#;
        let (query, _) = Query::parse(text, "q.json").unwrap();
        let typed = Param::Typed { value: "1".to_string(), data_type: "DECIMAL(3, 2)".to_string() };
        assert_eq!(
            query.params.values().cloned().collect::<Vec<_>>(),
            [Param::Int(i64::MIN), Param::Float(0.836_745_382_846_353_7), Param::Null, typed]
        );
        assert_eq!(Query::parse(&query.to_json().to_string(), "q.json").unwrap().0, query);
        for value in ["9223372036854775808", "[1]", r#"{"value": 1, "type": "DATE"}"#] {
            let message = error(&format!(r#"{{"sql": "SELECT $a", "params": {{"a": {value}}}}}"#));
            assert!(message.contains("`params.a`: expected true, false, a number"), "{message}");
        }
    }

    #[test]
    fn unknown_field_gives_a_warning() {
        let json = GOOD.replace("\"zones\": 2", "\"zones\": 2, \"regions\": 3");
        let (_, warnings) = Query::parse(&json, "q.json").unwrap();
        assert_eq!(warnings, ["q.json: unknown field `capacity.regions` is ignored"]);
    }

    #[test]
    fn parse_error_names_its_place() {
        let cases = [
            ("{\"steps\": [", "q.json in `steps`: EOF while parsing a list at line 1 column 11"),
            ("{\"sql\": \"SELECT 1\", }", "q.json: trailing comma at line 1 column 21"),
            ("{\"catalogs\": [{}]}", "q.json in `catalogs[0]`: missing field `name` at line 1 column 16"),
            (
                "{\"catalogs\": [{\"name\": \"t\"}]}",
                "q.json, catalog `t`: `uri` is missing or empty; set it to the place of the table",
            ),
            ("{}", "q.json: the query has neither `steps` nor `sql`; add one"),
        ];
        for (json, message) in cases {
            assert_eq!(error(json), message);
        }
        let replaced = |from: &str, to: &str| error(&GOOD.replace(from, to));
        assert_eq!(
            replaced("\"HBee\"", "\"HBeee\""),
            "q.json in `steps[0].step_type`: unknown variant `HBeee`, expected `HBee` or `HComb` at line 3 column 74"
        );
        assert_eq!(
            replaced("\"sql\": \"SELECT a FROM t\", ", ""),
            "q.json in `steps[0]`: missing field `sql` at line 3 column 77"
        );
        assert_eq!(replaced("zones\": 2", "zones\": 17"), "q.json: `capacity.zones` is 17; it must be 1 to 16");
        assert_eq!(
            replaced("\"map\", \"step", "\"T\", \"step"),
            "q.json: the name `T` is used twice, ignoring case; rename one"
        );
        assert!(replaced("\"HComb\"", "\"HBee\"").contains("no HComb step; add one"));
        assert!(replaced("\"HBee\"", "\"HComb\"").contains("the first step, `map`, is an HComb step"));
    }
}
