//! The [`Table`] that every catalog type opens.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Fields, Schema, SchemaRef};
use buzz_protocol::{
    BucketOptions, CatalogType, ColumnMapping, DeletionVector, FileFormat, QueryError, Result, RowRun, StoreRoot,
};
use datafusion::scalar::ScalarValue;
use object_store::ObjectMeta;
use url::Url;

use crate::statistics::FileStatistics;

/// A snapshot of a table: its schema and its files.
#[derive(Debug, Clone)]
pub struct Table {
    /// The name that steps use.
    pub name: String,
    /// Kind of the catalog entry; `Auto` if only its recorded columns are known.
    pub kind: CatalogType,
    /// Location of the table, for messages.
    pub uri: String,
    /// Root of the store that holds the files.
    pub store: Url,
    /// Options of the store's bucket that override the environment.
    pub bucket: BucketOptions,
    /// The stores that hold the files, if there are several; then `store` is [`buzz_storage::SEVERAL_STORES`].
    pub stores: Vec<StoreRoot>,
    /// Warnings for the user about this table.
    pub warnings: Vec<String>,
    /// The version that was read, if the format has versions.
    pub version: Option<u64>,
    /// All columns in the table's order, including partition columns. All are nullable, top-level strings and binaries
    /// are views (as in DataFusion's Parquet reader), decimals have at least 128 bits, and fields have no metadata.
    pub schema: SchemaRef,
    /// The partition columns, in the order of [`DataFile::partition_values`].
    pub partition_columns: Vec<String>,
    /// Format of the files.
    pub format: FileFormat,
    /// Names and ids of the columns in the files.
    pub mapping: ColumnMapping,
    /// The files, in the catalog's order.
    pub files: Vec<DataFile>,
    /// Size of the whole table, of which `files` may be a part.
    pub extent: Extent,
    /// Statistics of the files, if the catalog has them.
    pub statistics: Option<FileStatistics>,
}

/// Size of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Number of files.
    pub files: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

/// One file of a table.
#[derive(Debug, Clone)]
pub struct DataFile {
    /// Position in [`Table::files`].
    pub number: usize,
    /// Path within the table's store.
    pub path: String,
    /// Size in bytes.
    pub size: u64,
    /// The store's tag (`ETag`) of this version of the file, if it was requested.
    pub e_tag: Option<String>,
    /// Values of the partition columns for all rows of the file. Files of one partition may share them.
    pub partition_values: Arc<[ScalarValue]>,
    /// Rows that were deleted without rewriting the file.
    pub deletion_vector: Option<DeletionVector>,
    /// Runs of rows that count, of a segment of a stream. Otherwise empty, and all rows count.
    pub runs: Arc<[RowRun]>,
}

impl DataFile {
    /// Returns the number of deleted rows.
    pub fn deleted_rows(&self) -> u64 {
        match &self.deletion_vector {
            None => 0,
            Some(DeletionVector::Inline { cardinality, .. } | DeletionVector::File { cardinality, .. }) => *cardinality,
        }
    }

    /// Creates an empty file in `path` without partition values.
    pub(crate) fn named(path: String) -> DataFile {
        DataFile {
            number: 0,
            path,
            size: 0,
            e_tag: None,
            partition_values: Arc::default(),
            deletion_vector: None,
            runs: Arc::default(),
        }
    }

    /// Creates the file of a listed `object`.
    pub(crate) fn found(object: ObjectMeta, partition_values: Vec<ScalarValue>) -> DataFile {
        DataFile {
            size: object.size,
            e_tag: object.e_tag,
            partition_values: partition_values.into(),
            ..DataFile::named(object.location.to_string())
        }
    }
}

