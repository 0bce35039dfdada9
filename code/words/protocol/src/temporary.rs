//! Errors of temporary files, to which operators, inboxes and answers spill.

use std::io::{self, ErrorKind};

use crate::QueryError;

/// Checks if `error` says that nothing more fits where it was written.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

impl QueryError {
    /// Returns the error of a temporary file that cannot be written, of kind `Limit`: `lost`, the folder, and the remedy, to
    /// which `option` belongs if a larger one keeps more in memory.
    pub fn not_spilled(lost: &str, option: Option<&str>, error: &io::Error) -> Self {
        let folder = std::env::temp_dir();
        let folder = folder.display();
        Self::limit(if is_full(error) {
            let raise = option.map(|option| format!(", or raise the option `{option}`")).unwrap_or_default();
            format!("{lost}: the folder for temporary files `{folder}` is full; set TMPDIR to another folder{raise}")
        } else {
            format!("{lost} in the folder for temporary files `{folder}`: {error}")
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::error::ArrowError;

    use super::*;
    use crate::error::from_arrow;

    #[test]
    fn full_folder_is_a_limit_with_its_remedy() {
        let full = || io::Error::from(ErrorKind::StorageFull);
        let folder = std::env::temp_dir().display().to_string();
        let errors = [
            QueryError::not_spilled("the result cannot be kept", None, &full()),
            from_arrow(&ArrowError::IoError("while writing".to_string(), full())),
        ];
        for error in errors {
            assert_eq!(error.kind, crate::ErrorKind::Limit, "{error}");
            assert!(error.message.contains(&folder) && error.message.contains("set TMPDIR"), "{error}");
        }
        let inbox = QueryError::not_spilled("the inbox cannot spill", Some("inbox_memory_bytes"), &full());
        assert!(inbox.message.ends_with("to another folder, or raise the option `inbox_memory_bytes`"), "{inbox}");
        let other = QueryError::not_spilled("the result cannot be kept", None, &ErrorKind::PermissionDenied.into());
        assert!(other.message.contains(&folder) && !other.message.contains("TMPDIR"), "{other}");
    }
}
