//! A Delta Lake table as a sink: the rows of each epoch are one commit.

use std::fmt;
use std::sync::{Arc, OnceLock};

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use buzz_catalog::{DeltaColumns, DeltaTarget};
use buzz_protocol::{QueryError, Result};
use buzz_storage::Location;
use url::Url;

use super::folder::Files;
use super::{Sink, Written, check_partitions};

/// Characters that the names of columns must not have.
const FORBIDDEN: [char; 10] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// Appends rows to a Delta Lake table, which is created with the first ones. Each epoch is one commit, which also has the
/// epoch as the version of an application transaction, so a repetition is noticed.
pub struct DeltaSink {
    /// The table.
    pub place: Location,
    /// The place of its files.
    pub files: Files,
    /// Columns whose values become folders. Those of a table that exists must be the same.
    pub partition_by: Vec<String>,
    /// Identifies the pipeline.
    pub pipeline: String,
    /// The table as it is written to, once a row is.
    pub opened: OnceLock<DeltaTarget>,
}

impl fmt::Debug for DeltaSink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaSink")
            .field("place", &self.place)
            .field("pipeline", &self.pipeline)
            .finish_non_exhaustive()
    }
}

impl DeltaSink {
    /// Returns the table. A local folder is created if it is missing.
    fn target(&self) -> Result<&DeltaTarget> {
        if let Some(target) = self.opened.get() {
            return Ok(target);
        }
        let (store, _) = self.files.open()?;
        let root = match &self.files {
            Files::Bucket(..) => self.place.directory_url(),
            // The store is the folder.
            Files::Disk(..) => Url::parse("file:///")
                .map_err(|error| QueryError::internal(format!("the URL of a store is not one: {error}")))?,
        };
        let target = DeltaTarget::new(self.place.clone(), store, root, self.pipeline.clone());
        Ok(self.opened.get_or_init(|| target))
    }

    /// Returns true if the table cannot exist, without creating its folder.
    fn is_absent(&self) -> bool {
        matches!(&self.files, Files::Disk(folder, _) if !folder.join("_delta_log").exists())
    }

    async fn columns(&self) -> Result<Option<DeltaColumns>> {
        if self.is_absent() { Ok(None) } else { self.target()?.columns().await }
    }

    /// Checks that rows with `columns` fit into a table with the columns `found`.
    fn check_columns(&self, columns: &Schema, found: &DeltaColumns) -> Result<()> {
        let wanted = delta_schema(columns)?;
        let list = |schema: &Schema| {
            let columns = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
            columns.collect::<Vec<_>>().join(", ")
        };
        let has = |schema: &Schema, field: &FieldRef| {
            schema.field_with_name(field.name()).is_ok_and(|other| plain(other.data_type()) == plain(field.data_type()))
        };
        let (theirs, ours) = (found.schema.as_ref(), wanted.as_ref());
        let same = theirs.fields().len() == ours.fields().len() && ours.fields().iter().all(|field| has(theirs, field));
        if !same {
            return Err(QueryError::invalid(format!(
                "Delta table {} has the columns {}, but the rows have the columns {}; select those of the table, cast to their \
                 types, or write to another table",
                self.place,
                list(theirs),
                list(ours)
            )));
        }
        if found.partition_by != self.partition_by {
            return Err(QueryError::invalid(format!(
                "Delta table {} is partitioned by ({}), and option `partition_by` names ({}); set it to the columns of the table",
                self.place,
                found.partition_by.join(", "),
                self.partition_by.join(", ")
            )));
        }
        Ok(())
    }
}

#[async_trait]
impl Sink for DeltaSink {
    async fn marker(&self) -> Result<Option<u64>> {
        if self.is_absent() { Ok(None) } else { self.target()?.newest().await }
    }

    async fn write(&self, epoch: u64, rows: &[RecordBatch]) -> Result<Written> {
        let rows = rows.iter().map(to_delta).collect::<Result<Vec<_>>>()?;
        if rows.iter().any(|rows| rows.num_rows() > 0) {
            self.target()?.append(epoch, &rows, &self.partition_by).await?;
        }
        Ok(Written::Done)
    }

    fn check_rows(&self, rows: &RecordBatch) -> Result<()> {
        check_partitions(&to_delta(rows)?, &self.partition_by)
    }

    fn check(&self, columns: &Schema) -> Result<()> {
        delta_schema(columns)?;
        for name in &self.partition_by {
            let field = columns.field_with_name(name).map_err(|_| {
                let known: Vec<&str> = columns.fields().iter().map(|field| field.name().as_str()).collect();
                QueryError::invalid(format!(
                    "column `{name}` of option `partition_by` is not among the columns {}",
                    known.join(", ")
                ))
            })?;
            if field.data_type().is_nested() {
                return Err(QueryError::invalid(format!(
                    "column `{name}` of option `partition_by` has the nested type {}; select one of its fields for the \
                     partitions",
                    field.data_type()
                )));
            }
            if delta_type(field.data_type()) == Some(DataType::Binary) {
                return Err(QueryError::invalid(format!(
                    "column `{name}` of option `partition_by` has type {}, whose values partitions do not keep; encode it \
                     as text",
                    field.data_type()
                )));
            }
        }
        if self.partition_by.len() >= columns.fields().len() {
            return Err(QueryError::invalid(
                "option `partition_by` has all columns, which leaves none for the files; leave one out",
            ));
        }
        Ok(())
    }

