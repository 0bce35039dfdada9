//! The tables of TPC-H, the taxi sample and real trips, each divided into many files. The first test that needs them
//! writes them.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use buzz_testkit::{TPCH_ANSWERS_SCALE, TPCH_TABLES, tpch_table};
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use libtest_mimic::Failed;
use tokio::sync::OnceCell;

use crate::extremes::{EXTREMES, extremes};
use crate::inputs::Inputs;
use crate::parquet::{self, Written};

/// Files that each table is divided into; a table with fewer rows has one file per row.
pub(crate) const FILES: usize = 16;

/// The scale factor of [`Tables`].
const SCALE: f64 = 0.01;

/// Rows of the taxi sample.
const RIDES: u64 = 20_000;

/// The real table.
pub(crate) const TRIPS: &str = "trips";

/// Real rides with nulls, floats and times. The whole month would only be slower.
const TRIPS_SQL: &str = "SELECT \"VendorID\" AS vendor_id, lpep_pickup_datetime AS picked_up, \"PULocationID\" AS pickup, \
    \"DOLocationID\" AS dropoff, passenger_count, trip_distance, fare_amount, tip_amount, payment_type, \
    store_and_fwd_flag FROM trips LIMIT 20000";

type BoxedError = Box<dyn Error + Send + Sync>;

/// A table and the place where it was written.
#[derive(Debug)]
pub(crate) struct SourceTable {
    pub name: String,
    pub schema: SchemaRef,
    pub row_count: usize,
    pub written: Written,
}

/// TPC-H at scale factor 0.01, the taxi sample as `rides`, `extremes`, and `trips` if this machine has the real tables.
#[derive(Debug)]
pub(crate) struct Tables {
    pub tables: Vec<SourceTable>,
}

static TABLES: OnceCell<Result<Tables, String>> = OnceCell::const_new();

static LARGE: OnceCell<Result<PathBuf, String>> = OnceCell::const_new();

impl Tables {
    /// Returns the tables; the first call writes them.
    pub(crate) async fn get(inputs: &Inputs) -> Result<&'static Tables, Failed> {
        let write = async || Tables::write(inputs).await.map_err(|error| error.to_string());
        TABLES.get_or_init(write).await.as_ref().map_err(|error| error.clone().into())
    }

    /// Returns the table `name`, which must be of TPC-H.
    pub(crate) fn table(&self, name: &str) -> &SourceTable {
        self.tables.iter().find(|table| table.name == name).expect("all tables of TPC-H are written")
    }

    async fn write(inputs: &Inputs) -> Result<Tables, BoxedError> {
        let folder = inputs.scratch.path().join("tables");
        let mut tables = Vec::new();
        for name in TPCH_TABLES {
            let (schema, batches) = tpch_table(name, SCALE)?;
            tables.push(write(&folder, name, schema, &batches)?);
        }
        let sample = inputs.scratch.path().join("sample");
        buzz_cli::sample::generate(sample.clone(), RIDES, 2).await?;
        let by_day = vec![("pickup_date".to_string(), DataType::Date32)];
        let by_day = ParquetReadOptions::default().table_partition_cols(by_day);
        let (schema, batches) = read("rides", &sample, by_day, "SELECT * FROM rides").await?;
        tables.push(write(&folder, "rides", schema, &batches)?);
        let (schema, batches) = extremes()?;
        tables.push(write(&folder, EXTREMES, schema, &batches)?);
        if let Some(shared) = &inputs.shared {
            let file = shared.join("tables/nyc-tlc/green_tripdata_2023-12.parquet");
            let (schema, batches) = read(TRIPS, &file, ParquetReadOptions::default(), TRIPS_SQL).await?;
            tables.push(write(&folder, TRIPS, schema, &batches)?);
        }
        Ok(Tables { tables })
    }
}

async fn read(
    name: &str,
    path: &Path,
    options: ParquetReadOptions<'_>,
    sql: &str,
) -> Result<(SchemaRef, Vec<RecordBatch>), BoxedError> {
    let ctx = SessionContext::new();
    ctx.register_parquet(name, path.to_string_lossy(), options).await?;
    let frame = ctx.sql(sql).await?;
    let schema: SchemaRef = Arc::clone(frame.schema().inner());
    Ok((schema, frame.collect().await?))
}

fn write(folder: &Path, name: &str, schema: SchemaRef, batches: &[RecordBatch]) -> Result<SourceTable, BoxedError> {
    let written = parquet::write(&folder.join(name), &schema, batches, FILES)?;
    let row_count = batches.iter().map(RecordBatch::num_rows).sum();
    Ok(SourceTable { name: name.to_string(), schema, row_count, written })
}

/// Returns a folder with one folder of files for each table of TPC-H, at the scale factor of the stored answers; the first
/// call writes it.
pub(crate) async fn large_tpch(inputs: &Inputs) -> Result<&'static Path, Failed> {
    let write = async || -> Result<PathBuf, String> {
        let folder = inputs.scratch.path().join("large");
        for name in TPCH_TABLES {
            let (schema, batches) = tpch_table(name, TPCH_ANSWERS_SCALE).map_err(|error| error.to_string())?;
            let rows = concat_batches(&schema, &batches).map_err(|error| error.to_string())?;
            parquet::write_folder(&folder.join(name), &rows, FILES).map_err(|error| error.to_string())?;
        }
        Ok(folder)
    };
    LARGE.get_or_init(write).await.as_deref().map_err(|error| error.clone().into())
}
