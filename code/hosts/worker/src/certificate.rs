//! The TLS certificate of a comb on AWS, whose fingerprint it records in the stack's bucket for Fuse.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use buzz_exchange::{CombCertificate, Fingerprint};
use buzz_protocol::{QueryError, Result};
use buzz_storage::{Location, Stores};
use object_store::ObjectStoreExt;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::environment::{environment, set_regions};

/// Variable with the location of the object in which a comb records its certificate. Fuse sets it when it starts a comb
/// that must use TLS.
pub const CERTIFICATE_VARIABLE: &str = "BUZZ_COMB_CERTIFICATE";

/// Interval at which a comb writes its record again, since the stack's bucket removes old objects.
const AGAIN_AFTER: Duration = Duration::from_secs(6 * 3600);

/// The content of a record, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertificateRecord {
    /// Fingerprint of the certificate: 64 hexadecimal digits.
    pub sha256: String,
}

/// A certificate that is recorded. Dropping it ends the writing.
#[derive(Debug)]
pub struct RecordedCertificate {
    certificate: CombCertificate,
    _again: JoinSet<()>,
}

impl RecordedCertificate {
    /// Makes a certificate and writes its record to `place`, and again as long as this value lives. Writes its fingerprint
    /// to `file` too, for health checks.
    ///
    /// # Errors
    /// `Unavailable` or `Data` if the record cannot be written, `Internal` if the file cannot.
    pub async fn fresh(place: &Location, file: &Path) -> Result<Self> {
        let certificate = CombCertificate::fresh()?;
        let record = CertificateRecord { sha256: certificate.fingerprint().to_string() };
        std::fs::write(file, &record.sha256)
            .map_err(|error| QueryError::internal(format!("cannot write `{}`: {error}", file.display())))?;
        let stores = Stores::default();
        set_regions(&stores, environment)?;
        let writer = Writer { stores: Arc::new(stores), place: place.clone(), record };
        writer.write().await?;
        let mut again = JoinSet::new();
        again.spawn(async move {
            loop {
                tokio::time::sleep(AGAIN_AFTER).await;
                if let Err(error) = writer.write().await {
                    tracing::warn!(%error, "the record of the certificate was not written again");
                }
            }
        });
        Ok(Self { certificate, _again: again })
    }

    /// Returns the certificate.
    pub fn certificate(&self) -> &CombCertificate {
        &self.certificate
    }
}

/// Returns the fingerprint of the comb that wrote it to `file`.
///
/// # Errors
/// `Unavailable` if it has made no certificate yet.
pub fn recorded_fingerprint(file: &Path) -> Result<Fingerprint> {
    let text = std::fs::read_to_string(file).map_err(|error| {
        QueryError::unavailable(format!("the comb has no certificate in `{}`: {error}", file.display()))
    })?;
    text.parse().map_err(QueryError::unavailable)
}

/// Returns the temporary file with the fingerprint of the comb in this container.
pub fn fingerprint_file() -> PathBuf {
    std::env::temp_dir().join("comb-certificate.sha256")
}

/// Writes one record.
struct Writer {
    stores: Arc<Stores>,
    place: Location,
    record: CertificateRecord,
}

impl Writer {
    async fn write(&self) -> Result<()> {
        let json = serde_json::to_vec(&self.record)
            .map_err(|error| QueryError::internal(format!("the record of the certificate has no JSON: {error}")))?;
        let store = self.stores.for_stack().store(&self.place.store)?;
        let written = store.put(&self.place.path, json.into()).await;
        written
            .map(drop)
            .map_err(|error| QueryError::from(error).at(format!("recording the comb's certificate in {}", self.place)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn record_has_the_fingerprint_that_callers_must_require() {
        let folder = tempfile::tempdir().unwrap();
        let (place, file) =
            (Location::parse("certificates/comb-0.json", folder.path()).unwrap(), folder.path().join("sha256"));
        let error = recorded_fingerprint(&file).unwrap_err().to_string();
        assert!(error.contains("the comb has no certificate in"), "{error}");

        let recorded = RecordedCertificate::fresh(&place, &file).await.unwrap();
        let fingerprint = recorded.certificate().fingerprint();
        let json = std::fs::read(folder.path().join("certificates/comb-0.json")).unwrap();
        let record: CertificateRecord = serde_json::from_slice(&json).unwrap();
        assert_eq!(record.sha256.parse(), Ok(fingerprint));
        assert_eq!(recorded_fingerprint(&file).unwrap(), fingerprint);

        let nowhere = Location::parse("/proc/none/comb-0.json", Path::new("/")).unwrap();
        let error = RecordedCertificate::fresh(&nowhere, &file).await.unwrap_err().to_string();
        assert!(error.contains("recording the comb's certificate in"), "{error}");
    }
}
