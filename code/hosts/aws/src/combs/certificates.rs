//! The certificates of combs that use TLS, as their tasks recorded them.

use std::collections::HashMap;

use buzz_exchange::Fingerprint;
use buzz_protocol::{CombAddress, QueryError, Result};
use buzz_worker::certificate::CertificateRecord;
use parking_lot::Mutex;

use crate::combs::tasks::CombTask;
use crate::results::Results;

/// The certificates of one stack's combs. Each is read until its comb answers, and then kept.
#[derive(Debug)]
pub(super) struct Certificates {
    results: Results,
    /// By ARN of the task: a task has one certificate as long as it runs.
    known: Mutex<HashMap<String, Fingerprint>>,
}

impl Certificates {
    /// Creates the certificates that combs record below `results`.
    pub(super) fn new(results: Results) -> Self {
        Self { results, known: Mutex::default() }
    }

    /// Forgets the certificate of `task`, which is read again at the next look.
    pub(super) fn forget(&self, task: &CombTask) {
        self.known.lock().remove(&task.arn);
    }

    /// Returns the address of the comb of `task`, which is at `address`, with the certificate that it recorded. Returns `None`
    /// until it has recorded one.
    ///
    /// # Errors
    /// `Unavailable` if the store does not answer; `Internal` if the record is not one of this stack, or not readable.
    pub(super) async fn pinned(&self, task: &CombTask, address: &CombAddress) -> Result<Option<CombAddress>> {
        let known = self.known.lock().get(&task.arn).copied();
        if let Some(fingerprint) = known {
            return fingerprint.pinned(address).map(Some);
        }
        let uri = task.certificate.as_deref().unwrap_or_default();
        let foreign = || QueryError::internal(format!("task {} records its certificate in `{uri}`", task.arn));
        let name = name_of(uri).ok_or_else(foreign)?;
        let place = self.results.certificate(name)?;
        if place.to_string() != uri {
            return Err(foreign());
        }
        let Some(record) = self.results.get_json::<CertificateRecord>(&place).await? else {
            return Ok(None);
        };
        let unreadable = |error| QueryError::internal(format!("object {place} is not readable: {error}"));
        let fingerprint: Fingerprint = record.sha256.parse().map_err(unreadable)?;
        self.known.lock().insert(task.arn.clone(), fingerprint);
        fingerprint.pinned(address).map(Some)
    }
}

/// Returns the name of the record at `uri`: its last part without `.json`.
fn name_of(uri: &str) -> Option<&str> {
    uri.rsplit('/').next()?.strip_suffix(".json")
}
