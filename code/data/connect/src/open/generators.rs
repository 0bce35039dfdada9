//! Makes a generator, from the options of a table.

use std::sync::Arc;

use arrow::datatypes::Schema;
use buzz_protocol::{QueryError, Result};
use serde_json::Value;

use super::Connected;
use crate::generate::Generator;
use crate::generated::GeneratedSource;
use crate::impulse::Impulse;
use crate::nexmark::Nexmark;
use crate::options::Options;
use crate::place::Place;

/// Largest distance of `base_time` from 1970 in milliseconds, 260 years. Event times are nanoseconds, which end in 2262.
const BASE_MILLIS_MAX: u64 = 260 * 365 * 24 * 3_600_000;

/// Maximum time between the first and the last event, in seconds: 30 years.
const SECONDS_MAX: f64 = 30.0 * 365.0 * 24.0 * 3600.0;

/// Returns the event time of the first event in nanoseconds since 1970, from the option `base_time` in milliseconds.
fn base_time(options: &mut Options) -> Result<Option<i64>> {
    let Some(millis) = options.number::<i64>(&["base_time"])? else { return Ok(None) };
    let nanos = millis.checked_mul(1_000_000).filter(|_| millis.unsigned_abs() <= BASE_MILLIS_MAX);
    nanos.map(Some).ok_or_else(|| {
        QueryError::invalid(format!(
            "option `base_time` of table `{}` is `{millis}`; use milliseconds of a time between 1710 and 2229",
            options.table()
        ))
    })
}

pub(super) fn generated(
    options: &mut Options,
    columns: Option<Schema>,
    kind: &str,
    place: &Place,
    offset: Option<&Value>,
) -> Result<Connected> {
    let rate: f64 =
        match (options.number(&["event_rate", "events_per_second"])?, options.duration(&["event_time_interval"])?) {
            (Some(rate), _) => rate,
            (None, Some(interval)) => 1e9 / interval.max(1) as f64,
            (None, None) => 100.0,
        };
    if !(rate > 0.0 && rate.is_finite()) {
        return Err(QueryError::invalid(format!("`event_rate` of table `{}` must be above zero", options.table())));
    }
    let seed = options.number(&["seed"])?.unwrap_or(0);
    let disorder_nanos = options.duration(&["disorder"])?.unwrap_or(0);
    let count = match (options.number(&["events", "message_count"])?, options.duration(&["runtime"])?) {
        (Some(count), _) => Some(count),
        (None, Some(runtime)) => Some((rate * runtime as f64 / 1e9) as u64),
        (None, None) => None,
    };
    // The times of the generated events are nanoseconds.
    if count.is_some_and(|count| count as f64 / rate > SECONDS_MAX) {
        return Err(QueryError::invalid(format!(
            "the last event of table `{}` would be more than 30 years after the first; use fewer `events`, or a higher `event_rate`",
            options.table()
        )));
    }
    // An endless source would never end as fast as possible, and a bounded one is not worth waiting for.
    let real = options.flag(&["real_time"], !place.until_end || count.is_none())?;
    let base = base_time(options)?;
    let (generator, time, default): (Arc<dyn Generator>, &str, Vec<usize>) = if kind == "nexmark" {
        let keys = options.number(&["keys"])?.unwrap_or(0);
        let hot_percent = options.number(&["hot_percent"])?.unwrap_or(0);
        (Arc::new(Nexmark { rate, seed, disorder_nanos, keys, hot_percent }), "date_time", vec![1, 2, 3, 4])
    } else {
        (Arc::new(Impulse { rate, seed, disorder_nanos }), "timestamp", vec![0, 1, 2])
    };
    let schema = generator.schema();
    let mut positions = default;
    let mut time_column = Some(time.to_string());
    if let Some(columns) = columns {
        positions.clear();
        for field in columns.fields() {
            let position = schema.index_of(field.name()).map_err(|_| {
                let known: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
                QueryError::invalid(format!(
                    "connector {kind} has no column `{}`; its columns are {}",
                    field.name(),
                    known.join(", ")
                ))
            })?;
            positions.push(position);
        }
        let time_position = schema.index_of(time).expect("a generator has its time column");
        if !positions.contains(&time_position) {
            positions.push(time_position);
        }
    }
    if positions.is_empty() {
        time_column = None;
    }
    let mut source = GeneratedSource {
        generator,
        columns: positions,
        count,
        pace: real.then_some(rate),
        base: base.or((!real).then_some(0)),
        next: 0,
    };
    if let Some(offset) = offset {
        source.resume(offset)?;
    }
    Ok(Connected { source: Box::new(source), time_column, delay: disorder_nanos })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn base_of(millis: &str) -> Result<Option<i64>> {
        base_time(&mut Options::new("t", &BTreeMap::from([("base_time".to_string(), millis.to_string())])))
    }

    #[test]
    fn base_time_beyond_nanoseconds_is_an_error_that_names_it() {
        assert_eq!(base_of("1700000000000").expect("it is a time of 2023"), Some(1_700_000_000_000_000_000));
        for millis in ["9223372036854775807", "-9223372036854775808", "9000000000000"] {
            let error = base_of(millis).expect_err("it is not a time in nanoseconds").to_string();
            assert!(error.contains("`base_time` of table `t`") && error.contains(millis), "{error}");
        }
    }
}
