//! Runs queries on plain DataFusion, for comparison.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::error::Result;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};

/// Runs `sql` on plain DataFusion. `tables` maps each name to a Parquet file or folder.
///
/// # Errors
/// Any error of DataFusion.
pub async fn plain_rows(sql: &str, tables: &[(&str, &str)], threads: usize) -> Result<Vec<RecordBatch>> {
    let ctx = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(threads));
    for (name, path) in tables {
        ctx.register_parquet(*name, *path, ParquetReadOptions::default()).await?;
    }
    ctx.sql(sql).await?.collect().await
}

/// Formats every row as text, one string per value. Floats are rounded to ten significant digits, since the last digits
/// of sums depend on how the work is divided.
fn rows_as_text(batches: &[RecordBatch]) -> Vec<Vec<String>> {
    let options = FormatOptions::default().with_null("NULL");
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<ArrayFormatter<'_>> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column, &options).expect("every type has a text"))
            .collect();
        let floats: Vec<bool> = batch.columns().iter().map(|column| column.data_type().is_floating()).collect();
        for row in 0..batch.num_rows() {
            let cell = |(column, float): (&ArrayFormatter<'_>, &bool)| {
                let text = column.value(row).to_string();
                match text.parse::<f64>() {
                    Ok(value) if *float => format!("{value:.9e}"),
                    _ => text,
                }
            };
            rows.push(columns.iter().zip(&floats).map(cell).collect());
        }
    }
    rows
}

/// Formats the rows of `batches` as sorted lines of text.
pub fn sorted_text(batches: &[RecordBatch]) -> Vec<String> {
    let mut lines: Vec<String> = rows_as_text(batches).into_iter().map(|row| row.join(" | ")).collect();
    lines.sort();
    lines
}

/// Returns true if two answers have the same rows, in the same order if `ordered`.
pub fn same_rows(left: &[RecordBatch], right: &[RecordBatch], ordered: bool) -> bool {
    if ordered { rows_as_text(left) == rows_as_text(right) } else { sorted_text(left) == sorted_text(right) }
}
