//! Requests to object storage, by the class in which they are billed.

use std::ops::{Add, AddAssign, Sub};

use serde::{Deserialize, Serialize};

/// Requests to object storage, by the class in which S3 bills them. Reads of local files are not counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Requests {
    /// GET and HEAD.
    pub gets: u64,
    /// PUT, POST, COPY and LIST, each of which costs 12.5 times a GET. DELETE is free.
    pub puts: u64,
}

impl Requests {
    /// Makes a count of `gets` requests of the class of GET, and none of the other class.
    pub fn of_gets(gets: u64) -> Self {
        Self { gets, puts: 0 }
    }

    /// Returns the number of requests of both classes.
    pub fn total(self) -> u64 {
        self.gets.saturating_add(self.puts)
    }
}

impl Add for Requests {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { gets: self.gets.saturating_add(other.gets), puts: self.puts.saturating_add(other.puts) }
    }
}

impl AddAssign for Requests {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Requests {
    type Output = Self;

    /// Subtracts an earlier count of the same requests.
    fn sub(self, earlier: Self) -> Self {
        Self { gets: self.gets.saturating_sub(earlier.gets), puts: self.puts.saturating_sub(earlier.puts) }
    }
}