impl Table {
    /// Creates a table and converts its schema to the form of [`Table::schema`].
    ///
    /// # Errors
    /// `Data` if a column name appears twice or a partition column is not in the schema.
    pub(crate) fn new(
        uri: String,
        store: Url,
        schema: &Schema,
        partition_columns: Vec<String>,
        mut files: Vec<DataFile>,
    ) -> Result<Table> {
        for (number, file) in files.iter_mut().enumerate() {
            file.number = number;
        }
        let mut names = BTreeSet::new();
        if let Some(twice) = schema.fields().iter().find(|field| !names.insert(field.name())) {
            return Err(QueryError::data(format!("column `{}` appears twice in the schema of `{uri}`", twice.name())));
        }
        if let Some(missing) = partition_columns.iter().find(|name| !names.contains(name)) {
            return Err(QueryError::data(format!("partition column `{missing}` is not in the schema of `{uri}`")));
        }
        let extent = Extent { files: files.len(), bytes: files.iter().map(|file| file.size).sum() };
        Ok(Table {
            name: String::new(),
            kind: CatalogType::Auto,
            uri,
            store,
            bucket: BucketOptions::default(),
            stores: Vec::new(),
            warnings: Vec::new(),
            version: None,
            schema: reader_schema(schema),
            partition_columns,
            format: FileFormat::default(),
            mapping: ColumnMapping::default(),
            files,
            extent,
            statistics: None,
        })
    }

    /// Returns this table with only `files`, which must be some of its own.
    ///
    /// # Errors
    /// `Internal` if a file is not in the table.
    pub fn only(&self, mut files: Vec<DataFile>) -> Result<Table> {
        let positions = files.iter().map(|file| Some(file.number as u64)).collect();
        let statistics = self.statistics.as_ref().map(|known| known.of(&positions)).transpose()?;
        for (number, file) in files.iter_mut().enumerate() {
            file.number = number;
        }
        Ok(Table {
            name: self.name.clone(),
            kind: self.kind,
            uri: self.uri.clone(),
            store: self.store.clone(),
            bucket: self.bucket.clone(),
            stores: self.stores.clone(),
            warnings: self.warnings.clone(),
            version: self.version,
            schema: Arc::clone(&self.schema),
            partition_columns: self.partition_columns.clone(),
            format: self.format.clone(),
            mapping: self.mapping.clone(),
            files,
            extent: self.extent,
            statistics,
        })
    }

    /// Returns true if the table was opened, so that `files` has its files.
    pub fn is_open(&self) -> bool {
        !matches!(self.kind, CatalogType::Auto | CatalogType::View)
    }

    /// Returns the total size of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.size).sum()
    }

    /// Returns the columns that are stored in the files, in the table's order.
    pub fn file_schema(&self) -> SchemaRef {
        let fields: Vec<FieldRef> =
            self.schema.fields().iter().filter(|field| !self.is_partition_column(field.name())).cloned().collect();
        Arc::new(Schema::new(fields))
    }

    /// Returns the fields of the partition columns, in the order of [`Table::partition_columns`].
    pub fn partition_fields(&self) -> Vec<FieldRef> {
        let field = |name: &String| self.schema.fields().iter().find(|field| field.name() == name).cloned();
        self.partition_columns.iter().filter_map(field).collect()
    }

    fn is_partition_column(&self, name: &str) -> bool {
        self.partition_columns.iter().any(|column| column == name)
    }
}

fn reader_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> =
        schema.fields().iter().map(|field| Field::new(field.name(), reader_type(field.data_type()), true)).collect();
    Arc::new(Schema::new(fields))
}

/// Converts top-level strings and binaries to views, which DataFusion reads and groups fastest. Removes the metadata of
/// nested fields, such as Delta's column ids, because otherwise every batch would be cast. A field of a struct may be null,
/// since the struct may be.
fn reader_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 => DataType::Utf8View,
        DataType::Binary | DataType::LargeBinary => DataType::BinaryView,
        other => without_metadata(other),
    }
}

fn without_metadata(data_type: &DataType) -> DataType {
    let plain =
        |field: &FieldRef| Arc::new(Field::new(field.name(), without_metadata(field.data_type()), field.is_nullable()));
    let nullable = |field: &FieldRef| Arc::new(plain(field).as_ref().clone().with_nullable(true));
    match data_type {
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(nullable).collect::<Fields>()),
        DataType::List(item) => DataType::List(plain(item)),
        DataType::LargeList(item) => DataType::LargeList(plain(item)),
        DataType::FixedSizeList(item, size) => DataType::FixedSizeList(plain(item), *size),
        DataType::Map(entries, sorted) => {
            let pair = match entries.data_type() {
                DataType::Struct(pair) => DataType::Struct(pair.iter().map(plain).collect::<Fields>()),
                other => other.clone(),
            };
            DataType::Map(Arc::new(Field::new(entries.name(), pair, entries.is_nullable())), *sorted)
        }
        // Sums of the short decimals of DataFusion wrap.
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        other => other.clone(),
    }
}
