//! Plans the steps of a query. Each `HBee` step that a later step reads becomes a map stage. Each `HComb` step becomes
//! a reduce step, or part of its reader's reduce step if it is read exactly once.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{Field, Schema, SchemaRef};
use buzz_catalog::{DataFile, Table};
use buzz_protocol::plan::encode_fragment;
use buzz_protocol::query::name_help;
use buzz_protocol::{FileFormat, Options, Param, QueryError, Result, Split, StageId, Step, StepType};
use buzz_storage::{Storage, full_path};
use chrono::{DateTime, Utc};
use datafusion::catalog::TableProvider;
use datafusion::catalog::view::ViewTable;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::source_as_provider;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::{ExecutionPlan, displayable};
use datafusion::scalar::ScalarValue;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::Statement as SqlStatement;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore};

use crate::plan::{Evaluate, Explain, MapStage, QueryPlan, ReduceStep, ScanSource};
use crate::session::{planning_config, session, session_options};
use crate::split::{FileSplit, line_splits, pack, row_group_splits, split_target, tasks_wanted, whole_files};
use crate::table::{FileTable, InboxTable};
use crate::yielding::yielding;
use crate::{Combs, Compute, Request, prune, reduce, wire};

/// Plans `steps` of `request` over its opened `tables`.
pub(crate) async fn plan(
    request: &Request,
    steps: &[Step],
    tables: Vec<Table>,
    storage: &Storage,
    compute: &dyn Compute,
    combs: &dyn Combs,
) -> Result<QueryPlan> {
    let options = &request.options;
    let start = Utc::now();
    let tables: Vec<Arc<Table>> = tables.into_iter().map(Arc::new).collect();
    let steps = parse_steps(steps, &tables)?;
    let mut warnings = Vec::new();

    // Each step is planned as if all earlier steps were tables. The plans show which steps read which, and how often.
    let mut planned: Vec<PlannedStep> = Vec::new();
    for step in &steps {
        let place = |error: QueryError| error.at(format!("step `{}`", step.step.name));
        planned.push(plan_step(step, &planned, &tables, request, start).await.map_err(place)?);
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
        let place = |error: QueryError| error.at(format!("step `{}`", parsed.step.name));
        let stage = map_stage(index, parsed, &planned[index], options, start, storage, compute, &mut warnings).await;
        stages.push(stage.map_err(place)?);
    }
    let reduces = reduce_steps(&steps, planned, &reads, request, start).await?;

    let (reducer, comb_count) = reduce::reducer(&reduces, None, request, start, combs, &mut warnings).await?;
    Ok(QueryPlan {
        options: options.clone(),
        stages,
        reduces,
        explain: Explain::No,
        warnings,
        reducer,
        comb_count,
        partitions_per_comb: reduce::partitions_per_comb(combs, comb_count),
        start,
        session: session_options(options),
        opened_in: Duration::ZERO,
        planned_in: Duration::ZERO,
    })
}

/// A step whose SQL is a query over existing tables.
struct ParsedStep<'a> {
    step: &'a Step,
    statement: Statement,
    /// The table names in the SQL and the source of each.
    reads: Vec<(String, Source)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Catalog(usize),
    Step(usize),
}

struct PlannedStep {
    name: String,
    logical: LogicalPlan,
    schema: SchemaRef,
}

fn parse_steps<'a>(steps: &'a [Step], tables: &[Arc<Table>]) -> Result<Vec<ParsedStep<'a>>> {
    let parse = |(index, step): (usize, &'a Step)| {
        parse_step(index, step, steps, tables).map_err(|error| error.at(format!("step `{}`", step.name)))
    };
    steps.iter().enumerate().map(parse).collect()
}

fn parse_step<'a>(index: usize, step: &'a Step, steps: &[Step], tables: &[Arc<Table>]) -> Result<ParsedStep<'a>> {
    let statement = parse_query(&step.sql)?;
    let (references, _) = datafusion::sql::resolve::resolve_table_references(&statement, true)?;
    let mut reads = Vec::new();
    for reference in references {
        let name = reference.table().to_string();
        let source = find_source(&name, index, steps, tables)?;
        reads.push((name, source));
    }
    match step.step_type {
        StepType::HBee => check_map_reads(&reads, steps, tables)?,
        StepType::HComb => check_reduce_reads(&reads, tables)?,
    }
    Ok(ParsedStep { step, statement, reads })
}

