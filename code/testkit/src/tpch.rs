//! TPC-H: tables made by the crate `tpchgen`, and the statements and answers that `datafusion-sqllogictest` holds.

use std::path::Path;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatchReader;
use sqllogictest::{DefaultColumnType, QueryExpect, Record};
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};

/// The names of the tables.
pub const TPCH_TABLES: [&str; 8] =
    ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

/// Returns the schema and the rows of the table `name`, one of [`TPCH_TABLES`], at the scale factor `scale`.
///
/// # Errors
/// If Arrow cannot hold the rows.
pub fn tpch_table(name: &str, scale: f64) -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
    let batches: Box<dyn RecordBatchReader> = match name {
        "customer" => Box::new(CustomerArrow::new(CustomerGenerator::new(scale, 1, 1))),
        "lineitem" => Box::new(LineItemArrow::new(LineItemGenerator::new(scale, 1, 1))),
        "nation" => Box::new(NationArrow::new(NationGenerator::new(scale, 1, 1))),
        "orders" => Box::new(OrderArrow::new(OrderGenerator::new(scale, 1, 1))),
        "part" => Box::new(PartArrow::new(PartGenerator::new(scale, 1, 1))),
        "partsupp" => Box::new(PartSuppArrow::new(PartSuppGenerator::new(scale, 1, 1))),
        "region" => Box::new(RegionArrow::new(RegionGenerator::new(scale, 1, 1))),
        "supplier" => Box::new(SupplierArrow::new(SupplierGenerator::new(scale, 1, 1))),
        other => panic!("TPC-H has no table `{other}`"),
    };
    Ok((batches.schema(), batches.collect::<Result<_, _>>()?))
}

/// A statement of TPC-H and its answer at scale factor 0.1.
#[derive(Debug, Clone)]
pub struct TpchStatement {
    /// The statement.
    pub sql: String,
    /// One text per row, with a space between cells.
    pub answer: Vec<String>,
}

/// The scale factor of the answers of [`tpch_statement`].
pub const TPCH_ANSWERS_SCALE: f64 = 0.1;

/// Reads statement `number`, 1 to 22, from `slt_files`, the folder that [`datafusion_slt_files`] returns.
///
/// [`datafusion_slt_files`]: crate::datafusion_slt_files
///
/// # Errors
/// A text that names the file, if it cannot be read or has no statement with an answer.
pub fn tpch_statement(slt_files: &Path, number: u64) -> Result<TpchStatement, String> {
    let path = slt_files.join(format!("tpch/answers/q{number}.slt.part"));
    let failed = |reason: &dyn std::fmt::Display| format!("{}: {reason}", path.display());
    let text = std::fs::read_to_string(&path).map_err(|error| failed(&error))?;
    let records = sqllogictest::parse::<DefaultColumnType>(&text).map_err(|error| failed(&error))?;
    let answered = records.into_iter().find_map(|record| match record {
        Record::Query { sql, expected: QueryExpect::Results { results, .. }, .. } => {
            Some(TpchStatement { sql, answer: results })
        }
        _ => None,
    });
    answered.ok_or_else(|| failed(&"no statement with an answer"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_is_made_at_small_scale() {
        let rows = TPCH_TABLES.map(|name| {
            let (schema, batches) = tpch_table(name, 0.001).unwrap();
            assert!(batches.iter().all(|batch| batch.schema() == schema), "{name}");
            batches.iter().map(RecordBatch::num_rows).sum::<usize>()
        });
        assert_eq!(rows, [150, 6005, 25, 1500, 200, 800, 5, 10]);
    }
}
