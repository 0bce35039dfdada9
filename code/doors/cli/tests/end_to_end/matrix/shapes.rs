//! The shapes of queries, and their right rows.

use std::path::Path;

use buzz_testkit::{plain_rows, sorted_text};
use serde_json::Value;

use crate::common::{statement, steps};
use crate::tables::{kinds_folder, parquet_folder};

/// Names of the shapes, in the order of [`shapes`].
pub(crate) const NAMES: [&str; 6] = ["aggregate", "top-k", "join", "window", "large result", "steps"];

const STATEMENTS: [&str; 5] = [
    "SELECT grp, count(*) AS n, sum(id) AS s, max(amount) AS m FROM rides GROUP BY grp",
    "SELECT id, amount FROM rides ORDER BY amount DESC NULLS LAST, id LIMIT 7",
    "SELECT k.label, count(*) AS n, sum(r.id) AS s FROM rides r LEFT JOIN kinds k ON r.grp = k.grp GROUP BY k.label",
    "SELECT id, rank() OVER (PARTITION BY grp ORDER BY id DESC) AS place FROM rides",
    "SELECT r.id, r.grp, r.amount, repeat(r.grp, 40) AS t FROM rides r",
];

/// A query and its right rows.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    pub(crate) query: Value,
    /// The rows as sorted text.
    pub(crate) right: Vec<String>,
}

/// Writes the tables in `dir`: `rides` with 8 files of `rows` rows each, and `kinds`.
pub(crate) fn write_tables(dir: &Path, rows: usize) {
    parquet_folder(dir, "rides", 8, rows);
    kinds_folder(dir);
}

/// Returns the shapes with the rows of plain DataFusion on the tables in `dir`.
pub(crate) async fn shapes(dir: &Path) -> Vec<Shape> {
    let tables = [("rides", "Parquet", "rides"), ("kinds", "Parquet", "kinds")];
    let mut queries: Vec<(Value, &str)> = STATEMENTS.iter().map(|sql| (statement(2, sql, &tables), *sql)).collect();
    let map = "SELECT grp, id % 5 AS part, COUNT(*) AS n FROM rides GROUP BY grp, id % 5";
    let reduce = "SELECT grp, part, SUM(n) AS n FROM m GROUP BY grp, part";
    queries.push((steps(2, &[("m", map)], &[("r", reduce)], &tables[..1]), map));
    let paths = ["rides", "kinds"].map(|name| (name, dir.join(name).display().to_string()));
    let paths = paths.each_ref().map(|(name, path)| (*name, path.as_str()));
    let mut shapes = Vec::new();
    for (name, (query, sql)) in NAMES.into_iter().zip(queries) {
        let right = sorted_text(&plain_rows(sql, &paths, 2).await.unwrap());
        assert!(!right.is_empty(), "{sql}");
        shapes.push(Shape { name, query, right });
    }
    shapes
}
