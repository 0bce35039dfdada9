//! Compares counts of a table with those of another reader.

use arrow::array::{ArrayRef, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use serde_json::Value;

/// The expected counts: SQL expressions and their values.
#[derive(Debug)]
pub(crate) struct Counted {
    wanted: Vec<(String, Value)>,
}

impl Counted {
    /// Builds the counts of `expected` for the columns `names` of Buzz. Columns with generated names, such as
    /// `column0`, are matched by position.
    pub(crate) fn new(expected: &Value, names: &[String]) -> Counted {
        let mut wanted = vec![("COUNT(*)".to_string(), expected["rows"].clone())];
        let columns = expected["columns"].as_object().into_iter().flatten();
        for (position, (name, column)) in columns.enumerate() {
            let unnamed =
                name.strip_prefix("column").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()));
            let name = match names.get(position) {
                Some(here) if unnamed && !names.contains(name) => here,
                _ => name,
            };
            let kind = column["type"].as_str().unwrap_or_default();
            let quoted = format!("\"{}\"", name.replace('"', "\"\""));
            let mut add = |expression: String, value: &Value| {
                if !value.is_null() {
                    wanted.push((expression, value.clone()));
                }
            };
            add(format!("COUNT({quoted})"), &column["non_null"]);
            add(format!("COUNT(DISTINCT {quoted})"), &column["distinct"]);
            // The text form of bytes differs between readers.
            if kind != "BLOB" {
                add(format!("MIN({quoted})"), &column["min"]);
                add(format!("MAX({quoted})"), &column["max"]);
            }
            let whole = !kind.starts_with("DECIMAL");
            let exact = if whole { format!("CAST({quoted} AS DECIMAL(38, 0))") } else { quoted.clone() };
            add(format!("SUM({exact})"), &column["sum"]);
            add(format!("SUM(CAST({quoted} AS DOUBLE))"), &column["sum_approx"]);
        }
        Counted { wanted }
    }

    /// Selects the counts that statistics can answer: rows, and the bounds of integers, decimals and dates.
    pub(crate) fn bounds(&self, expected: &Value) -> Counted {
        let exact =
            |kind: &str| kind.ends_with("INT") || kind == "INTEGER" || kind == "DATE" || kind.starts_with("DECIMAL");
        let columns = expected["columns"].as_object().into_iter().flatten();
        let names: Vec<&String> =
            columns.filter(|(_, column)| column["type"].as_str().is_some_and(exact)).map(|(name, _)| name).collect();
        let is_bound = |(what, _): &&(String, Value)| {
            what == "COUNT(*)"
                || names.iter().any(|name| *what == format!("MIN(\"{name}\")") || *what == format!("MAX(\"{name}\")"))
        };
        Counted { wanted: self.wanted.iter().filter(is_bound).cloned().collect() }
    }

    /// Returns the SQL that computes the counts of `table`.
    pub(crate) fn sql(&self, table: &str) -> String {
        // Aliases, since several expressions can have the same name.
        let selected = self.wanted.iter().enumerate().map(|(at, (expression, _))| format!("{expression} AS c{at}"));
        format!("SELECT {} FROM {table}", selected.collect::<Vec<_>>().join(", "))
    }
}

/// Returns the differences between `rows`, the answer of [`Counted::sql`], and the expected counts.
///
/// # Errors
/// When `rows` is not one row.
pub(crate) fn differences(counted: &Counted, rows: &[RecordBatch]) -> Result<Vec<String>, String> {
    let batch = rows.iter().find(|batch| batch.num_rows() == 1).ok_or("the answer is not one row")?;
    let options = FormatOptions::default().with_null("NULL");
    let cell = |column: &ArrayRef| ArrayFormatter::try_new(column, &options).map(|column| column.value(0).to_string());
    let cells = batch.columns().iter().map(cell).collect::<Result<Vec<_>, _>>().map_err(|error| error.to_string())?;
    let unlike = cells.iter().zip(&counted.wanted).filter(|(found, (_, expected))| !same_value(found, expected));
    Ok(unlike.map(|(found, (what, expected))| format!("{what} is {found} instead of {expected}")).collect())
}

/// Returns true if both are the same value. Dates, times, decimals and floats have several text forms.
fn same_value(found: &str, expected: &Value) -> bool {
    let expected = expected.as_str().map_or_else(|| expected.to_string(), str::to_string);
    if same_text(found, &expected) || format!("{found} 00:00:00") == expected {
        return true;
    }
    match (found.parse::<f64>(), expected.parse::<f64>()) {
        (Ok(found), Ok(expected)) => {
            found == expected
                || (found.is_nan() && expected.is_nan())
                || (found - expected).abs() <= expected.abs() * 1e-6
        }
        _ => false,
    }
}

/// Returns true if both texts are equal except for the format of times and decimals.
pub(crate) fn same_text(found: &str, expected: &str) -> bool {
    let plain = |cell: &str| {
        let text =
            cell.trim_start_matches('+').replace('T', " ").trim_end_matches('Z').trim_end_matches("+00").to_string();
        if text.contains(['.', ':']) {
            text.trim_end_matches('0').trim_end_matches('.').trim_end_matches(":00").to_string()
        } else {
            text
        }
    };
    let cells = |row: &str| row.split(" | ").map(plain).collect::<Vec<_>>();
    cells(found) == cells(expected)
}
