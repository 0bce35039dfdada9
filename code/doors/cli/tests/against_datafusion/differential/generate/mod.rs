//! Random queries whose answer is settled: what depends on how the work is divided (the last digits of a float's sum, rows
//! that a limit may choose) is only ever in the output, never in a condition, a key or an order.

mod expression;
mod output;
mod source;
mod subquery;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use super::query::{Join, Relation, Select};

/// The use of a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Int,
    Decimal,
    Float,
    Text,
    Date,
    Time,
    /// A list, a struct or a boolean: it can be a key or an output, and no operator takes it.
    Nested,
}

/// A column of a table or of a subquery.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    /// As written in SQL, with its relation's alias where it has one.
    pub sql: String,
    pub kind: Kind,
    /// True if every division of the work gives the very same values.
    pub exact: bool,
    /// Literals of values that are there.
    pub literals: Vec<String>,
}

/// A table, its columns, and what is unique in it.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub name: String,
    pub columns: Vec<Column>,
    /// Columns that together are unique; empty if none are.
    pub key: Vec<String>,
    pub row_count: usize,
}

/// Columns of two tables that refer to each other.
const REFERENCES: &[(&str, &str, &str, &str)] = &[
    ("lineitem", "l_orderkey", "orders", "o_orderkey"),
    ("lineitem", "l_partkey", "part", "p_partkey"),
    ("lineitem", "l_suppkey", "supplier", "s_suppkey"),
    ("lineitem", "l_orderkey", "lineitem", "l_orderkey"),
    ("orders", "o_custkey", "customer", "c_custkey"),
    ("customer", "c_nationkey", "nation", "n_nationkey"),
    ("customer", "c_custkey", "customer", "c_nationkey"),
    ("supplier", "s_nationkey", "nation", "n_nationkey"),
    ("nation", "n_regionkey", "region", "r_regionkey"),
    ("partsupp", "ps_partkey", "part", "p_partkey"),
    ("partsupp", "ps_suppkey", "supplier", "s_suppkey"),
    ("part", "p_size", "nation", "n_nationkey"),
    ("rides", "passenger_count", "region", "r_regionkey"),
    ("rides", "passenger_count", "nation", "n_nationkey"),
    ("extremes", "area", "nation", "n_nationkey"),
    ("extremes", "area", "region", "r_regionkey"),
    ("extremes", "id", "orders", "o_orderkey"),
    ("extremes", "tag", "nation", "n_name"),
    ("extremes", "word", "extremes", "tag"),
    ("extremes", "empty", "region", "r_regionkey"),
    ("trips", "passenger_count", "region", "r_regionkey"),
    ("trips", "payment_type", "nation", "n_nationkey"),
];

/// The relation in FROM, and its columns.
struct Scope {
    from: Relation,
    joins: Vec<Join>,
    columns: Vec<Column>,
    /// Columns that together are unique among the rows; empty if none are.
    key: Vec<String>,
    /// Rows that a result may have at most, roughly.
    row_count: usize,
}

/// Makes queries over `tables`.
pub(crate) struct Generator<'a> {
    random: StdRng,
    tables: &'a [Table],
    aliases: usize,
}

/// A finished SELECT and what its columns are.
struct Built {
    select: Select,
    columns: Vec<Column>,
    /// Names of columns that together are unique.
    key: Vec<String>,
}

impl<'a> Generator<'a> {
    pub(crate) fn new(random: StdRng, tables: &'a [Table]) -> Self {
        Self { random, tables, aliases: 0 }
    }

    /// One query.
    pub(crate) fn query(&mut self) -> Select {
        let mut with = Vec::new();
        let mut built = if self.chance(0.25) {
            let inner = self.inner_select(1);
            let name = format!("q{}", self.fresh());
            let table = as_table(&name, &inner);
            with.push((name, inner.select));
            let scope = self.scope_of_cte(&table);
            let mut built = self.select_from(scope, 0);
            if self.chance(0.4) {
                self.read_again(&mut built, &table);
            }
            built
        } else {
            self.select(0)
        };
        built.select.with = with;
        if self.chance(0.15) && built.columns.iter().all(|column| column.exact) {
            self.set_operation(&mut built);
        }
        self.order(&mut built);
        built.select
    }

    /// A subquery: at times limited, and at times a set operation.
    fn inner_select(&mut self, depth: usize) -> Built {
        let mut built = self.select(depth);
        if self.chance(0.1) && built.columns.iter().all(|column| column.exact) {
            self.set_operation(&mut built);
        }
        self.order(&mut built);
        built
    }

    fn fresh(&mut self) -> usize {
        self.aliases += 1;
        self.aliases
    }

    fn chance(&mut self, share: f64) -> bool {
        self.random.random_bool(share)
    }

    fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all.choose(&mut self.random).expect("a choice of something").clone()
    }

    fn select(&mut self, depth: usize) -> Built {
        let scope = self.scope(depth);
        self.select_from(scope, depth)
    }

    fn order(&mut self, built: &mut Built) {
        if !self.chance(0.6) {
            return;
        }
        let mut names: Vec<String> =
            built.columns.iter().filter(|column| column.exact).map(|column| column.sql.clone()).collect();
        let whole = names.len() == built.columns.len();
        if !built.key.is_empty() && self.chance(0.3) {
            names = built.key.clone();
        }
        let total = whole && names.len() == built.columns.len()
            || !built.key.is_empty() && built.key.iter().all(|key| names.contains(key));
        let direction =
            |random: &mut StdRng| ["", " DESC", " NULLS FIRST", " DESC NULLS LAST"][random.random_range(0..4)];
        built.select.order = names.iter().map(|name| format!("{name}{}", direction(&mut self.random))).collect();
        if total && !built.select.order.is_empty() && self.chance(0.6) {
            let offset = if self.chance(0.3) { self.one_of(&[1, 7, 100]) } else { 0 };
            built.select.limit = Some((self.one_of(&[1, 3, 10, 100, 5000]), offset));
        }
    }
}

fn numeric(column: &Column) -> bool {
    matches!(column.kind, Kind::Int | Kind::Decimal | Kind::Float)
}

fn exact_or_one(columns: &[Column]) -> Vec<Column> {
    match columns {
        [] => vec![Column { sql: "1".to_string(), kind: Kind::Int, exact: true, literals: Vec::new() }],
        some => some.to_vec(),
    }
}

/// A SELECT's result as a table called `name`.
fn as_table(name: &str, built: &Built) -> Table {
    let row_count = if built.select.group.is_empty() { 100_000 } else { 500 };
    Table { name: name.to_string(), columns: built.columns.clone(), key: built.key.clone(), row_count }
}