    async fn check_target(&self, columns: &Schema) -> Result<()> {
        match self.columns().await? {
            Some(found) => self.check_columns(columns, &found),
            None => Ok(()),
        }
    }
}

/// Returns the columns as Delta tables have them: all of them can be NULL.
///
/// # Errors
/// `Invalid` if Delta tables do not take the name or the type of a column.
fn delta_schema(columns: &Schema) -> Result<SchemaRef> {
    let fields = columns.fields().iter().map(|field| {
        if field.name().contains(FORBIDDEN) {
            return Err(QueryError::invalid(format!(
                "column `{}` has a name that Delta tables do not take, with a space or one of ,;{{}}()=; give it another by AS",
                field.name()
            )));
        }
        let data_type = delta_type(field.data_type()).ok_or_else(|| {
            QueryError::invalid(format!(
                "column `{}` has type {}, which Delta tables do not have; cast it, such as to TEXT",
                field.name(),
                field.data_type()
            ))
        })?;
        Ok(Field::new(field.name(), data_type, true))
    });
    Ok(Arc::new(Schema::new(fields.collect::<Result<Vec<_>>>()?)))
}

/// Returns the type of Delta tables that has the values of `data_type`, apart from those that are too large or too exact;
/// `None` if there is none.
fn delta_type(data_type: &DataType) -> Option<DataType> {
    let nested =
        |field: &FieldRef| Some(Arc::new(Field::new(field.name(), delta_type(field.data_type())?, true)) as FieldRef);
    Some(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Date32
        | DataType::Utf8
        | DataType::Binary => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
            if *scale >= 0 =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| Arc::from("UTC")))
        }
        DataType::Dictionary(_, value) => delta_type(value)?,
        DataType::List(field) | DataType::LargeList(field) => DataType::List(nested(field)?),
        DataType::Struct(fields) if !fields.is_empty() => {
            DataType::Struct(fields.iter().map(nested).collect::<Option<Vec<_>>>()?.into())
        }
        _ => return None,
    })
}

/// Returns a type without the names of list elements and without the marks of fields that cannot be NULL.
fn plain(data_type: &DataType) -> DataType {
    match delta_type(data_type) {
        Some(DataType::List(field)) => DataType::List(Arc::new(Field::new_list_field(plain(field.data_type()), true))),
        Some(DataType::Struct(fields)) => DataType::Struct(
            fields.iter().map(|field| Field::new(field.name(), plain(field.data_type()), true)).collect(),
        ),
        Some(other) => other,
        None => data_type.clone(),
    }
}

/// Converts rows to the types of Delta tables.
///
/// # Errors
/// `Data` if a value would change, such as a time with nanoseconds.
fn to_delta(rows: &RecordBatch) -> Result<RecordBatch> {
    let schema = delta_schema(&rows.schema())?;
    let columns = rows.columns().iter().zip(schema.fields()).map(|(column, field)| converted(column, field));
    Ok(RecordBatch::try_new(Arc::clone(&schema), columns.collect::<Result<Vec<_>>>()?)?)
}

