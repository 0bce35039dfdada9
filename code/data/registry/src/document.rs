//! The document of a registry: a JSON object with tables in `catalogs`, as in a query, and `views`.
//!
//! A change leaves everything else as it is, also fields that this build does not know.

use buzz_engine::{Existing, NameChange, NameKind};
use buzz_protocol::query::name_help;
use buzz_protocol::{CatalogEntry, ColumnSpec, Place, Query, QueryError, Result, human_bytes};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Maximum size of a document. 10,000 tables with 30 columns each are about 20 MB.
pub(crate) const BYTES_MAX: u64 = 64 << 20;

/// The fields of a document.
const TABLES: &str = "catalogs";
const VIEWS: &str = "views";

/// The document of a registry.
#[derive(Debug, Clone)]
pub(crate) struct Document {
    /// Name of the document in messages.
    source: String,
    fields: Map<String, Value>,
}

/// The effect of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    /// The name was added.
    Added,
    /// The name has another entry.
    Replaced,
    /// The name was removed; its entry had this kind.
    Dropped(NameKind),
    /// Nothing changed: the name existed already, or did not exist.
    Nothing,
}

/// A view, as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct View {
    name: String,
    sql: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<ColumnSpec>>,
}

/// Returns the name in the form in which names are compared.
fn folded(name: &str) -> String {
    name.to_lowercase()
}

