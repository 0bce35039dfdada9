//! Resolves the requested version of a Delta Lake table: a number, or the newest version at a given time.

use buzz_protocol::{CatalogEntry, QueryError, Result};
use buzz_storage::Location;
use buzz_storage::text::with_seconds;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Utc};
use futures::TryStreamExt;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use serde_json::Value;

/// Returns the version that `entry` requests; `None` for the newest.
///
/// # Errors
/// `Invalid` if `entry` has both a version and a time, or a time before the oldest version.
pub(crate) async fn wanted(place: &Location, entry: &CatalogEntry, store: &dyn ObjectStore) -> Result<Option<u64>> {
    match (entry.version, &entry.timestamp) {
        (Some(_), Some(_)) => Err(QueryError::invalid("both `version` and `timestamp` are set; set only one")),
        (version, None) => Ok(version),
        (None, Some(text)) => version_at(place, store, parse(text)?).await.map(Some),
    }
}

/// Parses a time that a user wrote. The default zone is UTC, the default time of day is midnight.
fn parse(text: &str) -> Result<DateTime<Utc>> {
    let full = with_seconds(text);
    if let Ok(time) = DateTime::parse_from_rfc3339(&full) {
        return Ok(time.to_utc());
    }
    let plain = full.replacen(' ', "T", 1);
    let local = NaiveDateTime::parse_from_str(&plain, "%Y-%m-%dT%H:%M:%S%.f").ok();
    let midnight = || NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|day| day.and_time(NaiveTime::MIN));
    local.or_else(midnight).map(|time| time.and_utc()).ok_or_else(|| {
        QueryError::invalid(format!(
            "`timestamp` has the invalid value `{text}`; use a form such as 2024-01-31T12:00:00Z or 2024-01-31"
        ))
    })
}

/// Returns the newest version at or before `time`. The time of a version is its
/// [in-commit timestamp](https://github.com/delta-io/delta/blob/master/PROTOCOL.md#in-commit-timestamps), or else the
/// modification time of its commit file.
async fn version_at(place: &Location, store: &dyn ObjectStore, time: DateTime<Utc>) -> Result<u64> {
    let log = place.join("_delta_log")?;
    let listed: Vec<ObjectMeta> = store.list(Some(&log.path)).try_collect().await?;
    let mut commits: Vec<(u64, ObjectMeta)> =
        listed.into_iter().filter_map(|object| Some((commit_version(&object)?, object))).collect();
    commits.sort_by_key(|(version, _)| *version);
    let Some((_, newest)) = commits.last() else {
        return Err(QueryError::data(format!("there is no Delta table at {place}, or its log has no commits")));
    };

    // Times increase with versions, so a binary search finds the first later commit.
    let told = in_commit_time(store, newest).await?.is_some();
    let (mut low, mut high) = (0, commits.len());
    while low < high {
        let middle = low.midpoint(high);
        if commit_time(store, &commits[middle].1, told).await? <= time { low = middle + 1 } else { high = middle }
    }
    match low.checked_sub(1) {
        Some(index) => Ok(commits[index].0),
        None => {
            let (version, oldest) = &commits[0];
            let since = commit_time(store, oldest, told).await?.to_rfc3339_opts(SecondsFormat::Millis, true);
            Err(QueryError::invalid(format!(
                "Delta table {place} has no version at or before {}; the oldest commit in its log, version {version}, \
                 is from {since}",
                time.to_rfc3339_opts(SecondsFormat::Millis, true)
            )))
        }
    }
}

fn commit_version(object: &ObjectMeta) -> Option<u64> {
    let digits = object.location.filename()?.strip_suffix(".json")?;
    (digits.len() == 20).then(|| digits.parse().ok()).flatten()
}

async fn commit_time(store: &dyn ObjectStore, commit: &ObjectMeta, told: bool) -> Result<DateTime<Utc>> {
    let in_commit = if told { in_commit_time(store, commit).await? } else { None };
    Ok(in_commit.unwrap_or(commit.last_modified))
}

/// Returns the in-commit timestamp of a commit. If there is one, it is in the first action.
async fn in_commit_time(store: &dyn ObjectStore, commit: &ObjectMeta) -> Result<Option<DateTime<Utc>>> {
    let bytes = store.get(&commit.location).await?.bytes().await?;
    let first = bytes.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let action: Option<Value> = serde_json::from_slice(first).ok();
    let millis = action.as_ref().and_then(|action| action["commitInfo"]["inCommitTimestamp"].as_i64());
    Ok(millis.and_then(DateTime::from_timestamp_millis))
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::{Duration, SystemTime};

    use object_store::local::LocalFileSystem;

    use super::*;

    #[test]
    fn time_without_zone_or_hour_is_utc_midnight() {
        let text = |text| parse(text).unwrap().to_rfc3339_opts(SecondsFormat::Secs, true);
        assert_eq!(text("2024-01-31T12:00:00+02:00"), "2024-01-31T10:00:00Z");
        assert_eq!(text("2024-01-31 12:00:00"), "2024-01-31T12:00:00Z");
        for short in ["2024-01-31T12:00", "2024-01-31 12:00", "2024-01-31T12:00Z", "2024-01-31T14:00+02:00"] {
            assert_eq!(text(short), "2024-01-31T12:00:00Z", "{short}");
        }
        assert_eq!(text("2024-01-31"), "2024-01-31T00:00:00Z");
        assert!(parse("yesterday").unwrap_err().message.contains("use a form such as"));
    }

    #[tokio::test]
    async fn timestamp_selects_the_newest_version_at_or_before_it() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("_delta_log");
        std::fs::create_dir(&log).unwrap();
        let commit = |version: u64, seconds: u64, text: &str| {
            let path = log.join(format!("{version:020}.json"));
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)).unwrap();
        };
        let place = Location::parse(&dir.path().to_string_lossy(), Path::new("/")).unwrap();
        let at = async |seconds: i64| {
            let time = DateTime::from_timestamp(seconds, 0).unwrap();
            version_at(&place, &LocalFileSystem::new(), time).await.map_err(|error| error.message)
        };
        for version in 3..7 {
            commit(version, version * 100, "{}");
        }
        assert_eq!([at(300).await, at(599).await, at(9999).await], [Ok(3), Ok(5), Ok(6)]);
        let error = at(299).await.unwrap_err();
        assert!(error.contains("the oldest commit in its log, version 3, is from 1970-01-01T00:05:00"), "{error}");
        commit(6, 1, r#"{"commitInfo":{"inCommitTimestamp":600000}}"#);
        assert_eq!([at(599).await, at(600).await], [Ok(5), Ok(6)]);
    }
}
