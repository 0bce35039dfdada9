//! Plans one SQL statement: its map stages, one reduce step, and one for each common table expression that is computed
//! once.

use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema};
use buzz_catalog::{DataFile, Table};
use buzz_protocol::{ErrorKind, QueryError, QueryId, Result, StageId};
use datafusion::catalog::TableProvider;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::aggregates::AggregateExec;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::sql::parser::Statement;

use crate::cut::{Cut, CutRules, Fragment, Scan, TableCost, cut};
use crate::footers::row_groups;
use crate::information::{answered, described_query, description};
use crate::join_order::joins_ordered;
use crate::key_filters::keys_filtered;
use crate::missing::missing_table;
use crate::narrow::narrowed;
use crate::parts::{ends_with_partial, without_statistics};
use crate::query_plan::{BuildSide, Evaluate, Explain, MapStage, QueryPlan, ReduceStep, reduces_rows};
use crate::reads::scan_reads;
use crate::reduce::{Reducer, planned, reducer};
use crate::shared::{Divided, divide};
use crate::split::{pack, part_target, parts, split_target, tasks_wanted};
use crate::sql::{check_query, delivered_schema, parse_statement, to_logical};
use crate::table::{FileTable, InboxTable, InboxTarget};
use crate::trees::Tree;
use crate::views::{Views, at_view, expanded};
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
    let (statement, views) = expanded(statement, sql, &planning.question.query.catalogs)?;
    match plan_expanded(&mut planning, statement).await {
        Ok(plan) => Ok(QueryPlan { explain, ..plan }),
        Err(error) if error.kind == ErrorKind::Invalid => Err(blamed(&mut planning, &views, error).await),
        Err(error) => Err(error),
    }
}

/// Returns the error of the first of `views` that is wrong itself, otherwise `error`.
async fn blamed(planning: &mut Planning<'_>, views: &Views, error: QueryError) -> QueryError {
    for (name, statement) in views.statements().unwrap_or_default() {
        if let Err(error) = logical(planning, statement, &[]).await {
            return at_view(error, name);
        }
    }
    error
}

/// Plans `statement`, which names no views.
async fn plan_expanded(planning: &mut Planning<'_>, statement: Statement) -> Result<QueryPlan> {
    let statement = query_of(planning, statement).await?;
    let mut reduces = reduce_steps(planning, divide(statement)?).await?;
    let planning = &*planning;
    let mut cuts = cut_all(planning, &mut reduces, 1).await?;
    let reducer = if cuts.iter().all(|cut| cut.fragments.is_empty()) {
        Reducer::fuse("it reads no files")
    } else {
        let only = if let [cut] = cuts.as_slice() { Some(&cut.reduce) } else { None };
        reducer(&reduces, only, planning).await?
    };
    if reducer.combs > 1 {
        cuts = cut_all(planning, &mut reduces, reducer.combs).await?;
    }
    let first_stage = shared_count(&reduces);
    let mut stages = Vec::new();
    for fragment in cuts.into_iter().flat_map(|cut| cut.fragments) {
        stages.push(map_stage(planning, first_stage + stage_number(stages.len()), fragment).await?);
    }
    Ok(planning.finished(stages, reduces, reducer))
}

/// Returns the query that answers `statement`: itself, or one over the names and types of tables for `SHOW` and `DESCRIBE`.
async fn query_of(planning: &mut Planning<'_>, statement: Statement) -> Result<Statement> {
    let Some(described) = described_query(&statement) else {
        return check_query(answered(statement, &planning.tables)?);
    };
    let described = check_query(answered(described, &planning.tables)?)?;
    check_query(description(logical(planning, described, &[]).await?.schema().as_arrow())?)
}

/// Plans a reduce step for each common table expression that is computed once, and last the one with the answer. The rows
/// of the former become the first stages, in their order.
async fn reduce_steps(planning: &mut Planning<'_>, divided: Divided) -> Result<Vec<ReduceStep>> {
    let mut inboxes: Vec<(String, InboxTable)> = Vec::new();
    let mut reduces = Vec::new();
    for (name, statement) in divided.shared {
        let stage = StageId(stage_number(inboxes.len()));
        let reduce = reduce_step(planning, (&name, statement), &inboxes, Some(stage)).await?;
        inboxes.push((name.clone(), InboxTable { stage, step: name, schema: Arc::clone(&reduce.schema) }));
        reduces.push(reduce);
    }
    reduces.push(reduce_step(planning, (STEP, divided.rest), &inboxes, None).await?);
    Ok(reduces)
}

async fn reduce_step(
    planning: &mut Planning<'_>,
    (step, statement): (&str, Statement),
    inboxes: &[(String, InboxTable)],
    target: Option<StageId>,
) -> Result<ReduceStep> {
    let logical = logical(planning, statement, inboxes).await?;
    let schema = delivered_schema(logical.schema().as_arrow());
    Ok(ReduceStep { step: step.to_string(), logical, cut: None, target, schema })
}

/// Returns the number of steps whose rows are a stage.
fn shared_count(reduces: &[ReduceStep]) -> u32 {
    stage_number(reduces.iter().filter(|reduce| reduce.target.is_some()).count())
}

/// Cuts the plans of all steps for `combs` combs. The stages of a step follow those of the step before it.
async fn cut_all(planning: &Planning<'_>, reduces: &mut [ReduceStep], combs: usize) -> Result<Vec<Cut>> {
    let partitions = planning.capacity.partitions_per_comb(combs);
    let mut first_stage = shared_count(reduces);
    let mut cuts = Vec::new();
    for reduce in reduces {
        let target = InboxTarget { query: QueryId::fresh(), partitions };
        let rules = CutRules { first_stage, ..cut_rules(planning) };
        let plan = planned(&reduce.logical, planning.options(), planning.start, target).await?;
        let cut = cut(plan, &rules, target)?;
        first_stage += stage_number(cut.fragments.len());
        reduce.cut = Some(rules);
        cuts.push(cut);
    }
    Ok(cuts)
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
    let narrowed = narrowed(&state, optimized, &mut planning.tables)?;
    let ordered = joins_ordered(&state, narrowed, planning.options())?;
    keys_filtered(&state, ordered, planning.options(), &cut_rules(planning))
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
        if !tables[number].is_open() {
            return Err(QueryError::internal(format!("table `{name}` is read but was not opened")));
        }
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
    Ok(plan.any(&mut |node| Ok(grouped(node)))?)
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
    let may_keep = options.reuse && builds.is_empty() && ends_with_partial(fragment.plan.as_ref());
    let target = if may_keep { part_target(options) } else { split_target(bytes, options, count) };
    let splits = row_groups(planning.stores, &table, &files, target).await?;
    let own_tasks = if may_keep { parts(&splits, options) } else { None };
    let keeps_parts = own_tasks.is_some();
    let tasks = own_tasks.unwrap_or_else(|| pack(splits, count));
    let display = displayable(fragment.plan.as_ref()).indent(false).to_string();
    let reduces_rows = reduces_rows(fragment.plan.as_ref());
    let plan = if keeps_parts { without_statistics(&fragment.plan)? } else { Arc::clone(&fragment.plan) };
    Ok(MapStage {
        id: StageId(stage),
        step: format!("map_{stage}"),
        schema: delivered_schema(&fragment.plan.schema()),
        display,
        scans: fragment.sources,
        reads: scan_reads(&fragment.plan),
        builds,
        fragment: wire::encoded(plan)?,
        keys: fragment.keys,
        evaluate: Evaluate::Together,
        reduces_rows,
        keeps_parts,
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
