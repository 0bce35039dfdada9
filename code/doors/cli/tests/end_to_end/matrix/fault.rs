//! The faults of the matrix, with what a query may do under each.

use buzz_protocol::ErrorKind;

/// A fault that the parts of [`super::host::Troubled`] make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    HbeeDiesBefore,
    HbeeDiesReading,
    HbeeDiesAfter,
    HbeeAlwaysDies,
    HbeeRunsTwice,
    HbeeHangs,
    HbeeIsSlow,
    HbeeCountsTooFew,
    HbeeDeliversOtherSchema,
    CombRefuses,
    CombsDieBefore,
    CombsDieAfterDelivery,
    CombsDieAfterCommit,
    CombsRestartEmpty,
    NoCombs,
    CombsFreeze,
    OperatorComputes,
    ReaderIsSlow,
    InboxMemoryFull,
    InboxDiskFull,
    LittleMemory,
    StoreUnavailable,
    StoreMissing,
    StoreSlow,
    StoreTruncates,
    StoreBreaksOff,
    StoreOtherRange,
    FileReplaced,
    NetworkCut,
    NetworkHalfOpen,
    FuseNetworkSilent,
    HbeeNetworkSilent,
    CombsNetworkSilent,
    StoreSilent,
    Cancelled,
    OutOfTime,
}

/// The answer that a query under a fault must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The right rows.
    Rows,
    /// An error of this kind.
    Fails(ErrorKind),
    /// The right rows or an error of this kind, depending on the shape.
    Either(ErrorKind),
}

/// Returns all faults with their words in the table, and what a query may do.
pub(crate) fn faults() -> Vec<(Fault, &'static str, Expect)> {
    use Expect::{Either, Fails, Rows};
    vec![
        (Fault::HbeeDiesBefore, "HBee dies before it starts", Rows),
        (Fault::HbeeDiesReading, "HBee dies while it reads", Rows),
        (Fault::HbeeDiesAfter, "HBee dies after delivery, before its answer", Rows),
        (Fault::HbeeAlwaysDies, "HBee dies in every attempt", Fails(ErrorKind::Unavailable)),
        (Fault::HbeeRunsTwice, "HBee runs twice at once", Rows),
        (Fault::HbeeHangs, "HBee hangs", Rows),
        (Fault::HbeeIsSlow, "HBee is slow", Rows),
        (Fault::HbeeCountsTooFew, "HBee counts too few partitions", Fails(ErrorKind::Internal)),
        (Fault::HbeeDeliversOtherSchema, "HBee delivers another schema", Fails(ErrorKind::Internal)),
        (Fault::CombRefuses, "comb refuses the query", Rows),
        (Fault::CombsDieBefore, "combs die before a delivery", Rows),
        (Fault::CombsDieAfterDelivery, "combs die after a delivery", Rows),
        (Fault::CombsDieAfterCommit, "combs die after a commit", Rows),
        (Fault::CombsRestartEmpty, "combs restart empty", Rows),
        (Fault::NoCombs, "combs cannot be started", Either(ErrorKind::Unavailable)),
        (Fault::CombsFreeze, "combs freeze, or their network is silent", Rows),
        (Fault::OperatorComputes, "operator computes for longer than a ping may take", Rows),
        (Fault::ReaderIsSlow, "comb reads its inbox slowly", Rows),
        (Fault::InboxMemoryFull, "memory of the inbox is full", Rows),
        (Fault::InboxDiskFull, "disk of the inbox is full", Fails(ErrorKind::Limit)),
        (Fault::LittleMemory, "operators have little memory", Either(ErrorKind::Limit)),
        (Fault::StoreUnavailable, "store: 503", Rows),
        (Fault::StoreMissing, "store: 404", Fails(ErrorKind::Data)),
        (Fault::StoreSlow, "store: slow", Rows),
        (Fault::StoreTruncates, "store: truncated response", Rows),
        (Fault::StoreBreaksOff, "store: response breaks off", Rows),
        (Fault::StoreOtherRange, "store: another range", Rows),
        (Fault::FileReplaced, "store: object changed after planning", Fails(ErrorKind::Data)),
        (Fault::NetworkCut, "network to the combs is cut", Rows),
        (Fault::NetworkHalfOpen, "network to the combs is half open: no answer passes", Rows),
        (Fault::FuseNetworkSilent, "network between Fuse and the combs is silent", Rows),
        (Fault::HbeeNetworkSilent, "network between an HBee and the combs is silent", Rows),
        (Fault::CombsNetworkSilent, "network between the combs is silent", Rows),
        (Fault::StoreSilent, "network between an HBee and the store is silent", Rows),
        (Fault::Cancelled, "Fuse: cancelled", Fails(ErrorKind::Cancelled)),
        (Fault::OutOfTime, "Fuse: out of time", Fails(ErrorKind::Limit)),
    ]
}

impl Fault {
    /// Returns the options that the fault needs besides those of every query.
    pub(crate) fn sets(self) -> &'static [&'static str] {
        match self {
            Fault::CombsRestartEmpty => &["transport=memory"],
            Fault::InboxMemoryFull => &["inbox_memory_bytes=1"],
            Fault::InboxDiskFull => &["inbox_memory_bytes=1", "inbox_disk_bytes=1"],
            Fault::LittleMemory => &["memory_bytes=100KiB"],
            Fault::OutOfTime => &["timeout_seconds=8", "straggler_factor=0"],
            _ => &[],
        }
    }

    /// Returns true if options make the fault, so that no part counts it.
    pub(crate) fn is_of_options(self) -> bool {
        matches!(self, Fault::InboxMemoryFull | Fault::InboxDiskFull | Fault::LittleMemory)
    }
}
