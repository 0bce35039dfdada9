//! Plain DataFusion as the measure: what it answers, and what of that the query settles.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use buzz_kernel::yielding;
use buzz_protocol::{Options, QueryError};
use buzz_testkit::{Rows, disagreement, not_among};
use datafusion::catalog::TableProvider;
use datafusion::common::TableReference;
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::provider_as_source;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SessionStateBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::{ParquetReadOptions, SessionConfig, SessionContext};
use futures::FutureExt;

use crate::parquet::Written;

/// The files that plain DataFusion reads.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// The files that Buzz reads.
    Files,
    Turned,
    Mixed,
}

/// Files, threads and rows of a batch: as many ways to divide the same work.
const WAYS: [(Way, usize, usize); 5] =
    [(Way::Files, 1, 8192), (Way::Files, 2, 8192), (Way::Turned, 3, 8192), (Way::Mixed, 1, 8192), (Way::Mixed, 2, 2)];

/// A query and the tables that it reads, by name.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub sql: String,
    pub tables: Vec<(String, Written)>,
    pub options: Options,
    /// True if the rows have an order.
    pub ordered: bool,
    /// Time that plain DataFusion may take.
    pub patience: Duration,
}

impl Asked {
    /// Returns the rows of plain DataFusion on the files that Buzz reads.
    pub(crate) async fn plain(&self) -> Result<Rows> {
        self.variant(Way::Files, 4, self.options.batch_size).await
    }

    /// In what `found` contradicts plain DataFusion, whose answer is `plain`; none if it does not.
    pub(crate) async fn judge(&self, found: &Rows, plain: Rows) -> Result<Option<String>> {
        let (found, plain) = match self.estimates() {
            true => (found.clone().estimated(0.1), plain.estimated(0.1)),
            false => (found.clone(), plain),
        };
        let at_once = disagreement(&found, std::slice::from_ref(&plain), self.ordered);
        if at_once.is_none() {
            return Ok(None);
        }
        let mut variants = vec![plain];
        for (way, threads, batch_size) in WAYS {
            variants.push(self.variant(way, threads, batch_size).await?);
        }
        let Some(told) = disagreement(&found, &variants, self.ordered) else {
            // A limit may choose any rows of its input, and no others.
            return Ok(match self.limited().await? {
                Some(all) => not_among(&found, &all).map(|told| format!("rows that no LIMIT can choose: {told}")),
                None => None,
            });
        };
        // Plain DataFusion may have chosen the same rows each time, although others would be right too.
        if !self.ordered && found.rows.len() == variants[0].rows.len() {
            let all = self.limited().await?;
            if all.is_some_and(|all| not_among(&found, &all).is_none()) {
                return Ok(None);
            }
        }
        if self.chooses_within().await? || self.chooses_among_ties(&found, &variants[0]).await? {
            return Ok(None);
        }
        // Ties leave the order of a list's elements open, also with ORDER BY.
        let (found, plain) = (found.with_sorted_elements(), variants[0].clone().with_sorted_elements());
        let only_order = self.collects().await? && disagreement(&found, &[plain], false).is_none();
        Ok(if only_order { None } else { Some(told) })
    }

    /// Returns whether the query collects values in lists or texts.
    async fn collects(&self) -> Result<bool> {
        self.has_expression(|expression| {
            let Expr::AggregateFunction(aggregate) = expression else { return false };
            ["array_agg", "string_agg"].contains(&aggregate.func.name())
        })
        .await
    }

    /// Returns whether any expression of the query, or a part of it, has this `property`.
    async fn has_expression(&self, property: impl Fn(&Expr) -> bool) -> Result<bool> {
        let ctx = self.session(Way::Files, 1, 8192).await?;
        let mut found = false;
        ctx.state().create_logical_plan(&self.sql).await?.apply_with_subqueries(|node| {
            node.apply_expressions(|expression| {
                found |= expression.exists(|inner| Ok(property(inner)))?;
                Ok(TreeNodeRecursion::Continue)
            })
        })?;
        Ok(found)
    }

    /// Returns true if plain DataFusion fails when it divides the work in another way.
    pub(crate) async fn fails_otherwise(&self) -> bool {
        for (way, threads, batch_size) in WAYS {
            if self.variant(way, threads, batch_size).await.is_err() {
                return true;
            }
        }
        false
    }

    fn estimates(&self) -> bool {
        let sql = self.sql.to_lowercase();
        ["approx_percentile", "approx_median", "percentile_cont(", "approx_distinct"]
            .iter()
            .any(|name| sql.contains(name))
    }

    async fn variant(&self, way: Way, threads: usize, batch_size: usize) -> Result<Rows> {
        let ctx = self.session(way, threads, batch_size).await?;
        unpanicked(async { Ok(Rows::of(&ctx.sql(&self.sql).await?.collect().await?)?) }).await
    }

    /// Returns true if the query limits sorted rows, and `found` has the sort keys of `plain` and rows of the whole result.
    /// Rows with equal keys are ties, of which the limit may choose any.
    async fn chooses_among_ties(&self, found: &Rows, plain: &Rows) -> Result<bool> {
        let ctx = self.session(Way::Files, 1, 8192).await?;
        let LogicalPlan::Limit(limit) = ctx.state().create_logical_plan(&self.sql).await? else {
            return Ok(false);
        };
        let LogicalPlan::Sort(sort) = limit.input.as_ref() else {
            return Ok(false);
        };
        let keys = sort.expr.iter().map(|key| match &key.expr {
            Expr::Column(column) => sort.input.schema().maybe_index_of_column(column),
            _ => None,
        });
        let Some(keys) = keys.collect::<Option<Vec<usize>>>() else { return Ok(false) };
        let all = self.settled(&limit.input).await?;
        Ok(found.same_keys(plain, &keys) && all.is_some_and(|all| not_among(found, &all).is_none()))
    }

