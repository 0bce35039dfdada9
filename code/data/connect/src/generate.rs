//! Generated sources: event *i* is a function of the seed and *i*.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// Generates events.
pub trait Generator: Send + Sync + std::fmt::Debug {
    /// Returns the columns of a batch.
    fn schema(&self) -> SchemaRef;

    /// Generates `count` events from event `first` on. Event times are relative to `base_nanos`.
    fn events(&self, base_nanos: i64, first: u64, count: usize) -> RecordBatch;

    /// Returns the number of nanoseconds by which an event may be behind an earlier one.
    fn disorder_nanos(&self) -> i64;
}

/// Mixes the bits of `value`: SplitMix64.
pub(crate) fn mix(mut value: u64) -> u64 {
    value = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

/// Returns the event time of event `index` at `rate` events per second, moved back by up to `disorder_nanos`.
pub(crate) fn event_time(seed: u64, base_nanos: i64, rate: f64, disorder_nanos: i64, index: u64) -> i64 {
    let time = base_nanos.saturating_add((index as f64 * 1e9 / rate) as i64);
    match disorder_nanos {
        0 => time,
        nanos => time.saturating_sub((mix(seed ^ index ^ 0xD15_0BDE2) % nanos as u64) as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_times_do_not_overflow() {
        assert_eq!(event_time(1, i64::MAX, 1e-300, 0, 5), i64::MAX);
        assert_eq!(event_time(1, i64::MIN, 100.0, 1_000_000_000, 0), i64::MIN);
    }
}
