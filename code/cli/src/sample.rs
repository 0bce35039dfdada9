//! The sample table: one month of generated taxi rides in Delta Lake format, partitioned by day.
//!
//! It has the columns of the original Buzz's `nyc_taxi_cloudfuse` list without `rate_code_id`, and the partition column
//! `pickup_date`. The same number of rows always generates the same rows.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, Float32Builder, Int8Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use buzz_protocol::{QueryError, Result};
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

const DAYS: u64 = 31;
const FILES_PER_DAY: u64 = 3;

/// 2009-01-01T00:00:00 in microseconds since the epoch.
const FIRST_DAY_MICROS: i64 = 1_230_768_000_000_000;
const DAY_MICROS: i64 = 86_400_000_000;

/// Modification time of every file in the log, in milliseconds since the epoch. It is fixed, so that the table does not
/// depend on when it is generated.
const MODIFIED_MILLIS: i64 = 1_233_446_400_000;

const PAYMENT_TYPES: [(&str, u32); 6] =
    [("CASH", 420), ("Cash", 330), ("CREDIT", 120), ("Credit", 122), ("No Charge", 6), ("Dispute", 2)];

/// Generates the table in `folder`, unless it already exists.
///
/// # Errors
/// `Invalid` if the folder is not writable.
pub async fn generate(folder: PathBuf, rows: u64, threads: usize) -> Result<()> {
    if folder.join("_delta_log/00000000000000000000.json").exists() {
        eprintln!("the sample table already exists in {}", folder.display());
        return Ok(());
    }
    eprintln!("generating the sample table, {rows} rows, in {} …", folder.display());
    // Writes to a temporary folder and renames it, so that an interrupted run leaves no partial table.
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::create_dir_all(parent).map_err(|error| not_written(parent, &error))?;
    let making = tempfile::Builder::new().prefix(".buzz-sample-").tempdir_in(parent);
    let making = making.map_err(|error| not_written(parent, &error))?;

    let count = DAYS * FILES_PER_DAY;
    let mut writing = Vec::new();
    for file in 0..count {
        let folder = making.path().to_path_buf();
        let own = rows / count + u64::from(file < rows % count);
        writing.push(async move {
            let written = tokio::task::spawn_blocking(move || write_file(&folder, file, own)).await;
            written.map_err(|_| QueryError::cancelled("the process is stopping"))?
        });
    }
    let files: Vec<Value> = futures::stream::iter(writing).buffered(threads).try_collect().await?;
    write_log(making.path(), &files)?;
    let made = making.keep();
    fs::set_permissions(&made, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .and_then(|()| fs::rename(&made, &folder))
        .map_err(|error| {
            _ = fs::remove_dir_all(&made);
            not_written(&folder, &error)
        })
}

fn not_written(path: &Path, error: &dyn std::fmt::Display) -> QueryError {
    QueryError::invalid(format!("the sample table cannot be written to `{}`: {error}", path.display()))
}

fn file_schema() -> SchemaRef {
    let timestamp = DataType::Timestamp(TimeUnit::Microsecond, None);
    let mut fields = vec![
        ("vendor_id", DataType::Utf8),
        ("pickup_at", timestamp.clone()),
        ("dropoff_at", timestamp),
        ("passenger_count", DataType::Int8),
        ("trip_distance", DataType::Float32),
        ("pickup_longitude", DataType::Float32),
        ("pickup_latitude", DataType::Float32),
        ("store_and_fwd_flag", DataType::Utf8),
        ("dropoff_longitude", DataType::Float32),
        ("dropoff_latitude", DataType::Float32),
        ("payment_type", DataType::Utf8),
    ];
    let amounts = ["fare_amount", "extra", "mta_tax", "tip_amount", "tolls_amount", "total_amount"];
    fields.extend(amounts.map(|name| (name, DataType::Float32)));
    Arc::new(Schema::new(fields.into_iter().map(|(name, kind)| Field::new(name, kind, true)).collect::<Vec<_>>()))
}

/// Writes file number `file` and returns its `add` action.
fn write_file(table: &Path, file: u64, rows: u64) -> Result<Value> {
    let day = file / FILES_PER_DAY;
    let date = format!("2009-01-{:02}", day + 1);
    let relative = format!("pickup_date={date}/part-{:05}.snappy.parquet", file % FILES_PER_DAY);
    let path: PathBuf = table.join(&relative);
    let failed = |error: &dyn std::fmt::Display| not_written(&path, error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    }

    let batch = rides(file, day, rows)?;
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let output = File::create(&path).map_err(|error| failed(&error))?;
    let mut writer = ArrowWriter::try_new(output, batch.schema(), Some(properties)).map_err(|error| failed(&error))?;
    writer.write(&batch).and_then(|()| writer.close().map(|_| ())).map_err(|error| failed(&error))?;
    let size = fs::metadata(&path).map_err(|error| failed(&error))?.len();
    Ok(json!({"add": {
        "path": relative,
        "partitionValues": {"pickup_date": date},
        "size": size,
        "modificationTime": MODIFIED_MILLIS,
        "dataChange": true,
        "stats": json!({"numRecords": rows}).to_string(),
    }}))
}

fn rides(file: u64, day: u64, rows: u64) -> Result<RecordBatch> {
    // The seed is the file number, so that all files differ.
    let mut random = StdRng::seed_from_u64(file);
    let count = usize::try_from(rows).unwrap_or_default();
    let weights: u32 = PAYMENT_TYPES.iter().map(|(_, weight)| weight).sum();
    let midnight = FIRST_DAY_MICROS + i64::try_from(day).unwrap_or_default() * DAY_MICROS;

    let mut texts: [StringBuilder; 3] = std::array::from_fn(|_| StringBuilder::with_capacity(count, count * 6));
    let mut times: [TimestampMicrosecondBuilder; 2] =
        std::array::from_fn(|_| TimestampMicrosecondBuilder::with_capacity(count));
    let mut passengers = Int8Builder::with_capacity(count);
    let mut numbers: [Float32Builder; 11] = std::array::from_fn(|_| Float32Builder::with_capacity(count));
    for _ in 0..rows {
        let pickup = midnight + random.random_range(0..86_400) * 1_000_000;
        let minutes: i64 = random.random_range(2..50);
        let distance = minutes as f32 * random.random_range(0.1..0.35_f32);
        let fare = 2.5 + (distance * 2.0 / 0.4).round() * 0.4;
        let payment = payment_type(random.random_range(0..weights));
        let credit = payment.eq_ignore_ascii_case("credit");
        let tip = if credit { (fare * random.random_range(0.0..0.3_f32) * 4.0).round() / 4.0 } else { 0.0 };
        let tolls = if random.random_range(0..20) == 0 { 4.15 } else { 0.0 };
        let extra = if random.random_bool(0.4) { 0.5 } else { 0.0 };

        texts[0].append_value(["CMT", "DDS", "VTS"][random.random_range(0..3)]);
        texts[1].append_option(random.random_bool(0.05).then_some("Y"));
        texts[2].append_value(payment);
        times[0].append_value(pickup);
        times[1].append_value(pickup + minutes * 60_000_000);
        passengers.append_value([1, 1, 1, 1, 2, 2, 3, 5, 6][random.random_range(0..9)]);
        let mut place = |centre: f32| centre + random.random_range(-0.05..0.05_f32);
        let places = [place(-73.97), place(40.75), place(-73.97), place(40.75)];
        let values = [distance, places[0], places[1], places[2], places[3], fare, extra, 0.5, tip, tolls];
        for (column, value) in numbers.iter_mut().zip(values) {
            column.append_value(value);
        }
        numbers[10].append_value(fare + extra + 0.5 + tip + tolls);
    }

    let [vendor, forwarded, payment] = texts.map(|mut column| Arc::new(column.finish()) as ArrayRef);
    let [pickup, dropoff] = times.map(|mut column| Arc::new(column.finish()) as ArrayRef);
    let numbers = numbers.map(|mut column| Arc::new(column.finish()) as ArrayRef);
    let [distance, from_x, from_y, to_x, to_y, fare, extra, tax, tip, tolls, total] = numbers;
    let passengers = Arc::new(passengers.finish()) as ArrayRef;
    Ok(RecordBatch::try_new(
        file_schema(),
        vec![
            vendor, pickup, dropoff, passengers, distance, from_x, from_y, forwarded, to_x, to_y, payment, fare, extra,
            tax, tip, tolls, total,
        ],
    )?)
}

fn payment_type(mut draw: u32) -> &'static str {
    for (name, weight) in PAYMENT_TYPES {
        if draw < weight {
            return name;
        }
        draw -= weight;
    }
    PAYMENT_TYPES[0].0
}

