//! Compares an answer with those of plain DataFusion, as far as the query determines its answer.
//!
//! `LIMIT` without an order, `array_agg` without an order and ties do not determine the answer completely. To find the
//! undetermined parts, plain DataFusion runs the query several times, with the same rows in different files and
//! partitions. Only the parts that are equal in all those runs are compared.

use std::collections::HashMap;

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Maximum number of rows that are matched pairwise if sorting does not align equal rows.
const MATCHED_ONE_BY_ONE: usize = 3000;

/// The rows of an answer, with one text per cell.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    /// One text per row and column; a null is `NULL`.
    pub rows: Vec<Vec<String>>,
    /// Relative tolerance of the numbers in each column; `None` if texts must be equal.
    tolerances: Vec<Option<f64>>,
}

impl Rows {
    /// Formats the rows of `batches`.
    ///
    /// # Errors
    /// When a value cannot be formatted as text.
    pub fn of(batches: &[RecordBatch]) -> Result<Rows, ArrowError> {
        let options = FormatOptions::default().with_null("NULL").with_display_error(false);
        let mut rows = Vec::new();
        for batch in batches {
            let columns: Vec<ArrayFormatter<'_>> = batch
                .columns()
                .iter()
                .map(|column| ArrayFormatter::try_new(column, &options))
                .collect::<Result<_, _>>()?;
            for row in 0..batch.num_rows() {
                let cell = |column: &ArrayFormatter<'_>| column.value(row).try_to_string();
                rows.push(columns.iter().map(cell).collect::<Result<Vec<_>, _>>()?);
            }
        }
        let fields = batches.first().map(|batch| batch.schema());
        let fields = fields.iter().flat_map(|schema| schema.fields().iter());
        Ok(Rows { rows, tolerances: fields.map(|field| tolerance(field.data_type())).collect() })
    }

    /// Makes rows of texts.
    pub fn of_texts(rows: Vec<Vec<String>>) -> Rows {
        let tolerances = vec![None; rows.first().map_or(0, Vec::len)];
        Rows { rows, tolerances }
    }

    /// Sets the relative tolerance of all columns to `share`, for approximate aggregates.
    #[must_use]
    pub fn estimated(mut self, share: f64) -> Rows {
        self.tolerances.fill(Some(share));
        self
    }

    /// Returns the same rows with the elements of lists sorted, in every cell.
    #[must_use]
    pub fn with_sorted_elements(mut self) -> Rows {
        for cell in self.rows.iter_mut().flatten() {
            let inner = cell.trim_matches(['[', ']']);
            let mut elements: Vec<&str> = inner.split(',').map(str::trim).collect();
            elements.sort_unstable();
            *cell = elements.join(", ");
        }
        self
    }

    /// Checks that the columns `keys` of both have equal values in the same order.
    pub fn same_keys(&self, other: &Rows, keys: &[usize]) -> bool {
        let within = |rows: &Rows| rows.rows.iter().all(|row| keys.iter().all(|&key| key < row.len()));
        within(self) && within(other) && self.only(keys).same_sequence(&other.only(keys))
    }

    fn width(&self) -> usize {
        self.rows.first().map_or(0, Vec::len)
    }

    fn only(&self, columns: &[usize]) -> Rows {
        let rows = self.rows.iter().map(|row| columns.iter().map(|&column| row[column].clone()).collect()).collect();
        let tolerances = columns.iter().map(|&column| self.tolerances.get(column).copied().flatten()).collect();
        Rows { rows, tolerances }
    }

    fn same_row(&self, left: &[String], right: &[String]) -> bool {
        let tolerance = |column: usize| self.tolerances.get(column).copied().flatten();
        left.len() == right.len()
            && left.iter().zip(right).enumerate().all(|(column, (left, right))| match tolerance(column) {
                Some(share) => left == right || same_numbers(left, right, share),
                None => left == right,
            })
    }

    fn same_sequence(&self, other: &Rows) -> bool {
        self.rows.len() == other.rows.len()
            && self.rows.iter().zip(&other.rows).all(|(left, right)| self.same_row(left, right))
    }

