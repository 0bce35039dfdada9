//! Plans the steps of a query. Each `HBee` step that a later step reads becomes a map stage. Each `HComb` step becomes
//! a reduce step, or part of its reader's reduce step if it is read exactly once.

mod parse;

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};
use buzz_catalog::Table;
use buzz_kernel::yielding;
use buzz_protocol::{Place, QueryError, Result, Split, StageId, Step, StepType};
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable};

use self::parse::{ParsedStep, Source, parse_steps};
use crate::cut::ScanSource;
use crate::footers::row_groups;
use crate::query_plan::{Evaluate, MapStage, QueryPlan, ReduceStep, reduces_rows};
use crate::reads::scan_reads;
use crate::split::{pack, split_target, tasks_wanted, whole_files};
use crate::sql::{delivered_schema, to_logical};
use crate::table::{FileTable, InboxTable};
use crate::trees::PlanTree;
use crate::{Planning, params, partition_filter, prune, reduce, standard, wire};

/// Plans `steps`.
pub(crate) async fn plan(planning: &Planning<'_>, steps: &[Step]) -> Result<QueryPlan> {
    let steps = parse_steps(steps, &planning.tables)?;
    let mut warnings = Vec::new();

    // Each step is planned as if all earlier steps were tables. The plans show which steps read which, and how often.
    let mut planned: Vec<PlannedStep> = Vec::new();
    for step in &steps {
        let place = |error: QueryError| error.at(Place::Step(step.step.name.clone()));
        planned.push(plan_step(planning, step, &planned).await.map_err(place)?);
    }
    let reads = count_reads(&planned);
    let answer = planned.len() - 1;
    for (index, step) in planned.iter().enumerate() {
        if index != answer && reads[index] == 0 {
            warnings.push(format!("step `{}` is not read by any later step and is not run", step.name));
        }
    }

    let mut stages = Vec::new();
    for (index, parsed) in steps.iter().enumerate().filter(|(_, step)| step.step.step_type == StepType::HBee) {
        if reads[index] == 0 {
            continue;
        }
        if has_outer_order(&planned[index].logical) {
            warnings.push(format!(
                "step `{}`: ORDER BY without LIMIT has no effect in an HBee step; order in the last HComb step",
                parsed.step.name
            ));
        }
        let place = |error: QueryError| error.at(Place::Step(parsed.step.name.clone()));
        stages.push(map_stage(planning, index, parsed, &planned[index]).await.map_err(place)?);
    }
    let reduces = reduce_steps(planning, &steps, &planned, &reads).await?;

    let mut reducer = reduce::reducer(&reduces, None, planning).await?;
    warnings.append(&mut reducer.warnings);
    Ok(planning.finished(stages, reduces, reduce::Reducer { warnings, ..reducer }))
}

struct PlannedStep {
    name: String,
    logical: LogicalPlan,
    schema: SchemaRef,
}

async fn plan_step(planning: &Planning<'_>, parsed: &ParsedStep<'_>, earlier: &[PlannedStep]) -> Result<PlannedStep> {
    let provider = |source: &Source| -> Arc<dyn TableProvider> {
        match source {
            Source::Catalog(index) => Arc::new(FileTable::new(Arc::clone(&planning.tables[*index]))),
            Source::Step(index) => Arc::new(inbox_table(*index, &earlier[*index])),
        }
    };
    let providers = parsed.reads.iter().map(|(name, source)| (name.as_str(), provider(source)));
    let state = planning.session(providers)?;
    let (logical, _) =
        to_logical(&state, parsed.statement.clone(), &planning.question.query.params, planning.options()).await?;
    if let (StepType::HBee, Some(why)) = (parsed.step.step_type, wire::unsendable(&logical)) {
        return Err(QueryError::invalid(format!("{why} to HBees; use it in an HComb step")));
    }
    let schema = delivered_schema(logical.schema().as_arrow());
    Ok(PlannedStep { name: parsed.step.name.clone(), logical, schema })
}

fn inbox_table(index: usize, step: &PlannedStep) -> InboxTable {
    InboxTable { stage: stage_id(index), step: step.name.clone(), schema: Arc::clone(&step.schema) }
}

fn stage_id(step_index: usize) -> StageId {
    StageId(u32::try_from(step_index).expect("a query's text does not hold 2^32 steps"))
}

/// Counts how often the SQL of later steps reads each step.
fn count_reads(planned: &[PlannedStep]) -> Vec<usize> {
    let mut reads = vec![0; planned.len()];
    // A step without readers does not run, so its own reads do not count.
    for index in (0..planned.len()).rev() {
        if index + 1 != planned.len() && reads[index] == 0 {
            continue;
        }
        for stage in scanned_stages(&planned[index].logical) {
            reads[stage.0 as usize] += 1;
        }
    }
    reads
}

