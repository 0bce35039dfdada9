//! Rules of the protocol that a test can break, to prove that the simulator notices. Outside of tests they always hold.

/// The rules that hold.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rules {
    /// The rule that a test breaks.
    #[cfg(test)]
    pub(crate) broken: Option<Rule>,
}

/// A rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// A record is created, never overwritten.
    CreateRecords,
    /// Rows with a key that was sealed before are left out.
    Deduplicate,
    /// Sealing looks for segments as long as a write to the inbox may take.
    WaitForWrites,
    /// Files of an epoch without a record are not garbage.
    SpareUnrecorded,
    /// A process that reads or creates an entry looks afterwards at where the log begins.
    LookAtTheStart,
    /// Entries whose keys decide about repetitions are not removed.
    SpareKeys,
    /// An object with the bytes that this process wrote is its own.
    RecogniseOwn,
}

impl Rules {
    pub(crate) fn creates_records(self) -> bool {
        self.holds(Rule::CreateRecords)
    }

    pub(crate) fn deduplicates(self) -> bool {
        self.holds(Rule::Deduplicate)
    }

    pub(crate) fn waits_for_writes(self) -> bool {
        self.holds(Rule::WaitForWrites)
    }

    pub(crate) fn spares_unrecorded(self) -> bool {
        self.holds(Rule::SpareUnrecorded)
    }

    pub(crate) fn looks_at_the_start(self) -> bool {
        self.holds(Rule::LookAtTheStart)
    }

    pub(crate) fn spares_keys(self) -> bool {
        self.holds(Rule::SpareKeys)
    }

    pub(crate) fn recognises_own(self) -> bool {
        self.holds(Rule::RecogniseOwn)
    }

    #[cfg(test)]
    fn holds(self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }

    #[cfg(not(test))]
    fn holds(self, _rule: Rule) -> bool {
        true
    }
}