    /// Returns the rows of `self` that `other` lacks, and the rows of `other` that `self` lacks, as multisets.
    fn without_each_other(&self, other: &Rows) -> (Vec<Vec<String>>, Vec<Vec<String>>) {
        let (left, right) = (self.sorted(), other.sorted());
        let pairwise = left.len() == right.len() && left.iter().zip(&right).all(|(l, r)| self.same_row(l, r));
        if pairwise {
            return (Vec::new(), Vec::new());
        }
        // First removes rows with equal text, then rows within the tolerance.
        let mut counted: HashMap<Vec<String>, usize> = HashMap::new();
        right.into_iter().for_each(|row| *counted.entry(row).or_default() += 1);
        let mut surplus: Vec<Vec<String>> = Vec::new();
        for row in left {
            match counted.get_mut(&row).filter(|count| **count > 0) {
                Some(count) => *count -= 1,
                None => surplus.push(row),
            }
        }
        let mut missing: Vec<Vec<String>> =
            counted.into_iter().flat_map(|(row, count)| std::iter::repeat_n(row, count)).collect();
        missing.sort();
        if surplus.len().max(missing.len()) <= MATCHED_ONE_BY_ONE {
            surplus.retain(|row| match missing.iter().position(|other| self.same_row(row, other)) {
                Some(at) => {
                    missing.remove(at);
                    false
                }
                None => true,
            });
        }
        (surplus, missing)
    }

    fn sorted(&self) -> Vec<Vec<String>> {
        let mut rows = self.rows.clone();
        let key = |row: &[String]| -> Vec<String> {
            let rounded = |(column, text): (usize, &String)| match self.tolerances.get(column).copied().flatten() {
                Some(_) => text.parse::<f64>().map_or_else(|_| String::new(), |number| format!("{number:.5e}")),
                None => text.clone(),
            };
            row.iter().enumerate().map(rounded).collect()
        };
        rows.sort_by_cached_key(|row| key(row));
        rows
    }
}

/// Returns the relative tolerance of a type, since the last digits of floats depend on how the work is divided.
fn tolerance(kind: &DataType) -> Option<f64> {
    match kind {
        DataType::Float16 => Some(1e-2),
        DataType::Float32 => Some(1e-5),
        DataType::Float64 => Some(1e-9),
        DataType::List(field)
        | DataType::LargeList(field)
        | DataType::ListView(field)
        | DataType::FixedSizeList(field, _)
        | DataType::Map(field, _) => tolerance(field.data_type()),
        DataType::Struct(fields) => fields.iter().filter_map(|field| tolerance(field.data_type())).reduce(f64::max),
        DataType::Dictionary(_, values) => tolerance(values),
        _ => None,
    }
}

/// Returns true if two texts are equal, with numbers compared with the relative tolerance `share`.
fn same_numbers(left: &str, right: &str, share: f64) -> bool {
    let split = |text: &str| -> Vec<String> {
        let within = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+' | 'e' | 'E');
        let mut parts: Vec<String> = Vec::new();
        let mut number = None;
        for c in text.chars() {
            if number != Some(within(c)) {
                parts.push(String::new());
                number = Some(within(c));
            }
            parts.last_mut().expect("one was pushed").push(c);
        }
        parts
    };
    let (left, right) = (split(left), split(right));
    left.len() == right.len()
        && left.iter().zip(&right).all(|(left, right)| match (left.parse::<f64>(), right.parse::<f64>()) {
            (Ok(left), Ok(right)) => (left - right).abs() <= share * left.abs().max(right.abs()).max(1.0),
            _ => left == right,
        })
}

/// Describes how `found` contradicts `plain`, which are answers to the same query on the same rows. Returns `None` if
/// it does not. Rows are compared in order if `ordered`.
pub fn disagreement(found: &Rows, plain: &[Rows], ordered: bool) -> Option<String> {
    let (first, others) = plain.split_first()?;
    let settled_count = others.iter().all(|other| other.rows.len() == first.rows.len());
    if settled_count && found.rows.len() != first.rows.len() {
        return Some(format!("{} rows instead of {}{}", found.rows.len(), first.rows.len(), example(found, first)));
    }
    if !settled_count || first.rows.is_empty() {
        return None;
    }
    if found.width() != first.width() {
        return Some(format!("{} columns instead of {}", found.width(), first.width()));
    }
    let columns: Vec<usize> = (0..first.width()).collect();
    if ordered {
        let settled = |column: &usize| {
            let one = first.only(&[*column]);
            others.iter().all(|other| one.same_sequence(&other.only(&[*column])))
        };
        let settled: Vec<usize> = columns.iter().copied().filter(settled).collect();
        let (found, first) = (found.only(&settled), first.only(&settled));
        if !first.same_sequence(&found) {
            let (surplus, missing) = first.without_each_other(&found);
            if surplus.is_empty() && missing.is_empty() {
                return Some("the rows of plain DataFusion, in another order".to_string());
            }
            return Some(told(&missing, &surplus));
        }
    }
    let same_set = |columns: &[usize]| {
        let one = first.only(columns);
        others.iter().all(|other| one.without_each_other(&other.only(columns)) == (Vec::new(), Vec::new()))
    };
    let settled: Vec<usize> = columns.iter().copied().filter(|column| same_set(&[*column])).collect();
    let groups = if same_set(&settled) { vec![settled] } else { settled.iter().map(|column| vec![*column]).collect() };
    groups.iter().find_map(|columns| {
        let (surplus, missing) = first.only(columns).without_each_other(&found.only(columns));
        if surplus.is_empty() && missing.is_empty() { None } else { Some(told(&missing, &surplus)) }
    })
}

