//! Plans one SQL statement: its map stages and one reduce step.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{FieldRef, Schema};
use buzz_catalog::{DataFile, Table};
use buzz_protocol::plan::encode_fragment;
use buzz_protocol::query::name_help;
use buzz_protocol::{Options, QueryError, QueryId, Result, StageId};
use buzz_storage::Storage;
use chrono::Utc;
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNode;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::sql::parser::Statement;

use crate::cut::{CutRules, Fragment, Scan, TableCost, cut};
use crate::narrow::narrowed;
use crate::plan::{BuildSide, Evaluate, Explain, MapStage, QueryPlan, ReduceStep, Reducer};
use crate::reduce::{self, planned};
use crate::session::{planning_config, session, session_options};
use crate::split::{pack, split_target, tasks_wanted};
use crate::steps::{self, delivered_schema};
use crate::table::{FileTable, InboxTarget};
use crate::{Combs, Compute, Request, prune};

/// The name of the only reduce step of a statement.
const STEP: &str = "query";

/// Plans the statement `sql` of `request` over its opened `tables`.
pub(crate) async fn plan(
    request: &Request,
    sql: &str,
    tables: Vec<Table>,
    storage: &Storage,
    compute: &dyn Compute,
    combs: &dyn Combs,
) -> Result<QueryPlan> {
    let options = &request.options;
    let start = Utc::now();
    let mut tables: Vec<Arc<Table>> = tables.into_iter().map(Arc::new).collect();
    let (statement, explain) = match steps::parse_statement(sql)? {
        Statement::Explain(explain) if explain.options.analyze => (*explain.statement, Explain::Analyze),
        Statement::Explain(explain) => (*explain.statement, Explain::Plan),
        statement => (statement, Explain::No),
    };
    let statement = steps::check_query(statement)?;
    let (references, _) = datafusion::sql::resolve::resolve_table_references(&statement, true)?;
    let mut providers: Vec<(String, Arc<dyn TableProvider>)> = Vec::new();
    for reference in references {
        let name = reference.table();
        let same = |table: &Arc<Table>| table.name == name || table.name.eq_ignore_ascii_case(name);
        let Some(number) = tables.iter().position(same) else {
            if is_table_function(name) {
                continue;
            }
            let names = tables.iter().map(|table| table.name.as_str());
            return Err(QueryError::invalid(format!("table `{name}` does not exist{}", name_help(name, names))));
        };
        providers.push((name.to_string(), Arc::new(FileTable::for_cut(Arc::clone(&tables[number]), number))));
    }
    let named = providers.iter().map(|(name, provider)| (name.as_str(), Arc::clone(provider)));
    let state = session(planning_config(options, 1)?, start, named)?;
    let (_, optimized) = steps::to_logical(&state, statement, &request.query.params).await?;
    let logical = narrowed(&state, optimized, &mut tables)?;
    let schema = delivered_schema(logical.schema().as_arrow());
    let rules = cut_rules(&tables, options, compute);
    let reduces = vec![ReduceStep { step: STEP.to_string(), logical, cut: Some(rules.clone()), target: None, schema }];

    let cut_for = async |combs_wanted: usize| {
        let partitions = reduce::partitions_per_comb(combs, combs_wanted);
        let target = InboxTarget { query: QueryId::fresh(), partitions };
        cut(planned(&reduces[0].logical, options, start, target).await?, &rules, target)
    };
    let mut warnings = Vec::new();
    let mut cut = cut_for(1).await?;
    let (reducer, comb_count) = if cut.fragments.is_empty() {
        (Reducer::Fuse { because: "it reads no files".to_string() }, 1)
    } else {
        reduce::reducer(&reduces, Some(&cut.reduce), request, start, combs, &mut warnings).await?
    };
    if comb_count > 1 {
        cut = cut_for(comb_count).await?;
    }
    let partitions = reduce::partitions_per_comb(combs, comb_count);

    let mut stages = Vec::new();
    for (index, fragment) in cut.fragments.into_iter().enumerate() {
        stages.push(map_stage(index, fragment, &tables, request, storage, compute).await?);
    }
    Ok(QueryPlan {
        options: options.clone(),
        stages,
        reduces,
        explain,
        warnings,
        reducer,
        comb_count,
        partitions_per_comb: partitions,
        start,
        session: session_options(options),
        opened_in: Duration::ZERO,
        planned_in: Duration::ZERO,
    })
}