fn scanned_stages(plan: &LogicalPlan) -> Vec<StageId> {
    let mut stages = Vec::new();
    let visited = plan.each_node(&mut |node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(inbox) = provider.downcast_ref::<InboxTable>()
        {
            stages.push(inbox.stage);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    visited.expect("a visitor that never fails");
    stages
}

async fn map_stage(
    planning: &Planning<'_>,
    index: usize,
    parsed: &ParsedStep<'_>,
    planned: &PlannedStep,
) -> Result<MapStage> {
    let options = planning.options();
    let table = scanned_table(&planned.logical)?;
    let state = planning.session([])?;
    let optimized = standard::guarded(state.optimize(&planned.logical)?)?;

    let mut files = table.files.clone();
    if let Some(filter) = &parsed.step.partition_filter {
        let values = params::values(&state, &planning.question.query.params)?;
        files = partition_filter::by_partition_filter(&state, &table, files, filter, (&values, options))?;
    }
    let files_by_filter = files.len();
    let (files_by_partition, files) = prune::by_where(&state, &table, files, &optimized)?;

    let sendable = wire::sendable_literals(optimized)?;
    let physical = state.query_planner().create_physical_plan(&sendable, &state).await?;
    let physical = yielding(standard::without_unordered_limits(physical)?)?;
    if let Some(why) = wire::unsendable_operator(&physical) {
        return Err(QueryError::invalid(format!("{why} to HBees; use it in an HComb step")));
    }
    let bytes = files.iter().map(|file| file.size).sum();
    let count = tasks_wanted(bytes, options, planning.capacity.tasks_min);
    let splits = match parsed.step.split {
        Split::File => whole_files(&files),
        Split::RowGroups => row_groups(planning.stores, &table, &files, split_target(bytes, options, count)).await?,
    };
    let display = displayable(physical.as_ref()).indent(false).to_string();
    let reduces_rows = reduces_rows(physical.as_ref());
    let reads = scan_reads(&physical);
    Ok(MapStage {
        id: stage_id(index),
        step: parsed.step.name.clone(),
        schema: Arc::clone(&planned.schema),
        display,
        scans: vec![ScanSource::Splits; reads.len()],
        reads,
        builds: Vec::new(),
        fragment: wire::encoded(with_schema(physical, &planned.schema)?)?,
        keys: Vec::new(),
        evaluate: Evaluate::EachSplit,
        keeps_parts: false,
        reduces_rows,
        tasks: pack(splits, count),
        table,
        files,
        files_by_filter,
        files_by_partition,
    })
}

/// Returns `plan` if its rows have the types of `schema`, otherwise an error.
fn with_schema(plan: Arc<dyn ExecutionPlan>, schema: &Schema) -> Result<Arc<dyn ExecutionPlan>> {
    let planned = plan.schema();
    let same = planned.fields().len() == schema.fields().len()
        && planned.fields().iter().zip(schema.fields()).all(|(a, b)| a.data_type() == b.data_type());
    if same { Ok(plan) } else { Err(QueryError::internal(format!("the plan returns {planned} instead of {schema}"))) }
}

fn scanned_table(plan: &LogicalPlan) -> Result<Arc<Table>> {
    let mut table = None;
    plan.each_node(&mut |node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Ok(provider) = source_as_provider(&scan.source)
            && let Some(files) = provider.downcast_ref::<FileTable>()
        {
            table = Some(files.table());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    table.ok_or_else(|| QueryError::internal("an HBee step without a scan"))
}

fn has_outer_order(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(sort) => sort.fetch.is_none(),
        LogicalPlan::Projection(node) => has_outer_order(&node.input),
        LogicalPlan::SubqueryAlias(node) => has_outer_order(&node.input),
        _ => false,
    }
}

/// Plans the reduce steps. An `HComb` step that is read exactly once becomes part of its reader's plan. A step that is
/// read more often runs once and its rows become a stage, so that all readers get the same rows.
async fn reduce_steps(
    planning: &Planning<'_>,
    steps: &[ParsedStep<'_>],
    planned: &[PlannedStep],
    reads: &[usize],
) -> Result<Vec<ReduceStep>> {
    let answer = planned.len() - 1;
    let mut inlined: HashMap<usize, LogicalPlan> = HashMap::new();
    let mut reduces = Vec::new();
    for (index, parsed) in steps.iter().enumerate().filter(|(_, step)| step.step.step_type == StepType::HComb) {
        if index != answer && reads[index] == 0 {
            continue;
        }
        let provider = |source: &Source| -> Arc<dyn TableProvider> {
            match source {
                Source::Catalog(_) => unreachable!("parsing rejects an HComb step that reads a catalog"),
                Source::Step(step) => match inlined.get(step) {
                    Some(logical) => Arc::new(ViewTable::new(logical.clone(), None)),
                    None => Arc::new(inbox_table(*step, &planned[*step])),
                },
            }
        };
        let providers: Vec<_> = parsed.reads.iter().map(|(name, source)| (name.as_str(), provider(source))).collect();
        let state = planning.session(providers)?;
        let place = |error: QueryError| error.at(Place::Step(parsed.step.name.clone()));
        let planned_step =
            to_logical(&state, parsed.statement.clone(), &planning.question.query.params, planning.options()).await;
        let (logical, optimized) = planned_step.map_err(place)?;
        if index != answer && reads[index] == 1 {
            inlined.insert(index, logical);
            continue;
        }
        reduces.push(ReduceStep {
            step: parsed.step.name.clone(),
            logical: optimized,
            cut: None,
            target: (index != answer).then(|| stage_id(index)),
            schema: Arc::clone(&planned[index].schema),
        });
    }
    Ok(reduces)
}
