//! Generators as sources.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_protocol::{QueryError, Result};
use serde_json::{Value, json};

use crate::generate::Generator;
use crate::source::{End, Source, SourceBatch};

/// Events that one task generates.
const CHUNK: u64 = 65_536;

/// A source of generated events.
#[derive(Debug)]
pub struct GeneratedSource {
    /// Generates the events.
    pub generator: Arc<dyn Generator>,
    /// Positions of the columns that are returned.
    pub columns: Vec<usize>,
    /// Number of events; `None` for an endless source.
    pub count: Option<u64>,
    /// Events per second of real time; `None` for as fast as possible.
    pub pace: Option<f64>,
    /// The event time of event 0; `None` for the time of the first read.
    pub base: Option<i64>,
    /// The number of the next event.
    pub next: u64,
}

impl GeneratedSource {
    /// Resumes from an offset.
    ///
    /// # Errors
    /// `Data` if the offset is not one of a generator.
    pub fn resume(&mut self, offset: &Value) -> Result<()> {
        let number = |key: &str| offset.get(key).cloned().unwrap_or(Value::Null);
        self.next =
            number("next").as_u64().ok_or_else(|| QueryError::data(format!("offset {offset} has no `next`")))?;
        self.base = number("base").as_i64().or(self.base);
        Ok(())
    }
}

#[async_trait]
impl Source for GeneratedSource {
    fn schema(&self) -> SchemaRef {
        let schema = self.generator.schema().project(&self.columns);
        Arc::new(schema.expect("the columns are those of the generator"))
    }

    async fn read(&mut self, rows: usize, now: i64) -> Result<SourceBatch> {
        let base = *self.base.get_or_insert(now);
        let until_full = self.next.saturating_add(rows as u64);
        let mut until = until_full;
        if let Some(pace) = self.pace {
            let due = (now.saturating_sub(base).max(0) as f64 * pace / 1e9) as u64;
            let due = due.saturating_add(1);
            until = until.min(due);
        }
        if let Some(count) = self.count {
            until = until.min(count);
        }
        let mut tasks = Vec::new();
        let mut at = self.next;
        while at < until {
            let count = CHUNK.min(until - at);
            let (generator, columns) = (Arc::clone(&self.generator), self.columns.clone());
            tasks.push(tokio::task::spawn_blocking(move || {
                generator.events(base, at, count as usize).project(&columns)
            }));
            at += count;
        }
        let mut batches: Vec<RecordBatch> = Vec::new();
        for task in tasks {
            let batch = task.await.map_err(|error| QueryError::internal(format!("a generator stopped: {error}")))?;
            batches.push(batch?);
        }
        let full = until == until_full;
        self.next = until.max(self.next);
        let ended = self.count.is_some_and(|count| self.next >= count);
        let partitions = vec![("0".to_string(), batches)];
        Ok(SourceBatch { partitions, ended, more: full && !ended, ..Default::default() })
    }

    fn end(&self) -> End {
        if self.count.is_some() { End::Reached } else { End::Option("events = '1000'") }
    }

    fn offset(&self) -> Value {
        json!({"next": self.next, "base": self.base})
    }
}
