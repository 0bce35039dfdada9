//! The shared tables, each divided into many files. Whoever asks first writes them.

use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use libtest_mimic::Failed;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::parquet::{self, Written};

/// The tables of TPC-H.
pub(crate) const TPCH: [&str; 8] =
    ["customer", "lineitem", "nation", "orders", "part", "partsupp", "region", "supplier"];

/// Files that each table is divided into; one with fewer rows has a file for each.
pub(crate) const FILES: usize = 16;

/// Rides with nulls, floats and times. The whole month would only be slower.
const TRIPS: &str = "SELECT \"VendorID\" AS vendor_id, lpep_pickup_datetime AS picked_up, \"PULocationID\" AS pickup, \
    \"DOLocationID\" AS dropoff, passenger_count, trip_distance, fare_amount, tip_amount, payment_type, \
    store_and_fwd_flag FROM trips LIMIT 20000";

/// A table and where it was written.
#[derive(Debug)]
pub(crate) struct SharedTable {
    pub name: String,
    pub schema: SchemaRef,
    pub row_count: usize,
    pub written: Written,
}

/// The tables of `tpch-sf0.01`, and `trips`.
#[derive(Debug)]
pub(crate) struct SharedTables {
    pub tables: Vec<SharedTable>,
    _folder: TempDir,
}

static SHARED: OnceCell<Result<SharedTables, String>> = OnceCell::const_new();

impl SharedTables {
    /// The tables, which are written once.
    pub(crate) async fn get(data: &Path) -> Result<&'static SharedTables, Failed> {
        let write = async || SharedTables::write(data).await.map_err(|error| error.to_string());
        SHARED.get_or_init(write).await.as_ref().map_err(|error| error.clone().into())
    }

    /// The table called `name`.
    pub(crate) fn table(&self, name: &str) -> &SharedTable {
        self.tables.iter().find(|table| table.name == name).expect("all of TPC-H was written")
    }

    async fn write(data: &Path) -> Result<SharedTables, Box<dyn std::error::Error + Send + Sync>> {
        let folder = tempfile::tempdir()?;
        let mut tables = Vec::new();
        let whole =
            TPCH.map(|name| (name, format!("tables/tpch-sf0.01/{name}.parquet"), format!("SELECT * FROM {name}")));
        let trips = ("trips", "tables/nyc-tlc/green_tripdata_2023-12.parquet".to_string(), TRIPS.to_string());
        for (name, file, sql) in whole.into_iter().chain([trips]) {
            let ctx = SessionContext::new();
            let path = data.join(file).to_string_lossy().into_owned();
            ctx.register_parquet(name, path, ParquetReadOptions::default()).await?;
            let frame = ctx.sql(&sql).await?;
            let schema: SchemaRef = Arc::clone(frame.schema().inner());
            let batches = frame.collect().await?;
            let written = parquet::write(&folder.path().join(name), &schema, &batches, FILES)?;
            let row_count = batches.iter().map(|batch| batch.num_rows()).sum();
            tables.push(SharedTable { name: name.to_string(), schema, row_count, written });
        }
        Ok(SharedTables { tables, _folder: folder })
    }
}
