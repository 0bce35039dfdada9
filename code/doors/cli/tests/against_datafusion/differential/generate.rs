//! Random queries whose answer is settled: what depends on how the work is divided (the last digits of a float's sum, rows
//! that a limit may choose) is only ever in the output, never in a condition, a key or an order.

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
        let mut built = if self.chance(0.2) {
            let inner = self.select(1);
            let name = format!("q{}", self.fresh());
            let table = as_table(&name, &inner);
            with.push((name, inner.select));
            let scope = self.scope_of_cte(&table);
            self.select_from(scope, 0)
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

    fn scope(&mut self, depth: usize) -> Scope {
        if depth < 2 && self.chance(0.15) {
            let inner = self.select(depth + 1);
            let alias = format!("a{}", self.fresh());
            let table = as_table(&alias, &inner);
            let mut scope = self.scope_of(&table, &alias);
            scope.from = Relation::Sub { select: Box::new(inner.select), alias };
            return scope;
        }
        let table = self.one_of(self.tables);
        let alias = format!("a{}", self.fresh());
        let mut scope = self.scope_of(&table, &alias);
        let mut present = vec![(table.name.clone(), alias)];
        while present.len() < 4 && scope.row_count < 200_000 && self.chance(0.4) {
            if !self.join(&mut scope, &mut present) {
                break;
            }
        }
        scope
    }

    fn scope_of(&mut self, table: &Table, alias: &str) -> Scope {
        let qualified = |column: &Column| Column { sql: format!("{alias}.{}", column.sql), ..column.clone() };
        Scope {
            from: Relation::Named { name: table.name.clone(), alias: alias.to_string() },
            joins: Vec::new(),
            columns: table.columns.iter().map(qualified).collect(),
            key: table.key.iter().map(|column| format!("{alias}.{column}")).collect(),
            row_count: table.row_count,
        }
    }

    /// A common table expression, alone or joined to itself.
    fn scope_of_cte(&mut self, table: &Table) -> Scope {
        let alias = format!("a{}", self.fresh());
        let mut scope = self.scope_of(table, &alias);
        // By what is unique: else a few values would join with each other many times over.
        if !table.key.is_empty() && self.chance(0.4) {
            let other = format!("a{}", self.fresh());
            let keys = table.key.iter().map(|key| format!("{alias}.{key} = {other}.{key}"));
            let on = keys.collect::<Vec<_>>().join(" AND ");
            let second = self.scope_of(table, &other);
            scope.joins.push(Join {
                kind: self.one_of(&["JOIN", "LEFT JOIN", "FULL JOIN"]),
                relation: second.from,
                on: Some(on),
            });
            scope.columns.extend(second.columns);
            scope.key.clear();
        }
        scope
    }

    /// Joins one more table to what is there. False if none refers to any.
    fn join(&mut self, scope: &mut Scope, present: &mut Vec<(String, String)>) -> bool {
        let mut ways = Vec::new();
        for (name, alias) in present.iter() {
            for (left, left_column, right, right_column) in REFERENCES {
                if name == left {
                    ways.push((alias.clone(), *left_column, *right, *right_column, true));
                }
                if name == right {
                    ways.push((alias.clone(), *right_column, *left, *left_column, false));
                }
            }
        }
        let Some((alias, column, other, other_column, upward)) = ways.choose(&mut self.random).cloned() else {
            return false;
        };
        let Some(table) = self.tables.iter().find(|table| table.name == other).cloned() else {
            return false;
        };
        if !upward && scope.row_count.saturating_mul(table.row_count) > 3_000_000_000 {
            return false;
        }
        let new = format!("a{}", self.fresh());
        let second = self.scope_of(&table, &new);
        let mut on = format!("{alias}.{column} = {new}.{other_column}");
        if self.chance(0.2) {
            let filter = self.condition(&second.columns, 2);
            on = format!("{on} AND {filter}");
        } else if self.chance(0.1) {
            let both: Vec<Column> = scope.columns.iter().chain(&second.columns).cloned().collect();
            if let (Some(left), Some(right)) = (self.column(&both, numeric), self.column(&both, numeric)) {
                on = format!("{on} AND {} < {}", left.sql, right.sql);
            }
        }
        let kind = self.one_of(&[
            "JOIN",
            "JOIN",
            "JOIN",
            "LEFT JOIN",
            "RIGHT JOIN",
            "FULL JOIN",
            "LEFT SEMI JOIN",
            "LEFT ANTI JOIN",
        ]);
        scope.joins.push(Join { kind, relation: second.from, on: Some(on) });
        if !kind.contains("SEMI") && !kind.contains("ANTI") {
            // Rows stay unique by the keys of both sides together; a missing side is all null.
            if second.key.is_empty() || scope.key.is_empty() {
                scope.key.clear()
            } else {
                scope.key.extend(second.key)
            }
            scope.columns.extend(second.columns);
            present.push((table.name.clone(), new));
            let growth = if upward { 1 } else { (table.row_count / scope.row_count.max(1)).max(1) };
            scope.row_count = scope.row_count.saturating_mul(growth).max(table.row_count);
        }
        true
    }

    fn select_from(&mut self, scope: Scope, depth: usize) -> Built {
        let mut filters = Vec::new();
        while filters.len() < 3 && self.chance(0.5) {
            filters.push(self.filter(&scope, depth));
        }
        let mut select =
            Select { from: Some(scope.from.clone()), joins: scope.joins.clone(), filters, ..Select::default() };
        let (columns, key) = match self.random.random_range(0..100) {
            0..45 => self.aggregate(&scope, &mut select),
            45..60 if depth == 0 => self.window(&scope, &mut select),
            60..70 => self.distinct(&scope, &mut select),
            _ => self.project(&scope, &mut select, depth),
        };
        Built { select, columns, key }
    }

    /// Plain expressions over the rows.
    fn project(&mut self, scope: &Scope, select: &mut Select, depth: usize) -> (Vec<Column>, Vec<String>) {
        let mut columns = Vec::new();
        for _ in 0..self.random.random_range(1..5) {
            let column = self.expression(&scope.columns, 2);
            columns.push(self.item(select, column));
        }
        if depth == 0 && self.chance(0.1) {
            let scalar = self.scalar_subquery(scope);
            columns.push(self.item(select, scalar));
        }
        let mut key = Vec::new();
        if !scope.key.is_empty() && self.chance(0.5) {
            for part in &scope.key {
                if let Some(column) = scope.columns.iter().find(|column| column.sql == *part).cloned() {
                    let column = self.item(select, column);
                    key.push(column.sql.clone());
                    columns.push(column);
                }
            }
        }
        (columns, key)
    }

    fn distinct(&mut self, scope: &Scope, select: &mut Select) -> (Vec<Column>, Vec<String>) {
        select.distinct = true;
        let mut columns = Vec::new();
        for _ in 0..self.random.random_range(1..4) {
            let column = self.exact_expression(&scope.columns);
            columns.push(self.item(select, column));
        }
        let key = columns.iter().map(|column: &Column| column.sql.clone()).collect();
        (columns, key)
    }

    fn aggregate(&mut self, scope: &Scope, select: &mut Select) -> (Vec<Column>, Vec<String>) {
        let mut columns = Vec::new();
        for _ in 0..self.one_of(&[0, 1, 1, 1, 2, 3]) {
            let key = self.exact_expression(&scope.columns);
            if !select.group.contains(&key.sql) {
                select.group.push(key.sql.clone());
                columns.push(self.item(select, key));
            }
        }
        let mut key: Vec<String> = columns.iter().map(|column: &Column| column.sql.clone()).collect();
        if select.group.len() > 1 && self.chance(0.2) {
            select.grouping = self.one_of(&["ROLLUP", "CUBE", "GROUPING SETS"]);
            // A null may be a group's value or stand for all groups.
            key.clear();
        }
        for _ in 0..self.random.random_range(1..5) {
            let column = self.aggregation(scope);
            columns.push(self.item(select, column));
        }
        if self.chance(0.2) {
            let exact = |column: &&Column| column.exact && column.kind != Kind::Float && !column.literals.is_empty();
            let counted = format!("COUNT(*) > {}", self.one_of(&[0, 1, 2, 5, 20]));
            let biggest = self.column(&scope.columns, |column| exact(&column) && column.kind != Kind::Text);
            select.having = Some(match biggest {
                Some(column) if self.chance(0.5) => {
                    format!("MAX({}) > {}", column.sql, self.one_of(&column.literals))
                }
                _ => counted,
            });
        }
        (columns, key)
    }

    fn aggregation(&mut self, scope: &Scope) -> Column {
        let any = self.exact_expression(&scope.columns);
        let number = self.number(&scope.columns);
        let filter = match self.chance(0.2) {
            true => format!(" FILTER (WHERE {})", self.condition(&scope.columns, 1)),
            false => String::new(),
        };
        let text = self.column(&scope.columns, |column| column.kind == Kind::Text);
        let float = Column { kind: Kind::Float, exact: false, literals: Vec::new(), sql: String::new() };
        let int = Column { kind: Kind::Int, exact: true, ..float.clone() };
        let summed = |sql: String, of: &Column| match of.kind {
            Kind::Float => Column { sql, ..float.clone() },
            kind => Column { sql, kind, ..int.clone() },
        };
        match self.random.random_range(0..20) {
            0..3 => Column { sql: format!("COUNT(*){filter}"), ..int },
            3 => Column { sql: format!("COUNT({}){filter}", any.sql), ..int },
            4..6 => Column { sql: format!("COUNT(DISTINCT {}){filter}", any.sql), ..int },
            6..9 => summed(format!("SUM({}){filter}", number.sql), &number),
            9 => summed(format!("SUM(DISTINCT {})", number.sql), &number),
            10..12 => Column { sql: format!("AVG({}){filter}", number.sql), ..float },
            12 => Column { sql: format!("MIN({}){filter}", any.sql), literals: Vec::new(), ..any },
            13 => Column { sql: format!("MAX({}){filter}", any.sql), literals: Vec::new(), ..any },
            14 => {
                let name = self.one_of(&["STDDEV", "VAR_POP", "STDDEV_POP", "VAR_SAMP"]);
                Column { sql: format!("{name}(CAST({} AS DOUBLE))", number.sql), ..float }
            }
            15 => {
                let other = self.number(&scope.columns);
                let name = self.one_of(&["CORR", "COVAR_POP", "REGR_SLOPE"]);
                Column {
                    sql: format!("{name}(CAST({} AS DOUBLE), CAST({} AS DOUBLE))", number.sql, other.sql),
                    ..float
                }
            }
            16 => Column { sql: format!("FIRST_VALUE({0} ORDER BY {0} DESC)", any.sql), literals: Vec::new(), ..any },
            17 => Column { sql: format!("MEDIAN({})", number.sql), ..float },
            18 => match text {
                Some(text) => Column { sql: format!("approx_distinct({})", text.sql), ..int },
                None => Column { sql: format!("BOOL_OR({} IS NULL)::INT", any.sql), ..int },
            },
            _ => Column { sql: format!("array_length(ARRAY_AGG({0} ORDER BY {0}){filter})", any.sql), ..int },
        }
    }

    fn window(&mut self, scope: &Scope, select: &mut Select) -> (Vec<Column>, Vec<String>) {
        let (mut columns, key) = self.project(scope, select, 1);
        for _ in 0..self.random.random_range(1..3) {
            let partition = self.exact_expression(&scope.columns);
            let order = self.exact_expression(&scope.columns);
            let number = self.number(&scope.columns);
            let direction = self.one_of(&["", " DESC", " NULLS FIRST", " DESC NULLS LAST"]);
            let partitioned = if self.chance(0.7) { format!("PARTITION BY {} ", partition.sql) } else { String::new() };
            let by_value = format!("OVER ({partitioned}ORDER BY {}{direction})", order.sql);
            let int = Column { sql: String::new(), kind: Kind::Int, exact: true, literals: Vec::new() };
            let exact = number.kind != Kind::Float;
            let unique = !scope.key.is_empty();
            let by_key = format!("ORDER BY {}{direction}, {}", order.sql, scope.key.join(", "));
            let column = match self.random.random_range(0..8) {
                0 => Column { sql: format!("RANK() {by_value}"), ..int },
                1 => Column { sql: format!("DENSE_RANK() {by_value}"), ..int },
                2 => Column { sql: format!("SUM({}) {by_value}", number.sql), kind: number.kind, exact, ..int },
                3 => Column { sql: format!("MIN({}) {by_value}", number.sql), kind: number.kind, ..int },
                4 if unique => Column { sql: format!("ROW_NUMBER() OVER ({partitioned}{by_key})"), ..int },
                5 if unique => {
                    let name = self.one_of(&["LAG", "LEAD"]);
                    Column {
                        sql: format!("{name}({}, 2) OVER ({partitioned}{by_key})", number.sql),
                        kind: number.kind,
                        ..int
                    }
                }
                6 if unique => {
                    let rows = "ROWS BETWEEN 3 PRECEDING AND 1 FOLLOWING";
                    let sql = format!("SUM({}) OVER ({partitioned}{by_key} {rows})", number.sql);
                    Column { sql, kind: number.kind, exact, ..int }
                }
                _ => Column { sql: format!("COUNT(*) {by_value}"), ..int },
            };
            columns.push(self.item(select, column));
        }
        if self.chance(0.3) {
            let order = self.exact_expression(&scope.columns);
            let partition = self.exact_expression(&scope.columns);
            select.qualify =
                Some(format!("RANK() OVER (PARTITION BY {} ORDER BY {} DESC) <= 3", partition.sql, order.sql));
        }
        (columns, key)
    }

    fn item(&mut self, select: &mut Select, column: Column) -> Column {
        let name = format!("c{}", select.items.len());
        select.items.push((column.sql.clone(), name.clone()));
        Column { sql: name, ..column }
    }

    /// The same columns from two SELECTs: of the same kinds, by construction of the second from the first.
    fn set_operation(&mut self, built: &mut Built) {
        let mut other = Select { with: Vec::new(), limit: None, ..built.select.clone() };
        if other.filters.is_empty() || self.chance(0.5) {
            if let Some(Relation::Named { name, alias }) = &other.from {
                let (name, alias) = (name.clone(), alias.clone());
                if let Some(table) = self.tables.iter().find(|table| table.name == name).cloned() {
                    let scope = self.scope_of(&table, &alias);
                    let filter = self.condition(&scope.columns, 1);
                    other.filters.push(filter);
                }
            }
        } else {
            other.filters.pop();
        }
        let kind = self.one_of(&["UNION ALL", "UNION", "INTERSECT", "EXCEPT", "UNION ALL"]);
        built.select.set = Some((kind, Box::new(other)));
        built.key.clear();
    }

    /// An order that is total, at times, and only then a limit.
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

    fn column(&mut self, columns: &[Column], wanted: impl Fn(&Column) -> bool) -> Option<Column> {
        let fitting: Vec<&Column> = columns.iter().filter(|column| wanted(column)).collect();
        fitting.choose(&mut self.random).map(|column| (*column).clone())
    }

    fn number(&mut self, columns: &[Column]) -> Column {
        match self.column(columns, |column| numeric(column) && column.exact) {
            Some(column) if self.chance(0.7) => column,
            Some(column) if column.kind == Kind::Int => Column { sql: format!("({} % 10)", column.sql), ..column },
            Some(column) => Column { sql: format!("({} + {})", column.sql, self.random.random_range(1..9)), ..column },
            None => Column { sql: "1".to_string(), kind: Kind::Int, exact: true, literals: Vec::new() },
        }
    }

    /// An expression that can be a key: few values at times, and no float.
    fn exact_expression(&mut self, columns: &[Column]) -> Column {
        let Some(column) = self.column(columns, |column| column.exact && column.kind != Kind::Float) else {
            return Column { sql: "1 + 1".to_string(), kind: Kind::Int, exact: true, literals: Vec::new() };
        };
        let coarse = self.chance(0.5);
        let none = Vec::new();
        match column.kind {
            Kind::Int if coarse => {
                Column { sql: format!("({} % {})", column.sql, self.one_of(&[2, 7, 50])), literals: none, ..column }
            }
            Kind::Text if coarse => Column { sql: format!("substr({}, 1, 2)", column.sql), literals: none, ..column },
            Kind::Date | Kind::Time if coarse => {
                let part = self.one_of(&["year", "month"]);
                let sql = format!("date_part('{part}', {})", column.sql);
                Column { sql, kind: Kind::Int, exact: true, literals: none }
            }
            _ => column,
        }
    }

    fn expression(&mut self, columns: &[Column], depth: usize) -> Column {
        let exact: Vec<Column> = columns.iter().filter(|column| column.exact).cloned().collect();
        let none = Vec::new();
        match self.random.random_range(0..10) {
            0..5 => self.column(columns, |_| true).expect("a scope has columns"),
            5 => {
                let (left, right) = (self.number(&exact), self.number(&exact));
                let kind = if left.kind == right.kind { left.kind } else { Kind::Float };
                let operator = self.one_of(&["+", "-"]);
                Column { sql: format!("({} {operator} {})", left.sql, right.sql), kind, exact: true, literals: none }
            }
            6 if depth > 0 => {
                let condition = self.condition(columns, 1);
                let value = self.expression(&exact_or_one(&exact), depth - 1);
                Column { sql: format!("CASE WHEN {condition} THEN {} END", value.sql), literals: none, ..value }
            }
            7 => match self.column(columns, |column| column.kind == Kind::Text) {
                Some(text) => {
                    let name = self.one_of(&["upper", "length", "trim", "reverse"]);
                    let kind = if name == "length" { Kind::Int } else { Kind::Text };
                    Column { sql: format!("{name}({})", text.sql), kind, exact: text.exact, literals: none }
                }
                None => self.exact_expression(columns),
            },
            8 => {
                let value = self.exact_expression(columns);
                match value.literals.is_empty() {
                    true => value,
                    false => {
                        let other = self.one_of(&value.literals);
                        Column { sql: format!("coalesce({}, {other})", value.sql), literals: none, ..value }
                    }
                }
            }
            _ => self.exact_expression(columns),
        }
    }

    /// A condition over exact columns.
    fn condition(&mut self, columns: &[Column], depth: usize) -> String {
        if depth > 0 && self.chance(0.25) {
            let (left, right) = (self.condition(columns, depth - 1), self.condition(columns, depth - 1));
            let word = self.one_of(&["OR", "AND"]);
            return format!("({left} {word} {right})");
        }
        if self.chance(0.08) {
            return format!("NOT ({})", self.condition(columns, 0));
        }
        let Some(column) = self.column(columns, |column| column.exact && !column.literals.is_empty()) else {
            let any = self.exact_expression(columns);
            return format!("{} IS NOT NULL", any.sql);
        };
        let literals = column.literals.clone();
        match self.random.random_range(0..12) {
            0 => format!("{} IS NULL", column.sql),
            1 => format!("{} IS NOT NULL", column.sql),
            2..4 => format!("{} = {}", column.sql, self.one_of(&literals)),
            4 => format!("{} IN ({}, {})", column.sql, self.one_of(&literals), self.one_of(&literals)),
            5 => format!("{} BETWEEN {} AND {}", column.sql, self.one_of(&literals), self.one_of(&literals)),
            6 if column.kind == Kind::Text => {
                let pattern = self.one_of(&["%a%", "S%", "%5", "_e%", "%special%"]);
                format!("{} LIKE '{pattern}'", column.sql)
            }
            7 => format!("{} <> {}", column.sql, self.one_of(&literals)),
            // In parentheses: the parser would take what follows an AND for a part of it.
            8 => format!("({} IS DISTINCT FROM {})", column.sql, self.one_of(&literals)),
            9 | 10 => format!("{} <= {}", column.sql, self.one_of(&literals)),
            _ => format!("{} > {}", column.sql, self.one_of(&literals)),
        }
    }

    /// A condition of WHERE: at times with a subquery.
    fn filter(&mut self, scope: &Scope, depth: usize) -> String {
        if depth > 1 || !self.chance(0.25) {
            return self.condition(&scope.columns, 2);
        }
        let (name, column, other, other_column) = self.one_of(REFERENCES);
        let Some(outer) = scope.columns.iter().find(|outer| outer.sql.ends_with(&format!(".{column}"))).cloned() else {
            return self.filter_by_scalar(scope);
        };
        let Some(table) = self.tables.iter().find(|table| table.name == other).cloned() else {
            return self.condition(&scope.columns, 1);
        };
        let _ = name;
        let alias = format!("a{}", self.fresh());
        let inner = self.scope_of(&table, &alias);
        let condition = self.condition(&inner.columns, 1);
        let word = self.one_of(&["", "NOT "]);
        match self.random.random_range(0..3) {
            0 => {
                format!("{} {word}IN (SELECT {alias}.{other_column} FROM {other} {alias} WHERE {condition})", outer.sql)
            }
            1 => format!(
                "{word}EXISTS (SELECT 1 FROM {other} {alias} WHERE {alias}.{other_column} = {} AND {condition})",
                outer.sql
            ),
            _ => {
                let number = self.number(&inner.columns);
                let function = self.one_of(&["MAX", "MIN", "COUNT"]);
                format!(
                    "{} >= (SELECT {function}({}) FROM {other} {alias} WHERE {alias}.{other_column} = {})",
                    self.number(&scope.columns).sql,
                    number.sql,
                    outer.sql
                )
            }
        }
    }

    fn filter_by_scalar(&mut self, scope: &Scope) -> String {
        let number = self.number(&scope.columns);
        let scalar = self.plain_scalar();
        let operator = self.one_of(&["<", ">", "="]);
        format!("{} {operator} {scalar}", number.sql)
    }

    fn plain_scalar(&mut self) -> String {
        let table = self.one_of(self.tables);
        let alias = format!("a{}", self.fresh());
        let inner = self.scope_of(&table, &alias);
        let number = self.number(&inner.columns);
        let function = self.one_of(&["MAX", "MIN", "COUNT"]);
        let condition = self.condition(&inner.columns, 1);
        format!("(SELECT {function}({}) FROM {} {alias} WHERE {condition})", number.sql, table.name)
    }

    fn scalar_subquery(&mut self, scope: &Scope) -> Column {
        let column = Column { sql: String::new(), kind: Kind::Float, exact: true, literals: Vec::new() };
        for (_, column_name, other, other_column) in REFERENCES {
            let outer = scope.columns.iter().find(|outer| outer.sql.ends_with(&format!(".{column_name}")));
            if let Some(outer) = outer.filter(|_| self.chance(0.5)) {
                let alias = format!("a{}", self.fresh());
                let sql =
                    format!("(SELECT COUNT(*) FROM {other} {alias} WHERE {alias}.{other_column} = {})", outer.sql);
                return Column { sql, kind: Kind::Int, ..column };
            }
        }
        Column { sql: self.plain_scalar(), ..column }
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
