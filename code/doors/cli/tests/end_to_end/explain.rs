//! Plans as text: `--explain` of statements and of queries in steps, as snapshots.

use std::fs;
use std::path::Path;

use buzz_engine::{Content, Engine, Question, Want};
use buzz_fuse::Fuse;
use serde_json::{Value, json};
use tempfile::tempdir;

use crate::common::{host, question, statement, steps};
use crate::snapshots;
use crate::tables::{kinds_folder, parquet_folder, partitioned_delta};

const CATALOGS: [(&str, &str, &str); 4] = [
    ("rides", "Parquet", "rides"),
    ("kinds", "Parquet", "kinds"),
    ("daily", "DeltaLake", "partitioned"),
    ("notes", "Csv", "notes"),
];

/// Statements by the name of their snapshot.
const STATEMENTS: [(&str, &str); 27] = [
    ("projection_and_filter", "SELECT id, amount * 2 AS twice FROM rides WHERE id > 700 AND grp = 'cash'"),
    ("count_from_statistics", "SELECT COUNT(*) FROM rides"),
    ("minimum_and_maximum_from_statistics", "SELECT MIN(id), MAX(id) FROM rides"),
    ("count_of_partitions", "SELECT COUNT(*) FROM daily WHERE day >= '2024-01-02'"),
    ("partial_aggregate", "SELECT grp, COUNT(*), SUM(amount) FROM rides GROUP BY grp"),
    ("having", "SELECT grp FROM rides GROUP BY grp HAVING MAX(amount) > 3"),
    ("distinct", "SELECT DISTINCT grp FROM rides"),
    ("count_distinct", "SELECT COUNT(DISTINCT grp) FROM rides"),
    ("rollup", "SELECT grp, id % 2, COUNT(*) FROM rides GROUP BY ROLLUP (grp, id % 2)"),
    ("top_k", "SELECT id FROM rides ORDER BY amount DESC LIMIT 3"),
    ("sort", "SELECT id FROM rides ORDER BY amount, id"),
    ("limit_and_offset", "SELECT id FROM rides LIMIT 5 OFFSET 2"),
    ("inner_join", "SELECT id, label FROM rides JOIN kinds USING (grp)"),
    ("left_join", "SELECT id, label FROM rides LEFT JOIN kinds USING (grp)"),
    ("join_and_aggregate", "SELECT label, COUNT(*) FROM rides JOIN kinds USING (grp) GROUP BY label"),
    ("join_of_a_table_with_itself", "SELECT COUNT(*) FROM rides a JOIN rides b ON a.id = b.id + 1"),
    ("semi_join", "SELECT id FROM rides WHERE grp IN (SELECT grp FROM kinds)"),
    ("anti_join", "SELECT id FROM rides r WHERE NOT EXISTS (SELECT 1 FROM kinds k WHERE k.grp = r.grp)"),
    ("scalar_subquery", "SELECT id FROM rides WHERE amount > (SELECT AVG(amount) FROM rides)"),
    ("union_all", "SELECT grp FROM rides UNION ALL SELECT grp FROM kinds"),
    ("intersect", "SELECT grp FROM rides INTERSECT SELECT grp FROM kinds"),
    ("window", "SELECT id, ROW_NUMBER() OVER (PARTITION BY grp ORDER BY id) FROM rides"),
    ("common_table_expression", "WITH g AS (SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp) SELECT * FROM g a, g b"),
    ("recursion", "WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 3) SELECT * FROM n"),
    ("values_without_a_table", "SELECT * FROM (VALUES (1, 'a'), (2, 'b')) AS t (id, name)"),
    ("partition_filter_in_where", "SELECT SUM(amount) FROM daily WHERE day < '2024-02-01' AND kind = 'a' AND id > 20"),
    ("csv_aggregate", "SELECT grp, COUNT(note) FROM notes GROUP BY grp"),
];

/// Statements that are planned for other numbers of combs, or with options.
const PLANNED_OTHERWISE: [(&str, usize, &[&str], &str); 4] = [
    ("aggregate_on_three_combs", 3, &[], "SELECT grp, COUNT(*) FROM rides GROUP BY grp"),
    ("join_on_two_combs", 2, &["build_bytes=0"], "SELECT id, label FROM rides JOIN kinds USING (grp)"),
    ("join_without_build_side", 1, &["build_bytes=0"], "SELECT id, label FROM rides JOIN kinds USING (grp)"),
    ("aggregate_in_one_task", 1, &["tasks=1"], "SELECT grp, COUNT(*) FROM rides GROUP BY grp"),
];

