//! The rows of SHOW.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use buzz_protocol::QueryError;

use crate::postgres::cursor::Cursor;
use crate::postgres::error::PgError;

/// Returns the cursor of SHOW: one column called like the setting, or names, values and descriptions of all settings.
pub(crate) fn shown(settings: Vec<(String, String)>, is_all: bool) -> Result<Cursor, PgError> {
    let field = |name: &str| Field::new(name, DataType::Utf8, true);
    let texts = |values: Vec<&String>| -> ArrayRef { Arc::new(StringArray::from_iter_values(values)) };
    let values = texts(settings.iter().map(|(_, value)| value).collect());
    let (fields, columns) = if is_all {
        let names = texts(settings.iter().map(|(name, _)| name).collect());
        let descriptions: ArrayRef = Arc::new(StringArray::from_iter_values(settings.iter().map(|_| "")));
        (vec![field("name"), field("setting"), field("description")], vec![names, values, descriptions])
    } else {
        let name = settings.first().map_or("", |(name, _)| name.as_str());
        (vec![field(if name == "timezone" { "TimeZone" } else { name })], vec![values])
    };
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).map_err(QueryError::from)?;
    Cursor::of_batches(schema, vec![batch], None)
}
