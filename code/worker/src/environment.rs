//! Reads a process's settings from environment variables, once at its start.

use std::fmt;
use std::str::FromStr;

use buzz_protocol::{QueryError, Result};
use buzz_storage::Storage;

/// Returns the value of the environment variable `name`.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the memory size of this Lambda function in MiB, read through `get`.
///
/// # Errors
/// `Invalid` if the variable is missing or not a number.
pub fn function_memory_mb(get: impl Fn(&str) -> Option<String>) -> Result<u64> {
    let mut variables = Variables::new(&get);
    let memory = variables.required_number("AWS_LAMBDA_FUNCTION_MEMORY_SIZE");
    variables.checked(memory)
}

/// Sets the regions of buckets in `storage` from `BUZZ_BUCKET_REGIONS`, a list such as `bucket=region,bucket=region`.
///
/// # Errors
/// `Invalid` if the variable does not have that form.
pub fn know_regions(storage: &Storage, get: impl Fn(&str) -> Option<String>) -> Result<()> {
    for pair in get("BUZZ_BUCKET_REGIONS").unwrap_or_default().split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (bucket, region) = pair.split_once('=').ok_or_else(|| {
            QueryError::invalid(format!("BUZZ_BUCKET_REGIONS: `{pair}` does not have the form bucket=region"))
        })?;
        storage.know_region(bucket.trim(), region.trim());
    }
    Ok(())
}

/// Reads environment variables and collects their problems, so that one error reports all of them.
pub struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl<'a> Variables<'a> {
    /// Creates a reader of the variables that `get` returns by name.
    pub fn new(get: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { get, problems: Vec::new() }
    }

    /// Returns the trimmed value of a variable; `None` if it is unset or empty.
    fn value(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
    }

    /// Records a problem.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// Reads a required variable. Records a problem and returns an empty string if it is missing.
    pub fn required(&mut self, name: &str) -> String {
        self.value(name).unwrap_or_else(|| {
            self.problem(format!("{name} is not set"));
            String::new()
        })
    }

    /// Reads a required number. Records a problem and returns 0 if it is missing or invalid.
    pub fn required_number(&mut self, name: &str) -> u64 {
        let text = self.required(name);
        if text.is_empty() { 0 } else { self.optional(name, 0) }
    }

    /// Reads a required variable that is a comma-separated list.
    pub fn list(&mut self, name: &str) -> Vec<String> {
        self.required(name).split(',').map(|item| item.trim().to_string()).filter(|item| !item.is_empty()).collect()
    }

    /// Reads an optional variable. Returns `default` if it is missing; if it is invalid, records a problem too.
    pub fn optional<T: FromStr>(&mut self, name: &str, default: T) -> T {
        let Some(text) = self.value(name) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.problem(format!("{name} has the invalid value `{text}`"));
            default
        })
    }

    /// Returns `settings` if no problem was recorded.
    ///
    /// # Errors
    /// `Invalid`, naming every variable that is missing or invalid.
    pub fn checked<T>(self, settings: T) -> Result<T> {
        if self.problems.is_empty() {
            return Ok(settings);
        }
        Err(QueryError::invalid(format!("environment variables are missing or invalid: {}", self.problems.join("; "))))
    }
}

impl fmt::Debug for Variables<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Variables").field("problems", &self.problems).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_region_without_equals_sign_is_rejected() {
        let storage = Storage::default();
        assert!(know_regions(&storage, |_| Some("a=us-east-2, b=eu-west-1".to_string())).is_ok());
        let error = know_regions(&storage, |_| Some("a".to_string())).unwrap_err().to_string();
        assert_eq!(error, "BUZZ_BUCKET_REGIONS: `a` does not have the form bucket=region");
    }
}
