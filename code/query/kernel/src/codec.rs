//! Encoding of plans and schemas as bytes.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::ipc::convert::IpcSchemaEncoder;
use arrow::ipc::writer::DictionaryTracker;
use buzz_protocol::{QueryError, Result};
use bytes::Bytes;
use datafusion::error::Result as DataFusionResult;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::{DefaultPhysicalExtensionCodec, PhysicalExtensionCodec};

use crate::operators::Operators;
use crate::pieces::{Decoder, Encoder};

/// Encodes a plan, in pieces if it is deep. `codec` encodes the operators that DataFusion does not have.
///
/// # Errors
/// If an operator has no encoding.
pub fn encode_plan(plan: Arc<dyn ExecutionPlan>, codec: &dyn PhysicalExtensionCodec) -> DataFusionResult<Bytes> {
    physical_plan_to_bytes_with_proto_converter(plan, codec, &Encoder::default())
}

/// Decodes a plan that [`encode_plan`] encoded. The result can be executed once.
///
/// # Errors
/// If the bytes are not a plan of this build.
pub fn decode_plan(
    bytes: &[u8],
    ctx: &TaskContext,
    codec: &dyn PhysicalExtensionCodec,
) -> DataFusionResult<Arc<dyn ExecutionPlan>> {
    physical_plan_from_bytes_with_proto_converter(bytes, ctx, codec, &Decoder::default())
}

/// Encodes a plan fragment, in pieces if it is deep.
///
/// # Errors
/// `Invalid` if an operator has no encoding.
pub fn encode_fragment(plan: Arc<dyn ExecutionPlan>) -> Result<Bytes> {
    encode_plan(plan, &DefaultPhysicalExtensionCodec {})
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
