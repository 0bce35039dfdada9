//! Collects the rows of an answer.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use buzz_engine::{Content, Question, ResultBytes, RowSink, Rows, SinkOnce};
use buzz_protocol::Result;

/// Takes the rows of an answer, up to the option `max_result_bytes`: passes them to the sink of the question, or collects
/// them. Few rows are collected in both cases, if they may be kept for other queries.
pub(crate) struct Collected {
    sink: Option<Box<dyn RowSink>>,
    /// The rows; without a sink, all of them.
    rows: Option<Rows>,
    size: ResultBytes,
    /// Maximum bytes of rows that are kept for other queries.
    kept_max: u64,
}

impl Collected {
    /// Takes the rows of the answer to `question`, of which at most `kept_max` bytes are kept for other queries.
    pub(crate) fn of(question: &Question, kept_max: u64) -> Self {
        let sink = question.sink.as_ref().and_then(SinkOnce::take);
        let size = ResultBytes::at_most(question.options.max_result_bytes);
        Self { sink, rows: None, size, kept_max }
    }

    /// Returns the rows if they are few enough to be kept for other queries.
    pub(crate) fn kept(&self) -> Option<&Rows> {
        self.rows.as_ref().filter(|_| self.kept_max > 0 && self.size.bytes() <= self.kept_max)
    }

    /// Returns the content of the answer.
    pub(crate) fn content(self) -> Content {
        match self.sink {
            Some(_) => Content::Passed,
            None => Content::Rows(self.rows.unwrap_or_default()),
        }
    }
}

#[async_trait]
impl RowSink for Collected {
    fn start(&mut self, schema: SchemaRef) -> Result<()> {
        self.size = self.size.again();
        self.rows = None;
        if self.sink.is_none() || self.kept_max > 0 {
            let mut rows = Rows::new();
            rows.start(SchemaRef::clone(&schema))?;
            self.rows = Some(rows);
        }
        match &mut self.sink {
            Some(sink) => sink.start(schema),
            None => Ok(()),
        }
    }

    async fn ready(&mut self) -> Result<()> {
        match &mut self.sink {
            Some(sink) => sink.ready().await,
            None => Ok(()),
        }
    }

    fn write(&mut self, batch: RecordBatch) -> Result<()> {
        self.size.add(&batch)?;
        if self.sink.is_some() && self.size.bytes() > self.kept_max {
            self.rows = None;
        }
        if let Some(rows) = &mut self.rows {
            rows.write(batch.clone())?;
        }
        match &mut self.sink {
            Some(sink) => sink.write(batch),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array};
    use buzz_protocol::{ErrorKind, Options, Query, QueryBody};
    use parking_lot::Mutex;

    use super::*;

    /// Counts the rows that it takes.
    #[derive(Clone, Default)]
    struct Counting(Arc<Mutex<usize>>);

    impl RowSink for Counting {
        fn start(&mut self, _schema: SchemaRef) -> Result<()> {
            *self.0.lock() = 0;
            Ok(())
        }

        fn write(&mut self, batch: RecordBatch) -> Result<()> {
            *self.0.lock() += batch.num_rows();
            Ok(())
        }
    }

    fn question(max_result_bytes: u64) -> Question {
        let body = QueryBody::Sql("SELECT 1".to_string());
        let query = Query { catalogs: Vec::new(), body, zones: 1, params: Default::default() };
        Question::new(query, "/").with_options(Options { max_result_bytes, ..Options::default() })
    }

    fn batch() -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..100));
        RecordBatch::try_from_iter([("n", numbers)]).unwrap()
    }

    fn count(rows: &Rows) -> usize {
        rows.batches().unwrap().map(|batch| batch.unwrap().num_rows()).sum()
    }

    #[test]
    fn rows_go_to_the_sink_and_few_of_them_are_kept() {
        for (kept_max, kept) in [(0, None), (1000, None), (2000, Some(200))] {
            let sink = Counting::default();
            let asked = question(10_000).with_sink(SinkOnce::new(sink.clone()));
            let mut collected = Collected::of(&asked, kept_max);
            for _ in 0..2 {
                // The second run replaces the first.
                collected.start(batch().schema()).unwrap();
                collected.write(batch()).unwrap();
                collected.write(batch()).unwrap();
            }
            assert_eq!((*sink.0.lock(), collected.kept().map(count)), (200, kept), "{kept_max}");
            assert!(matches!(collected.content(), Content::Passed));
        }
    }

    #[test]
    fn rows_are_collected_without_a_sink() {
        for (kept_max, kept) in [(0, None), (799, None), (800, Some(100))] {
            let mut collected = Collected::of(&question(10_000), kept_max);
            collected.start(batch().schema()).unwrap();
            collected.write(batch()).unwrap();
            assert_eq!(collected.kept().map(count), kept, "{kept_max}");
            let Content::Rows(rows) = collected.content() else { panic!("there is no sink") };
            assert_eq!(count(&rows), 100);
        }
    }

    #[test]
    fn rows_that_are_passed_on_have_the_limit_of_a_result() {
        let asked = question(1000).with_sink(SinkOnce::new(Counting::default()));
        let mut collected = Collected::of(&asked, 0);
        collected.start(batch().schema()).unwrap();
        collected.write(batch()).unwrap();
        let error = collected.write(batch()).unwrap_err();
        assert!(error.kind == ErrorKind::Limit && error.message.contains("`max_result_bytes`"), "{error}");
    }
}
