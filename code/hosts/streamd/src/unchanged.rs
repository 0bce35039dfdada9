//! The parts of a script that mean the same in the script before, so that their offsets and state can be kept.

use std::collections::BTreeSet;

use buzz_stream::{Output, Script, TableDefinition};

/// Settings that do not change what statements mean.
const SETTINGS_OF_RUNS: [&str; 4] = ["epoch", "epoch_rows", "on_error", "parallelism"];

/// The part of a script that it has in common with the one before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unchanged {
    /// Tables that are declared alike.
    pub(crate) tables: BTreeSet<String>,
    /// The first statements, as many as have equal text, and read equal declarations.
    pub(crate) statements: usize,
}

impl Unchanged {
    /// Compares `now` with `before`. A statement is only counted if all declarations that it could read are equal: calls of
    /// functions are part of its text, all views before must be there, and the names of rows are compared as a whole.
    pub(crate) fn of(before: &Script, now: &Script) -> Self {
        let tables: BTreeSet<String> = now
            .tables
            .iter()
            .filter(|table| before.table(&table.name).is_some_and(|known| declaration(known) == declaration(table)))
            .map(|table| table.name.clone())
            .collect();
        let sources_are_equal = sources(before).is_subset(&tables) && sources(before).is_subset(&sources(now));
        let equal = sources_are_equal
            && views(before).is_subset(&views(now))
            && meaning(before) == meaning(now)
            && named_rows(before) == named_rows(now);
        let pairs = before.statements.iter().zip(&now.statements);
        let first = pairs.take_while(|(one, other)| statement(before, one) == statement(now, other)).count();
        // Statements that only name rows have no stages of their own.
        let named = now.statements[..first].iter().filter(|output| is_named(now, output)).count();
        Self { tables, statements: if equal { first - named } else { 0 } }
    }
}

/// Returns a text that is equal for equal declarations.
fn declaration(table: &TableDefinition) -> String {
    let columns: Vec<String> = table.columns.iter().map(ToString::to_string).collect();
    format!("{columns:?} {:?} {:?} {:?}", table.generated, table.watermark, table.options)
}

/// Returns the tables that statements read: those that none writes to, and that are not sinks.
fn sources(script: &Script) -> BTreeSet<String> {
    let written: BTreeSet<&str> = script.statements.iter().filter_map(|output| output.into.as_deref()).collect();
    let read =
        script.tables.iter().filter(|table| table.option("type") != Some("sink")).map(|table| table.name.clone());
    read.filter(|name| !written.contains(name.as_str())).collect()
}

fn views(script: &Script) -> BTreeSet<String> {
    let text = |view: &buzz_stream::View| format!("{} {:?} {}", view.name, view.columns, view.query);
    script.views.iter().map(text).collect()
}

/// Returns the settings that change what statements mean.
fn meaning(script: &Script) -> Vec<(&String, &String)> {
    script.settings.iter().filter(|(key, _)| !SETTINGS_OF_RUNS.contains(&key.as_str())).collect()
}

/// Returns true if the rows of `output` go to a table without a connector, which is a name for them.
fn is_named(script: &Script, output: &Output) -> bool {
    let table = output.into.as_deref().and_then(|into| script.table(into));
    table.is_some_and(|table| table.option("connector").is_none())
}

fn named_rows(script: &Script) -> Vec<String> {
    let named = script.statements.iter().filter(|output| is_named(script, output));
    named.map(|output| statement(script, output)).collect()
}

