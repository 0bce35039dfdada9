//! What a process is told by its environment, read once at its start.

use std::fmt;
use std::str::FromStr;

use buzz_protocol::{QueryError, Result};
use buzz_storage::Storage;

/// The environment of this process.
pub fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Megabytes of the function that this process is, from `get`.
///
/// # Errors
/// `Invalid` when the service did not say.
pub fn function_memory_mb(get: impl Fn(&str) -> Option<String>) -> Result<u64> {
    let mut variables = Variables::new(&get);
    let memory = variables.required_number("AWS_LAMBDA_FUNCTION_MEMORY_SIZE");
    variables.checked(memory)
}

/// Tells `storage` the regions of buckets that `BUZZ_BUCKET_REGIONS` names, as `bucket=region,bucket=region`.
///
/// # Errors
/// `Invalid` when it is not of that form.
pub fn know_regions(storage: &Storage, get: impl Fn(&str) -> Option<String>) -> Result<()> {
    for pair in get("BUZZ_BUCKET_REGIONS").unwrap_or_default().split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (bucket, region) = pair.split_once('=').ok_or_else(|| {
            QueryError::invalid(format!("BUZZ_BUCKET_REGIONS: `{pair}` is not of the form bucket=region"))
        })?;
        storage.know_region(bucket.trim(), region.trim());
    }
    Ok(())
}

/// Reads variables and gathers what is wrong with them, so that all of it is told at once.
pub struct Variables<'a> {
    get: &'a dyn Fn(&str) -> Option<String>,
    problems: Vec<String>,
}

impl<'a> Variables<'a> {
    /// None read yet.
    pub fn new(get: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { get, problems: Vec::new() }
    }

    /// A variable that is set and not empty.
    fn value(&self, name: &str) -> Option<String> {
        (self.get)(name).map(|value| value.trim().to_string()).filter(|value| !value.is_empty())
    }

    /// Notes what is wrong.
    pub fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// A variable that must be there.
    pub fn required(&mut self, name: &str) -> String {
        self.value(name).unwrap_or_else(|| {
            self.problem(format!("{name} is not set"));
            String::new()
        })
    }

    /// A number that must be there.
    pub fn required_number(&mut self, name: &str) -> u64 {
        let text = self.required(name);
        if text.is_empty() { 0 } else { self.optional(name, 0) }
    }

    /// What commas separate in a variable that must be there.
    pub fn list(&mut self, name: &str) -> Vec<String> {
        self.required(name).split(',').map(|item| item.trim().to_string()).filter(|item| !item.is_empty()).collect()
    }

    /// A variable, or `default`.
    pub fn optional<T: FromStr>(&mut self, name: &str, default: T) -> T {
        let Some(text) = self.value(name) else {
            return default;
        };
        text.parse().unwrap_or_else(|_| {
            self.problem(format!("{name} cannot be `{text}`"));
            default
        })
    }

    /// `settings`, if nothing was wrong.
    ///
    /// # Errors
    /// `Invalid`, naming every variable that is missing or wrong.
    pub fn checked<T>(self, settings: T) -> Result<T> {
        if self.problems.is_empty() {
            return Ok(settings);
        }
        Err(QueryError::invalid(format!("the environment is not complete: {}", self.problems.join("; "))))
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
    fn bucket_regions_are_pairs() {
        let storage = Storage::default();
        assert!(know_regions(&storage, |_| Some("a=us-east-2, b=eu-west-1".to_string())).is_ok());
        let error = know_regions(&storage, |_| Some("a".to_string())).unwrap_err().to_string();
        assert_eq!(error, "BUZZ_BUCKET_REGIONS: `a` is not of the form bucket=region");
    }
}