impl Document {
    /// Parses `bytes`; `None` makes an empty document. Messages name it `source`.
    ///
    /// # Errors
    /// `Invalid` if it is not a JSON object, or its lists are not lists of objects.
    pub(crate) fn parse(bytes: Option<&[u8]>, source: &str) -> Result<Self> {
        let damaged = |why: String| {
            QueryError::invalid(format!(
                "{why}; correct it, or move it away and add its tables again with `buzz tables add`"
            ))
            .at(Place::Query(source.to_string()))
        };
        let Some(bytes) = bytes else {
            return Ok(Self { source: source.to_string(), fields: Map::new() });
        };
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let fields: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| damaged(error.to_string()))?;
        if fields.is_empty() {
            return Err(damaged(format!("it has neither `{TABLES}` nor `{VIEWS}`")));
        }
        for list in [TABLES, VIEWS] {
            let is_list =
                |value: &Value| value.as_array().is_some_and(|list| list.iter().all(|entry| entry.is_object()));
            if fields.get(list).is_some_and(|value| !is_list(value)) {
                return Err(damaged(format!("`{list}` is not a list of objects")));
            }
        }
        Ok(Self { source: source.to_string(), fields })
    }

    /// Returns the text of the document.
    ///
    /// # Errors
    /// `Limit` if it is too long.
    pub(crate) fn text(&self) -> Result<String> {
        let text = format!("{:#}\n", Value::Object(self.fields.clone()));
        if text.len() as u64 > BYTES_MAX {
            return Err(QueryError::limit(format!(
                "{} would be larger than {}; drop tables, or use several files",
                self.source,
                human_bytes(BYTES_MAX)
            )));
        }
        Ok(text)
    }

    /// Returns the entries, in their order, and warnings.
    ///
    /// # Errors
    /// `Invalid`, naming the entry, if it is wrong or a name is used twice.
    pub(crate) fn entries(&self) -> Result<(Vec<CatalogEntry>, Vec<String>)> {
        let mut views = Vec::new();
        for (index, view) in self.list(VIEWS).iter().enumerate() {
            let view = View::deserialize(view).map_err(|error| {
                let place = Place::Query(format!("{} in `{VIEWS}[{index}]`", self.source));
                QueryError::invalid(format!("{error}; a view has `name` and `sql`")).at(place)
            })?;
            views.push(CatalogEntry { columns: view.columns, ..CatalogEntry::view(view.name, view.sql) });
        }
        let views = views.iter().map(|view| json!(view));
        let all: Vec<Value> = self.list(TABLES).iter().cloned().chain(views).collect();
        let query = json!({"sql": "SELECT 1", "catalogs": all});
        // Applies the checks of a query's entries.
        let (query, mut warnings) = Query::parse(&query.to_string(), &self.source)?;
        let unknown = self.fields.keys().filter(|field| ![TABLES, VIEWS].contains(&field.as_str()));
        warnings.extend(unknown.map(|field| format!("{}: unknown field `{field}` is ignored", self.source)));
        Ok((query.catalogs, warnings))
    }

    fn list(&self, list: &str) -> &[Value] {
        self.fields.get(list).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// Returns the list and the position of the entry `name`.
    fn find(&self, name: &str) -> Option<(&'static str, usize)> {
        let is_it = |entry: &Value| entry["name"].as_str().is_some_and(|other| folded(other) == folded(name));
        [TABLES, VIEWS].into_iter().find_map(|list| Some((list, self.list(list).iter().position(is_it)?)))
    }

    /// Makes `change`. If `is_repeated`, this process may have made it already: its result is then no error.
    ///
    /// # Errors
    /// `Invalid` if the name exists already, or does not exist, or has an entry of another kind.
    pub(crate) fn apply(&mut self, change: &NameChange, is_repeated: bool) -> Result<Changed> {
        match change {
            NameChange::Add { entry, existing } => self.add(entry, *existing, is_repeated),
            NameChange::Drop { name, kind, if_exists } => self.drop(name, *kind, *if_exists, is_repeated),
        }
    }

    fn add(&mut self, entry: &CatalogEntry, existing: Existing, is_repeated: bool) -> Result<Changed> {
        let (list, written) = match &entry.sql {
            Some(sql) if entry.is_view() => {
                let view = View { name: entry.name.clone(), sql: sql.clone(), columns: entry.columns.clone() };
                (VIEWS, json!(view))
            }
            _ => (TABLES, json!(entry)),
        };
        let (name, kind) = (&entry.name, NameKind::of(entry));
        let Some((found_list, index)) = self.find(name) else {
            let entries = self.fields.entry(list).or_insert_with(|| json!([]));
            if let Some(entries) = entries.as_array_mut() {
                entries.push(written);
            }
            return Ok(Changed::Added);
        };
        let found = &mut self.fields[found_list][index];
        let found_kind = kind_of(found_list, found);
        match existing {
            _ if is_repeated && *found == written => Ok(Changed::Added),
            Existing::Keep => Ok(Changed::Nothing),
            Existing::Replace if found_kind == kind => {
                *found = written;
                Ok(Changed::Replaced)
            }
            Existing::Replace => Err(QueryError::invalid(format!(
                "`{name}` is a {found_kind}; drop it before you add a {kind} of this name"
            ))),
            Existing::Fail => Err(QueryError::invalid(format!(
                "{found_kind} `{name}` exists already; drop it first, or replace it with --replace or CREATE OR REPLACE"
            ))),
        }
    }

    fn drop(&mut self, name: &str, kind: Option<NameKind>, if_exists: bool, is_repeated: bool) -> Result<Changed> {
        let Some((list, index)) = self.find(name) else {
            if is_repeated {
                return Ok(Changed::Dropped(kind.unwrap_or(NameKind::Table)));
            }
            if if_exists {
                return Ok(Changed::Nothing);
            }
            let names = [TABLES, VIEWS].into_iter().flat_map(|list| self.list(list));
            let help = name_help(name, names.filter_map(|entry| entry["name"].as_str()));
            let kind = kind.unwrap_or(NameKind::Table);
            return Err(QueryError::invalid(format!("{kind} `{name}` does not exist in {}{help}", self.source)));
        };
        let found_kind = kind_of(list, &self.fields[list][index]);
        if let Some(wanted) = kind.filter(|wanted| *wanted != found_kind) {
            return Err(QueryError::invalid(format!(
                "`{name}` is not a {wanted}; drop it with DROP {}",
                found_kind.to_string().to_uppercase()
            )));
        }
        if let Some(entries) = self.fields[list].as_array_mut() {
            entries.remove(index);
        }
        Ok(Changed::Dropped(found_kind))
    }
}

/// Returns the kind of `entry`, which is in `list`. A view may also be written among the tables.
fn kind_of(list: &str, entry: &Value) -> NameKind {
    if list == VIEWS || entry["type"] == "View" { NameKind::View } else { NameKind::Table }
}

#[cfg(test)]
mod tests {
    use buzz_protocol::CatalogType;

    use super::*;

    fn add(name: &str, existing: Existing) -> NameChange {
        let entry = Box::new(CatalogEntry::new(name, CatalogType::Parquet, format!("s3://lake/{name}")));
        NameChange::Add { entry, existing }
    }

    fn drop(name: &str, kind: Option<NameKind>) -> NameChange {
        NameChange::Drop { name: name.to_string(), kind, if_exists: false }
    }

    fn document(text: &str) -> Document {
        Document::parse(Some(text.as_bytes()), "buzz.json").unwrap()
    }

