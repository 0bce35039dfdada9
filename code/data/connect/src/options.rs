//! The options of a table, from `WITH (…)`.

use std::collections::{BTreeMap, BTreeSet};

use buzz_protocol::{QueryError, Result};

/// The options of one table. Each option must be read once; [`Options::finish`] refuses those that nothing read.
#[derive(Debug)]
pub struct Options {
    table: String,
    values: BTreeMap<String, String>,
    read: BTreeSet<String>,
    /// Two names of one option that are both given.
    doubled: Option<(String, String)>,
}

/// Options that a pipeline reads itself.
const COMMON: [&str; 8] =
    ["connector", "type", "format", "event_time_field", "event_time", "watermark_field", "idle_timeout", "bad_data"];

impl Options {
    /// Takes the options of `table`.
    pub fn new(table: &str, values: &BTreeMap<String, String>) -> Self {
        let read = COMMON.iter().map(ToString::to_string).collect();
        Self { table: table.to_string(), values: values.clone(), read, doubled: None }
    }

    /// Returns the table's name.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Returns the value of the first of `keys` that is given. They are names of one option, so [`Options::finish`] refuses
    /// two of them.
    pub fn text(&mut self, keys: &[&str]) -> Option<String> {
        self.read.extend(keys.iter().map(ToString::to_string));
        let mut given = keys.iter().filter(|key| self.values.contains_key(**key));
        if let (Some(first), Some(second)) = (given.next(), given.next()) {
            self.doubled = Some((first.to_string(), second.to_string()));
        }
        keys.iter().find_map(|key| self.values.get(*key).cloned())
    }

    /// Returns the options whose names begin with `prefix`, without it.
    #[cfg(feature = "kafka")]
    pub fn prefixed(&mut self, prefix: &str) -> Vec<(String, String)> {
        let given = self.values.iter().filter(|(key, _)| key.starts_with(prefix));
        self.read.extend(given.clone().map(|(key, _)| key.clone()));
        given.map(|(key, value)| (key[prefix.len()..].to_string(), value.clone())).collect()
    }

    /// Returns an option that must be given.
    ///
    /// # Errors
    /// `Invalid` if it is missing.
    pub fn required(&mut self, keys: &[&str]) -> Result<String> {
        let table = self.table.clone();
        self.text(keys).ok_or_else(|| {
            QueryError::invalid(format!("table `{table}` has no option `{}`; add it to WITH (…)", keys[0]))
        })
    }

    /// Returns a number.
    ///
    /// # Errors
    /// `Invalid` if the value is not a number.
    pub fn number<T: std::str::FromStr>(&mut self, keys: &[&str]) -> Result<Option<T>> {
        let Some(text) = self.text(keys) else { return Ok(None) };
        let number = text.trim().parse().map_err(|_| {
            QueryError::invalid(format!(
                "option `{}` of table `{}` is `{text}`; a number is required",
                keys[0], self.table
            ))
        })?;
        Ok(Some(number))
    }

    /// Returns a duration in nanoseconds, written as `5s`, `200 ms` or `1 minute`. A number without a unit is seconds.
    ///
    /// # Errors
    /// `Invalid` if the value is not a duration.
    pub fn duration(&mut self, keys: &[&str]) -> Result<Option<i64>> {
        let Some(text) = self.text(keys) else { return Ok(None) };
        let parsed = parse_duration(&text);
        let parsed = parsed.ok_or_else(|| {
            QueryError::invalid(format!(
                "option `{}` of table `{}` is `{text}`; a duration such as `5s` or `200 ms` is required",
                keys[0], self.table
            ))
        })?;
        Ok(Some(parsed))
    }

    /// Returns the value of an option that has one of a few: that of the name in `choices` that is given, or `default`.
    ///
    /// # Errors
    /// `Invalid` if it has another one; the message names all.
    pub fn choice<T: Copy>(&mut self, keys: &[&str], default: T, choices: &[(&str, T)]) -> Result<T> {
        let Some(text) = self.text(keys) else { return Ok(default) };
        match choices.iter().find(|(name, _)| *name == text) {
            Some((_, value)) => Ok(*value),
            None => Err(self.wrong(keys[0], &text, &one_of(choices))),
        }
    }

