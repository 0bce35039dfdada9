//! Impulse: a counter.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, TimestampNanosecondArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};

use crate::generate::{Generator, event_time};

/// Generates `(counter: UInt64, subtask_index: UInt64, timestamp: Timestamp(ns))`.
#[derive(Debug, Clone)]
pub struct Impulse {
    /// Events per second of event time.
    pub rate: f64,
    /// Seed of the disorder.
    pub seed: u64,
    /// Nanoseconds by which an event may be late.
    pub disorder_nanos: i64,
}

impl Generator for Impulse {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("counter", DataType::UInt64, true),
            Field::new("subtask_index", DataType::UInt64, true),
            Field::new("timestamp", DataType::Timestamp(TimeUnit::Nanosecond, None), true),
        ]))
    }

    fn events(&self, base_nanos: i64, first: u64, count: usize) -> RecordBatch {
        let range = first..first + count as u64;
        let columns: Vec<ArrayRef> = vec![
            Arc::new(UInt64Array::from_iter_values(range.clone())),
            Arc::new(UInt64Array::from_value(0, count)),
            Arc::new(TimestampNanosecondArray::from_iter_values(
                range.map(|i| event_time(self.seed, base_nanos, self.rate, self.disorder_nanos, i)),
            )),
        ];
        RecordBatch::try_new(self.schema(), columns).expect("the columns have the types of the schema")
    }

    fn disorder_nanos(&self) -> i64 {
        self.disorder_nanos
    }
}
