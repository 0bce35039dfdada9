//! Scans of a fragment.

use std::sync::Arc;

use datafusion::physical_expr::PhysicalExpr;

/// The source of a scan of a fragment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScanSource {
    /// The splits of the task, one per evaluation or all at once.
    Splits,
    /// All files of the build side at this position of the fragment's `builds`.
    Build(usize),
}

/// A scan of a fragment.
#[derive(Debug, Clone)]
pub(crate) struct Scan {
    /// The number of the table that is scanned.
    pub table: usize,
    /// The filter of the scan, over the columns of the table.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
}
