//! Nexmark: persons, auctions and bids of an auction house, 1 : 3 : 46 of 50 events.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, RecordBatch, StringArray, StringBuilder, StructArray, TimestampNanosecondArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use buzz_protocol::without_hidden_values;

use crate::generate::{Generator, event_time, mix};

/// First id of persons, auctions and bidders.
const FIRST_ID: i64 = 1000;
/// Events of one cycle: a person, three auctions, bids.
const CYCLE: u64 = 50;
/// Auctions that bids choose from, beside the hot one.
const AUCTIONS_IN_FLIGHT: u64 = 100;

const FIRST_NAMES: [&str; 8] = ["Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie"];
const LAST_NAMES: [&str; 6] = ["Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton"];
const CITIES: [&str; 8] =
    ["Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle"];
const STATES: [&str; 6] = ["AZ", "CA", "ID", "OR", "WA", "WY"];
const CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];

/// Generates `(event_type, person, auction, bid, date_time)`: one of the three structs is not null.
#[derive(Debug, Clone)]
pub struct Nexmark {
    /// Events per second of event time.
    pub rate: f64,
    /// Seed of all values.
    pub seed: u64,
    /// Nanoseconds by which an event may be late.
    pub disorder_nanos: i64,
    /// Number of auctions that bids choose from uniformly; 0 for recent auctions, half of the bids on a hot one.
    pub keys: u64,
    /// Percentage of bids on auction 1000.
    pub hot_percent: u64,
}

impl Default for Nexmark {
    fn default() -> Self {
        Self { rate: 100.0, seed: 0, disorder_nanos: 0, keys: 0, hot_percent: 0 }
    }
}

fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Nanosecond, None)
}

fn fields(columns: &[(&str, DataType)]) -> Fields {
    columns.iter().map(|(name, data_type)| Field::new(*name, data_type.clone(), true)).collect()
}

fn person_fields() -> Fields {
    fields(&[
        ("id", DataType::Int64),
        ("name", DataType::Utf8),
        ("email_address", DataType::Utf8),
        ("credit_card", DataType::Utf8),
        ("city", DataType::Utf8),
        ("state", DataType::Utf8),
        ("datetime", time_type()),
        ("extra", DataType::Utf8),
    ])
}

fn auction_fields() -> Fields {
    fields(&[
        ("id", DataType::Int64),
        ("item_name", DataType::Utf8),
        ("description", DataType::Utf8),
        ("initial_bid", DataType::Int64),
        ("reserve", DataType::Int64),
        ("datetime", time_type()),
        ("expires", time_type()),
        ("seller", DataType::Int64),
        ("category", DataType::Int64),
        ("extra", DataType::Utf8),
    ])
}

fn bid_fields() -> Fields {
    fields(&[
        ("auction", DataType::Int64),
        ("bidder", DataType::Int64),
        ("price", DataType::Int64),
        ("channel", DataType::Utf8),
        ("url", DataType::Utf8),
        ("datetime", time_type()),
        ("extra", DataType::Utf8),
    ])
}

/// The kind of event `index`: 0 for a person, 1 for an auction, 2 for a bid.
fn kind(index: u64) -> i64 {
    match index % CYCLE {
        0 => 0,
        1..=3 => 1,
        _ => 2,
    }
}

/// The newest person before event `index`.
fn last_person(index: u64) -> i64 {
    FIRST_ID + (index / CYCLE) as i64
}

/// The newest auction before event `index`.
fn last_auction(index: u64) -> i64 {
    FIRST_ID + (index / CYCLE * 3 + (index % CYCLE).clamp(1, 3) - 1) as i64
}

impl Nexmark {
    fn random(&self, index: u64, salt: u64) -> u64 {
        mix(self.seed ^ mix(index) ^ salt.wrapping_mul(0xA24B_AED4_963E_E407))
    }

    fn bid_auction(&self, index: u64) -> i64 {
        let random = self.random(index, 1);
        if self.hot_percent > 0 && random % 100 < self.hot_percent {
            return FIRST_ID;
        }
        let choice = random >> 8;
        if self.keys > 0 {
            return FIRST_ID + (choice % self.keys) as i64;
        }
        let last = last_auction(index);
        if choice.is_multiple_of(2) {
            // The hot auction changes every 100 auctions.
            return FIRST_ID + (last - FIRST_ID) / 100 * 100;
        }
        let recent = AUCTIONS_IN_FLIGHT.min((last - FIRST_ID) as u64 + 1);
        last - (choice / 2 % recent) as i64
    }

