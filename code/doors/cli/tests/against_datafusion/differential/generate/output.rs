//! The clauses of a SELECT: its columns, groups, windows and set operations.

use rand::Rng;

use super::super::query::{Relation, Select};
use super::{Built, Column, Generator, Kind, Scope};

impl Generator<'_> {
    pub(super) fn select_from(&mut self, scope: Scope, depth: usize) -> Built {
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
            _ => self.project(&scope, &mut select),
        };
        Built { select, columns, key }
    }

    /// Plain expressions over the rows.
    fn project(&mut self, scope: &Scope, select: &mut Select) -> (Vec<Column>, Vec<String>) {
        let mut columns = Vec::new();
        for _ in 0..self.random.random_range(1..5) {
            let column = self.expression(&scope.columns, 2);
            columns.push(self.item(select, column));
        }
        if self.chance(0.1) {
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
            let ordered = |column: &&Column| !matches!(column.kind, Kind::Float | Kind::Nested);
            let exact = |column: &&Column| column.exact && ordered(column) && !column.literals.is_empty();
            let counted = format!("COUNT(*) > {}", self.one_of(&[0, 1, 2, 5, 20]));
            let biggest = self.column(&scope.columns, |column| exact(&column) && column.kind != Kind::Text);
            select.having = Some(match biggest {
                Some(column) if self.chance(0.5) => {
                    format!("MAX({}) > {}", column.sql, self.one_of(&column.literals))
                }
                _ if self.chance(0.2) => format!("COUNT(*) >= {}", self.plain_scalar().sql),
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
        let (mut columns, key) = self.project(scope, select);
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

    pub(super) fn item(&mut self, select: &mut Select, column: Column) -> Column {
        let name = format!("c{}", select.items.len());
        select.items.push((column.sql.clone(), name.clone()));
        Column { sql: name, ..column }
    }

    /// The same columns from two SELECTs: of the same kinds, by construction of the second from the first.
    pub(super) fn set_operation(&mut self, built: &mut Built) {
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
}