    /// All rows of a query that only its last step limits, if they are always the same.
    async fn limited(&self) -> Result<Option<Rows>> {
        let ctx = self.session(Way::Files, 1, 8192).await?;
        let LogicalPlan::Limit(limit) = ctx.state().create_logical_plan(&self.sql).await? else {
            return Ok(None);
        };
        self.settled(&limit.input).await
    }

    /// Returns true if a limit inside of the query may choose other rows, or an aggregate without an order other values.
    async fn chooses_within(&self) -> Result<bool> {
        if self.has_expression(depends_on_order).await? {
            return Ok(true);
        }
        let ctx = self.session(Way::Files, 1, 8192).await?;
        let mut limits = Vec::new();
        let whole = ctx.state().create_logical_plan(&self.sql).await?;
        whole.apply_with_subqueries(|node| {
            let inner = matches!(node, LogicalPlan::Limit(_)) && !std::ptr::eq(node, &whole);
            limits.extend(inner.then(|| node.clone()));
            Ok(TreeNodeRecursion::Continue)
        })?;
        for limit in limits {
            // A query that depends on an outer row cannot be run by itself.
            if self.settled(&limit).await.is_ok_and(|rows| rows.is_none()) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The rows of a part of the query, if they are always the same.
    async fn settled(&self, part: &LogicalPlan) -> Result<Option<Rows>> {
        let mut first: Option<Rows> = None;
        for (way, threads, batch_size) in WAYS {
            let ctx = self.session(way, threads, batch_size).await?;
            // The plan holds the tables of another session.
            let part = part.clone().transform_up_with_subqueries(|node| match node {
                LogicalPlan::TableScan(mut scan) if !scan.table_name.table().is_empty() => {
                    if let Some(table) = self.provider(&ctx, scan.table_name.table()) {
                        scan.source = provider_as_source(table);
                    }
                    Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
                }
                node => Ok(Transformed::no(node)),
            })?;
            let running = async { Ok(Rows::of(&ctx.execute_logical_plan(part.data).await?.collect().await?)?) };
            let rows = unpanicked(running).await?;
            match &first {
                None => first = Some(rows),
                Some(first) if disagreement(&rows, std::slice::from_ref(first), false).is_some() => return Ok(None),
                Some(_) => {}
            }
        }
        Ok(first)
    }

    fn provider(&self, ctx: &SessionContext, name: &str) -> Option<Arc<dyn TableProvider>> {
        ctx.table_provider(TableReference::bare(name)).now_or_never()?.ok()
    }

    async fn session(&self, way: Way, threads: usize, batch_size: usize) -> Result<SessionContext> {
        let mut config = SessionConfig::new().with_target_partitions(threads).with_batch_size(batch_size);
        if let Some(zone) = &self.options.time_zone {
            config.options_mut().set("datafusion.execution.time_zone", zone)?;
        }
        let state = SessionStateBuilder::new().with_default_features().with_config(config);
        let ctx = SessionContext::new_with_state(state.with_physical_optimizer_rule(Arc::new(Yielding)).build());
        for (name, written) in &self.tables {
            let folder = match way {
                Way::Files => &written.files,
                Way::Turned => &written.turned,
                Way::Mixed => &written.mixed,
            };
            let path = folder.to_str().ok_or_else(|| DataFusionError::Plan("a path that is not text".to_string()))?;
            let name = TableReference::bare(name.as_str());
            ctx.register_parquet(name, format!("{path}/"), ParquetReadOptions::default()).await?;
        }
        Ok(ctx)
    }
}

/// Returns a panic of `running` as an error. Some kernels of Arrow panic on an empty batch, whose existence depends on how
/// the work is divided.
async fn unpanicked(running: impl Future<Output = Result<Rows>>) -> Result<Rows> {
    let ran = AssertUnwindSafe(running).catch_unwind().await;
    ran.unwrap_or_else(|_| Err(DataFusionError::Execution("it panicked".to_string())))
}

/// Makes joins give up their thread from time to time, like the joins of Buzz: a query that takes too long would hold the
/// runtime of all tests.
#[derive(Debug)]
struct Yielding;

impl PhysicalOptimizerRule for Yielding {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        yielding(plan).map_err(QueryError::into_datafusion)
    }

    fn name(&self) -> &str {
        "yielding"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// Returns whether `expression` is an aggregate or a window function whose value depends on an order that it does not say.
fn depends_on_order(expression: &Expr) -> bool {
    let of_order = ["any_value", "array_agg", "first_value", "last_value", "nth_value", "string_agg"];
    match expression {
        Expr::AggregateFunction(aggregate) => {
            aggregate.params.order_by.is_empty() && of_order.contains(&aggregate.func.name())
        }
        Expr::WindowFunction(window) => {
            let of_rows = ["lag", "lead", "ntile", "row_number"];
            let name = window.fun.name();
            window.params.order_by.is_empty() && (of_order.contains(&name) || of_rows.contains(&name))
        }
        _ => false,
    }
}
