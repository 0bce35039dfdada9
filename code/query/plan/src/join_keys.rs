//! Computes the keys of joins below them, in one order.
//!
//! DataFusion's planner does so too, but keeps the keys of a join in a set, and so in another order each time. A statement is planned
//! once for its tasks and again for each run of its reduce plan: the keys that tasks delivered were read in another order, which gave
//! other rows if their types are the same.

use std::sync::Arc;

use datafusion::common::tree_node::Transformed;
use datafusion::common::{Column, DFSchema};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, Join, JoinConstraint, LogicalPlan, Projection};

use crate::trees::PlanTree;

/// Returns `plan` with joins whose keys are columns.
///
/// # Errors
/// Fails if a key cannot be computed.
pub(crate) fn computed_below(plan: LogicalPlan) -> Result<LogicalPlan> {
    let plan = plan.rewrite_all_up(&mut |node| match node {
        LogicalPlan::Join(join) if !join.on.iter().all(|(left, right)| is_column(left) && is_column(right)) => {
            Ok(Transformed::yes(with_columns(join)?))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(plan.data)
}

fn is_column(key: &Expr) -> bool {
    matches!(key, Expr::Column(_))
}

/// Returns `join` over inputs that compute its keys, with the columns that it had.
fn with_columns(join: Join) -> Result<LogicalPlan> {
    let Join { left, right, on, filter, join_type, schema, null_equality, null_aware, .. } = join;
    let (of_left, of_right) = on.into_iter().unzip();
    let (left, of_left) = side(left, of_left, "left")?;
    let (right, of_right) = side(right, of_right, "right")?;
    let on = of_left.into_iter().zip(of_right).collect();
    // The keys of USING would have to be columns of both tables.
    let constraint = JoinConstraint::On;
    let join = Join::try_new(left, right, on, filter, join_type, constraint, null_equality, null_aware)?;
    Ok(LogicalPlan::Projection(Projection::try_new_with_schema(
        columns(&schema),
        Arc::new(LogicalPlan::Join(join)),
        schema,
    )?))
}

/// Returns `input` with a further column for each of `keys` that is computed, and the keys as columns.
fn side(input: Arc<LogicalPlan>, keys: Vec<Expr>, name: &str) -> Result<(Arc<LogicalPlan>, Vec<Expr>)> {
    if keys.iter().all(is_column) {
        return Ok((input, keys));
    }
    let mut outputs = columns(input.schema());
    let mut computed: Vec<Expr> = Vec::new();
    let mut read = Vec::with_capacity(keys.len());
    for key in keys {
        if is_column(&key) {
            read.push(key);
            continue;
        }
        let known = computed.iter().position(|other| *other == key);
        let number = known.unwrap_or(computed.len());
        let column = format!("buzz_key_{name}_{number}");
        if known.is_none() {
            outputs.push(key.clone().unalias().alias(column.as_str()));
            computed.push(key);
        }
        read.push(Expr::Column(Column::new_unqualified(column)));
    }
    let projection = Projection::try_new(outputs, input)?;
    Ok((Arc::new(LogicalPlan::Projection(projection)), read))
}

fn columns(schema: &DFSchema) -> Vec<Expr> {
    schema.columns().into_iter().map(Expr::Column).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::{SessionConfig, SessionContext};

    use super::*;

    /// Returns the plan of `sql` over `x(a, b)` and `y(a, b)` with joins by columns.
    async fn computed(sql: &str) -> LogicalPlan {
        let ctx = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        for table in ["x", "y"] {
            let made = format!("CREATE TABLE {table} AS SELECT * FROM (VALUES (1, 2), (3, 4)) AS t (a, b)");
            ctx.sql(&made).await.unwrap().collect().await.unwrap();
        }
        let plan = ctx.sql(sql).await.unwrap().into_optimized_plan().unwrap();
        let computed = computed_below(plan.clone()).unwrap();
        assert_eq!(computed.schema(), plan.schema());
        let expected = ctx.execute_logical_plan(plan).await.unwrap().collect().await.unwrap();
        assert_eq!(ctx.execute_logical_plan(computed.clone()).await.unwrap().collect().await.unwrap(), expected);
        computed
    }

    #[tokio::test]
    async fn computed_keys_are_columns_in_the_order_of_the_join() {
        let keys: Vec<String> = (2..9).map(|n| format!("x.a % {n} = y.b % {n}")).collect();
        for kind in ["JOIN", "LEFT JOIN", "FULL JOIN"] {
            let plan = computed(&format!("SELECT x.a, y.a FROM x {kind} y ON {}", keys.join(" AND "))).await;
            let text = plan.display_indent().to_string();
            let places: Vec<_> = (0..7).map(|key| text.find(&format!("AS buzz_key_right_{key}")).unwrap()).collect();
            assert!(places.is_sorted(), "{text}");
            assert!(text.contains("buzz_key_left_0 = buzz_key_right_0"), "{text}");
        }
    }

    #[tokio::test]
    async fn joins_keep_their_columns() {
        for sql in [
            "SELECT * FROM x WHERE EXISTS (SELECT 1 FROM y WHERE x.a + 1 = y.b + 1 AND x.b = y.a)",
            "SELECT * FROM x WHERE a + 1 NOT IN (SELECT b + 1 FROM y)",
            "SELECT a FROM x WHERE a + 2 IN (SELECT b + 1 FROM y) OR a = 1 ORDER BY a",
            "SELECT * FROM x JOIN y ON x.a % 2 = y.b % 2 AND x.a % 2 = y.a % 3 ORDER BY 1, 2, 3, 4",
        ] {
            computed(sql).await;
        }
    }
}