    fn wrong(&self, key: &str, text: &str, known: &str) -> QueryError {
        QueryError::invalid(format!("option `{key}` of table `{}` is `{text}`; use {known}", self.table))
    }

    /// Returns a yes or no.
    ///
    /// # Errors
    /// `Invalid` if the value is neither `true` nor `false`.
    pub fn flag(&mut self, keys: &[&str], default: bool) -> Result<bool> {
        self.choice(keys, default, &[("true", true), ("false", false)])
    }

    /// Fails if an option was given that nothing reads, or under two names.
    ///
    /// # Errors
    /// `Invalid`, naming the option, and those that are known.
    pub fn finish(&self) -> Result<()> {
        if let Some((first, second)) = &self.doubled {
            return Err(QueryError::invalid(format!(
                "options `{first}` and `{second}` of table `{}` are two names of one option; remove one of them",
                self.table
            )));
        }
        match self.values.keys().find(|key| !self.read.contains(*key)) {
            None => Ok(()),
            Some(unknown) => Err(QueryError::invalid(format!(
                "option `{unknown}` of table `{}` is unknown; known are: {}",
                self.table,
                self.read.iter().cloned().collect::<Vec<_>>().join(", ")
            ))),
        }
    }
}

/// Lists the names of `choices`: `a, b or c`.
fn one_of<T>(choices: &[(&str, T)]) -> String {
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} or {last}", others.join(", ")),
        _ => names.concat(),
    }
}

/// Parses a duration to nanoseconds.
pub fn parse_duration(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = match text[digits..].trim().to_lowercase().as_str() {
        "ns" | "nanosecond" | "nanoseconds" => 1.0,
        "us" | "µs" | "microsecond" | "microseconds" => 1e3,
        "ms" | "millisecond" | "milliseconds" => 1e6,
        "" | "s" | "sec" | "second" | "seconds" => 1e9,
        "m" | "min" | "minute" | "minutes" => 60e9,
        "h" | "hour" | "hours" => 3600e9,
        "d" | "day" | "days" => 86_400e9,
        _ => return None,
    };
    Some((number * unit) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        let parsed = ["5s", "200 ms", "1 minute", "2", "0.5s", "x"].map(parse_duration);
        assert_eq!(
            parsed,
            [
                Some(5_000_000_000),
                Some(200_000_000),
                Some(60_000_000_000),
                Some(2_000_000_000),
                Some(500_000_000),
                None
            ]
        );
    }

    #[test]
    fn choice_is_one_of_the_named_values() {
        let values = BTreeMap::from([("late".to_string(), "side".to_string()), ("mode".to_string(), "x".to_string())]);
        let mut options = Options::new("t", &values);
        let choices = [("fail", 1), ("drop", 2), ("side", 3)];
        assert_eq!(options.choice(&["late"], 1, &choices).expect("it is known"), 3);
        assert_eq!(options.choice(&["bad"], 2, &choices).expect("it is not given"), 2);
        let error = options.choice(&["mode"], 1, &choices).expect_err("it is unknown").to_string();
        assert!(error.contains("option `mode` of table `t` is `x`; use fail, drop or side"), "{error}");
        let error = options.choice(&["mode"], 1, &choices[..2]).expect_err("it is unknown").to_string();
        assert!(error.contains("use fail or drop"), "{error}");
    }

    #[test]
    fn unknown_option_is_refused() {
        let values = BTreeMap::from([("rate".to_string(), "5".to_string())]);
        let mut options = Options::new("t", &values);
        options.number::<u64>(&["event_rate"]).expect("it is not given");
        assert!(options.finish().expect_err("rate is unknown").to_string().contains("`rate` of table `t` is unknown"));
    }
}
