//! The places of a script's tables: rows of a sink must not meet those of another sink or of a source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use buzz_protocol::{QueryError, Result};
use buzz_storage::Location;

use crate::options::Options;

/// A table of a script that is read or written.
#[derive(Debug, Clone, Copy)]
pub struct OpenTable<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its options.
    pub options: &'a BTreeMap<String, String>,
    /// Rows are written to it.
    pub is_sink: bool,
}

/// Checks that no two sinks write to one place, and that no sink writes into a place that a source reads. Relative paths
/// are below `base`.
///
/// # Errors
/// `Invalid`, with both tables.
pub fn check_places(tables: &[OpenTable<'_>], base: &Path) -> Result<()> {
    let mut placed: Vec<Placed<'_>> = Vec::new();
    for table in tables {
        let Some(table) = Placed::of(table, base)? else { continue };
        for other in &placed {
            table.check(other)?;
        }
        placed.push(table);
    }
    Ok(())
}

/// A table with its place.
struct Placed<'a> {
    name: &'a str,
    is_sink: bool,
    path: PathBuf,
    /// It reads or writes folders below its place.
    has_folders: bool,
}

impl<'a> Placed<'a> {
    /// Returns `None` if the table has no place.
    fn of(table: &OpenTable<'a>, base: &Path) -> Result<Option<Self>> {
        let connector = table.options.get("connector").map(String::as_str).unwrap_or_default();
        if !["single_file", "filesystem", "parquet", "json", "csv", "delta", "http"].contains(&connector) {
            return Ok(None);
        }
        let mut options = Options::new(table.name, table.options);
        let location = Location::parse(&options.required(&["path", "uri"])?, base)?;
        let path = match location.store.scheme() {
            "file" => resolved(Path::new(&format!("/{}", location.path))),
            _ => PathBuf::from(format!("{}{}", location.store, location.path)),
        };
        let is_partitioned = options.text(&["partition_by", "partition_fields"]).is_some();
        let has_folders = connector != "single_file" && (!table.is_sink || is_partitioned);
        Ok(Some(Self { name: table.name, is_sink: table.is_sink, path, has_folders }))
    }

    /// Returns true if `other` is in a folder that this table reads or writes.
    fn contains(&self, other: &Self) -> bool {
        let Ok(below) = other.path.strip_prefix(&self.path) else { return false };
        // A source does not read hidden folders and files.
        let hidden = |part: &str| part.starts_with('.') || (part.starts_with('_') && !part.contains('='));
        let is_hidden = below.iter().any(|part| hidden(&part.to_string_lossy()));
        below.as_os_str().is_empty() || (self.has_folders && (self.is_sink || !is_hidden))
    }

    fn check(&self, other: &Self) -> Result<()> {
        if !(self.is_sink || other.is_sink) || !(self.contains(other) || other.contains(self)) {
            return Ok(());
        }
        let (sink, table) = if self.is_sink { (self, other) } else { (other, self) };
        let path = sink.path.display();
        Err(QueryError::invalid(if table.is_sink {
            format!(
                "tables `{}` and `{}` write to one place, `{path}`, where rows of one would replace those of the other; \
                 give each its own, or insert into one table",
                table.name, sink.name
            )
        } else {
            format!(
                "table `{}` writes to `{path}`, which table `{}` reads; write to another place, or pass rows on with CREATE \
                 VIEW",
                sink.name, table.name
            )
        }))
    }
}

/// Resolves the symbolic links of that part of `path` that exists.
fn resolved(path: &Path) -> PathBuf {
    for folder in path.ancestors() {
        if let Ok(real) = folder.canonicalize() {
            // Joining an empty path would add a separator.
            let rest = path.strip_prefix(folder).unwrap_or(Path::new(""));
            return real.components().chain(rest.components()).collect();
        }
    }
    path.to_path_buf()
}

#[cfg(test)]
mod tests {
    use super::*;

    type Described<'a> = (&'a str, &'a str, bool);

    /// Checks tables that are described by their connector with further options, their path, and true for a sink.
    fn check(base: &Path, tables: [Described<'_>; 2]) -> Result<()> {
        let options = tables.map(|(connector, path, _)| {
            let mut options = BTreeMap::from([("path".to_string(), path.to_string())]);
            let (connector, partition_by) = connector.split_once(' ').unwrap_or((connector, ""));
            options.insert("connector".to_string(), connector.to_string());
            if !partition_by.is_empty() {
                options.insert("partition_by".to_string(), partition_by.to_string());
            }
            options
        });
        let table =
            |index: usize, name: &'static str| OpenTable { name, options: &options[index], is_sink: tables[index].2 };
        check_places(&[table(0, "a"), table(1, "b")], base)
    }

    #[test]
    fn places_that_meet_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path();
        std::fs::create_dir(base.join("real")).expect("it is writable");
        std::os::unix::fs::symlink(base.join("real"), base.join("link")).expect("it is writable");
        let absolute = base.join("out.json").display().to_string();
        let refused: [[Described<'_>; 2]; 10] = [
            [("single_file", "out.json", true), ("single_file", "x/../out.json", true)],
            [("single_file", "out.json", true), ("single_file", absolute.as_str(), true)],
            [("json", "link/out", true), ("parquet", "real/out/", true)],
            [("json", "s3://lake/out", true), ("json", "s3a://lake/out/", true)],
            [("json k", "out", true), ("json", "out/k=1", true)],
            [("single_file", "in.json", true), ("single_file", "in.json", false)],
            [("json", "in", false), ("single_file", "in/out.json", true)],
            [("json", "in/deep/out", true), ("json", "in", false)],
            [("delta", "s3://lake/in", false), ("json", "s3://lake/in/out", true)],
            [("http", "streams", false), ("json", "streams/out", true)],
        ];
        for tables in refused {
            let error = check(base, tables).expect_err("the places meet");
            assert!(error.message.contains("`a`") && error.message.contains("`b`"), "{tables:?}: {error}");
        }
        let allowed: [[Described<'_>; 2]; 7] = [
            [("single_file", "a.json", true), ("single_file", "b.json", true)],
            [("json", "out", true), ("json", "outer", true)],
            [("json", "out", true), ("single_file", "out/log.json", true)],
            [("json", "s3://lake/out", true), ("json", "s3://sea/out", true)],
            [("json", "in", false), ("json", "in", false)],
            [("json", "in", false), ("single_file", "in/_bad.json", true)],
            [("blackhole", "out", true), ("json", "out", true)],
        ];
        for tables in allowed {
            let checked = check(base, tables);
            assert!(checked.is_ok(), "{tables:?}: {checked:?}");
        }
    }
}
