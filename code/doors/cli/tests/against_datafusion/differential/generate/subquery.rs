//! Subqueries in conditions and among the columns.

use rand::Rng;

use super::{Built, Column, Generator, Kind, REFERENCES, Scope, Table};

impl Generator<'_> {
    /// A condition of WHERE: at times with a subquery.
    pub(super) fn filter(&mut self, scope: &Scope, depth: usize) -> String {
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
        format!("{} {operator} {}", number.sql, scalar.sql)
    }

    /// A subquery of one value that depends on no outer row.
    pub(super) fn plain_scalar(&mut self) -> Column {
        let table = self.one_of(self.tables);
        let alias = format!("a{}", self.fresh());
        let inner = self.scope_of(&table, &alias);
        let number = self.number(&inner.columns);
        let condition = self.condition(&inner.columns, 0);
        let from = format!("FROM {} {alias} WHERE {condition}", table.name);
        let of = |sql: String, kind: Kind| Column { sql, kind, exact: true, literals: Vec::new() };
        match self.random.random_range(0..12) {
            0..4 => of(format!("(SELECT MAX({}) {from})", number.sql), number.kind),
            4..8 => of(format!("(SELECT MIN({}) {from})", number.sql), number.kind),
            8 => of(format!("(SELECT {0} {from} ORDER BY {0} LIMIT 1)", number.sql), number.kind),
            // At times several rows, which is an error.
            9 if self.chance(0.2) => of(format!("(SELECT {} {from})", number.sql), number.kind),
            _ => of(format!("(SELECT COUNT({}) {from})", number.sql), Kind::Int),
        }
    }

    /// Reads the common table expression `table` once more, in a condition or a column.
    pub(super) fn read_again(&mut self, built: &mut Built, table: &Table) {
        let alias = format!("a{}", self.fresh());
        let inner = self.scope_of(table, &alias);
        let name = &table.name;
        let grouped = !built.select.group.is_empty() || built.select.distinct;
        let key = self.column(&inner.columns, |column| column.exact && column.kind != Kind::Float);
        let outer = built.select.from.as_ref().map(|from| from.alias().to_string());
        let (Some(key), Some(outer)) = (key, outer) else { return };
        let same = key.sql.replacen(&format!("{alias}."), &format!("{outer}."), 1);
        match self.random.random_range(0..3) {
            0 if !grouped => {
                let count = format!("(SELECT COUNT({}) FROM {name} {alias})", key.sql);
                let column = Column { sql: count, kind: Kind::Int, exact: true, literals: Vec::new() };
                let column = self.item(&mut built.select, column);
                built.columns.push(column);
            }
            1 => {
                let word = self.one_of(&["", "", "NOT "]);
                let condition = self.condition(&inner.columns, 1);
                let subquery = format!("(SELECT {} FROM {name} {alias} WHERE {condition})", key.sql);
                built.select.filters.push(format!("{same} {word}IN {subquery}"));
            }
            _ => {
                let subquery = format!("(SELECT MIN({}) FROM {name} {alias})", key.sql);
                built.select.filters.push(format!("{same} >= {subquery}"));
            }
        }
    }

    pub(super) fn scalar_subquery(&mut self, scope: &Scope) -> Column {
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
        self.plain_scalar()
    }
}
