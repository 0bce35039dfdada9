//! The rules that decide where a plan is cut.

/// The rules that decide where a plan is cut. The same rules always cut the same plan in the same way.
#[derive(Debug, Clone, Default)]
pub(crate) struct CutRules {
    /// The cost of reading each table, by table number.
    pub tables: Vec<TableCost>,
    /// Maximum bytes of a build side, times the tasks that read it, for a broadcast join on HBees.
    pub build_bytes: u64,
    /// The number of the first fragment's stage.
    pub first_stage: u32,
}

impl CutRules {
    /// Checks if each task over the table `probe` may read the table `build`, both by table number.
    pub(crate) fn affords_table(&self, build: usize, probe: usize) -> bool {
        let tables = self.tables.get(build).zip(self.tables.get(probe));
        tables.is_some_and(|(build, probe)| self.affords(build.bytes, *probe))
    }

    /// Checks if each task over `table` may read a build side of `bytes`: `bytes` × tasks must be at most `build_bytes`
    /// and at most the larger of the table's bytes and 8 MiB.
    pub(super) fn affords(&self, bytes: u64, table: TableCost) -> bool {
        let together = bytes.saturating_mul(table.tasks);
        together <= self.build_bytes.min(table.bytes.max(BUILD_BYTES_FREE))
    }
}

/// Bytes of build sides that are cheaper to read than an exchange of both sides.
const BUILD_BYTES_FREE: u64 = 8 << 20;

/// The cost of reading a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableCost {
    /// Bytes of its files.
    pub bytes: u64,
    /// Tasks among which the files are divided.
    pub tasks: u64,
}
