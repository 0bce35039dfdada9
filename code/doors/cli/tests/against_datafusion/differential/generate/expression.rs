//! Expressions over columns: numbers, keys and conditions.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::{Column, Generator, Kind, exact_or_one, numeric};

impl Generator<'_> {
    pub(super) fn column(&mut self, columns: &[Column], wanted: impl Fn(&Column) -> bool) -> Option<Column> {
        let fitting: Vec<&Column> = columns.iter().filter(|column| wanted(column)).collect();
        fitting.choose(&mut self.random).map(|column| (*column).clone())
    }

    pub(super) fn number(&mut self, columns: &[Column]) -> Column {
        match self.column(columns, |column| numeric(column) && column.exact) {
            Some(column) if self.chance(0.7) => column,
            Some(column) if column.kind == Kind::Int => Column { sql: format!("({} % 10)", column.sql), ..column },
            Some(column) => Column { sql: format!("({} + {})", column.sql, self.random.random_range(1..9)), ..column },
            None => Column { sql: "1".to_string(), kind: Kind::Int, exact: true, literals: Vec::new() },
        }
    }

    /// An expression that can be a key: few values at times, and no float.
    pub(super) fn exact_expression(&mut self, columns: &[Column]) -> Column {
        let Some(column) = self.column(columns, |column| column.exact && column.kind != Kind::Float) else {
            return Column { sql: "1 + 1".to_string(), kind: Kind::Int, exact: true, literals: Vec::new() };
        };
        let coarse = self.chance(0.5);
        let none = Vec::new();
        match column.kind {
            Kind::Int if coarse && self.chance(0.05) => {
                let count = "(SELECT COUNT(*) FROM region a0)";
                Column { sql: format!("({} % {count})", column.sql), literals: none, ..column }
            }
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

    pub(super) fn expression(&mut self, columns: &[Column], depth: usize) -> Column {
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
            9 if depth > 0 && self.chance(0.2) => self.plain_scalar(),
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
    pub(super) fn condition(&mut self, columns: &[Column], depth: usize) -> String {
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
        if numeric(&column) && self.chance(0.05) {
            let operator = self.one_of(&["<", ">", "=", "<>"]);
            return format!("{} {operator} {}", column.sql, self.plain_scalar().sql);
        }
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
}
