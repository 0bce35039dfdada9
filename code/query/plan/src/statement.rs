//! Plans one SQL statement: its map stages and one reduce step.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use buzz_catalog::{DataFile, Table};
use buzz_protocol::query::name_help;
use buzz_protocol::{QueryError, QueryId, Result, StageId};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNode;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::sql::parser::Statement;

use crate::cut::{CutRules, Fragment, Scan, TableCost, cut};
use crate::footers::row_groups;
use crate::narrow::narrowed;
use crate::query_plan::{BuildSide, Evaluate, Explain, MapStage, QueryPlan, ReduceStep, reduces_rows};
use crate::reduce::{Reducer, planned, reducer};
use crate::split::{pack, split_target, tasks_wanted};
use crate::sql::{check_query, delivered_schema, parse_statement, to_logical};
use crate::table::{FileTable, InboxTarget};
use crate::{Planning, prune, wire};

/// The name of the only reduce step of a statement.
const STEP: &str = "query";

/// Plans the statement `sql`.
pub(crate) async fn plan(mut planning: Planning<'_>, sql: &str) -> Result<QueryPlan> {
    let (statement, explain) = match parse_statement(sql)? {
        Statement::Explain(explain) if explain.options.analyze => (*explain.statement, Explain::Analyze),
        Statement::Explain(explain) => (*explain.statement, Explain::Plan),
        statement => (statement, Explain::No),
    };
    let statement = check_query(statement)?;
    let providers = providers(&statement, &planning.tables)?;
    let state = planning.session(providers.iter().map(|(name, provider)| (name.as_str(), Arc::clone(provider))))?;
    let (_, optimized) = to_logical(&state, statement, &planning.question.query.params).await?;
    let logical = narrowed(&state, optimized, &mut planning.tables)?;
    let planning = &planning;
    let schema = delivered_schema(logical.schema().as_arrow());
    let rules = cut_rules(planning);
    let reduces = vec![ReduceStep { step: STEP.to_string(), logical, cut: Some(rules.clone()), target: None, schema }];

    let cut_for = async |combs: usize| {
        let target = InboxTarget { query: QueryId::fresh(), partitions: planning.capacity.partitions_per_comb(combs) };
        cut(planned(&reduces[0].logical, planning.options(), planning.start, target).await?, &rules, target)
    };
    let mut cut = cut_for(1).await?;
    let reducer = if cut.fragments.is_empty() {
        Reducer::fuse("it reads no files")
    } else {
        reducer(&reduces, Some(&cut.reduce), planning).await?
    };
    if reducer.combs > 1 {
        cut = cut_for(reducer.combs).await?;
    }

    let mut stages = Vec::new();
    for (index, fragment) in cut.fragments.into_iter().enumerate() {
        stages.push(map_stage(planning, index, fragment).await?);
    }
    Ok(QueryPlan { explain, ..planning.finished(stages, reduces, reducer) })
}

/// Returns a provider for each table that `statement` names.
fn providers(statement: &Statement, tables: &[Arc<Table>]) -> Result<Vec<(String, Arc<dyn TableProvider>)>> {
    let (references, _) = datafusion::sql::resolve::resolve_table_references(statement, true)?;
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
    Ok(providers)
}

/// Checks if `name` is a table function, such as `generate_series`. Such a name does not have to be a table.
fn is_table_function(name: &str) -> bool {
    ["generate_series", "range"].contains(&name)
}

/// Returns the cost of reading each table, before statistics prune its files. The cost is the same for every run of the
/// query.
fn cut_rules(planning: &Planning<'_>) -> CutRules {
    let options = planning.options();
    let cost = |table: &Arc<Table>| {
        let bytes = table.bytes();
        let tasks = tasks_wanted(bytes, options, planning.capacity.tasks_min);
        let target = split_target(bytes, options, tasks).max(1);
        let splits: u64 = table.files.iter().map(|file| file.size.div_ceil(target).max(1)).sum();
        TableCost { bytes, tasks: splits.min(tasks as u64) }
    };
    CutRules { tables: planning.tables.iter().map(cost).collect(), build_bytes: options.build_bytes }
}

/// Checks if `plan` aggregates by GROUPING SETS, ROLLUP or CUBE.
fn has_grouping_sets(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let grouped = |node: &Arc<dyn ExecutionPlan>| {
        node.downcast_ref::<AggregateExec>().is_some_and(|aggregate| aggregate.group_expr().has_grouping_set())
    };
    Ok(plan.exists(|node| Ok(grouped(node)))?)
}

async fn map_stage(planning: &Planning<'_>, index: usize, fragment: Fragment) -> Result<MapStage> {
    let (options, tables) = (planning.options(), &planning.tables);
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
    let count = tasks_wanted(bytes, options, planning.capacity.tasks_min);
    let splits = row_groups(planning.stores, &table, &files, split_target(bytes, options, count)).await?;
    let tasks = pack(splits, count);
    let display = displayable(fragment.plan.as_ref()).indent(false).to_string();
    let reduces_rows = reduces_rows(fragment.plan.as_ref());
    Ok(MapStage {
        id: StageId(u32::try_from(index).expect("a plan has fewer than 2^32 scans")),
        step: format!("map_{index}"),
        schema: delivered_schema(&fragment.plan.schema()),
        display,
        scans: fragment.sources,
        builds,
        fragment: wire::encoded(fragment.plan)?,
        keys: fragment.keys,
        evaluate: Evaluate::Together,
        reduces_rows,
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
