//! Bounds the bytes between buckets and functions, of one function and of all together, as the network of Lambda does.

use std::collections::HashMap;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

/// The bytes that pass: those of a burst at once, and then some in each second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bandwidth {
    /// Bytes that pass at once; time without bytes makes room for them again.
    pub burst: u64,
    /// Bytes in a second after the burst.
    pub per_second: NonZeroU64,
}

/// Number of functions at which those whose burst is whole are forgotten.
const FUNCTIONS: usize = 4096;

/// Counts bytes against limits.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// By the access key of the function.
    functions: HashMap<String, Account>,
    common: Option<Account>,
}

/// The bytes that may still pass. Negative if more have passed than may.
#[derive(Debug)]
struct Account {
    left: f64,
    at: Instant,
}

impl Account {
    fn new(limit: Bandwidth, now: Instant) -> Self {
        Self { left: limit.burst as f64, at: now }
    }

    /// Adds what the time since the last call allows.
    fn refill(&mut self, limit: Bandwidth, now: Instant) {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + seconds * limit.per_second.get() as f64).min(limit.burst as f64);
        self.at = now;
    }

    /// Takes `bytes`, and returns the time after which they may have passed.
    fn take(&mut self, bytes: u64, limit: Bandwidth, now: Instant) -> Duration {
        self.refill(limit, now);
        self.left -= bytes as f64;
        let seconds = (-self.left).max(0.0) / limit.per_second.get() as f64;
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

impl Meter {
    /// Counts `bytes` of the function with the access key `function`. Returns the time after which they may have passed both
    /// limits: that of one function and that of all.
    pub(super) fn take(
        &mut self,
        function: &str,
        bytes: u64,
        (each, all): (Option<Bandwidth>, Option<Bandwidth>),
        now: Instant,
    ) -> Duration {
        let mut wait = Duration::ZERO;
        if let Some(limit) = all {
            wait = self.common.get_or_insert_with(|| Account::new(limit, now)).take(bytes, limit, now);
        }
        let Some(limit) = each else { return wait };
        if !self.functions.contains_key(function) && self.functions.len() >= FUNCTIONS {
            self.functions.retain(|_, account| {
                account.refill(limit, now);
                account.left < limit.burst as f64
            });
        }
        let account = self.functions.entry(function.to_string()).or_insert_with(|| Account::new(limit, now));
        wait.max(account.take(bytes, limit, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(burst: u64, per_second: u64) -> Option<Bandwidth> {
        Some(Bandwidth { burst, per_second: NonZeroU64::new(per_second).unwrap() })
    }

    #[test]
    fn function_has_a_burst_and_then_its_rate() {
        let (mut meter, start, each) = (Meter::default(), Instant::now(), limit(300, 100));
        let mut take = |function: &str, bytes, seconds| {
            meter.take(function, bytes, (each, None), start + Duration::from_secs(seconds)).as_millis()
        };
        assert_eq!(take("a", 300, 0), 0);
        assert_eq!(take("a", 50, 0), 500);
        assert_eq!(take("b", 300, 0), 0, "each function has a burst of its own");
        // After half a second the debt is paid, and after three more the burst is whole, but not more than that.
        assert_eq!(take("a", 300, 60), 0);
        assert_eq!(take("a", 100, 60), 1000);
        assert_eq!(take("a", 100, 62), 0);
    }

    #[test]
    fn functions_share_the_common_limit() {
        let (mut meter, now) = (Meter::default(), Instant::now());
        let limits = (limit(1000, 1000), limit(0, 100));
        assert_eq!(meter.take("a", 100, limits, now), Duration::from_secs(1));
        assert_eq!(meter.take("b", 100, limits, now), Duration::from_secs(2));
        assert_eq!(meter.take("b", 900, (limits.0, None), now), Duration::ZERO);
        assert_eq!(meter.take("c", u64::MAX, (None, None), now), Duration::ZERO);
    }

    #[test]
    fn functions_that_rest_are_forgotten() {
        let (mut meter, start, each) = (Meter::default(), Instant::now(), limit(10, 10));
        for number in 0..FUNCTIONS {
            meter.take(&number.to_string(), 1, (each, None), start);
        }
        meter.take("busy", 1000, (each, None), start);
        assert_eq!(meter.functions.len(), FUNCTIONS + 1, "none has its whole burst");
        meter.take("next", 1, (each, None), start + Duration::from_secs(1));
        let mut left: Vec<&str> = meter.functions.keys().map(String::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["busy", "next"]);
    }
}