/// Checks if `name` is a table function, such as `generate_series`. Such a name does not have to be a table.
fn is_table_function(name: &str) -> bool {
    ["generate_series", "range"].contains(&name)
}

/// Returns the cost of reading each table, before statistics prune its files. The cost is the same for every run of the
/// query.
fn cut_rules(tables: &[Arc<Table>], options: &Options, compute: &dyn Compute) -> CutRules {
    let cost = |table: &Arc<Table>| {
        let bytes = table.bytes();
        let tasks = tasks_wanted(bytes, options, compute.tasks_min());
        let target = split_target(bytes, options, tasks).max(1);
        let splits: u64 = table.files.iter().map(|file| file.size.div_ceil(target).max(1)).sum();
        TableCost { bytes, tasks: splits.min(tasks as u64) }
    };
    CutRules { tables: tables.iter().map(cost).collect(), build_bytes: options.build_bytes }
}

/// Checks if `plan` aggregates by GROUPING SETS, ROLLUP or CUBE.
fn has_grouping_sets(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let grouped = |node: &Arc<dyn ExecutionPlan>| {
        node.downcast_ref::<AggregateExec>().is_some_and(|aggregate| aggregate.group_expr().has_grouping_set())
    };
    Ok(plan.exists(|node| Ok(grouped(node)))?)
}

async fn map_stage(
    index: usize,
    fragment: Fragment,
    tables: &[Arc<Table>],
    request: &Request,
    storage: &Storage,
    compute: &dyn Compute,
) -> Result<MapStage> {
    let options = &request.options;
    let (table, files_by_partition, mut files) = scanned(&fragment.scan, tables)?;
    if files.is_empty() && has_grouping_sets(&fragment.plan)? {
        // The total over no rows is a row, and only a task's partial aggregate computes it.
        files.extend(table.files.first().cloned());
    }
    let mut builds = Vec::new();
    for build in &fragment.builds {
        let (table, _, files) = scanned(build, tables)?;
        builds.push(BuildSide { table, files });
    }
    let bytes = files.iter().map(|file| file.size).sum();
    let count = tasks_wanted(bytes, options, compute.tasks_min());
    let splits = steps::row_groups(storage, &table, &files, split_target(bytes, options, count)).await?;
    let tasks = pack(splits, count);
    let display = displayable(fragment.plan.as_ref()).indent(false).to_string();
    Ok(MapStage {
        id: StageId(u32::try_from(index).expect("a plan has fewer than 2^32 scans")),
        step: format!("map_{index}"),
        schema: delivered_schema(&fragment.plan.schema()),
        display,
        scans: fragment.sources,
        builds,
        fragment: encode_fragment(fragment.plan)?,
        keys: fragment.keys,
        evaluate: Evaluate::Together,
        tasks,
        files_by_filter: table.extent.files,
        files_by_partition,
        table,
        files,
    })
}

/// Returns the table of a scan, the number of its files after pruning by partition values, and the files after pruning
/// by statistics as well.
fn scanned(scan: &Scan, tables: &[Arc<Table>]) -> Result<(Arc<Table>, usize, Vec<DataFile>)> {
    let table = Arc::clone(&tables[scan.table]);
    let Some(predicate) = &scan.predicate else {
        let files = table.files.clone();
        return Ok((table, files.len(), files));
    };
    let files = prune::by_predicate(&table, table.files.clone(), predicate)?;
    let by_partition = files.len();
    let fields: Vec<FieldRef> = table.file_schema().fields().iter().cloned().chain(table.partition_fields()).collect();
    let files = prune::by_statistics(&table, files, predicate, Arc::new(Schema::new(fields)))?;
    Ok((table, by_partition, files))
}