/// Parses one query. Rejects any other statement.
pub(crate) fn parse_query(sql: &str) -> Result<Statement> {
    check_query(parse_statement(sql)?)
}

/// Parses one statement.
pub(crate) fn parse_statement(sql: &str) -> Result<Statement> {
    let mut statements = DFParser::parse_sql_with_dialect(sql, &GenericDialect {})?;
    let statement = statements.pop_front().ok_or_else(|| QueryError::invalid("the SQL is empty"))?;
    if !statements.is_empty() {
        return Err(QueryError::invalid("the SQL contains several statements; write one query"));
    }
    Ok(statement)
}

/// Returns `statement` if it is a query, otherwise an error.
pub(crate) fn check_query(statement: Statement) -> Result<Statement> {
    let verb = match &statement {
        Statement::Statement(sql) => match sql.as_ref() {
            SqlStatement::Query(query) if query.body.as_select().is_some_and(|select| select.into.is_some()) => {
                "SELECT INTO".to_string()
            }
            SqlStatement::Query(_) => return Ok(statement),
            other => verb(other),
        },
        other => verb(other),
    };
    Err(QueryError::invalid(format!("{verb} is not a query; Buzz only reads, write a SELECT")))
}

/// Returns the first word of a statement, in upper case.
fn verb(statement: &impl std::fmt::Display) -> String {
    statement.to_string().split_whitespace().next().unwrap_or_default().to_uppercase()
}

fn find_source(name: &str, index: usize, steps: &[Step], tables: &[Arc<Table>]) -> Result<Source> {
    let same = |other: &str| other == name || other.eq_ignore_ascii_case(name);
    if let Some(catalog) = tables.iter().position(|table| same(&table.name)) {
        return Ok(Source::Catalog(catalog));
    }
    match steps.iter().position(|step| same(&step.name)) {
        Some(earlier) if earlier < index => Ok(Source::Step(earlier)),
        Some(same) if same == index => Err(QueryError::invalid("the step reads itself")),
        Some(_) => Err(QueryError::invalid(format!("it reads the later step `{name}`; put `{name}` before it"))),
        None => {
            let names = tables.iter().map(|table| table.name.as_str()).chain(steps.iter().map(|s| s.name.as_str()));
            Err(QueryError::invalid(format!("table `{name}` does not exist{}", name_help(name, names))))
        }
    }
}

fn check_map_reads(reads: &[(String, Source)], steps: &[Step], tables: &[Arc<Table>]) -> Result<()> {
    if let Some((name, _)) = reads.iter().find(|(_, source)| matches!(source, Source::Step(_))) {
        return Err(QueryError::invalid(format!(
            "an HBee step reads the files of one catalog, but it reads the step `{name}`; make it an HComb step"
        )));
    }
    match reads {
        [_] => Ok(()),
        [] => {
            let table = tables.first().map_or("a catalog", |table| table.name.as_str());
            Err(QueryError::invalid(format!("an HBee step reads the files of one catalog; write FROM {table}")))
        }
        [(first, _), (second, _), ..] => {
            let reducer = steps.iter().find(|step| step.step_type == StepType::HComb);
            let reducer = reducer.map_or("an HComb step", |step| step.name.as_str());
            Err(QueryError::invalid(format!(
                "an HBee step reads the files of one catalog, but it reads `{first}` and `{second}`; write one HBee \
                 step for each and join them in `{reducer}`"
            )))
        }
    }
}

fn check_reduce_reads(reads: &[(String, Source)], tables: &[Arc<Table>]) -> Result<()> {
    let catalog = reads.iter().find_map(|(_, source)| match source {
        Source::Catalog(index) => Some(&tables[*index].name),
        Source::Step(_) => None,
    });
    match catalog {
        Some(name) => Err(QueryError::invalid(format!(
            "an HComb step reads earlier steps, but it reads the catalog `{name}`; write an HBee step \
             \"SELECT … FROM {name}\" and read that"
        ))),
        None => Ok(()),
    }
}

