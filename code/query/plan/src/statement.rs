//! Plans one SQL statement: its map stages, one reduce step, and one for each common table expression that is computed
//! once.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use buzz_catalog::{DataFile, Table};
use buzz_protocol::{QueryId, Result, StageId};
use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::sql::parser::Statement;

use crate::cut::{CutRules, Fragment, Scan, TableCost, cut};
use crate::footers::row_groups;
use crate::information::{answered, described_query, description};
use crate::missing::missing_table;
use crate::narrow::narrowed;
use crate::query_plan::{BuildSide, Evaluate, Explain, MapStage, QueryPlan, ReduceStep, reduces_rows};
use crate::reduce::{Reducer, planned, reducer};
use crate::shared::{Divided, divide};
use crate::split::{pack, split_target, tasks_wanted};
use crate::sql::{check_query, delivered_schema, parse_statement, to_logical};
use crate::table::{FileTable, InboxTable, InboxTarget};
use crate::{Planning, prune, wire};

/// The name of the last reduce step of a statement.
const STEP: &str = "query";

/// Plans the statement `sql`.
pub(crate) async fn plan(mut planning: Planning<'_>, sql: &str) -> Result<QueryPlan> {
    let (statement, explain) = match parse_statement(sql)? {
        Statement::Explain(explain) if explain.options.analyze => (*explain.statement, Explain::Analyze),
        Statement::Explain(explain) => (*explain.statement, Explain::Plan),
        statement => (statement, Explain::No),
    };
    let statement = match described_query(&statement) {
        Some(query) => {
            let query = check_query(answered(query, &planning.tables)?)?;
            description(logical(&mut planning, query, &[]).await?.schema().as_arrow())?
        }
        None => answered(statement, &planning.tables)?,
    };
    let statement = check_query(statement)?;
    let Divided { shared, rest } = divide(statement)?;
    let shared_count = stage_number(shared.len());
    let mut inboxes: Vec<(String, InboxTable)> = Vec::new();
    let mut parts: Vec<(String, LogicalPlan)> = Vec::new();
    for (name, statement) in shared {
        let logical = logical(&mut planning, statement, &inboxes).await?;
        let schema = delivered_schema(logical.schema().as_arrow());
        let stage = StageId(stage_number(inboxes.len()));
        inboxes.push((name.clone(), InboxTable { stage, step: name.clone(), schema }));
        parts.push((name, logical));
    }
    parts.push((STEP.to_string(), logical(&mut planning, rest, &inboxes).await?));
    let planning = &planning;

    let answer = parts.len() - 1;
    let (mut reduces, mut first_stage) = (Vec::new(), shared_count);
    let target_of = |combs: usize| InboxTarget {
        query: QueryId::fresh(),
        partitions: planning.capacity.partitions_per_comb(combs),
    };
    let cut_for = async |reduce: &ReduceStep, combs: usize| {
        let target = target_of(combs);
        let rules = reduce.cut.clone().unwrap_or_default();
        cut(planned(&reduce.logical, planning.options(), planning.start, target).await?, &rules, target)
    };
    let mut cuts = Vec::new();
    for (index, (step, logical)) in parts.into_iter().enumerate() {
        let rules = CutRules { first_stage, ..cut_rules(planning) };
        let schema = delivered_schema(logical.schema().as_arrow());
        let target = (index != answer).then(|| StageId(stage_number(index)));
        let reduce = ReduceStep { step, logical, cut: Some(rules), target, schema };
        let cut = cut_for(&reduce, 1).await?;
        first_stage += stage_number(cut.fragments.len());
        reduces.push(reduce);
        cuts.push(cut);
    }
    let reducer = if cuts.iter().all(|cut| cut.fragments.is_empty()) {
        Reducer::fuse("it reads no files")
    } else {
        let only = if cuts.len() == 1 { cuts.first().map(|cut| &cut.reduce) } else { None };
        reducer(&reduces, only, planning).await?
    };
    if reducer.combs > 1 {
        first_stage = shared_count;
        cuts.clear();
        for reduce in &mut reduces {
            if let Some(rules) = &mut reduce.cut {
                rules.first_stage = first_stage;
            }
            let cut = cut_for(reduce, reducer.combs).await?;
            first_stage += stage_number(cut.fragments.len());
            cuts.push(cut);
        }
    }

    let mut stages = Vec::new();
    for fragment in cuts.into_iter().flat_map(|cut| cut.fragments) {
        let stage = shared_count + stage_number(stages.len());
        stages.push(map_stage(planning, stage, fragment).await?);
    }
    Ok(QueryPlan { explain, ..planning.finished(stages, reduces, reducer) })
}

/// Plans a part of the statement. `inboxes` are the common table expressions that it can read.
async fn logical(
    planning: &mut Planning<'_>,
    statement: Statement,
    inboxes: &[(String, InboxTable)],
) -> Result<LogicalPlan> {
    let providers = providers(&statement, &planning.tables, inboxes)?;
    let state = planning.session(providers.iter().map(|(name, provider)| (name.as_str(), Arc::clone(provider))))?;
    let (_, optimized) = to_logical(&state, statement, &planning.question.query.params, planning.options()).await?;
    narrowed(&state, optimized, &mut planning.tables)
}

fn stage_number(count: usize) -> u32 {
    u32::try_from(count).expect("a plan has fewer than 2^32 scans")
}

/// Returns a provider for each table that `statement` names.
fn providers(
    statement: &Statement,
    tables: &[Arc<Table>],
    inboxes: &[(String, InboxTable)],
) -> Result<Vec<(String, Arc<dyn TableProvider>)>> {
    let (references, _) = datafusion::sql::resolve::resolve_table_references(statement, true)?;
    let mut providers: Vec<(String, Arc<dyn TableProvider>)> = Vec::new();
    for reference in references {
        let name = reference.table();
        if let Some((_, inbox)) = inboxes.iter().find(|(inbox, _)| inbox == name) {
            providers.push((name.to_string(), Arc::new(inbox.clone())));
            continue;
        }
        let same = |table: &Arc<Table>| table.name == name || table.name.eq_ignore_ascii_case(name);
        let Some(number) = tables.iter().position(same) else {
            if is_table_function(name) {
                continue;
            }
            return Err(missing_table(&reference, tables.iter().map(|table| table.name.as_str())));
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
    CutRules { tables: planning.tables.iter().map(cost).collect(), build_bytes: options.build_bytes, first_stage: 0 }
}

/// Checks if `plan` aggregates by GROUPING SETS, ROLLUP or CUBE.
fn has_grouping_sets(plan: &Arc<dyn ExecutionPlan>) -> Result<bool> {
    let grouped = |node: &Arc<dyn ExecutionPlan>| {
        node.downcast_ref::<AggregateExec>().is_some_and(|aggregate| aggregate.group_expr().has_grouping_set())
    };
    Ok(plan.exists(|node| Ok(grouped(node)))?)
}

async fn map_stage(planning: &Planning<'_>, stage: u32, fragment: Fragment) -> Result<MapStage> {
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
        id: StageId(stage),
        step: format!("map_{stage}"),
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
