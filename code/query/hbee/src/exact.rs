//! Casts columns of files to the type of the table's column without changing a value. Arrow's casts round and cut:
//! `1.5` becomes the integer 1, and a time becomes its day.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Float64Type, TimeUnit};
use arrow::util::display::array_value_to_string;
use buzz_protocol::{QueryError, Result};
use buzz_storage::text::exact_values;

use crate::evolved::evolved;
use crate::nested::key_and_value;

/// Returns whether every value of type `file` is also one of type `table`. Missing fields of structs do not matter.
pub(crate) fn is_lossless(file: &DataType, table: &DataType) -> bool {
    use DataType::{
        Binary, BinaryView, Date32, Date64, Dictionary, FixedSizeBinary, FixedSizeList, LargeBinary, LargeList,
        LargeUtf8, List, Map, Null, Struct, Time32, Time64, Timestamp, Utf8, Utf8View,
    };
    match (file, table) {
        (file, table) if file == table => true,
        (Null, _) | (_, Utf8 | LargeUtf8 | Utf8View) => true,
        (Dictionary(_, values), table) => is_lossless(values, table),
        (file, Dictionary(_, values)) => is_lossless(file, values),
        (Binary | LargeBinary | BinaryView | FixedSizeBinary(_), Binary | LargeBinary | BinaryView) => true,
        (Utf8 | LargeUtf8 | Utf8View, Binary | LargeBinary | BinaryView) => true,
        // Nanoseconds end in 2262.
        (Timestamp(from, _), Timestamp(TimeUnit::Nanosecond, _)) => *from == TimeUnit::Nanosecond,
        (Date32, Timestamp(TimeUnit::Nanosecond, _)) => false,
        (Timestamp(from, _), Timestamp(to, _)) => fineness(from) <= fineness(to),
        (Date32, Date64 | Timestamp(_, _)) => true,
        (Time32(from) | Time64(from), Time32(to) | Time64(to)) => fineness(from) <= fineness(to),
        (Struct(file), Struct(table)) => table.iter().all(|table| {
            let file = file.iter().find(|file| file.name() == table.name());
            file.is_none_or(|file| is_lossless(file.data_type(), table.data_type()))
        }),
        (
            List(file) | LargeList(file) | FixedSizeList(file, _),
            List(table) | LargeList(table) | FixedSizeList(table, _),
        ) => is_lossless(file.data_type(), table.data_type()),
        (Map(file, _), Map(table, _)) => match (key_and_value(file), key_and_value(table)) {
            (Some(file), Some(table)) => {
                file.iter().zip(table).all(|(file, table)| is_lossless(file.data_type(), table.data_type()))
            }
            _ => false,
        },
        (file, table) => holds_numbers(file, table),
    }
}

/// Returns whether the numbers of type `file` are also numbers of type `table`.
fn holds_numbers(file: &DataType, table: &DataType) -> bool {
    let bits = |data_type: &DataType| data_type.primitive_width().unwrap_or_default() * 8;
    match (file, table) {
        (file, table) if file.is_integer() && table.is_integer() => {
            match (file.is_signed_integer(), table.is_signed_integer()) {
                (a, b) if a == b => bits(file) <= bits(table),
                (false, true) => bits(file) < bits(table),
                _ => false,
            }
        }
        // A float with 24 or 53 digits holds integers of 16 or 32 bits.
        (file, table) if file.is_integer() && table.is_floating() => bits(file) < bits(table).min(64),
        (file, table) if file.is_floating() && table.is_floating() => bits(file) <= bits(table),
        (file, table) => match (digits(file), digits(table)) {
            (Some((whole, scale)), Some((whole_held, scale_held))) if table.is_decimal() => {
                whole <= whole_held && scale <= scale_held
            }
            _ => false,
        },
    }
}

/// Returns the digits before and after the point of a decimal or an integer.
fn digits(data_type: &DataType) -> Option<(i16, i16)> {
    use DataType::{Decimal32, Decimal64, Decimal128, Decimal256};
    match data_type {
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) => {
            Some((i16::from(*p) - i16::from(*s), i16::from(*s)))
        }
        whole if whole.is_integer() => match whole.primitive_width()? {
            1 => Some((3, 0)),
            2 => Some((5, 0)),
            4 => Some((10, 0)),
            _ if whole.is_signed_integer() => Some((19, 0)),
            _ => Some((20, 0)),
        },
        _ => None,
    }
}

fn fineness(unit: &TimeUnit) -> u8 {
    match unit {
        TimeUnit::Second => 0,
        TimeUnit::Millisecond => 1,
        TimeUnit::Microsecond => 2,
        TimeUnit::Nanosecond => 3,
    }
}

/// Casts `array` to type `to`. Texts are parsed as in CSV files.
///
/// # Errors
/// `Data`, with the value, if a value is not exactly one of type `to`.
pub(crate) fn exact_cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef> {
    let misfit = |value: &str| {
        QueryError::data(format!("`{value}` is not {to}; change its type in the `schema` of the catalog entry"))
    };
    if let DataType::Dictionary(_, values) = array.data_type() {
        return exact_cast(&cast(array, values)?, to);
    }
    if matches!(array.data_type(), DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) && !to.is_nested() {
        let texts = cast(array, &DataType::Utf8)?;
        let plain = if let DataType::Dictionary(_, values) = to { values } else { to };
        let parsed = exact_values(texts.as_string::<i32>(), plain).map_err(|text| misfit(&text))?;
        return Ok(cast(&parsed, to)?);
    }
    let stored = without_negative_zero(array);
    if let Some(done) = unchanged(&stored, to) {
        return Ok(done);
    }
    let first = (0..stored.len()).find(|row| unchanged(&stored.slice(*row, 1), to).is_none());
    let value = first.map(|row| array_value_to_string(&stored, row).unwrap_or_default());
    Err(misfit(&value.unwrap_or_default()))
}

