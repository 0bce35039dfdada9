//! Formats of the rows that a request pushes to a stream, and the columns that its declaration names.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use buzz_epoch::SourceSpec;
use buzz_protocol::{QueryError, Result};
use buzz_storage::text::RowFormat;

use crate::decode::Format;
use crate::source::BadData;

/// Returns the format in which records of `format` are divided and decoded.
pub(crate) fn decoder(format: RowFormat) -> Format {
    match format {
        RowFormat::Json => Format::Json { unstructured: false },
        RowFormat::Csv { header } => Format::Csv { header, delimiter: b',' },
        RowFormat::Arrow => Format::Arrow,
    }
}

/// Returns the columns that a stream declares; `None` if it declares none.
///
/// # Errors
/// `Data` if a type is unknown.
pub fn stream_columns(spec: &SourceSpec) -> Result<Option<SchemaRef>> {
    if spec.columns.is_empty() {
        return Ok(None);
    }
    let field = |column: &buzz_epoch::SourceColumn| {
        let data_type = column.data_type.parse::<DataType>().map_err(|error| {
            QueryError::data(format!(
                "column `{}` of the stream is declared with type `{}`, which is not known: {error}",
                column.name, column.data_type
            ))
        })?;
        Ok(Field::new(&column.name, data_type, !column.required))
    };
    let fields = spec.columns.iter().map(field).collect::<Result<Vec<_>>>()?;
    Ok(Some(Arc::new(Schema::new(fields))))
}

/// Returns the treatment of bad rows that a stream declares.
///
/// # Errors
/// `Data` if it is unknown.
pub fn stream_bad_data(spec: &SourceSpec) -> Result<BadData> {
    match spec.options.get("bad_data").map(String::as_str) {
        None | Some("fail") => Ok(BadData::Fail),
        Some("drop") => Ok(BadData::Drop),
        Some("side") => Ok(BadData::Side),
        Some(other) => Err(QueryError::data(format!("the stream declares bad_data `{other}`; use fail, drop or side"))),
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;
    use buzz_epoch::SourceColumn;

    use super::*;

    #[test]
    fn declared_types_are_read_back() {
        let types = [
            DataType::Int64,
            DataType::Utf8,
            DataType::Boolean,
            DataType::Float64,
            DataType::Date32,
            DataType::Decimal128(12, 2),
            DataType::Timestamp(TimeUnit::Nanosecond, None),
            DataType::Timestamp(TimeUnit::Nanosecond, Some("UTC".into())),
        ];
        for data_type in types {
            let column = SourceColumn { name: "c".into(), data_type: data_type.to_string(), required: true };
            let spec = SourceSpec { columns: vec![column], ..SourceSpec::default() };
            let columns = stream_columns(&spec).expect("the type is known").expect("there is a column");
            assert_eq!(*columns.field(0), Field::new("c", data_type, false));
        }
    }
}
