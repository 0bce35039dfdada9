//! A table of values that are rare in real tables: the smallest and the largest of each type, many nulls, dates from the
//! year 1 to 9999, decimals of 38 digits, a dictionary, lists and structs.

use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Decimal128Array, DictionaryArray, Float64Array, Int8Array, Int64Array,
    ListArray, RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, SchemaRef};
use arrow::error::ArrowError;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

/// The name of the table.
pub(crate) const EXTREMES: &str = "extremes";

/// Rows of the table.
const ROWS: i64 = 4000;

/// The largest value of a decimal of 38 digits.
const DECIMAL_MAX: i128 = 10_i128.pow(38) - 1;

/// Days since 1970 of 0001-01-01 and of 9999-12-31.
const DAYS: [i32; 2] = [-719_162, 2_932_896];

/// Microseconds since 1970 of 0001-01-01 and of the last microsecond of 9999.
const MICROSECONDS: [i64; 2] = [-62_135_596_800_000_000, 253_402_300_799_999_999];

/// Makes the table. It is the same each time.
///
/// # Errors
/// If Arrow cannot hold the rows.
pub(crate) fn extremes() -> Result<(SchemaRef, Vec<RecordBatch>), ArrowError> {
    let mut random = Values(StdRng::seed_from_u64(7));
    let texts = ["", " ", "a", "A", "ä", "Z\u{fe0f}", "CHINA", "PERU", "it's", "100%", "a_b", "NULL"];
    let integers = [i64::MIN, i64::MAX, -1, 0, 1, 2, 3, 1 << 53];
    let small = [i8::MIN, i8::MAX, -1, 0, 1];
    let large = [0, 1, u64::MAX, 1 << 63];
    let decimals = [-DECIMAL_MAX, DECIMAL_MAX, 0, 1, -1, 10_000_000_000];
    let floats = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX, f64::MIN_POSITIVE, 1.5, -2.25];
    let days = [DAYS[0], DAYS[1], 0, -1, 8_035, 8_036, 19_723];
    let times = [MICROSECONDS[0], MICROSECONDS[1], 0, -1, 694_310_400_000_000, 1_704_067_200_000_001];

    let decimal = Decimal128Array::from(random.column(0.3, &decimals)).with_precision_and_scale(38, 10)?;
    let tags: DictionaryArray<Int32Type> = random.column(0.2, &texts).into_iter().collect();
    let lists = (0..ROWS).map(|_| random.list());
    let items = ListArray::from_iter_primitive::<Int64Type, _, _>(lists.collect::<Vec<_>>());
    let x: ArrayRef = Arc::new(Int64Array::from(random.column(0.5, &[1, 2, 3])));
    let y: ArrayRef = Arc::new(StringArray::from(random.column(0.5, &texts)));
    let fields = vec![Field::new("x", DataType::Int64, true), Field::new("y", DataType::Utf8, true)];
    let valid = (0..ROWS).map(|_| random.0.random_bool(0.8)).collect::<Vec<_>>();
    let place = StructArray::try_new(fields.into(), vec![x, y], Some(valid.into()))?;
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter_values(0..ROWS))),
        ("area", Arc::new(Int64Array::from(random.column(0.4, &[0, 1, 2, 3, 7, 24, 99])))),
        ("empty", Arc::new(Int64Array::from(random.column(0.995, &[5])))),
        ("whole", Arc::new(Int64Array::from(random.column(0.3, &integers)))),
        ("small", Arc::new(Int8Array::from(random.column(0.3, &small)))),
        ("large", Arc::new(UInt64Array::from(random.column(0.3, &large)))),
        ("amount", Arc::new(decimal)),
        ("rate", Arc::new(Float64Array::from(random.column(0.3, &floats)))),
        ("day", Arc::new(Date32Array::from(random.column(0.3, &days)))),
        ("moment", Arc::new(TimestampMicrosecondArray::from(random.column(0.3, &times)))),
        ("word", Arc::new(StringArray::from(random.column(0.3, &texts)))),
        ("tag", Arc::new(tags)),
        ("flag", Arc::new(BooleanArray::from(random.column(0.3, &[true, false])))),
        ("items", Arc::new(items)),
        ("place", Arc::new(place)),
    ];
    let batch =
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))?;
    Ok((batch.schema(), vec![batch]))
}

struct Values(StdRng);

impl Values {
    /// One of `values` for each row, or null with the probability `nulls`.
    fn column<T: Copy>(&mut self, nulls: f64, values: &[T]) -> Vec<Option<T>> {
        let one = |_| if self.0.random_bool(nulls) { None } else { values.choose(&mut self.0).copied() };
        (0..ROWS).map(one).collect()
    }

    /// A list of up to four elements, which may be null, as its elements may be.
    fn list(&mut self) -> Option<Vec<Option<i64>>> {
        if self.0.random_bool(0.2) {
            return None;
        }
        let length = self.0.random_range(0..5);
        Some((0..length).map(|_| self.0.random_bool(0.8).then(|| self.0.random_range(0..9))).collect())
    }
}
