//! Completion of keywords, tables, columns and commands.

use std::collections::BTreeSet;

use buzz_engine::TableDescription;
use buzz_protocol::options::OPTION_HELP;
use buzz_protocol::{FORMATS, identifier};

use super::command;
use super::split::{Piece, split};

const KEYWORDS: [&str; 72] = [
    "ALL",
    "AND",
    "ANTI",
    "ANY",
    "AS",
    "ASC",
    "BETWEEN",
    "BY",
    "CASE",
    "CAST",
    "COUNT",
    "CROSS",
    "DATE",
    "DESC",
    "DESCRIBE",
    "DISTINCT",
    "ELSE",
    "END",
    "EXCEPT",
    "EXISTS",
    "EXPLAIN",
    "EXPLAIN ANALYZE",
    "EXTRACT",
    "FALSE",
    "FILTER",
    "FIRST",
    "FROM",
    "FULL",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INNER",
    "INTERSECT",
    "INTERVAL",
    "IS",
    "JOIN",
    "LAST",
    "LEFT",
    "LIKE",
    "LIMIT",
    "MAX",
    "MIN",
    "NATURAL",
    "NOT",
    "NULL",
    "NULLS",
    "OFFSET",
    "ON",
    "OR",
    "ORDER",
    "OUTER",
    "OVER",
    "PARTITION",
    "RECURSIVE",
    "RIGHT",
    "ROLLUP",
    "SELECT",
    "SEMI",
    "SHOW COLUMNS FROM",
    "SHOW TABLES",
    "SUM",
    "THEN",
    "TIMESTAMP",
    "TRUE",
    "UNION",
    "UNNEST",
    "USING",
    "VALUES",
    "WHEN",
    "WHERE",
    "WITH",
];

/// The names that the shell knows.
#[derive(Debug, Default)]
pub(super) struct Names {
    tables: Vec<(String, Vec<String>)>,
}

impl Names {
    pub(super) fn of<'a>(tables: impl Iterator<Item = &'a TableDescription>) -> Self {
        let columns = |table: &TableDescription| table.columns.iter().map(|(name, _)| name.clone()).collect();
        Self { tables: tables.map(|table| (table.name.clone(), columns(table))).collect() }
    }

    fn table_names(&self) -> impl Iterator<Item = String> {
        self.tables.iter().map(|(name, _)| identifier(name))
    }

    /// Returns the columns of the table, or of all tables.
    fn columns(&self, table: Option<&str>) -> Vec<String> {
        let is_table = |name: &str| table.is_none_or(|table| table.eq_ignore_ascii_case(name));
        let columns = self.tables.iter().filter(|(name, _)| is_table(name)).flat_map(|(_, columns)| columns);
        columns.map(|column| identifier(column)).collect()
    }

    /// Returns the completions of a word of a command.
    fn of_command(&self, before: &str) -> Vec<String> {
        match before.split_once(char::is_whitespace) {
            None => command::NAMES.iter().map(|name| (*name).to_string()).collect(),
            Some((".schema" | "\\d", _)) => self.table_names().collect(),
            Some((".format", _)) => FORMATS.iter().map(|(format, _)| format.name().to_string()).collect(),
            Some((".set", _)) => OPTION_HELP.iter().map(|(key, _)| format!("{key}=")).collect(),
            Some((".timing" | ".pager", _)) => vec!["on".to_string(), "off".to_string()],
            Some(_) => Vec::new(),
        }
    }

    /// Returns the completions of a word of SQL.
    fn of_sql(&self, before: &str, word: &str) -> Vec<String> {
        if let Some(qualified) = before.strip_suffix('.') {
            let table = &qualified[word_start(qualified)..];
            let own = self.columns(Some(table.trim_matches('"')));
            // The word before the point may be an alias.
            return if own.is_empty() { self.columns(None) } else { own };
        }
        let last = before.split_whitespace().next_back().unwrap_or_default().to_uppercase();
        if ["FROM", "JOIN", "DESCRIBE", "COLUMNS"].contains(&last.as_str()) {
            return self.table_names().collect();
        }
        if word.is_empty() {
            return Vec::new();
        }
        let lower = word.chars().all(|letter| !letter.is_uppercase());
        let keywords = KEYWORDS.iter().map(|word| if lower { word.to_lowercase() } else { (*word).to_string() });
        self.table_names().chain(self.columns(None)).chain(keywords).collect()
    }
}

/// Returns the byte at which the last word of `text` starts.
fn word_start(text: &str) -> usize {
    let is_word = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == '"';
    text.char_indices().rev().take_while(|(_, letter)| is_word(*letter)).last().map_or(text.len(), |(at, _)| at)
}

impl Names {
    /// Returns true if Enter ends the text, and false if it begins a new line.
    pub(super) fn is_complete(&self, text: &str) -> bool {
        command::is_command(text) || !matches!(split(text).last(), Some(Piece::Open(_)))
    }

    /// Returns the completions of the last word of `before`, in order, and the byte at which that word starts.
    pub(super) fn completions(&self, before: &str) -> (usize, Vec<String>) {
        let is_command = command::is_command(before);
        let start = match is_command {
            true => before.len() - before.rsplit(char::is_whitespace).next().unwrap_or_default().len(),
            false => word_start(before),
        };
        let (rest, word) = before.split_at(start);
        let known = if is_command { self.of_command(before) } else { self.of_sql(rest, word) };
        let plain = word.trim_start_matches('"').to_lowercase();
        let fits = |name: &String| name.trim_start_matches('"').to_lowercase().starts_with(&plain);
        let words: BTreeSet<String> = known.into_iter().filter(fits).collect();
        (start, words.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        let columns = |columns: &[&str]| columns.iter().map(|column| (*column).to_string()).collect::<Vec<_>>();
        let tables = vec![
            ("trips".to_string(), columns(&["vendor", "userId", "total"])),
            ("zones".to_string(), columns(&["zone"])),
        ];
        Names { tables }
    }

    fn completed(before: &str) -> Vec<String> {
        names().completions(before).1
    }

    #[test]
    fn words_are_completed_by_their_place() {
        assert_eq!(completed("SELE"), ["SELECT"]);
        assert_eq!(completed("sele"), ["select"]);
        assert_eq!(completed("SELECT * FROM "), ["trips", "zones"]);
        assert_eq!(completed("SELECT use"), ["\"userId\""]);
        assert_eq!(completed("SELECT \"use"), ["\"userId\""]);
        assert_eq!(completed("SELECT t"), ["then", "timestamp", "total", "trips", "true"]);
        assert_eq!(completed("SELECT zones."), ["zone"]);
        assert_eq!(completed("SELECT z.ven"), ["vendor"]);
        assert!(completed("SELECT ").is_empty());
        assert_eq!(completed(".sch"), [".schema"]);
        assert_eq!(completed(".schema zo"), ["zones"]);
        assert_eq!(completed(".schema\u{a0}zo"), ["zones"]);
        assert_eq!(completed(".set memory"), ["memory_bytes="]);
        assert_eq!(names().completions("SELECT 'é', ven"), (13, vec!["vendor".to_string()]));
    }

    #[test]
    fn statement_is_complete_with_its_semicolon() {
        let names = Names::default();
        for text in ["", "SELECT 1;", ".tables", "\\d", "-- comment", "SELECT 1; SELECT ';';", "quit"] {
            assert!(names.is_complete(text), "{text}");
        }
        for text in ["SELECT 1", "SELECT ';", "SELECT 1; SELECT 2"] {
            assert!(!names.is_complete(text), "{text}");
        }
    }
}
