//! Reads Hive partition values from paths such as `year=2024/month=01/part-0.parquet`.

use arrow::datatypes::{DataType, Field};
use buzz_protocol::{ColumnSpec, Place, QueryError, Result};
use buzz_storage::full_path;
use datafusion::scalar::ScalarValue;
use object_store::path::Path;
use percent_encoding::percent_decode_str;

use crate::files::Found;
use crate::spelling::{Spellings, find};
use crate::values::partition_value;

/// The value that Hive writes for null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// The partition columns of some files, and each file's values.
#[derive(Debug, Default)]
pub(crate) struct Partitions {
    pub(crate) fields: Vec<Field>,
    /// One list per file, with one value per field.
    pub(crate) values: Vec<Vec<ScalarValue>>,
    /// Partition columns whose names differ in case between paths.
    pub(crate) spellings: Spellings,
}

impl Partitions {
    /// Returns whether `name` is that of a partition column, in any case.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|field| field.name().to_lowercase() == name.to_lowercase())
    }
}

/// Reads partition values from the paths of the files in `found`. The columns are those of `given`. Without `given`,
/// they are inferred from the paths, with the first type of Int64, Date32 and Utf8 that fits all values. A number with
/// leading zeros (`month=01`) is an Int64.
///
/// # Errors
/// `Invalid` if a given type is unknown; `Data` if paths differ in their columns, lack a given column, or contain a
/// value that does not fit its type.
pub(crate) fn partitions(found: &Found, given: Option<&[ColumnSpec]>) -> Result<Partitions> {
    let mut pairs = Vec::new();
    for file in &found.files {
        let path = full_path(&found.root.store, file.location.as_ref());
        pairs.push((
            partition_folders(found.depth, &file.location)
                .map_err(|error| error.at(Place::File { path: path.clone(), table: None }))?,
            path,
        ));
    }
    let spellings = Spellings::of(pairs.iter().map(|(pairs, _)| pairs.iter().map(|(name, _)| name.as_str())));
    for (name, _) in pairs.iter_mut().flat_map(|(pairs, _)| pairs) {
        *name = spellings.name(name).to_string();
    }
    let fields = match given {
        Some(given) => given.iter().map(ColumnSpec::field).collect::<Result<_>>()?,
        None => inferred(&pairs)?,
    };
    let mut values = Vec::new();
    for (pairs, path) in &pairs {
        let value = |field: &Field| {
            let pair = find(field.name(), pairs.iter().map(|(name, _)| name.as_str())).map(|at| &pairs[at]);
            let (_, text) = pair.ok_or_else(|| {
                QueryError::data(format!("its path has no `{0}=` folder for partition column `{0}`", field.name()))
            })?;
            partition_value(field.name(), field.data_type(), text.as_deref())
        };
        let row = fields.iter().map(value).collect::<Result<_>>();
        values.push(row.map_err(|error: QueryError| error.at(Place::File { path: path.clone(), table: None }))?);
    }
    Ok(Partitions { fields, values, spellings })
}

type Pair = (String, Option<String>);

/// Returns the `name=value` folders of `path` after its first `depth` parts. A null value is `None`.
///
/// # Errors
/// `Data` if a name or a value is not valid UTF-8.
pub fn partition_folders(depth: usize, path: &Path) -> Result<Vec<(String, Option<String>)>> {
    let parts: Vec<_> = path.parts().collect();
    let folders = parts.len().saturating_sub(1);
    let mut pairs = Vec::new();
    for part in parts.get(depth..folders).unwrap_or_default() {
        let Some((name, value)) = part.as_ref().split_once('=') else {
            continue;
        };
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8();
            let text = text.map_err(|_| QueryError::data(format!("folder `{}` is not valid UTF-8", part.as_ref())));
            text.map(|text| text.into_owned())
        };
        let value = if value == NULL { None } else { Some(decoded(value)?) };
        pairs.push((decoded(name)?, value));
    }
    Ok(pairs)
}

fn inferred(pairs: &[(Vec<Pair>, String)]) -> Result<Vec<Field>> {
    let Some((first, first_path)) = pairs.first() else {
        return Ok(Vec::new());
    };
    let names = |pairs: &[Pair]| pairs.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    let wanted = names(first);
    if let Some((_, path)) = pairs.iter().find(|(pairs, _)| names(pairs) != wanted) {
        return Err(QueryError::data(format!(
            "`{first_path}` and `{path}` have different partition folders; set `partition_columns` in the catalog \
             entry ([] for none)"
        )));
    }
    let typed = |(index, name): (usize, &String)| {
        let texts = pairs.iter().filter_map(|(pairs, _)| pairs[index].1.as_deref());
        Field::new(name, partition_type(name, &texts.collect::<Vec<_>>()), true)
    };
    Ok(wanted.iter().enumerate().map(typed).collect())
}

