//! From one SQL statement to what will run.

use std::sync::Arc;
use std::time::Duration;

use buzz_catalog::Table;
use buzz_protocol::plan::encode_fragment;
use buzz_protocol::query::name_help;
use buzz_protocol::{QueryError, QueryId, Result, StageId};
use buzz_storage::Storage;
use chrono::Utc;
use datafusion::catalog::TableProvider;
use datafusion::physical_plan::displayable;
use datafusion::sql::parser::Statement;

use crate::cut::{Fragment, cut};
use crate::plan::{Evaluate, MapStage, QueryPlan, ReduceStep};
use crate::reduce::{self, planned};
use crate::session::{planning_config, session, session_options};
use crate::split::{pack, task_count};
use crate::steps::{self, delivered_schema};
use crate::table::{FileTable, InboxTarget};
use crate::{Combs, Compute, Request, prune};

/// What the only reduce step of a statement is called.
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
    let tables: Vec<Arc<Table>> = tables.into_iter().map(Arc::new).collect();
    let (statement, explain_only) = match steps::parse_statement(sql)? {
        Statement::Explain(explain) if explain.options.analyze => {
            return Err(QueryError::invalid("EXPLAIN ANALYZE is not supported yet; write EXPLAIN"));
        }
        Statement::Explain(explain) => (*explain.statement, true),
        statement => (statement, false),
    };
    let statement = steps::check_query(statement)?;
    let (references, _) = datafusion::sql::resolve::resolve_table_references(&statement, true)?;
    let mut providers: Vec<(String, Arc<dyn TableProvider>)> = Vec::new();
    for reference in references {
        let name = reference.table();
        let same = |table: &Arc<Table>| table.name == name || table.name.eq_ignore_ascii_case(name);
        let number = tables.iter().position(same).ok_or_else(|| {
            let names = tables.iter().map(|table| table.name.as_str());
            QueryError::invalid(format!("there is no table `{name}`{}", name_help(name, names)))
        })?;
        providers.push((name.to_string(), Arc::new(FileTable::for_cut(Arc::clone(&tables[number]), number))));
    }
    let named = providers.iter().map(|(name, provider)| (name.as_str(), Arc::clone(provider)));
    let state = session(planning_config(options, 1)?, start, named)?;
    let logical = steps::to_logical(&state, statement, &request.query.params).await?;
    let schema = delivered_schema(logical.schema().as_arrow());
    let reduces = vec![ReduceStep { step: STEP.to_string(), logical, cut: true, target: None, schema }];

    let wanted = request.query.zones;
    let mut warnings = Vec::new();
    let partitions = reduce::partitions_per_comb(combs, wanted);
    let comb_count = reduce::comb_count(&reduces, options, start, wanted, partitions).await?;
    if comb_count < wanted {
        warnings.push(format!("this query cannot be divided among {wanted} combs; one reduces it"));
    }
    let partitions = reduce::partitions_per_comb(combs, comb_count);
    let target = InboxTarget { query: QueryId::fresh(), partitions };
    let fragments = cut(planned(&reduces[0].logical, options, start, target).await?, target)?.fragments;

    let mut stages = Vec::new();
    for (index, fragment) in fragments.into_iter().enumerate() {
        stages.push(map_stage(index, fragment, &tables, request, storage, compute).await?);
    }
    Ok(QueryPlan {
        options: options.clone(),
        stages,
        reduces,
        explain_only,
        warnings,
        comb_count,
        partitions_per_comb: partitions,
        start,
        session: session_options(options),
        opened_in: Duration::ZERO,
        planned_in: Duration::ZERO,
    })
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
    let table = Arc::clone(&tables[fragment.table]);
    let files = match &fragment.predicate {
        Some(predicate) => prune::by_predicate(&table, table.files.clone(), predicate)?,
        None => table.files.clone(),
    };
    let splits = steps::row_groups(storage, &table, &files, options.split_bytes).await?;
    let count = task_count(&splits, options.tasks, options.task_bytes, compute.tasks_min());
    let display = displayable(fragment.plan.as_ref()).indent(false).to_string();
    Ok(MapStage {
        id: StageId(u32::try_from(index).expect("a plan has fewer than 2^32 scans")),
        step: format!("map_{index}"),
        schema: delivered_schema(&fragment.plan.schema()),
        display,
        scan_count: 1,
        fragment: encode_fragment(fragment.plan)?,
        keys: fragment.keys,
        evaluate: Evaluate::Together,
        tasks: pack(splits, count),
        files_by_filter: table.files.len(),
        table,
        files,
    })
}
