//! Encoding of plans and schemas as bytes.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::convert::IpcSchemaEncoder;
use arrow::ipc::writer::DictionaryTracker;
use bytes::Bytes;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::{DeduplicatingProtoConverter, DefaultPhysicalExtensionCodec};

use crate::{QueryError, Result};

mod operators;

use operators::Operators;

/// Encodes a plan fragment. The deduplicating converter keeps a dynamic filter linked to the operator that fills it.
///
/// # Errors
/// `Invalid` if an operator has no encoding.
pub fn encode_fragment(plan: Arc<dyn ExecutionPlan>) -> Result<Bytes> {
    physical_plan_to_bytes_with_proto_converter(
        plan,
        &DefaultPhysicalExtensionCodec {},
        &DeduplicatingProtoConverter {},
    )
    .map_err(|error| QueryError::invalid(format!("a part of this SQL cannot be sent to HBees: {error}")))
}

/// Decodes a plan fragment. The result can be executed once; decode again for another execution.
///
/// # Errors
/// `Internal` if the bytes are not a plan of this build, or contain an operator that fragments cannot have.
pub fn decode_fragment(bytes: &[u8], ctx: &TaskContext) -> Result<Arc<dyn ExecutionPlan>> {
    physical_plan_from_bytes_with_proto_converter(bytes, ctx, &DefaultPhysicalExtensionCodec {}, &Operators::default())
        .map_err(|error| QueryError::internal(format!("the plan of this task cannot be decoded: {error}")))
}

/// Encodes a schema as an Arrow IPC flatbuffer.
pub fn encode_schema(schema: &Schema) -> Vec<u8> {
    let mut dictionaries = DictionaryTracker::new(false);
    IpcSchemaEncoder::new().with_dictionary_tracker(&mut dictionaries).schema_to_fb(schema).finished_data().to_vec()
}

/// Decodes a schema written by [`encode_schema`].
///
/// # Errors
/// `Internal` if the bytes are not a schema.
pub fn decode_schema(bytes: &[u8]) -> Result<SchemaRef> {
    let schema = arrow::ipc::root_as_schema(bytes)
        .map_err(|error| QueryError::internal(format!("a received schema cannot be decoded: {error}")))?;
    Ok(Arc::new(arrow::ipc::convert::fb_to_schema(schema)))
}

/// Serde functions for byte strings in JSON, as base64.
pub mod base64_bytes {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes bytes as base64.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    /// Reads bytes from base64.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Bytes::from).map_err(serde::de::Error::custom)
    }
}
