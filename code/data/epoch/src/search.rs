//! Finding the newest of numbered objects without listing them.

/// Finds the largest `n` that exists, if the existing numbers have no gaps: probes `low + 1`, then doubles the distance
/// until a number is missing, then halves the interval. Costs 1 probe if `low` is the newest, and about `2·log₂ d` at
/// a distance of `d`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Search {
    /// Exists, or is the number before the first one.
    low: u64,
    /// The smallest number known to be missing.
    missing: Option<u64>,
    step: u64,
}

impl Search {
    /// Starts a search above `low`.
    pub(crate) fn above(low: u64) -> Self {
        Self { low, missing: None, step: 1 }
    }

    /// Returns the number to probe next; `None` if the search has ended.
    pub(crate) fn probe(&self) -> Option<u64> {
        match self.missing {
            None => self.low.checked_add(self.step),
            Some(missing) if missing - self.low > 1 => Some(self.low + (missing - self.low) / 2),
            Some(_) => None,
        }
    }

    /// Enters the answer to the probe of `n`.
    pub(crate) fn answer(&mut self, n: u64, exists: bool) {
        if exists {
            self.low = self.low.max(n);
            self.step = self.step.saturating_mul(2);
        } else {
            self.missing = Some(self.missing.map_or(n, |missing| missing.min(n)));
        }
    }

    /// Returns the largest number known to exist, or the one before the first.
    pub(crate) fn newest(&self) -> u64 {
        self.low
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(low: u64, newest: u64) -> (u64, u32) {
        let (mut search, mut probes) = (Search::above(low), 0);
        while let Some(n) = search.probe() {
            probes += 1;
            search.answer(n, n <= newest);
        }
        (search.newest(), probes)
    }

    #[test]
    fn newest_is_found_from_any_start() {
        for newest in 0..200 {
            for low in 0..=newest {
                assert_eq!(find(low, newest).0, newest);
            }
        }
        assert_eq!(find(u64::MAX - 3, u64::MAX).0, u64::MAX);
    }

    #[test]
    fn probes_grow_with_the_logarithm_of_the_distance() {
        assert_eq!(find(41, 41).1, 1);
        assert_eq!(find(41, 42).1, 3);
        assert!(find(0, 1_000_000).1 <= 41, "{}", find(0, 1_000_000).1);
    }
}
