//! Opens a Delta Lake table as a source, from the options of its declaration.

use std::sync::Arc;

use arrow::datatypes::Schema;
use buzz_protocol::{QueryError, Result};
use serde_json::Value;

use super::Connected;
use super::files::follows;
use crate::delta::{DeltaSource, DeltaStart};
use crate::options::Options;
use crate::place::Place;

/// Opens a Delta Lake table.
pub(super) async fn delta(
    options: &mut Options,
    columns: Option<Schema>,
    place: &Place,
    offset: Option<&Value>,
) -> Result<Connected> {
    let path = options.required(&["path", "uri"])?;
    let follow = follows(options, true)?;
    let start = match options.text(&["start"]).as_deref() {
        None | Some("earliest") => DeltaStart::Earliest,
        Some("latest") => DeltaStart::Latest,
        Some(version) => DeltaStart::Version(version.parse().map_err(|_| {
            QueryError::invalid(format!(
                "option `start` of table `{}` is `{version}`; use earliest, latest or the number of a version",
                options.table()
            ))
        })?),
    };
    let skips_removals = options.choice(&["removals"], false, &[("fail", false), ("skip", true)])?;
    let (location, _) = place.open(&path).await?;
    let mut source = DeltaSource::open(location, Arc::clone(&place.stores), columns).await?;
    source.start = start;
    source.follow = follow && !place.until_end;
    source.skips_removals = skips_removals;
    if let Some(offset) = offset {
        source.resume(offset)?;
    }
    Ok(Connected::plain(source))
}
