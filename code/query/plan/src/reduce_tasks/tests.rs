use arrow::datatypes::{DataType, Field, Schema};
use buzz_kernel::{decode_plan, planning_config};
use buzz_protocol::Options;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::displayable;
use datafusion::prelude::SessionContext;

use super::*;
use crate::table::{InboxTable, InboxTarget};

const PARTITIONS: usize = 4;

/// Joins of `a` and `b` whose left sides the planner collects, and what the join of a task shows; nothing if Fuse runs it.
const JOINS: [(&str, &str); 11] = [
    ("SELECT a.v, b.v AS w FROM a JOIN b ON a.k = b.k", "CollectLeft, join_type=Inner"),
    ("SELECT a.v, b.v AS w FROM a RIGHT JOIN b ON a.k = b.k", "CollectLeft, join_type=Right"),
    ("SELECT a.v, b.v AS w FROM a LEFT JOIN b ON a.k = b.k", "Partitioned, join_type=Left"),
    ("SELECT a.v, b.v AS w FROM a FULL JOIN b ON a.k = b.k", "Partitioned, join_type=Full"),
    ("SELECT v FROM a WHERE EXISTS (SELECT 1 FROM b WHERE b.k = a.k)", "Partitioned, join_type=LeftSemi"),
    ("SELECT v FROM a WHERE NOT EXISTS (SELECT 1 FROM b WHERE b.k = a.k)", "Partitioned, join_type=LeftAnti"),
    ("SELECT a.v FROM a JOIN b ON a.k > b.k", "NestedLoopJoinExec: join_type=Inner"),
    ("SELECT a.v FROM a RIGHT JOIN b ON a.k > b.k", "NestedLoopJoinExec: join_type=Right"),
    ("SELECT a.v, b.v AS w FROM a CROSS JOIN b", "CrossJoinExec"),
    // Each needs all rows of `b` to know which rows of `a` have no match.
    ("SELECT a.v FROM a LEFT JOIN b ON a.k > b.k", ""),
    ("SELECT v FROM a WHERE k NOT IN (SELECT k FROM b)", ""),
];

async fn divided(sql: &str) -> (String, Vec<TaskStage>, Arc<TaskContext>) {
    divided_by(sql, true).await
}

/// Divides the plan of `sql` over the stages `a` (1) and `b` (2), each with the columns `k` and `v`. The planner collects the left
/// sides of joins, or divides both sides by their keys if `by_keys`. Returns the rest and the stages.
async fn divided_by(sql: &str, by_keys: bool) -> (String, Vec<TaskStage>, Arc<TaskContext>) {
    let query = QueryId::fresh();
    let target = InboxTarget { query, partitions: PARTITIONS };
    let config = planning_config(&Options::default(), PARTITIONS).unwrap().with_extension(Arc::new(target));
    let ctx = SessionContext::new_with_config(config.with_repartition_joins(by_keys));
    let schema = Arc::new(Schema::new(["k", "v"].map(|name| Field::new(name, DataType::Int64, true)).to_vec()));
    for (name, stage) in [("a", 1), ("b", 2)] {
        let (stage, step) = (StageId(stage), name.to_string());
        ctx.register_table(name, Arc::new(InboxTable { stage, step, schema: Arc::clone(&schema) })).unwrap();
    }
    let plan = ctx.sql(sql).await.unwrap().create_physical_plan().await.unwrap();
    let plan: PlanNode = Arc::new(CoalescePartitionsExec::new(plan));
    let (rest, stages) = task_stages(&plan, query, StageId(3), PARTITIONS).unwrap();
    (displayable(rest.as_ref()).indent(false).to_string(), stages, ctx.task_ctx())
}

fn read(stage: &TaskStage) -> Vec<u32> {
    stage.inputs(0).unwrap().iter().map(|input| input.stage.0).collect()
}

