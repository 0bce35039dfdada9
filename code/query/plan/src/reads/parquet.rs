//! Reads of Parquet files as their reader does them: row groups and pages that pass the conditions, by their column chunks.

use std::ops::Range;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use buzz_catalog::Table;
use buzz_protocol::{Result, names_in_table};
use buzz_storage::footer_schema;
use datafusion::datasource::listing::FileRange;
use datafusion::datasource::physical_plan::parquet::{
    PagePruningAccessPlanFilter, ParquetAccessPlan, ParquetFileMetrics, RowGroupAccess, RowGroupAccessPlanFilter,
};
use datafusion::execution::cache::cache_manager::FileMetadataCache;
use datafusion::execution::runtime_env::RuntimeEnv;
use datafusion::physical_expr::utils::{collect_columns, conjunction_opt, reassign_expr_columns};
use datafusion::physical_expr::{PhysicalExpr, split_conjunction};
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use object_store::OBJECT_STORE_COALESCE_DEFAULT;
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData};

use super::{Read, ScanRead};

/// Returns the requests for a footer: for its length, for itself, and for the page index if the file has one.
pub(super) fn footer_requests(footer: &ParquetMetaData) -> u64 {
    let has_index =
        |column: &ColumnChunkMetaData| column.column_index_offset().is_some() || column.offset_index_offset().is_some();
    let is_indexed = footer.row_groups().iter().any(|group| group.columns().iter().any(has_index));
    if is_indexed { 3 } else { 2 }
}

/// Makes a cache for one footer.
pub(super) fn own_cache() -> Result<Arc<FileMetadataCache>> {
    Ok(RuntimeEnv::default().cache_manager.get_file_metadata_cache())
}

/// Returns the bytes and requests of the row groups of `footer` that begin in `range`, for the columns and conditions of
/// `read`.
pub(super) fn of_row_groups(
    table: &Table,
    footer: &ParquetMetaData,
    range: Option<(u64, u64)>,
    read: &ScanRead,
) -> Read {
    let names = names_of_columns(table, footer);
    let schema = footer.file_metadata().schema_descr();
    let is_read =
        |leaf: &usize| names.get(schema.get_column_root_idx(*leaf)).is_some_and(|name| read.columns.contains(name));
    let leaves: Vec<usize> = (0..schema.num_columns()).filter(is_read).collect();
    let access = access(table, footer, &names, range, read);
    let mut sum = Read::default();
    for (group, access) in access.inner().iter().enumerate() {
        let ranges = ranges(footer, group, access, &leaves);
        let bytes = ranges.iter().map(|range| range.end.saturating_sub(range.start)).fold(0, u64::saturating_add);
        sum += Read { bytes, requests: requests(ranges) };
    }
    sum
}

/// Returns the name in the table of each top-level column of a file. A column that the table lacks keeps its own.
fn names_of_columns(table: &Table, footer: &ParquetMetaData) -> Vec<String> {
    let mapping = &table.mapping;
    let fields = footer.file_metadata().schema_descr().root_schema().get_fields();
    let named = fields.iter().map(|field| {
        let (own, info) = (field.name(), field.get_basic_info());
        let is_own = |id: i64| info.has_id() && i64::from(info.id()) == id;
        let name = match mapping.ids.is_empty() {
            true => mapping.physical_names.iter().find(|(_, physical)| physical.as_str() == own).map(|(name, _)| name),
            false => mapping.ids.iter().find(|(_, id)| is_own(**id)).map(|(name, _)| name),
        };
        name.map_or_else(|| own.to_string(), String::clone)
    });
    let named: Vec<String> = named.collect();
    let table: Vec<&str> = table.schema.fields().iter().map(|field| field.name().as_str()).collect();
    names_in_table(&named.iter().map(String::as_str).collect::<Vec<_>>(), &table)
}

/// Returns the row groups and pages that are read.
fn access(
    table: &Table,
    footer: &ParquetMetaData,
    names: &[String],
    range: Option<(u64, u64)>,
    read: &ScanRead,
) -> ParquetAccessPlan {
    let groups = footer.row_groups();
    let mut kept = RowGroupAccessPlanFilter::new(ParquetAccessPlan::new_all(groups.len()));
    if footer.file_metadata().schema_descr().num_columns() == 0 {
        return kept.build();
    }
    if let Some((start, end)) = range {
        let offset = |at: u64| i64::try_from(at).unwrap_or(i64::MAX);
        kept.prune_by_range(groups, &FileRange { start: offset(start), end: offset(end) });
    }
    let Some((predicate, schema)) = predicate_of_file(table, footer, names, read) else {
        return kept.build();
    };
    let metrics = ParquetFileMetrics::new(0, "", &ExecutionPlanMetricsSet::new());
    let parquet = footer.file_metadata().schema_descr();
    let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(&schema));
    if let Ok(pruning) = builder.try_build(Arc::clone(&predicate)) {
        kept.prune_by_statistics(&schema, parquet, groups, &pruning, &metrics);
    }
    let pages = PagePruningAccessPlanFilter::new(&predicate, Arc::clone(&schema));
    let access = kept.build();
    match pages.filter_number() > 0 && footer.column_index().is_some() && footer.offset_index().is_some() {
        true => pages.prune_plan_with_page_index(access, &schema, parquet, footer, &metrics),
        false => access,
    }
}