/// Returns the text of a statement, with the columns of its table, to which its rows are brought.
fn statement(script: &Script, output: &Output) -> String {
    let table = output.into.as_deref().and_then(|into| script.table(into));
    let columns: Vec<String> = table.into_iter().flat_map(|table| &table.columns).map(ToString::to_string).collect();
    format!("{:?} {:?} {columns:?} {:?} {}", output.into, output.columns, output.emission, output.query)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLES: &str = "CREATE TABLE a WITH (connector = 'nexmark'); CREATE TABLE o (n BIGINT) WITH (connector = \
                          'blackhole', type = 'sink');";
    const COUNT: &str = "INSERT INTO o SELECT count(*) FROM a GROUP BY tumble(interval '1 second');";
    const SUM: &str = "INSERT INTO o SELECT max(bid.price) FROM a GROUP BY tumble(interval '1 second');";

    fn kept(before: &str, now: &str) -> (Vec<String>, usize) {
        let parse = |text: &str| Script::parse(text).expect("the script is valid");
        let kept = Unchanged::of(&parse(before), &parse(now));
        (kept.tables.into_iter().collect(), kept.statements)
    }

    #[test]
    fn unchanged_statements_at_the_start_are_kept() {
        let both = vec!["a".to_string(), "o".to_string()];
        let script = |rest: &str| format!("{TABLES}{rest}");
        assert_eq!(kept(&script(COUNT), &script(&format!("{COUNT} {SUM}"))), (both.clone(), 1));
        assert_eq!(kept(&script(&format!("{COUNT} {SUM}")), &script(COUNT)), (both.clone(), 1));
        assert_eq!(kept(&script(COUNT), &script(SUM)), (both.clone(), 0));
        assert_eq!(kept(&script(COUNT), &script(&format!("SET parallelism = 3; {COUNT}"))), (both.clone(), 1));
        assert_eq!(kept(&script(COUNT), &script(&format!("SET overflow = 'wrap'; {COUNT}"))), (both.clone(), 0));
        assert_eq!(kept(&script(COUNT), &script(&format!("CREATE VIEW v AS SELECT 1; {COUNT}"))), (both.clone(), 1));
        let with_view = |body: &str| script(&format!("CREATE VIEW v AS SELECT {body}; {COUNT}"));
        assert_eq!(kept(&with_view("1"), &with_view("2")), (both, 0));
    }

    #[test]
    fn changed_declarations_keep_no_state() {
        let other = TABLES.replace("'nexmark'", "'nexmark', seed = '7'");
        assert_eq!(kept(&format!("{TABLES}{COUNT}"), &format!("{other}{COUNT}")), (vec!["o".to_string()], 0));
        let function = |body: &str| {
            format!(
                "{TABLES}CREATE FUNCTION f(x BIGINT) RETURNS BIGINT LANGUAGE SQL AS $$SELECT {body}$$; INSERT INTO o SELECT \
                 f(count(*)) FROM a GROUP BY tumble(interval '1 second');"
            )
        };
        assert_eq!(kept(&function("x + 1"), &function("x + 1")).1, 1);
        assert_eq!(kept(&function("x + 1"), &function("x + 2")).1, 0);
        let named = |by: &str| {
            format!(
                "{TABLES}CREATE TABLE t (n BIGINT); INSERT INTO o SELECT sum(n) FROM t GROUP BY tumble(interval '1 second'); \
                 INSERT INTO t SELECT bid.price + {by} FROM a;"
            )
        };
        assert_eq!((kept(&named("1"), &named("1")).1, kept(&named("1"), &named("2")).1), (1, 0));
    }

    #[test]
    fn changed_columns_of_written_tables_keep_no_state() {
        let through = |columns: &str| {
            format!(
                "{TABLES}CREATE TABLE t ({columns}); INSERT INTO t SELECT bid.price, bid.auction FROM a; INSERT INTO o SELECT \
                 sum(x) FROM t GROUP BY tumble(interval '1 second');"
            )
        };
        assert_eq!(kept(&through("x BIGINT, y BIGINT"), &through("x BIGINT, y BIGINT")).1, 1);
        assert_eq!(kept(&through("x BIGINT, y BIGINT"), &through("y BIGINT, x BIGINT")).1, 0);
        let sink = |columns: &str| {
            format!(
                "CREATE TABLE a WITH (connector = 'nexmark'); CREATE TABLE o ({columns}) WITH (connector = 'blackhole', type = \
                 'sink'); {COUNT}"
            )
        };
        assert_eq!(kept(&sink("n BIGINT"), &sink("n INT")).1, 0);
    }

    #[test]
    fn sinks_that_get_rows_for_the_first_time_change_nothing() {
        let two = format!("{TABLES}CREATE TABLE p (n BIGINT) WITH (connector = 'blackhole', type = 'sink');");
        let more = "INSERT INTO p SELECT bid.price FROM a;";
        assert_eq!(kept(&format!("{two}{COUNT}"), &format!("{two}{COUNT}{more}")).1, 1);
    }
}