#[tokio::test(flavor = "multi_thread")]
async fn plan_of_a_statement_is_as_recorded() {
    let dir = tables();
    let plain = STATEMENTS.iter().map(|(name, sql)| (*name, 1, &[] as &[&str], *sql));
    for (name, zones, sets, sql) in plain.chain(PLANNED_OTHERWISE) {
        let text = explained(&statement(zones, sql, &CATALOGS), dir.path(), sets).await;
        let options: String = sets.iter().map(|set| format!("--set {set}\n")).collect();
        snapshots::compare(&format!("statement_{name}"), &format!("{sql}\n{options}\n{text}"), dir.path());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plan_of_steps_is_as_recorded() {
    let dir = tables();
    let by_group = ("m", "SELECT grp, COUNT(*) AS n FROM rides GROUP BY grp");
    let rides = [CATALOGS[0]];
    let mut selected = steps(
        1,
        &[("m", "SELECT id FROM daily WHERE id < 120")],
        &[("r", "SELECT COUNT(*) AS n FROM m")],
        &[CATALOGS[2]],
    );
    selected["steps"][0]["partition_filter"] = json!("day < '2024-02-01' AND level = 1");
    let mut divided = steps(1, &[by_group], &[("r", "SELECT SUM(n) AS n FROM m")], &rides);
    divided["steps"][0]["split"] = json!("row_groups");
    let cases = [
        ("map_and_reduce", steps(1, &[by_group], &[("r", "SELECT grp, SUM(n) AS n FROM m GROUP BY grp")], &rides)),
        ("on_two_combs", steps(2, &[by_group], &[("r", "SELECT grp, SUM(n) AS n FROM m GROUP BY grp")], &rides)),
        (
            "step_that_is_read_twice",
            steps(
                1,
                &[by_group],
                &[
                    ("s", "SELECT grp, SUM(n) AS n FROM m GROUP BY grp"),
                    ("r", "SELECT * FROM s a JOIN s b USING (grp)"),
                ],
                &rides,
            ),
        ),
        (
            "join_of_two_maps",
            steps(
                1,
                &[by_group, ("k", "SELECT grp, label FROM kinds")],
                &[("r", "SELECT label, SUM(n) AS n FROM m JOIN k USING (grp) GROUP BY label")],
                &CATALOGS[..2],
            ),
        ),
        ("partition_filter", selected),
        ("row_groups", divided),
    ];
    for (name, query) in cases {
        let text = explained(&query, dir.path(), &[]).await;
        snapshots::compare(&format!("steps_{name}"), &format!("{}\n\n{text}", listed(&query)), dir.path());
    }
}

/// Lists the steps of a query.
fn listed(query: &Value) -> String {
    let steps = query["steps"].as_array().expect("a query in steps");
    steps.iter().map(|step| format!("{} {}: {}\n", step["step_type"], step["name"], step["sql"])).collect()
}

fn tables() -> tempfile::TempDir {
    let dir = tempdir().unwrap();
    parquet_folder(dir.path(), "rides", 3, 300);
    kinds_folder(dir.path());
    partitioned_delta(dir.path());
    let notes = dir.path().join("notes");
    fs::create_dir(&notes).unwrap();
    fs::write(notes.join("part-0.csv"), "grp,note\ncash,first\ncredit,second\ncash,\n").unwrap();
    dir
}

/// Returns the plan of `query` as text, without the estimate at its end, whose times differ from run to run.
async fn explained(query: &Value, base: &Path, sets: &[&str]) -> String {
    let (question, _): (Question, _) = question(query, base, sets);
    let mut running = Fuse::new(host(sets).host()).start(question.with_want(Want::Plan));
    match running.answer().await.expect("a correct query").content {
        Content::Plan(text) => {
            let (plan, estimate) = text.split_at(text.rfind("estimate: ").expect("an estimate at the end"));
            assert!(estimate.ends_with(" s\n") && estimate.lines().count() == 1, "{estimate}");
            plan.to_string()
        }
        Content::Rows(_) | Content::Passed => panic!("rows instead of a plan"),
    }
}