/// Returns the first type of Int64, Date32 and Utf8 that fits all values of partition column `name`.
pub fn partition_type(name: &str, texts: &[&str]) -> DataType {
    let fits = |data_type: &DataType| {
        texts.iter().all(|text| {
            let plain = match data_type {
                DataType::Int64 => text.bytes().all(|b| b.is_ascii_digit() || b == b'-'),
                // Text with a time of day also parses as a date, but the time would be lost.
                _ => text.len() == "2024-01-31".len(),
            };
            plain && !text.is_empty() && partition_value(name, data_type, Some(text)).is_ok()
        })
    };
    let typed = [DataType::Int64, DataType::Date32].into_iter().find(|data_type| !texts.is_empty() && fits(data_type));
    typed.unwrap_or(DataType::Utf8)
}

#[cfg(test)]
mod tests {
    use std::path::Path as FilePath;

    use buzz_storage::Location;
    use chrono::DateTime;
    use object_store::ObjectMeta;
    use object_store::path::Path as ObjectPath;

    use super::*;

    fn read(paths: &[&str], given: Option<&[ColumnSpec]>) -> Result<(Vec<String>, Vec<Vec<String>>)> {
        let root = Location::parse("/lake/t", FilePath::new("/")).unwrap();
        let file = |path: &&str| ObjectMeta {
            location: ObjectPath::parse(format!("lake/t/{path}")).unwrap(),
            last_modified: DateTime::UNIX_EPOCH,
            size: 1,
            e_tag: None,
            version: None,
        };
        let files: Vec<ObjectMeta> = paths.iter().map(file).collect();
        let depth = root.path.parts().count();
        let found = partitions(&Found { root, depth, files, warnings: Vec::new() }, given)?;
        let fields = found.fields.iter().map(|field| format!("{} {}", field.name(), field.data_type())).collect();
        let texts = |row: &Vec<ScalarValue>| row.iter().map(ToString::to_string).collect();
        Ok((fields, found.values.iter().map(texts).collect()))
    }

    #[test]
    fn inferred_type_is_the_narrowest_that_fits_all_values() {
        let paths = ["y=2024/d=2024-01-31/k=a%2Fb/0.parquet", "y=-7/d=__HIVE_DEFAULT_PARTITION__/k=1/0.parquet"];
        let (fields, values) = read(&paths, None).unwrap();
        assert_eq!(fields, ["y Int64", "d Date32", "k Utf8"]);
        assert_eq!(values, [["2024", "2024-01-31", "a/b"], ["-7", "NULL", "1"]]);
        assert_eq!(read(&["m=01/a", "m=12/b"], None).unwrap().0, ["m Int64"]);
        let (fields, values) = read(&["t=2024-01-31 10%3A00%3A00/a"], None).unwrap();
        assert_eq!((fields, values), (vec!["t Utf8".to_string()], vec![vec!["2024-01-31 10:00:00".to_string()]]));
    }

    #[test]
    fn names_that_differ_in_case_are_one_column() {
        let (fields, values) = read(&["Year=2023/a", "year=2024/b"], None).unwrap();
        assert_eq!(
            (fields, values),
            (vec!["year Int64".to_string()], vec![vec!["2023".to_string()], vec!["2024".to_string()]])
        );
        let given = [ColumnSpec { name: "YEAR".to_string(), data_type: "Utf8".to_string() }];
        assert_eq!(read(&["Year=2023/a", "year=2024/b"], Some(&given)).unwrap().1, [["2023"], ["2024"]]);
    }

    #[test]
    fn given_columns_override_inferred_ones() {
        let column = |name: &str, kind: &str| ColumnSpec { name: name.to_string(), data_type: kind.to_string() };
        let given = [column("m", "Utf8")];
        assert_eq!(read(&["x=1/m=01/a", "m=12/b"], Some(&given)).unwrap().1, [["01"], ["12"]]);
        assert!(read(&["m=1/a"], Some(&[])).unwrap().0.is_empty());
        let error = read(&["m=1/a", "b"], Some(&given)).unwrap_err().to_string();
        assert_eq!(error, "file `/lake/t/b`: its path has no `m=` folder for partition column `m`");
        let error = read(&["m=x/a"], Some(&[column("m", "Int32")])).unwrap_err().to_string();
        assert!(error.contains("`x` is not a value of type Int32"), "{error}");
    }

    #[test]
    fn different_partition_folders_are_rejected_with_their_paths() {
        let error = read(&["a=1/x", "b=1/x"], None).unwrap_err().to_string();
        assert!(error.contains("`/lake/t/a=1/x` and `/lake/t/b=1/x` have different partition folders"), "{error}");
    }
}
