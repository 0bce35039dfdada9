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
    // An endless source would never end as fast as possible, and a bounded one is not worth waiting for.
    let real = options.flag(&["real_time"], !place.until_end || count.is_none())?;
    let base = options.number::<i64>(&["base_time"])?.map(|millis| millis * 1_000_000);
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