fn write_log(table: &Path, files: &[Value]) -> Result<()> {
    let delta_type = |kind: &DataType| match kind {
        DataType::Utf8 => "string",
        DataType::Int8 => "byte",
        DataType::Float32 => "float",
        _ => "timestamp_ntz",
    };
    let field = |name: &str, kind: &str| json!({"name": name, "type": kind, "nullable": true, "metadata": {}});
    let mut fields: Vec<Value> =
        file_schema().fields().iter().map(|column| field(column.name(), delta_type(column.data_type()))).collect();
    fields.push(field("pickup_date", "date"));
    let schema = json!({"type": "struct", "fields": fields});

    let protocol = json!({"protocol": {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["timestampNtz"],
        "writerFeatures": ["timestampNtz"],
    }});
    let metadata = json!({"metaData": {
        "id": "5b0a8c1e-2009-4101-8000-000000000000",
        "name": "nyc-taxi-daily",
        "format": {"provider": "parquet", "options": {}},
        "schemaString": schema.to_string(),
        "partitionColumns": ["pickup_date"],
        "configuration": {},
        "createdTime": MODIFIED_MILLIS,
    }});
    let folder = table.join("_delta_log");
    let path = folder.join("00000000000000000000.json");
    let lines = [&protocol, &metadata].into_iter().chain(files).map(|action| format!("{action}\n"));
    fs::create_dir_all(&folder)
        .and_then(|()| File::create(&path))
        .and_then(|mut log| log.write_all(lines.collect::<String>().as_bytes()))
        .map_err(|error| not_written(&path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_file_number_generates_the_same_rides() {
        assert_eq!(rides(4, 1, 100).unwrap(), rides(4, 1, 100).unwrap());
        assert_ne!(rides(4, 1, 100).unwrap(), rides(5, 1, 100).unwrap());
    }
}
