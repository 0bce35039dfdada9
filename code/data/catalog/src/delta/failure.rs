//! Errors of delta-rs. It has types for a missing table and for errors of the store, but most failures of its kernel are
//! `Generic` with a text, and its kernel's error type is not public. [`said`] is the only place that reads these texts.

use buzz_protocol::QueryError;
use buzz_storage::Location;
use deltalake::DeltaTableError;

/// Converts an error of delta-rs about the table at `place`.
pub(super) fn query_error(place: &Location, error: DeltaTableError) -> QueryError {
    let absent = || QueryError::data(format!("there is no Delta table at {place}"));
    match error {
        DeltaTableError::NotATable(_) | DeltaTableError::InvalidTableLocation(_) => absent(),
        DeltaTableError::ObjectStore { source } => in_table(place, source.into()),
        error => {
            // The other lines are a backtrace.
            let text = error.to_string().lines().next().unwrap_or_default().to_string();
            match said(&text) {
                Some(Said::Absent) => absent(),
                Some(Said::CatalogManaged) => QueryError::data(format!(
                    "Delta table {place} uses the reader feature `catalogManaged`, which Buzz does not support"
                )),
                Some(Said::Gap(before, after)) => QueryError::data(format!(
                    "the log of Delta table {place} has a gap: version {before} is followed by version {after}"
                )),
                None => QueryError::data(format!("the log of Delta table {place} cannot be read: {text}")),
            }
        }
    }
}

/// Returns `error`, whose message names the table.
pub(super) fn in_table(place: &Location, error: QueryError) -> QueryError {
    QueryError { message: format!("Delta table {place}: {}", error.message), ..error }
}

/// A failure that only its text tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Said {
    /// The folder has no log.
    Absent,
    /// The table requires a catalog that commits.
    CatalogManaged,
    /// The log lacks the commits between two versions.
    Gap(u64, u64),
}

/// Recognises the texts of delta-rs 1.1 and its kernel. All of them are of kind `Data`, as is a text that is not
/// recognised, so a changed text makes a message less helpful and nothing else.
fn said(text: &str) -> Option<Said> {
    if text.contains("No files in log segment") || text.contains("Invalid table location") {
        Some(Said::Absent)
    } else if text.contains("catalog-managed") {
        Some(Said::CatalogManaged)
    } else {
        gap(text).map(|(before, after)| Said::Gap(before, after))
    }
}

/// Returns the versions before and after a gap in the log, parsed from the error `text`.
fn gap(text: &str) -> Option<(u64, u64)> {
    let (_, told) = text.split_once("found gap")?;
    let mut versions = told.split(", version: ").skip(1).filter_map(|rest| rest.split(',').next()?.parse().ok());
    Some((versions.next()?, versions.next()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_text_of_the_kernel_is_recognised() {
        let kernel = "Kernel error: Generic delta kernel error: ";
        assert_eq!(said(&format!("{kernel}No files in log segment")), Some(Said::Absent));
        assert_eq!(said(&format!("{kernel}Invalid table location: x")), Some(Said::Absent));
        assert_eq!(said("Kernel error: the table is catalog-managed"), Some(Said::CatalogManaged));
        let path = |version: u64| format!("ParsedLogPath {{ filename: \"x\", version: {version}, file_type: Commit }}");
        let text = format!("{kernel}Expected contiguous commit files, but found gap: {} -> {}", path(0), path(2));
        assert_eq!(said(&text), Some(Said::Gap(0, 2)));
        assert_eq!(said("Kernel error: No table version found."), None);
    }
}