async fn plan_step(
    parsed: &ParsedStep<'_>,
    earlier: &[PlannedStep],
    tables: &[Arc<Table>],
    request: &Request,
    start: DateTime<Utc>,
) -> Result<PlannedStep> {
    let provider = |source: &Source| -> Arc<dyn TableProvider> {
        match source {
            Source::Catalog(index) => Arc::new(FileTable::new(Arc::clone(&tables[*index]))),
            Source::Step(index) => Arc::new(inbox_table(*index, &earlier[*index])),
        }
    };
    let providers = parsed.reads.iter().map(|(name, source)| (name.as_str(), provider(source)));
    let state = session(planning_config(&request.options, 1)?, start, providers)?;
    let (logical, _) = to_logical(&state, parsed.statement.clone(), &request.query.params).await?;
    if let (StepType::HBee, Some(why)) = (parsed.step.step_type, wire::unsendable(&logical)) {
        return Err(QueryError::invalid(format!("{why} to HBees; use it in an HComb step")));
    }
    let schema = delivered_schema(logical.schema().as_arrow());
    Ok(PlannedStep { name: parsed.step.name.clone(), logical, schema })
}

/// Returns the plan of `statement`, first as written, then optimized.
///
/// # Errors
/// `Invalid` when the statement is wrong.
pub(crate) async fn to_logical(
    state: &SessionState,
    statement: Statement,
    params: &BTreeMap<String, Param>,
) -> Result<(LogicalPlan, LogicalPlan)> {
    let values: HashMap<String, ScalarValue> =
        params.iter().map(|(name, param)| (name.clone(), param_value(param))).collect();
    let logical = wire::sendable(state.statement_to_plan(statement).await?.with_param_values(values)?)?;
    // Analysis detects type errors; optimization detects errors in constant values.
    let optimized = state.optimize(&logical).map_err(|error| match error {
        DataFusionError::Context(_, inner) => QueryError::from(*inner),
        other => QueryError::from(other),
    })?;
    Ok((logical, optimized))
}

fn param_value(param: &Param) -> ScalarValue {
    match param {
        Param::Bool(value) => ScalarValue::from(*value),
        Param::Int(value) => ScalarValue::from(*value),
        Param::Float(value) => ScalarValue::from(*value),
        Param::Text(value) => ScalarValue::from(value.as_str()),
        Param::Null => ScalarValue::Null,
    }
}

fn inbox_table(index: usize, step: &PlannedStep) -> InboxTable {
    InboxTable { stage: stage_id(index), step: step.name.clone(), schema: Arc::clone(&step.schema) }
}

fn stage_id(step_index: usize) -> StageId {
    StageId(u32::try_from(step_index).expect("a query's text does not hold 2^32 steps"))
}