    #[test]
    fn change_keeps_everything_else() {
        let text =
            r#"{"owner": "ann", "catalogs": [{"name": "a", "uri": "a", "note": "mine"}, {"name": "b", "uri": "b"}]}"#;
        let mut document = document(text);
        assert_eq!(document.apply(&add("c", Existing::Fail), false).unwrap(), Changed::Added);
        let view = NameChange::Add { entry: Box::new(CatalogEntry::view("v", "SELECT 1")), existing: Existing::Fail };
        assert_eq!(document.apply(&view, false).unwrap(), Changed::Added);
        assert_eq!(document.apply(&drop("B", None), false).unwrap(), Changed::Dropped(NameKind::Table));
        let changed: Value = serde_json::from_str(&document.text().unwrap()).unwrap();
        let expected = json!({"owner": "ann", "catalogs": [
            {"name": "a", "uri": "a", "note": "mine"}, {"name": "c", "type": "Parquet", "uri": "s3://lake/c"}
        ], "views": [{"name": "v", "sql": "SELECT 1"}]});
        assert_eq!(changed, expected);
        let (entries, warnings) = document.entries().unwrap();
        assert_eq!(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["a", "c", "v"]);
        assert!(entries[2].is_view() && entries[2].sql.as_deref() == Some("SELECT 1"));
        assert_eq!(
            warnings,
            ["buzz.json: unknown field `catalogs.0.note` is ignored", "buzz.json: unknown field `owner` is ignored"]
        );
    }

    #[test]
    fn name_is_added_once_and_replaced_by_its_own_kind() {
        let mut document = Document::parse(None, "buzz.json").unwrap();
        assert_eq!(document.apply(&add("Trips", Existing::Replace), false).unwrap(), Changed::Added);
        let error = document.apply(&add("trips", Existing::Fail), false).unwrap_err().to_string();
        assert!(error.starts_with("table `trips` exists already; drop it first, or replace it"), "{error}");
        assert_eq!(document.apply(&add("trips", Existing::Keep), false).unwrap(), Changed::Nothing);
        assert_eq!(document.apply(&add("trips", Existing::Replace), false).unwrap(), Changed::Replaced);
        let view = CatalogEntry::view("trips", "SELECT 1");
        let view = NameChange::Add { entry: Box::new(view), existing: Existing::Replace };
        let error = document.apply(&view, false).unwrap_err().to_string();
        assert_eq!(error, "`trips` is a table; drop it before you add a view of this name");
        let error = document.apply(&drop("trips", Some(NameKind::View)), false).unwrap_err().to_string();
        assert_eq!(error, "`trips` is not a view; drop it with DROP TABLE");
        let error = document.apply(&drop("trip", None), false).unwrap_err().to_string();
        assert_eq!(error, "table `trip` does not exist in buzz.json; did you mean `trips`?");
    }

    #[test]
    fn repeated_change_that_was_made_is_no_error() {
        let mut document = Document::parse(None, "x").unwrap();
        document.apply(&add("t", Existing::Fail), false).unwrap();
        assert_eq!(document.apply(&add("t", Existing::Fail), true).unwrap(), Changed::Added);
        document.apply(&drop("t", None), false).unwrap();
        assert_eq!(document.apply(&drop("t", None), true).unwrap(), Changed::Dropped(NameKind::Table));
    }

    #[test]
    fn damage_is_reported_with_its_place_and_a_remedy() {
        let error = |text: &str| match Document::parse(Some(text.as_bytes()), "buzz.json") {
            Ok(document) => document.entries().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        for text in ["", "{\"catalogs\": [", "[]", "{}", "{\"catalogs\": 7}", "{\"views\": [7]}", "\u{0}\u{1}"] {
            let error = error(text);
            assert!(
                error.starts_with("buzz.json: ") && error.contains("; correct it, or move it away"),
                "{text}: {error}"
            );
        }
        assert!(
            error("{\"catalogs\": [{\"uri\": \"x\"}]}").contains("buzz.json in `catalogs[0]`: missing field `name`")
        );
        assert!(error("{\"catalogs\": [{\"name\": \"t\"}]}").contains("catalog `t`: `uri` is missing or empty"));
        assert!(error("{\"views\": [{\"name\": \"v\"}]}").contains("buzz.json in `views[0]`: missing field `sql`"));
        let twice = r#"{"catalogs": [{"name": "t", "uri": "x"}], "views": [{"name": "T", "sql": "SELECT 1"}]}"#;
        assert!(error(twice).contains("the name `T` is used twice, ignoring case"));
    }
}