fn converted(column: &ArrayRef, field: &FieldRef) -> Result<ArrayRef> {
    if column.data_type() == field.data_type() {
        return Ok(Arc::clone(column));
    }
    let changed = || {
        QueryError::data(format!(
            "column `{}` has a value of type {} that {} of Delta tables does not have; cast it in the SELECT, or round a time \
             to microseconds by date_trunc('microsecond', …)",
            field.name(),
            column.data_type(),
            field.data_type()
        ))
    };
    let options = CastOptions { safe: false, ..Default::default() };
    let cast = cast_with_options(column, field.data_type(), &options).map_err(|_| changed())?;
    let back = cast_with_options(&cast, column.data_type(), &options).map_err(|_| changed())?;
    if back.to_data() == column.to_data() { Ok(cast) } else { Err(changed()) }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Decimal128Array, Int64Array, StringArray, StringViewArray, StructArray, TimestampNanosecondArray, UInt64Array,
    };

    use super::*;

    fn sink(folder: &std::path::Path, partition_by: &[&str]) -> DeltaSink {
        let path = folder.display().to_string();
        DeltaSink {
            place: Location::parse(&path, std::path::Path::new("/")).expect("it is a path"),
            files: Files::Disk(folder.to_path_buf(), OnceLock::new()),
            partition_by: partition_by.iter().map(ToString::to_string).collect(),
            pipeline: "p".to_string(),
            opened: OnceLock::new(),
        }
    }

    /// Rows with a kind and, in the column `number`, their number.
    fn kinds(number: &str, kinds: &[&str]) -> RecordBatch {
        let numbers = Int64Array::from_iter_values(0..kinds.len() as i64);
        let kinds = StringArray::from(kinds.to_vec());
        RecordBatch::try_from_iter([("kind", Arc::new(kinds) as ArrayRef), (number, Arc::new(numbers) as ArrayRef)])
            .expect("columns of one length")
    }

    fn times(nanos: &[i64]) -> RecordBatch {
        let times = Arc::new(TimestampNanosecondArray::from(nanos.to_vec())) as ArrayRef;
        let field = Arc::new(Field::new("start", times.data_type().clone(), true));
        let window = StructArray::from(vec![(field, Arc::clone(&times))]);
        RecordBatch::try_from_iter([("t", times), ("w", Arc::new(window) as ArrayRef)]).expect("columns of one length")
    }

    #[test]
    fn values_are_converted_only_if_they_stay_the_same() {
        let rows = RecordBatch::try_from_iter([
            ("rank", Arc::new(UInt64Array::from(vec![1, 7])) as ArrayRef),
            ("name", Arc::new(StringViewArray::from(vec![Some("a"), None])) as ArrayRef),
            ("sum", Arc::new(Decimal128Array::from(vec![1, 2]).with_precision_and_scale(38, 0).expect("it fits")) as _),
        ])
        .expect("columns of one length");
        let types = |rows: &RecordBatch| {
            rows.schema().fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>()
        };
        let converted = to_delta(&rows).expect("all values fit");
        assert_eq!(types(&converted), [DataType::Int64, DataType::Utf8, DataType::Decimal128(38, 0)]);
        let error = to_delta(
            &RecordBatch::try_from_iter([("n", Arc::new(UInt64Array::from(vec![u64::MAX])) as _)])
                .expect("one column is a batch"),
        );
        assert!(error.expect_err("it does not fit").message.contains("column `n` has a value of type UInt64"));
        let micros = to_delta(&times(&[1_000, -5_000])).expect("they are whole microseconds");
        assert_eq!(types(&micros)[0], DataType::Timestamp(TimeUnit::Microsecond, None));
        let error = to_delta(&times(&[1_001])).expect_err("it is not a whole microsecond");
        assert!(error.message.contains("column `t` has a value"), "{error}");
    }

    #[test]
    fn columns_that_delta_tables_do_not_have_are_refused() {
        let sink = sink(std::path::Path::new("/lake/t"), &["a"]);
        let columns = |fields: &[(&str, DataType)]| {
            Schema::new(fields.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect::<Vec<_>>())
        };
        let (a, n) = (("a", DataType::Utf8), ("n", DataType::Int64));
        sink.check(&columns(&[a.clone(), n.clone()])).expect("a column is left for the files");
        let interval = ("i", DataType::Interval(arrow::datatypes::IntervalUnit::MonthDayNano));
        let cases = [
            (columns(&[a.clone(), interval]), "column `i` has type Interval"),
            (
                columns(&[a.clone(), ("count(*)", DataType::Int64)]),
                "column `count(*)` has a name that Delta tables do not take",
            ),
            (columns(&[n]), "column `a` of option `partition_by` is not among the columns n"),
            (columns(&[a]), "option `partition_by` has all columns"),
        ];
        for (columns, message) in cases {
            let error = sink.check(&columns).expect_err("it does not fit");
            assert!(error.message.contains(message), "{error}");
        }
    }

    #[tokio::test]
    async fn table_with_other_columns_is_refused_and_an_epoch_is_written_once() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let table = folder.path().join("t");
        let rows = kinds("n", &["a", "b", "a"]);
        let first = sink(&table, &["kind"]);
        first.check_target(&rows.schema()).await.expect("there is no table");
        assert!(!table.exists(), "a check makes no folder");
        assert_eq!(first.marker().await.expect("there is no table"), None);
        for _ in 0..2 {
            first.write(4, std::slice::from_ref(&rows)).await.expect("the folder is writable");
        }
        assert_eq!(first.marker().await.expect("the table is readable"), Some(4));
        // Another process that goes on.
        let second = sink(&table, &["kind"]);
        second.check_target(&rows.schema()).await.expect("the columns are the same");
        assert_eq!(second.marker().await.expect("the table is readable"), Some(4));
        second.write(4, std::slice::from_ref(&rows)).await.expect("a repetition does nothing");
        let commits = std::fs::read_dir(table.join("_delta_log")).expect("there is a log");
        let commits =
            commits.filter_map(Result::ok).filter(|file| file.path().extension().is_some_and(|e| e == "json"));
        assert_eq!(commits.count(), 2, "the table is created, and the epoch appended");
        let other = kinds("m", &["a"]);
        let error = second.check_target(&other.schema()).await.expect_err("a column has another name");
        assert!(error.message.contains("has the columns kind Utf8, n Int64, but the rows have"), "{error}");
        let error = sink(&table, &[]).check_target(&rows.schema()).await.expect_err("it is partitioned");
        assert!(error.message.contains("is partitioned by (kind), and option `partition_by` names ()"), "{error}");
    }
}