    fn price(&self, index: u64, salt: u64) -> i64 {
        // Prices spread over six powers of ten.
        let random = self.random(index, salt);
        let power = 10_i64.pow((random % 6) as u32);
        100 + power * (1 + (random >> 8) as i64 % 900) / 10
    }

    fn numbers(&self, range: &Range<u64>, value: impl Fn(u64) -> i64) -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(range.clone().map(value)))
    }

    fn texts(&self, range: &Range<u64>, of: i64, value: impl Fn(&mut String, u64)) -> ArrayRef {
        let mut builder = StringBuilder::with_capacity(range.end as usize - range.start as usize, 1024);
        let mut text = String::new();
        for index in range.clone() {
            if kind(index) == of {
                text.clear();
                value(&mut text, index);
                builder.append_value(&text);
            } else {
                builder.append_null();
            }
        }
        Arc::new(builder.finish())
    }

    fn choice(&self, range: &Range<u64>, salt: u64, values: &[&'static str]) -> ArrayRef {
        let values = range.clone().map(|index| values[(self.random(index, salt) % values.len() as u64) as usize]);
        Arc::new(StringArray::from_iter_values(values))
    }

    fn extra(&self, range: &Range<u64>, of: i64) -> ArrayRef {
        self.texts(range, of, |text, index| {
            let random = self.random(index, 9);
            let length = 8 + random % 24;
            let mut bits = random;
            for _ in 0..length {
                bits = mix(bits);
                text.push(char::from(b'a' + (bits % 26) as u8));
            }
        })
    }

    /// Generates only bids: `(auction, bidder, price, date_time)`, without texts.
    pub fn bids(&self, base_nanos: i64, first: u64, count: usize) -> RecordBatch {
        let range = first..first + count as u64;
        let schema = Schema::new(fields(&[
            ("auction", DataType::Int64),
            ("bidder", DataType::Int64),
            ("price", DataType::Int64),
            ("date_time", time_type()),
        ]));
        let columns = vec![
            self.numbers(&range, |i| self.bid_auction(i)),
            self.numbers(&range, |i| FIRST_ID + (self.random(i, 2) % 4096) as i64),
            self.numbers(&range, |i| self.price(i, 3)),
            Arc::new(TimestampNanosecondArray::from_iter_values(
                range.map(|i| event_time(self.seed, base_nanos, self.rate, self.disorder_nanos, i)),
            )) as ArrayRef,
        ];
        RecordBatch::try_new(Arc::new(schema), columns).expect("the columns have the types of the schema")
    }
}

impl Nexmark {
    /// Returns the columns of `person`.
    fn person_columns(&self, range: &Range<u64>, times: &ArrayRef) -> Vec<ArrayRef> {
        vec![
            self.numbers(range, last_person),
            self.texts(range, 0, |text, i| {
                let random = self.random(i, 5);
                let first = FIRST_NAMES[(random % 8) as usize];
                let last = LAST_NAMES[(random >> 8) as usize % LAST_NAMES.len()];
                write!(text, "{first} {last}").expect("a string takes all text");
            }),
            self.texts(range, 0, |text, i| {
                write!(text, "{:x}@{:x}.com", self.random(i, 6) >> 40, self.random(i, 7) >> 44)
                    .expect("a string takes all text");
            }),
            self.texts(range, 0, |text, i| {
                let r = self.random(i, 8);
                let part = |shift: u32| (r >> shift) % 10_000;
                write!(text, "{:04} {:04} {:04} {:04}", part(0), part(16), part(32), part(48))
                    .expect("a string takes all text");
            }),
            self.choice(range, 10, &CITIES),
            self.choice(range, 11, &STATES),
            Arc::clone(times),
            self.extra(range, 0),
        ]
    }

