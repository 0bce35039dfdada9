//! The table function `pg_get_keywords()`, from which JDBC takes the words that must be quoted.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringArray};
use datafusion::catalog::{TableFunctionImpl, TableProvider};
use datafusion::datasource::MemTable;
use datafusion::error::Result;
use datafusion::prelude::Expr;
use datafusion::sql::sqlparser::keywords::{ALL_KEYWORDS, RESERVED_FOR_IDENTIFIER};

/// The words of the parser.
#[derive(Debug)]
pub(super) struct Keywords;

impl TableFunctionImpl for Keywords {
    /// Returns the columns `word`, `catcode` and `catdesc`, all texts.
    fn call(&self, _: &[Expr]) -> Result<Arc<dyn TableProvider>> {
        let reserved: Vec<String> = RESERVED_FOR_IDENTIFIER.iter().map(|word| format!("{word:?}")).collect();
        let is_reserved = |word: &str| reserved.iter().any(|reserved| reserved == word);
        let column = |text: &dyn Fn(&str) -> String| -> ArrayRef {
            Arc::new(ALL_KEYWORDS.iter().map(|word| Some(text(word))).collect::<StringArray>())
        };
        let batch = RecordBatch::try_from_iter([
            ("word", column(&str::to_lowercase)),
            ("catcode", column(&|word| if is_reserved(word) { "R" } else { "U" }.to_string())),
            ("catdesc", column(&|word| if is_reserved(word) { "reserved" } else { "unreserved" }.to_string())),
        ])?;
        Ok(Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]])?))
    }
}
