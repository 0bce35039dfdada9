//! Reads a process's settings from environment variables, once at its start.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use buzz_protocol::{QueryError, Result};
use buzz_storage::{Access, Location, Stores};

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

/// Returns the location of the stack's own objects, and what its queries may read and write, read through `get`:
/// `BUZZ_RESULTS`, and the JSON lists `BUZZ_DATA_LOCATIONS` and `BUZZ_OUTPUT_LOCATIONS`. Without a list, every bucket is
/// allowed.
///
/// # Errors
/// `Invalid`, naming every variable that is missing or invalid.
pub fn access(get: impl Fn(&str) -> Option<String>) -> Result<(Location, Access)> {
    let mut variables = Variables::new(&get);
    let own = variables.location("BUZZ_RESULTS");
    let mut access = Access::except(own.clone());
    if let Some(locations) = variables.locations("BUZZ_DATA_LOCATIONS") {
        access = access.reading(locations);
    }
    if let Some(locations) = variables.locations("BUZZ_OUTPUT_LOCATIONS") {
        access = access.writing(locations);
    }
    variables.checked((own, access))
}

/// Sets the regions of buckets in `stores` from `BUZZ_BUCKET_REGIONS`, a list such as `bucket=region,bucket=region`.
///
/// # Errors
/// `Invalid` if the variable does not have that form.
pub fn set_regions(stores: &Stores, get: impl Fn(&str) -> Option<String>) -> Result<()> {
    for pair in get("BUZZ_BUCKET_REGIONS").unwrap_or_default().split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (bucket, region) = pair.split_once('=').ok_or_else(|| {
            QueryError::invalid(format!("BUZZ_BUCKET_REGIONS: `{pair}` does not have the form bucket=region"))
        })?;
        stores.set_region(bucket.trim(), region.trim());
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

    /// Reads a required variable that is a location. Records a problem and returns the root if it is missing or invalid.
    pub fn location(&mut self, name: &str) -> Location {
        let text = self.required(name);
        let place = if text.is_empty() { None } else { self.optional_location(name) };
        place.unwrap_or_else(|| Location::parse("/", Path::new("/")).expect("the root is a valid location"))
    }

    /// Reads an optional variable that is a location. Records a problem and returns `None` if it is invalid.
    pub fn optional_location(&mut self, name: &str) -> Option<Location> {
        let text = self.value(name)?;
        Location::parse(&text, Path::new("/")).map_err(|error| self.problem(format!("{name}: {error}"))).ok()
    }

    /// Reads an optional variable that is a JSON list of locations.
    fn locations(&mut self, name: &str) -> Option<Vec<Location>> {
        let text = self.value(name)?;
        let locations = serde_json::from_str::<Vec<String>>(&text).ok();
        let parsed = locations.and_then(|locations| {
            locations.iter().map(|uri| Location::parse(uri, Path::new("/"))).collect::<Result<_>>().ok()
        });
        parsed.or_else(|| {
            self.problem(format!("{name} is not a JSON list of s3:// locations"));
            None
        })
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
        let stores = Stores::default();
        assert!(set_regions(&stores, |_| Some("a=us-east-2, b=eu-west-1".to_string())).is_ok());
        let error = set_regions(&stores, |_| Some("a".to_string())).unwrap_err().to_string();
        assert_eq!(error, "BUZZ_BUCKET_REGIONS: `a` does not have the form bucket=region");
    }

    #[test]
    fn access_is_read_from_json_lists() {
        let read = |data: &str| {
            access(|name| match name {
                "BUZZ_RESULTS" => Some("s3://stack/results/".to_string()),
                "BUZZ_DATA_LOCATIONS" => Some(data.to_string()),
                "BUZZ_OUTPUT_LOCATIONS" => Some("[]".to_string()),
                _ => None,
            })
        };
        let place = |uri: &str| Location::parse(uri, Path::new("/")).unwrap();
        let (own, limited) = read(r#"["s3://lake/a, b/"]"#).unwrap();
        assert_eq!(own.to_string(), "s3://stack/results");
        limited.check_read(&place("s3://lake/a, b/c")).unwrap();
        assert!(limited.check_read(&place("s3://lake/d")).is_err());
        assert!(limited.check_write(&place("s3://lake/a, b/c")).is_err(), "an empty list allows nothing");
        let (_, open) = read("").unwrap();
        open.check_read(&place("s3://lake/d")).unwrap();
        for wrong in ["s3://lake/", "[1]", r#"["ftp://x/"]"#] {
            let error = read(wrong).unwrap_err().to_string();
            assert!(error.contains("BUZZ_DATA_LOCATIONS is not a JSON list"), "{error}");
        }
        assert!(access(|_| None).unwrap_err().to_string().contains("BUZZ_RESULTS is not set"));
    }
}