/// Returns the schema of a step as later steps read it: all columns nullable, no metadata.
pub(crate) fn delivered_schema(schema: &Schema) -> SchemaRef {
    let field = |field: &Arc<Field>| Field::new(field.name(), field.data_type().clone(), true);
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
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
    let visited = plan.apply_with_subqueries(|node| {
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

#[expect(clippy::too_many_arguments, reason = "one call; a struct would only name the same things again")]
async fn map_stage(
    index: usize,
    parsed: &ParsedStep<'_>,
    planned: &PlannedStep,
    options: &Options,
    start: DateTime<Utc>,
    storage: &Storage,
    compute: &dyn Compute,
    warnings: &mut Vec<String>,
) -> Result<MapStage> {
    let table = scanned_table(&planned.logical)?;
    if has_outer_order(&planned.logical) {
        warnings.push(format!(
            "step `{}`: ORDER BY without LIMIT has no effect in an HBee step; order in the last HComb step",
            parsed.step.name
        ));
    }
    let state = session(planning_config(options, 1)?, start, [])?;
    let optimized = state.optimize(&planned.logical)?;

    let mut files = table.files.clone();
    if let Some(filter) = &parsed.step.partition_filter {
        files = prune::by_partition_filter(&state, &table, files, filter)?;
    }
    let files_by_filter = files.len();
    let (files_by_partition, files) = prune::by_where(&state, &table, files, &optimized)?;

    let sendable = wire::sendable_literals(optimized)?;
    let physical = yielding(state.query_planner().create_physical_plan(&sendable, &state).await?)?;
    let bytes = files.iter().map(|file| file.size).sum();
    let count = tasks_wanted(bytes, options, compute.tasks_min());
    let splits = match parsed.step.split {
        Split::File => whole_files(&files),
        Split::RowGroups => row_groups(storage, &table, &files, split_target(bytes, options, count)).await?,
    };
    let display = displayable(physical.as_ref()).indent(false).to_string();
    Ok(MapStage {
        id: stage_id(index),
        step: parsed.step.name.clone(),
        schema: Arc::clone(&planned.schema),
        display,
        scans: vec![ScanSource::Splits; count_scans(&physical)],
        builds: Vec::new(),
        fragment: encode_fragment(with_schema(physical, &planned.schema)?)?,
        keys: Vec::new(),
        evaluate: Evaluate::EachSplit,
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
    plan.apply_with_subqueries(|node| {
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

fn count_scans(plan: &Arc<dyn ExecutionPlan>) -> usize {
    let here =
        usize::from(plan.downcast_ref::<datafusion::datasource::source::DataSourceExec>().is_some_and(|source| {
            source.data_source().downcast_ref::<datafusion::datasource::physical_plan::FileScanConfig>().is_some()
        }));
    here + plan.children().into_iter().map(count_scans).sum::<usize>()
}

/// Maximum number of footers read at the same time.
const FOOTERS_AT_ONCE: usize = 32;

/// Divides files into splits of about `target` bytes: larger Parquet files between row groups, text files at any byte.
pub(crate) async fn row_groups(
    storage: &Storage,
    table: &Table,
    files: &[DataFile],
    target: u64,
) -> Result<Vec<FileSplit>> {
    let store = storage.store(&table.store)?;
    let (mut splits, mut large) = (Vec::with_capacity(files.len()), Vec::new());
    for (index, file) in files.iter().enumerate() {
        if table.format.is_divisible(&file.path) {
            splits.extend(line_splits(index, file.size, target));
        } else if file.size <= target || table.format != FileFormat::Parquet {
            splits.push(FileSplit { file: index, range: None, bytes: file.size });
        } else {
            large.push((index, file));
        }
    }
    // The future that reads a footer takes kilobytes, and the number of files is unbounded.
    for some in large.chunks(FOOTERS_AT_ONCE * 8) {
        let reading: Vec<_> =
            some.iter().map(|(index, file)| by_footer(Arc::clone(&store), table, *index, file, target)).collect();
        let read: Vec<_> = futures::stream::iter(reading).buffered(FOOTERS_AT_ONCE).try_collect().await?;
        splits.extend(read.into_iter().flatten());
    }
    splits.sort_by_key(|split| (split.file, split.range));
    Ok(splits)
}

/// Divides one large Parquet file by its footer.
async fn by_footer(
    store: Arc<dyn ObjectStore>,
    table: &Table,
    index: usize,
    file: &DataFile,
    target: u64,
) -> Result<Vec<FileSplit>> {
    let place = |error: QueryError| {
        error.at(format!("file `{}` of table `{}`", full_path(&table.store, &file.path), table.name))
    };
    let object = object_meta(file).map_err(place)?;
    let footer = buzz_storage::footer(store.as_ref(), &object, None).await.map_err(place)?;
    Ok(row_group_splits(index, file.size, &footer, target))
}

fn object_meta(file: &DataFile) -> Result<ObjectMeta> {
    let location =
        Path::parse(&file.path).map_err(|error| QueryError::data(format!("`{}` is not a path: {error}", file.path)))?;
    Ok(ObjectMeta { location, last_modified: DateTime::UNIX_EPOCH, size: file.size, e_tag: None, version: None })
}

/// Plans the reduce steps. An `HComb` step that is read exactly once becomes part of its reader's plan. A step that is
/// read more often runs once and its rows become a stage, so that all readers get the same rows.
async fn reduce_steps(
    steps: &[ParsedStep<'_>],
    planned: Vec<PlannedStep>,
    reads: &[usize],
    request: &Request,
    start: DateTime<Utc>,
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
        let state = session(planning_config(&request.options, 1)?, start, providers)?;
        let place = |error: QueryError| error.at(format!("step `{}`", parsed.step.name));
        let planned_step = to_logical(&state, parsed.statement.clone(), &request.query.params).await;
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