/// Describes the rows of `found` that are not in `all`. Returns `None` if `found` is a subset of `all`.
pub fn not_among(found: &Rows, all: &Rows) -> Option<String> {
    let (_, missing) = all.without_each_other(found);
    if missing.is_empty() { None } else { Some(told(&missing, &[])) }
}

fn example(found: &Rows, plain: &Rows) -> String {
    let (missing, surplus) = plain.without_each_other(found);
    format!(": {}", told(&surplus, &missing))
}

fn told(surplus: &[Vec<String>], missing: &[Vec<String>]) -> String {
    let some = |rows: &[Vec<String>]| -> Vec<String> { rows.iter().take(3).map(|row| row.join(" | ")).collect() };
    format!(
        "{} unexpected rows, such as {:?}; {} missing rows, such as {:?}",
        surplus.len(),
        some(surplus),
        missing.len(),
        some(missing)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]], tolerances: &[Option<f64>]) -> Rows {
        let rows = rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect();
        Rows { rows, tolerances: tolerances.to_vec() }
    }

    #[test]
    fn keys_are_compared_in_order_and_other_columns_are_not() {
        let first = rows(&[&["1", "a"], &["2", "b"]], &[None, None]);
        let tie = rows(&[&["1", "a"], &["2", "c"]], &[None, None]);
        let turned = rows(&[&["2", "b"], &["1", "a"]], &[None, None]);
        assert!(first.same_keys(&tie, &[0]));
        assert!(!first.same_keys(&tie, &[1]));
        assert!(!first.same_keys(&turned, &[0]));
        assert!(!first.same_keys(&tie, &[2]));
    }

    #[test]
    fn wrong_row_is_reported_and_order_matters_only_if_ordered() {
        let plain = [rows(&[&["1", "a"], &["2", "b"]], &[None, None])];
        let turned = rows(&[&["2", "b"], &["1", "a"]], &[None, None]);
        let wrong = rows(&[&["1", "a"], &["2", "c"]], &[None, None]);
        assert_eq!(disagreement(&turned, &plain, false), None);
        assert!(disagreement(&turned, &plain, true).unwrap().contains("another order"));
        let told = disagreement(&wrong, &plain, false).unwrap();
        assert_eq!(told, r#"1 unexpected rows, such as ["2 | c"]; 1 missing rows, such as ["2 | b"]"#);
        assert!(disagreement(&rows(&[&["1", "a"]], &[None, None]), &plain, false).unwrap().starts_with("1 rows"));
    }

    #[test]
    fn floats_may_differ_only_in_their_last_digits() {
        let tolerances = [Some(1e-9)];
        let plain = [rows(&[&["0.30000000000000004"], &["[1.5, NULL]"]], &tolerances)];
        assert_eq!(disagreement(&rows(&[&["[1.5, NULL]"], &["0.3"]], &tolerances), &plain, false), None);
        assert!(disagreement(&rows(&[&["[1.5, 2.0]"], &["0.3"]], &tolerances), &plain, false).is_some());
        assert!(disagreement(&rows(&[&["[1.5, NULL]"], &["0.3001"]], &tolerances), &plain, false).is_some());
    }

    #[test]
    fn columns_that_differ_between_plain_runs_are_not_compared() {
        let none = [None, None];
        let plain = [rows(&[&["1", "a"], &["2", "b"]], &none), rows(&[&["1", "a"], &["2", "x"]], &none)];
        assert_eq!(disagreement(&rows(&[&["1", "a"], &["2", "z"]], &none), &plain, true), None);
        assert!(disagreement(&rows(&[&["1", "a"], &["3", "b"]], &none), &plain, true).is_some());
        assert!(disagreement(&rows(&[&["1", "a"]], &none), &plain, true).is_some());
    }

    #[test]
    fn sorted_elements_are_the_same_in_any_order() {
        let sorted = |cell: &str| rows(&[&[cell]], &[None]).with_sorted_elements().rows[0][0].clone();
        assert_eq!(sorted("[c, a, b]"), sorted("[a, b, c]"));
        assert_ne!(sorted("[a, a]"), sorted("[a, b]"));
        assert_eq!(sorted("c,a"), "a, c");
    }

    #[test]
    fn subset_is_accepted_and_extra_row_is_reported() {
        let all = rows(&[&["1"], &["2"], &["3"]], &[None]);
        assert_eq!(not_among(&rows(&[&["3"], &["1"]], &[None]), &all), None);
        assert!(not_among(&rows(&[&["3"], &["3"]], &[None]), &all).is_some());
    }
}