/// Returns the conditions of `read` on columns that the file has, and the columns of the file with their names and types in
/// the table. `None` without such a condition.
fn predicate_of_file(
    table: &Table,
    footer: &ParquetMetaData,
    names: &[String],
    read: &ScanRead,
) -> Option<(Arc<dyn PhysicalExpr>, SchemaRef)> {
    let predicate = read.predicate.as_ref()?;
    let file = footer_schema(footer).ok()?;
    let in_table = |(field, name): (&FieldRef, &String)| match table.schema.field_with_name(name) {
        Ok(known) => Arc::new(known.clone()),
        Err(_) => Arc::clone(field),
    };
    let schema = Arc::new(Schema::new(file.fields().iter().zip(names).map(in_table).collect::<Vec<_>>()));
    let has_all = |condition: &Arc<dyn PhysicalExpr>| {
        collect_columns(condition).iter().all(|column| schema.index_of(column.name()).is_ok())
    };
    let conditions = split_conjunction(predicate).into_iter().filter(|condition| has_all(condition));
    let conditions = conditions.filter_map(|condition| reassign_expr_columns(Arc::clone(condition), &schema).ok());
    Some((conjunction_opt(conditions.collect::<Vec<_>>())?, schema))
}

/// Returns the ranges of bytes that the reader fetches of a row group at once: whole column chunks, or pages and the
/// dictionaries before them.
fn ranges(footer: &ParquetMetaData, group: usize, access: &RowGroupAccess, leaves: &[usize]) -> Vec<Range<u64>> {
    let columns = footer.row_group(group).columns();
    let chunks = leaves.iter().filter_map(|&leaf| Some((leaf, chunk(columns.get(leaf)?)?)));
    let indexes = footer.offset_index().and_then(|groups| groups.get(group));
    match (access, indexes) {
        (RowGroupAccess::Skip, _) => Vec::new(),
        (RowGroupAccess::Selection(selection), Some(indexes)) => chunks
            .flat_map(|(leaf, chunk)| {
                let Some(index) = indexes.get(leaf) else { return vec![chunk] };
                let first = index.page_locations.first().and_then(|page| u64::try_from(page.offset).ok());
                let dictionary = first.filter(|first| *first > chunk.start).map(|first| chunk.start..first);
                dictionary.into_iter().chain(selection.scan_ranges(&index.page_locations)).collect()
            })
            .collect(),
        (RowGroupAccess::Scan | RowGroupAccess::Selection(_), _) => chunks.map(|(_, chunk)| chunk).collect(),
    }
}

/// Returns the bytes of a column chunk; `None` if the footer contradicts itself.
fn chunk(column: &ColumnChunkMetaData) -> Option<Range<u64>> {
    let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
    let (start, length) = (u64::try_from(start).ok()?, u64::try_from(column.compressed_size()).ok()?);
    Some(start..start.checked_add(length)?)
}

/// Returns the number of requests for `ranges`: the client of a store joins ranges that are close to each other.
fn requests(mut ranges: Vec<Range<u64>>) -> u64 {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut requests = 0;
    let mut end: Option<u64> = None;
    for range in ranges {
        if end.is_none_or(|end| range.start.saturating_sub(end) > OBJECT_STORE_COALESCE_DEFAULT) {
            requests += 1;
        }
        end = Some(end.map_or(range.end, |end| end.max(range.end)));
    }
    requests
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_less_than_a_mebibyte_apart_are_one_request() {
        const MIB: u64 = 1 << 20;
        let count = |ranges: &[Range<u64>]| requests(ranges.to_vec());
        assert_eq!(count(&[]), 0);
        assert_eq!(count(&[0..10, 10..20]), 1);
        assert_eq!(count(&[10 + MIB..20 + MIB, 0..10]), 1);
        assert_eq!(count(&[0..10, 11 + MIB..20 + MIB]), 2);
        assert_eq!(count(&[0..10, 0..3 * MIB, 4 * MIB..5 * MIB]), 1);
    }
}
