//! Tables as Parquet files, in several ways: as Buzz reads them, and with the same rows in another order and in other files.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::SchemaRef;
use parquet::arrow::ArrowWriter;
use parquet::errors::Result;
use parquet::file::properties::WriterProperties;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

/// A table that is there three times.
#[derive(Debug, Clone)]
pub(crate) struct Written {
    /// The folder that Buzz and plain DataFusion read.
    pub files: PathBuf,
    /// A folder with the same rows in reverse order.
    pub turned: PathBuf,
    /// A folder with the same rows, mixed.
    pub mixed: PathBuf,
}

/// Writes `batches` below `folder`, divided into `files` files of at least two row groups where there are enough rows.
///
/// # Errors
/// When Parquet cannot hold them.
pub(crate) fn write(folder: &Path, schema: &SchemaRef, batches: &[RecordBatch], files: usize) -> Result<Written> {
    let rows = concat_batches(schema, batches)?;
    let written = Written { files: folder.join("files"), turned: folder.join("turned"), mixed: folder.join("mixed") };
    let count = u32::try_from(rows.num_rows()).expect("small tables");
    let backwards = UInt32Array::from_iter_values((0..count).rev());
    let mut mixed: Vec<u32> = (0..count).collect();
    mixed.shuffle(&mut StdRng::seed_from_u64(1));
    write_folder(&written.files, &rows, files)?;
    write_folder(&written.turned, &take_record_batch(&rows, &backwards)?, 2)?;
    write_folder(&written.mixed, &take_record_batch(&rows, &UInt32Array::from(mixed))?, 1)?;
    Ok(written)
}

/// Writes `rows` to `folder`, divided into `files` files of at least two row groups if there are enough rows.
pub(crate) fn write_folder(folder: &Path, rows: &RecordBatch, files: usize) -> Result<()> {
    fs::create_dir_all(folder)?;
    let share = rows.num_rows().div_ceil(files).max(1);
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(share.div_ceil(2))).build();
    // A table without rows is one file without rows.
    for file in 0..rows.num_rows().div_ceil(share).max(1) {
        let part = rows.slice(file * share, share.min(rows.num_rows() - file * share));
        let out = File::create(folder.join(format!("part-{file:02}.parquet")))?;
        let mut writer = ArrowWriter::try_new(out, rows.schema(), Some(properties.clone()))?;
        writer.write(&part)?;
        writer.close()?;
    }
    Ok(())
}