#[tokio::test]
async fn joins_and_aggregates_become_stages_that_read_the_ones_before() {
    let sql = "SELECT a.k, SUM(b.v) AS v FROM a JOIN b ON a.k = b.k GROUP BY a.k ORDER BY v";
    let (rest, stages, _) = divided(sql).await;
    // Both sides are exchanged by the key, and then joined and grouped.
    assert_eq!(stages.iter().map(|stage| stage.id.0).collect::<Vec<_>>(), [3, 4, 5], "{rest}");
    assert_eq!((read(&stages[0]), read(&stages[1])), (vec![1], vec![2]));
    assert_eq!((stages[0].keys.len(), stages[1].keys.len(), stages[2].keys.len()), (1, 1, 0));
    let mut last = read(&stages[2]);
    last.sort_unstable();
    assert_eq!(last, [3, 4]);
    assert!(!rest.contains("JoinExec") && !rest.contains("AggregateExec"), "{rest}");
    assert!(rest.contains("SortExec") && rest.contains("step=reduce_5"), "{rest}");
}

#[tokio::test]
async fn task_reads_one_partition_of_each_input() {
    let (_, stages, ctx) = divided("SELECT k, COUNT(*) AS n FROM a GROUP BY k").await;
    let last = stages.last().expect("a stage of groups");
    for partition in 0..PARTITIONS {
        let plan = decode_plan(&last.fragment(partition).unwrap(), &ctx, &LeafCodec).unwrap();
        assert_eq!(plan.properties().partitioning.partition_count(), 1);
        for (inbox, _) in leaves(&plan) {
            assert_eq!(inbox.partitions(), partition..partition + 1);
        }
    }
}

#[tokio::test]
async fn joins_that_collect_a_side_become_tasks() {
    for (sql, shown) in JOINS {
        let (rest, stages, ctx) = divided_by(sql, false).await;
        let joined = stages.iter().find(|stage| works(&stage.plan).unwrap());
        let Some(joined) = joined else {
            assert!(shown.is_empty() && rest.contains("JoinExec"), "{sql}: {rest}");
            continue;
        };
        let text = displayable(joined.plan.as_ref()).indent(false).to_string();
        assert!(!shown.is_empty() && text.contains(shown) && !rest.contains("JoinExec"), "{sql}: {text}{rest}");
        let gathering = stages.iter().find(|stage| stage.tasks == 1).expect("a task that computes the left side");
        let whole: Vec<bool> = leaves(&joined.plan).into_iter().map(|(_, whole)| whole).collect();
        let by_keys = shown.starts_with("Partitioned");
        assert_eq!((gathering.keys.len(), whole), (usize::from(by_keys), vec![!by_keys, false]), "{sql}");
        for task in 0..PARTITIONS {
            let plan = decode_plan(&joined.fragment(task).unwrap(), &ctx, &LeafCodec).unwrap();
            assert_eq!(plan.properties().partitioning.partition_count(), 1, "{sql}");
            let read = joined.inputs(task).unwrap();
            let all = read.iter().any(|input| input.partitions == (0..u32::try_from(PARTITIONS).unwrap()));
            assert_eq!((read.len(), all), (2, !by_keys), "{sql}");
        }
    }
}

#[tokio::test]
async fn one_task_computes_what_a_join_collects() {
    let sql = "SELECT b.k, t.s FROM (SELECT SUM(v) AS s FROM a) t JOIN b ON b.v > t.s";
    let (rest, stages, _) = divided_by(sql, false).await;
    let [first, one, joined] = stages.as_slice() else { panic!("{rest}: {stages:?}") };
    assert_eq!((first.tasks, one.tasks, joined.tasks), (PARTITIONS, 1, PARTITIONS));
    assert!(displayable(one.plan.as_ref()).indent(false).to_string().contains("AggregateExec: mode=Final"), "{one:?}");
    assert!(one.schema.fields().iter().all(|field| field.is_nullable()));
}

#[tokio::test]
async fn operators_that_need_all_rows_stay_at_fuse() {
    let (rest, stages, _) = divided("SELECT k, ROW_NUMBER() OVER (ORDER BY v) AS n FROM a").await;
    assert!(stages.is_empty() && rest.contains("WindowAggExec"), "{rest}");
    // Rows that are only passed on make no task.
    let (rest, stages, _) = divided("SELECT k FROM a UNION ALL SELECT v FROM b").await;
    assert!(stages.is_empty() && rest.contains("step=a"), "{rest}");
    // Each task has its part of a top-k, and Fuse the rest.
    let (rest, stages, _) = divided("SELECT k, COUNT(*) AS n FROM a GROUP BY k ORDER BY n DESC, k LIMIT 3").await;
    assert!(!stages.is_empty() && rest.contains("TopK(fetch=3)"), "{rest}");
}