/// Casts `array` to type `to`, if the cast back gives the same values.
fn unchanged(array: &ArrayRef, to: &DataType) -> Option<ArrayRef> {
    let done = evolved(array, to).ok()?;
    let again = evolved(&done, array.data_type()).ok()?;
    (again.as_ref() == array.as_ref()).then_some(done)
}

/// Replaces -0.0, which other types than floats do not have, by 0.0.
fn without_negative_zero(array: &ArrayRef) -> ArrayRef {
    match array.data_type() {
        DataType::Float64 => Arc::new(array.as_primitive::<Float64Type>().unary::<_, Float64Type>(|value| value + 0.0)),
        DataType::Float32 => Arc::new(array.as_primitive::<Float32Type>().unary::<_, Float32Type>(|value| value + 0.0)),
        _ => Arc::clone(array),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Date32Array, Decimal128Array, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
    };

    use super::*;

    #[test]
    fn value_that_does_not_fit_is_an_error() {
        let cast = |array: ArrayRef, to: DataType| {
            assert!(!is_lossless(array.data_type(), &to), "{} to {to}", array.data_type());
            exact_cast(&array, &to).map(|array| {
                (0..array.len()).map(|row| array_value_to_string(&array, row).unwrap()).collect::<Vec<_>>().join(" ")
            })
        };
        let floats = |values: &[f64]| Arc::new(Float64Array::from(values.to_vec())) as ArrayRef;
        assert_eq!(cast(floats(&[1.0, -0.0, 3e9]), DataType::Int64).unwrap(), "1 0 3000000000");
        assert!(cast(floats(&[1.0, 1.5]), DataType::Int64).unwrap_err().message.starts_with("`1.5` is not Int64"));
        assert!(cast(floats(&[f64::NAN]), DataType::Int64).is_err());
        let decimals = Arc::new(Decimal128Array::from(vec![99_999, 10_000]).with_precision_and_scale(10, 4).unwrap());
        let error = cast(Arc::clone(&decimals) as _, DataType::Decimal128(10, 2)).unwrap_err().message;
        assert!(error.starts_with("`9.9999` is not Decimal128(10, 2)"), "{error}");
        let times: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![86_400_000_000, 1]));
        assert_eq!(cast(times.slice(0, 1), DataType::Date32).unwrap(), "1970-01-02");
        assert!(cast(times, DataType::Date32).unwrap_err().message.contains("00:00:00.000001"));
        let far: ArrayRef =
            Arc::new(TimestampMicrosecondArray::from(vec![Some(1), None, Some(253_402_214_400_000_000)]));
        let nanoseconds = DataType::Timestamp(TimeUnit::Nanosecond, None);
        assert_eq!(cast(far.slice(0, 2), nanoseconds.clone()).unwrap(), "1970-01-01T00:00:00.000001 ");
        let error = cast(far, nanoseconds.clone()).unwrap_err().message;
        assert!(error.starts_with("`9999-12-31T00:00:00` is not Timestamp(ns)"), "{error}");
        let days: ArrayRef = Arc::new(Date32Array::from(vec![19_753, 2_932_896]));
        assert_eq!(cast(days.slice(0, 1), nanoseconds.clone()).unwrap(), "2024-01-31T00:00:00");
        assert!(cast(days, nanoseconds).unwrap_err().message.starts_with("`9999-12-31` is not Timestamp(ns)"));
        let large: ArrayRef = Arc::new(Int64Array::from(vec![Some(1 << 53), None, Some((1 << 53) + 1)]));
        assert_eq!(cast(large.slice(0, 2), DataType::Float64).unwrap(), "9007199254740992.0 ");
        assert!(cast(large, DataType::Float64).unwrap_err().message.starts_with("`9007199254740993` is not Float64"));
        let texts: ArrayRef = Arc::new(StringArray::from(vec![" 7", "3.0"]));
        assert_eq!(cast(texts, DataType::Int32).unwrap(), "7 3");
        let texts: ArrayRef = Arc::new(StringArray::from(vec!["2024-01-01 10:00:00"]));
        assert!(cast(texts, DataType::Date32).is_err());
    }

    #[test]
    fn wider_types_hold_all_values() {
        use DataType::{Decimal128, Float32, Float64, Int8, Int16, Int32, Int64, UInt32, Utf8View};
        for (file, table) in [
            (Int32, Int64),
            (UInt32, Int64),
            (Int16, Float32),
            (Int32, Float64),
            (Float32, Float64),
            (Int64, Decimal128(20, 0)),
            (Decimal128(10, 2), Decimal128(12, 4)),
            (Int64, Utf8View),
        ] {
            assert!(is_lossless(&file, &table), "{file} to {table}");
        }
        for (file, table) in [
            (Int64, Int32),
            (Int8, UInt32),
            (UInt32, Int32),
            (Int32, Float32),
            (Int64, Float64),
            (Float64, Float32),
            (Decimal128(10, 2), Decimal128(10, 1)),
            (Decimal128(10, 2), Decimal128(10, 4)),
        ] {
            assert!(!is_lossless(&file, &table), "{file} to {table}");
        }
    }
}
