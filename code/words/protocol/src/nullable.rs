//! Columns without constraints on nulls.

use std::sync::Arc;

use arrow::datatypes::{Fields, Schema, SchemaRef};

/// Returns `schema` with columns that may all be null: rows of operators and sources that promise too much fit it as well.
pub fn nullable(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| Arc::new(field.as_ref().clone().with_nullable(true)));
    Arc::new(Schema::new_with_metadata(fields.collect::<Fields>(), schema.metadata().clone()))
}
