//! Rows that a task returns in its outcome.

use std::io::Cursor;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::ipc::CompressionType;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::{IpcWriteOptions, StreamWriter};
use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::plan::base64_bytes;
use crate::{QueryError, Result};

/// Batches with their partitions. Within a process they are passed unchanged; otherwise they are serialized as an Arrow
/// IPC stream with ZSTD compression.
#[derive(Debug, Clone, Default)]
pub struct InlineRows {
    /// Pairs of a partition, counted over all combs, and a batch. All batches have the same schema.
    pub batches: Vec<(u32, RecordBatch)>,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    /// The partition of each batch of the stream.
    partitions: Vec<u32>,
    /// The stream; empty if there are no batches.
    #[serde(with = "base64_bytes")]
    stream: Bytes,
}

impl InlineRows {
    fn encode(&self) -> Result<Wire> {
        let partitions = self.batches.iter().map(|(partition, _)| *partition).collect();
        let Some((_, first)) = self.batches.first() else {
            return Ok(Wire { partitions, stream: Bytes::new() });
        };
        let options = IpcWriteOptions::default().try_with_compression(Some(CompressionType::ZSTD))?;
        let mut stream = Vec::new();
        let mut writer = StreamWriter::try_new_with_options(&mut stream, &first.schema(), options)?;
        for (_, batch) in &self.batches {
            // Batches with equal schemas may hold them as different objects.
            writer.write(&batch.clone().with_schema(Arc::clone(&first.schema()))?)?;
        }
        writer.finish()?;
        drop(writer);
        Ok(Wire { partitions, stream: stream.into() })
    }

    fn decode(wire: Wire) -> Result<InlineRows> {
        let mut batches = Vec::new();
        if !wire.stream.is_empty() {
            for batch in StreamReader::try_new(Cursor::new(wire.stream), None)? {
                batches.push(batch?);
            }
        }
        if batches.len() != wire.partitions.len() {
            return Err(QueryError::internal("the rows of an outcome are not one batch per partition entry"));
        }
        Ok(InlineRows { batches: wire.partitions.into_iter().zip(batches).collect() })
    }
}

impl Serialize for InlineRows {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.encode().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for InlineRows {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        InlineRows::decode(Wire::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Int64Array, RecordBatchOptions};
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn there_and_back(rows: &InlineRows) -> InlineRows {
        serde_json::from_str(&serde_json::to_string(rows).expect("rows have JSON")).expect("JSON of rows")
    }

    #[test]
    fn rows_survive_serialization() {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]));
        let batch = |ids: Vec<Option<i64>>| {
            RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(Int64Array::from(ids))]).expect("a batch")
        };
        let rows = InlineRows { batches: vec![(3, batch(vec![Some(1), None])), (0, batch(vec![Some(2)]))] };
        assert_eq!(there_and_back(&rows).batches, rows.batches);
        assert!(there_and_back(&InlineRows::default()).batches.is_empty());
    }

    #[test]
    fn batch_without_columns_keeps_its_row_count() {
        let schema = Arc::new(Schema::empty());
        let options = RecordBatchOptions::new().with_row_count(Some(7));
        let batch = RecordBatch::try_new_with_options(schema, vec![], &options).expect("a batch");
        let rows = InlineRows { batches: vec![(1, batch)] };
        assert_eq!(there_and_back(&rows).batches[0].1.num_rows(), 7);
    }

    #[test]
    fn partition_without_a_batch_is_rejected() {
        let wrong = r#"{"partitions": [1], "stream": ""}"#;
        let error = serde_json::from_str::<InlineRows>(wrong).expect_err("one partition, no batch");
        assert!(error.to_string().contains("not one batch per partition"), "{error}");
    }
}
