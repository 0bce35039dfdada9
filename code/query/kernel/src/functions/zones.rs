//! The function `buzz_in_zone(time, like, try, zone)`, which reads a date or a time without a zone as one in the zone of a type.
//!
//! It replaces a cast. Arrow's cast fails at a time that the clock of the zone shows twice or skips, and the optimizer takes it for
//! one that keeps the number of a timestamp: it would compare that number, of a local time, with an instant.

use std::sync::{Arc, LazyLock};

use arrow::array::timezone::Tz;
use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, FieldRef};
use buzz_protocol::QueryError;
use datafusion::common::{ScalarValue, internal_err};
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

use super::instants::{nanoseconds, offset, unit_nanoseconds};
use super::spans::computed;

/// Returns the function `buzz_in_zone(time, like, try, zone)`. `like` is a literal of a type of timestamps with a zone, which is the type of
/// the result; `time` is a date or a timestamp without a zone. Of two such times in the zone it is the later one, and a time that the
/// zone skips is read with the offset before. A time beyond the range of the type is null if the literal `try` is true, otherwise
/// an error. `zone` repeats the zone of `like`: expressions that differ in the zone of a literal only are equal for the optimizer.
pub fn in_zone() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| {
        Arc::new(ScalarUDF::new_from_impl(InZone { signature: Signature::any(4, Volatility::Immutable) }))
    });
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct InZone {
    signature: Signature,
}

impl ScalarUDFImpl for InZone {
    fn name(&self) -> &'static str {
        "buzz_in_zone"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        match types {
            [_, like, _, _] => Ok(like.clone()),
            _ => internal_err!("buzz_in_zone takes a time, a value of the type, a truth value and a zone"),
        }
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let [time, like, _, _] = args.arg_fields else {
            return internal_err!("buzz_in_zone takes a time, a value of the type, a truth value and a zone");
        };
        Ok(Arc::new(Field::new(self.name(), like.data_type().clone(), time.is_nullable() || like.is_nullable())))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [time, like, ColumnarValue::Scalar(ScalarValue::Boolean(Some(or_null))), _] = args.args.as_slice() else {
            return internal_err!("buzz_in_zone takes a time, a value of the type, a truth value and a zone");
        };
        computed(time, |array| zoned(array, &like.data_type(), *or_null))
    }
}

/// Returns the instants, of type `to`, of `times` in its zone.
fn zoned(times: &dyn Array, to: &DataType, or_null: bool) -> Result<ArrayRef> {
    let (DataType::Timestamp(_, Some(zone)), Some(unit)) = (to, unit_nanoseconds(to)) else {
        return internal_err!("buzz_in_zone makes timestamps with a zone, not {to}");
    };
    let zone: Tz = zone.parse()?;
    let count = |local: i128| {
        let instant = local - offset(local, zone);
        match i64::try_from(instant.div_euclid(i128::from(unit))) {
            Ok(count) => Ok(Some(count)),
            Err(_) if or_null => Ok(None),
            Err(_) => Err(QueryError::invalid(format!("a time is beyond the range of {to}")).into_datafusion()),
        }
    };
    let counts = nanoseconds(times)?.map(|local| local.map_or(Ok(None), count));
    let counts: Int64Array = counts.collect::<Result<Vec<_>>>()?.into();
    Ok(cast(&counts, to)?)
}

#[cfg(test)]
mod tests {
    use arrow::array::{AsArray, TimestampMicrosecondArray};
    use arrow::datatypes::{TimeUnit, TimestampMicrosecondType, TimestampNanosecondType};

    use super::*;

    fn micros(text: &str) -> i64 {
        chrono::NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f").unwrap().and_utc().timestamp_micros()
    }

    #[test]
    fn times_that_the_clock_shows_twice_or_skips_have_an_instant() {
        let to = DataType::Timestamp(TimeUnit::Microsecond, Some("America/New_York".into()));
        let local = ["2024-07-01 12:00:00.000001", "2024-11-03 01:30:00", "2024-03-10 02:30:00", "9999-12-31 00:00:00"];
        let times: TimestampMicrosecondArray = local.iter().map(|text| Some(micros(text))).chain([None]).collect();
        let found = zoned(&times, &to, false).unwrap();
        assert_eq!(found.data_type(), &to);
        let utc = ["2024-07-01 16:00:00.000001", "2024-11-03 06:30:00", "2024-03-10 07:30:00", "9999-12-31 05:00:00"];
        let expected: Vec<Option<i64>> = utc.iter().map(|text| Some(micros(text))).chain([None]).collect();
        assert_eq!(found.as_primitive::<TimestampMicrosecondType>().iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn times_beyond_the_range_are_an_error_or_null() {
        let to = DataType::Timestamp(TimeUnit::Nanosecond, Some("+02:00".into()));
        let times = TimestampMicrosecondArray::from(vec![micros("9999-12-31 00:00:00"), micros("2024-01-01 02:00:00")]);
        let error = zoned(&times, &to, false).unwrap_err().to_string();
        assert!(error.contains("beyond the range"), "{error}");
        let found = zoned(&times, &to, true).unwrap();
        let found = found.as_primitive::<TimestampNanosecondType>();
        assert!(found.is_null(0));
        assert_eq!(found.value(1), micros("2024-01-01 00:00:00") * 1000);
    }
}