    /// Returns the columns of `auction`.
    fn auction_columns(&self, range: &Range<u64>, times: &ArrayRef, expires: ArrayRef) -> Vec<ArrayRef> {
        vec![
            self.numbers(range, last_auction),
            self.texts(range, 1, |text, i| {
                write!(text, "item {}", self.random(i, 12) % 10_000).expect("a string takes all text");
            }),
            self.texts(range, 1, |text, i| {
                write!(text, "description {:x}", self.random(i, 13)).expect("a string takes all text");
            }),
            self.numbers(range, |i| self.price(i, 14)),
            self.numbers(range, |i| self.price(i, 14) + self.price(i, 15)),
            Arc::clone(times),
            expires,
            self.numbers(range, |i| FIRST_ID + (self.random(i, 16) % (i / CYCLE + 1)) as i64),
            self.numbers(range, |i| 10 + (self.random(i, 17) % 5) as i64),
            self.extra(range, 1),
        ]
    }

    /// Returns the columns of `bid`.
    fn bid_columns(&self, range: &Range<u64>, times: &ArrayRef) -> Vec<ArrayRef> {
        vec![
            self.numbers(range, |i| self.bid_auction(i)),
            self.numbers(range, |i| {
                let persons = i / CYCLE + 1;
                let recent = persons.min(1000);
                last_person(i) - (self.random(i, 2) % recent) as i64
            }),
            self.numbers(range, |i| self.price(i, 3)),
            self.choice(range, 18, &CHANNELS),
            self.texts(range, 2, |text, i| {
                let r = self.random(i, 19);
                write!(text, "https://www.nexmark.com/{:x}/item.htm?query=1&channel_id={}", r >> 40, r % 10_000)
                    .expect("a string takes all text");
            }),
            Arc::clone(times),
            self.extra(range, 2),
        ]
    }
}

impl Generator for Nexmark {
    fn schema(&self) -> SchemaRef {
        Arc::new(Schema::new(vec![
            Field::new("event_type", DataType::Int64, true),
            Field::new("person", DataType::Struct(person_fields()), true),
            Field::new("auction", DataType::Struct(auction_fields()), true),
            Field::new("bid", DataType::Struct(bid_fields()), true),
            Field::new("date_time", time_type(), true),
        ]))
    }

    fn events(&self, base_nanos: i64, first: u64, count: usize) -> RecordBatch {
        let range = first..first + count as u64;
        let is = |of: i64| Some(NullBuffer::from_iter(range.clone().map(|index| kind(index) == of)));
        let time = |i| event_time(self.seed, base_nanos, self.rate, self.disorder_nanos, i);
        let times: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values(range.clone().map(time)));
        let expires: ArrayRef = Arc::new(TimestampNanosecondArray::from_iter_values(
            range.clone().map(|i| time(i) + 1_000_000_000 * (1 + (self.random(i, 4) % 20) as i64)),
        ));
        let person = StructArray::new(person_fields(), self.person_columns(&range, &times), is(0));
        let auction = StructArray::new(auction_fields(), self.auction_columns(&range, &times, expires), is(1));
        let bid = StructArray::new(bid_fields(), self.bid_columns(&range, &times), is(2));
        let plain = |rows: StructArray| -> ArrayRef {
            without_hidden_values(&(Arc::new(rows) as ArrayRef)).expect("the fields can be null")
        };
        let columns = vec![self.numbers(&range, kind), plain(person), plain(auction), plain(bid), times];
        RecordBatch::try_new(self.schema(), columns).expect("the columns have the types of the schema")
    }

    fn disorder_nanos(&self) -> i64 {
        self.disorder_nanos
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_depend_on_seed_and_number_only() {
        let nexmark = Nexmark { disorder_nanos: 1_000_000_000, ..Nexmark::default() };
        let whole = nexmark.events(5, 0, 500);
        let part = nexmark.events(5, 123, 77);
        assert_eq!(whole.slice(123, 77), part);
    }

    #[test]
    fn a_cycle_has_1_person_3_auctions_and_46_bids() {
        let events = Nexmark::default().events(0, 0, 5000);
        let count = |name: &str| events.num_rows() - events.column_by_name(name).expect("a column").null_count();
        assert_eq!((count("person"), count("auction"), count("bid")), (100, 300, 4600));
    }
}
