//! The relations of FROM: tables, subqueries, series and unnested lists, and how they are joined.

use rand::seq::IndexedRandom;

use super::super::query::{Join, Relation, Select};
use super::{Column, Generator, Kind, REFERENCES, Scope, Table, as_table, numeric};

impl Generator<'_> {
    pub(super) fn scope(&mut self, depth: usize) -> Scope {
        if depth < 2 && self.chance(0.15) {
            let inner = self.inner_select(depth + 1);
            let alias = format!("a{}", self.fresh());
            let table = as_table(&alias, &inner);
            let mut scope = self.scope_of(&table, &alias);
            scope.from = Relation::Sub { select: Box::new(inner.select), alias };
            self.series(&mut scope);
            return scope;
        }
        if self.chance(0.05) {
            return self.unnested();
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
        self.series(&mut scope);
        scope
    }

    /// Joins a series of numbers, at times: with an integer of the scope, or with every row.
    fn series(&mut self, scope: &mut Scope) {
        if !self.chance(0.07) || scope.row_count > 100_000 {
            return;
        }
        let alias = format!("a{}", self.fresh());
        let (first, last) = (self.one_of(&[-2, 0, 1]), self.one_of(&[2, 4, 30]));
        let function = self.one_of(&["generate_series", "range"]);
        let relation =
            Relation::Function { call: format!("{function}({first}, {last})"), alias: alias.clone(), column: "v" };
        let number = self.column(&scope.columns, |column| column.kind == Kind::Int && column.exact);
        let (kind, on) = match number {
            Some(number) if self.chance(0.7) => {
                let kind = self.one_of(&["JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "LEFT SEMI JOIN"]);
                (kind, Some(format!("{} = {alias}.v", number.sql)))
            }
            _ if scope.row_count < 10_000 => ("CROSS JOIN", None),
            _ => return,
        };
        scope.joins.push(Join { kind, relation, on });
        // A number may be there several times.
        if kind == "LEFT SEMI JOIN" {
            return;
        }
        scope.key.clear();
        let literals = ["0", "2", "4"].map(str::to_string).to_vec();
        scope.columns.push(Column { sql: format!("{alias}.v"), kind: Kind::Int, exact: true, literals });
    }

    /// A table with one row for each element of its list, joined to the table of which the list is.
    fn unnested(&mut self) -> Scope {
        let lists: Vec<(&Table, &Column, &String)> = self
            .tables
            .iter()
            .filter_map(|table| {
                let list = table.columns.iter().find(|column| column.sql == "items")?;
                Some((table, list, table.key.first()?))
            })
            .collect();
        let Some((table, list, key)) = lists.choose(&mut self.random).copied() else {
            return self.scope(2);
        };
        let (alias, other) = (format!("a{}", self.fresh()), format!("a{}", self.fresh()));
        let from = Some(Relation::Named { name: table.name.clone(), alias: alias.clone() });
        let items = vec![
            (format!("{alias}.{key}"), "k".to_string()),
            (format!("unnest({alias}.{})", list.sql), "element".to_string()),
        ];
        let select = Select { items, from, ..Select::default() };
        let mut scope = self.scope_of(table, &other);
        let sub = Relation::Sub { select: Box::new(select), alias: alias.clone() };
        if self.chance(0.7) {
            let kind = self.one_of(&["JOIN", "LEFT JOIN", "FULL JOIN", "LEFT SEMI JOIN", "LEFT ANTI JOIN"]);
            scope.joins.push(Join { kind, relation: sub, on: Some(format!("{other}.{key} = {alias}.k")) });
            if kind.contains("SEMI") || kind.contains("ANTI") {
                return scope;
            }
        } else {
            (scope.from, scope.columns) = (sub, Vec::new());
        }
        scope.key.clear();
        for (name, literals) in [("k", vec!["7".to_string()]), ("element", vec!["1".to_string(), "5".to_string()])] {
            scope.columns.push(Column { sql: format!("{alias}.{name}"), kind: Kind::Int, exact: true, literals });
        }
        scope
    }

    pub(super) fn scope_of(&mut self, table: &Table, alias: &str) -> Scope {
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
    pub(super) fn scope_of_cte(&mut self, table: &Table) -> Scope {
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
}
