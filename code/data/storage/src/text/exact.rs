//! Exact parsing of values. Arrow's decoders truncate values that do not fit the type. If a column was inferred as
//! integer from the first lines, `3.9` would be read as 3; in a date column, a time would be read as its day. So such
//! columns are decoded as text, and each text must be a value of the column's type.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal32Array, Decimal64Array, Decimal128Array,
    Decimal256Array, Float32Array, Float64Array, Int64Array, LargeListArray, ListArray, RecordBatch,
    RecordBatchOptions, StringArray, StructArray,
};
use arrow::compute::kernels::cast_utils::Parser;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, Float32Type, Float64Type, Schema, SchemaRef, i256};
use arrow::error::ArrowError;

use super::times::{day, time_of_day, timestamps};

/// The way in which the texts of a file stand for values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    /// Blanks around a value do not count, and a value of blanks is null.
    Csv,
    /// A whole number may stand for a time: the units since 1970, or since midnight.
    Json,
}

/// Returns `schema` with type text for all types, at any depth, that `is_exact` selects.
pub fn as_texts(schema: &Schema, is_exact: fn(&DataType) -> bool) -> SchemaRef {
    Arc::new(Schema::new(fields_as_texts(schema.fields(), is_exact)))
}

fn fields_as_texts(fields: &Fields, is_exact: fn(&DataType) -> bool) -> Fields {
    fields.iter().map(|field| as_text(field, is_exact)).collect()
}

fn as_text(field: &FieldRef, is_exact: fn(&DataType) -> bool) -> Field {
    let data_type = match field.data_type() {
        exact if is_exact(exact) => DataType::Utf8,
        DataType::Struct(fields) => DataType::Struct(fields_as_texts(fields, is_exact)),
        DataType::List(item) => DataType::List(Arc::new(as_text(item, is_exact))),
        DataType::LargeList(item) => DataType::LargeList(Arc::new(as_text(item, is_exact))),
        other => other.clone(),
    };
    field.as_ref().clone().with_data_type(data_type)
}

/// Parses the texts of `batch`, which was decoded with the schema [`as_texts`] of `wanted`. Returns a batch of schema
/// `wanted`.
///
/// # Errors
/// `ParseError` if a text is not a value of its column's type.
pub fn exact_batch(batch: &RecordBatch, wanted: &SchemaRef, syntax: Syntax) -> Result<RecordBatch, ArrowError> {
    let columns = batch.columns().iter().zip(wanted.fields());
    let columns = columns.map(|(column, field)| exact(column, field, syntax)).collect::<Result<_, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)
}

fn exact(array: &ArrayRef, field: &FieldRef, syntax: Syntax) -> Result<ArrayRef, ArrowError> {
    let nulls = || array.nulls().cloned();
    match (array.data_type(), field.data_type()) {
        (given, wanted) if given == wanted => Ok(Arc::clone(array)),
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let columns = array.as_struct().columns().iter().zip(fields);
            let columns = columns.map(|(column, field)| exact(column, field, syntax)).collect::<Result<_, _>>()?;
            Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), columns, nulls(), array.len())?))
        }
        (DataType::List(_), DataType::List(item)) => {
            let list = array.as_list::<i32>();
            let values = exact(list.values(), item, syntax)?;
            Ok(Arc::new(ListArray::try_new(Arc::clone(item), list.offsets().clone(), values, nulls())?))
        }
        (DataType::LargeList(_), DataType::LargeList(item)) => {
            let list = array.as_list::<i64>();
            let values = exact(list.values(), item, syntax)?;
            Ok(Arc::new(LargeListArray::try_new(Arc::clone(item), list.offsets().clone(), values, nulls())?))
        }
        (_, wanted) => values(array.as_string::<i32>(), wanted, syntax)
            .map_err(|text| ArrowError::ParseError(format!("column `{}`: `{text}` is not {wanted}", field.name()))),
    }
}

/// Parses `texts` as values of type `wanted`, or returns the first text that is not exactly one. Blanks around a value do
/// not count.
///
/// # Errors
/// The text that is not a value of type `wanted`.
pub fn exact_values(texts: &StringArray, wanted: &DataType) -> Result<ArrayRef, String> {
    values(texts, wanted, Syntax::Csv)
}

/// Parses `texts` as values of type `wanted`, or returns the first text that is not one.
fn values(texts: &StringArray, wanted: &DataType, syntax: Syntax) -> Result<ArrayRef, String> {
    let is_text = matches!(wanted, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    let trimmed: StringArray;
    // Blanks are those of Unicode, as where types are inferred: French numbers have spaces that do not break.
    let has_blanks =
        |text: &str| text.is_empty() || text.starts_with(char::is_whitespace) || text.ends_with(char::is_whitespace);
    let texts = if syntax == Syntax::Csv && !is_text && texts.iter().flatten().any(has_blanks) {
        let inner = texts.iter().map(|text| text.map(str::trim).filter(|text| !text.is_empty()));
        trimmed = inner.collect();
        &trimmed
    } else {
        texts
    };
    macro_rules! decimals {
        ($array:ty, $number:ty, $precision:expr, $scale:expr) => {{
            let number = |text: &str| unscaled(text, $precision, $scale)?.parse::<$number>().ok();
            let numbers = parsed(texts, number)?.collect::<$array>().with_precision_and_scale($precision, $scale);
            Arc::new(numbers.map_err(|error| error.to_string())?)
        }};
    }
    let epochs = syntax == Syntax::Json;
    Ok(match wanted {
        DataType::Date32 => Arc::new(parsed(texts, day)?.collect::<Date32Array>()),
        DataType::Timestamp(unit, zone) => return timestamps(texts, *unit, zone.as_ref(), epochs),
        DataType::Time32(unit) | DataType::Time64(unit) => {
            let times: Int64Array = parsed(texts, |text| time_of_day(text, *unit, epochs))?.collect();
            let times: ArrayRef = Arc::new(times);
            match wanted {
                DataType::Time32(_) => cast(&cast(&times, &DataType::Int32)?, wanted)?,
                _ => cast(&times, wanted)?,
            }
        }
        DataType::Decimal32(precision, scale) => decimals!(Decimal32Array, i32, *precision, *scale),
        DataType::Decimal64(precision, scale) => decimals!(Decimal64Array, i64, *precision, *scale),
        DataType::Decimal128(precision, scale) => decimals!(Decimal128Array, i128, *precision, *scale),
        DataType::Decimal256(precision, scale) => decimals!(Decimal256Array, i256, *precision, *scale),
        DataType::Float64 => Arc::new(parsed(texts, float)?.collect::<Float64Array>()),
        DataType::Float32 => {
            let held = |number: &f32, text: &str| {
                is_infinite(text) || (number.is_finite() && (*number != 0.0 || !has_nonzero_digit(text)))
            };
            let float = |text: &str| Float32Type::parse(text).filter(|number| held(number, text));
            Arc::new(parsed(texts, float)?.collect::<Float32Array>())
        }
        DataType::Boolean => Arc::new(parsed(texts, truth)?.collect::<BooleanArray>()),
        whole if whole.is_integer() => {
            let numbers: ArrayRef = match parsed(texts, |text| text.parse().ok()) {
                Ok(numbers) => Arc::new(numbers.collect::<Int64Array>()),
                // For example 3.0, 1e3 or more than 64 bits.
                Err(_) => values(texts, &DataType::Decimal128(38, 0), syntax)?,
            };
            cast(&numbers, whole).map_err(|_| first_that_fails(texts, &numbers, whole))?
        }
        other => {
            let texts: ArrayRef = Arc::new(texts.clone());
            cast(&texts, other).map_err(|_| first_that_fails(texts.as_string::<i32>(), &texts, other))?
        }
    })
}

fn cast(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    let options = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(array, to, &options).map_err(|error| error.to_string())
}

/// Returns the first of `texts` whose value in `array` cannot be cast. Called only after the cast of all has failed.
fn first_that_fails(texts: &StringArray, array: &ArrayRef, to: &DataType) -> String {
    let fails = |index: &usize| cast(&array.slice(*index, 1), to).is_err();
    (0..texts.len()).find(fails).map_or("", |index| texts.value(index)).to_string()
}

/// Parses a number, or the name of infinity or NaN. A number that is too large, or too close to zero, for a Float64 is
/// none.
pub fn float(text: &str) -> Option<f64> {
    let number = Float64Type::parse(text)?;
    let is_held = is_infinite(text) || (number.is_finite() && (number != 0.0 || !has_nonzero_digit(text)));
    is_held.then_some(number)
}

/// Returns whether the number `text` has a digit other than 0 before its exponent.
fn has_nonzero_digit(text: &str) -> bool {
    text.bytes().take_while(|byte| !matches!(byte, b'e' | b'E')).any(|byte| matches!(byte, b'1'..=b'9'))
}

/// Returns whether `text` begins like the name of infinity or NaN.
fn is_infinite(text: &str) -> bool {
    text.trim().trim_start_matches(['-', '+']).starts_with(|c: char| c.is_ascii_alphabetic())
}

/// Returns whether a float of `batch`, at any depth, is infinite. It may stand for a number that is too large.
pub fn has_infinity(batch: &RecordBatch) -> bool {
    batch.columns().iter().any(holds_infinity)
}

fn holds_infinity(array: &ArrayRef) -> bool {
    match array.data_type() {
        DataType::Float64 => array.as_primitive::<Float64Type>().values().iter().any(|number| number.is_infinite()),
        DataType::Float32 => array.as_primitive::<Float32Type>().values().iter().any(|number| number.is_infinite()),
        DataType::Struct(_) => array.as_struct().columns().iter().any(holds_infinity),
        DataType::List(_) => holds_infinity(array.as_list::<i32>().values()),
        DataType::LargeList(_) => holds_infinity(array.as_list::<i64>().values()),
        _ => false,
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        _ if text.eq_ignore_ascii_case("true") => Some(true),
        _ if text.eq_ignore_ascii_case("false") => Some(false),
        _ => None,
    }
}

/// Applies `parse` to each of `texts`, or returns the first text for which it returns `None`.
pub(super) fn parsed<T>(
    texts: &StringArray,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<std::vec::IntoIter<Option<T>>, String> {
    let number = |text: Option<&str>| match text {
        Some(text) => parse(text).map(Some).ok_or_else(|| text.to_string()),
        None => Ok(None),
    };
    Ok(texts.iter().map(number).collect::<Result<Vec<_>, _>>()?.into_iter())
}

/// Returns the number `text` × 10^`scale` as digits. Returns `None` if `text` is not a number, needs more than
/// `precision` digits, or has nonzero digits after `scale` decimal places.
fn unscaled(text: &str, precision: u8, scale: i8) -> Option<String> {
    let number = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    let exponent: i64 = exponent.parse().ok()?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_end_matches('0');
    let trailing = i64::try_from(digits.len() - significant.len()).ok()?;
    let significant = significant.trim_start_matches('0');
    if significant.is_empty() {
        return Some("0".to_string());
    }
    let power = exponent.checked_sub(i64::try_from(fraction.len()).ok()?)?.checked_add(trailing)?;
    let zeros = usize::try_from(power.checked_add(i64::from(scale))?).ok()?;
    let fits = significant.len().saturating_add(zeros) <= usize::from(precision);
    let sign = if text.starts_with('-') { "-" } else { "" };
    fits.then(|| format!("{sign}{significant}{}", "0".repeat(zeros)))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Int32Type;

    use super::*;

    fn read(texts: &[&str], wanted: &DataType) -> Result<Vec<String>, String> {
        let numbers = values(&StringArray::from(texts.to_vec()), wanted, Syntax::Json)?;
        let text = |index| arrow::util::display::array_value_to_string(&numbers, index).unwrap();
        Ok((0..numbers.len()).map(text).collect())
    }

    #[test]
    fn text_is_parsed_exactly_or_rejected() {
        let whole = DataType::Int64;
        assert_eq!(read(&["1", "-2", "9223372036854775807"], &whole).unwrap(), ["1", "-2", "9223372036854775807"]);
        assert_eq!(read(&["1", "3.0", "1e3", "1.5e1"], &whole).unwrap(), ["1", "3", "1000", "15"]);
        assert_eq!(read(&["100e-2", "0e99", "0E-18", "-20e-1"], &whole).unwrap(), ["1", "0", "0", "-2"]);
        let long = format!("1{}", "0".repeat(256));
        let wrongs =
            ["3.9", "-0.5", "15e-1", "9223372036854775808", "x", "true", "", "E12", "-e5", "1e", "1e99999", &long];
        for wrong in wrongs {
            assert_eq!(read(&["1", wrong], &whole).unwrap_err(), wrong);
        }
        assert_eq!(read(&["1", "300"], &DataType::Int8).unwrap_err(), "300");
        assert_eq!(read(&["-1"], &DataType::UInt64).unwrap_err(), "-1");
        assert_eq!(read(&["18446744073709551615"], &DataType::UInt64).unwrap(), ["18446744073709551615"]);

        let decimal = DataType::Decimal128(5, 2);
        assert_eq!(read(&["1.5", "2.250", "1e2", "-7"], &decimal).unwrap(), ["1.50", "2.25", "100.00", "-7.00"]);
        for wrong in ["1.005", "1234.5", "1.5x"] {
            assert_eq!(read(&["1", wrong], &decimal).unwrap_err(), wrong);
        }

        assert_eq!(read(&["0E-8", "0.000"], &decimal).unwrap(), ["0.00", "0.00"]);
        assert_eq!(read(&["2.5"], &DataType::Decimal64(5, 2)).unwrap(), ["2.50"]);
        assert_eq!(read(&["-123"], &DataType::Decimal128(5, -1)).unwrap_err(), "-123");
        assert_eq!(read(&["1e70"], &DataType::Decimal256(76, 5)).unwrap(), [format!("1{}.00000", "0".repeat(70))]);

        let date = DataType::Date32;
        assert_eq!(read(&["2024-01-31", "2024-01-31 00:00:00"], &date).unwrap(), ["2024-01-31", "2024-01-31"]);
        for wrong in ["2024-01-02 10:00:00", "2024-13-01"] {
            assert_eq!(read(&["2024-01-31", wrong], &date).unwrap_err(), wrong);
        }
    }

    #[test]
    fn number_that_a_float_cannot_hold_is_rejected() {
        for (text, number) in [
            ("1.5", Some(1.5)),
            ("-inf", Some(f64::NEG_INFINITY)),
            ("1e999", None),
            ("1e-999", None),
            ("0e-999", Some(0.0)),
        ] {
            assert_eq!(float(text), number, "{text}");
        }
        assert!(float("NaN").unwrap().is_nan());
        for wrong in ["1e99", "1e-60", "-0.1e-50"] {
            assert_eq!(read(&["1.5", wrong], &DataType::Float32).unwrap_err(), wrong);
        }
        assert_eq!(read(&["1e-40", "0e-60", "-0.0"], &DataType::Float32).unwrap(), ["1e-40", "0.0", "-0.0"]);
    }

    #[test]
    fn blanks_around_a_csv_value_do_not_count() {
        for blank in [" ", "\t", "\n", "\u{b}", "\u{a0}", "\u{202f}", "\u{3000}"] {
            let read = |text: &str, wanted: DataType| {
                let texts =
                    StringArray::from(vec![format!("{blank}{text}"), format!("{text}{blank}"), blank.to_string()]);
                let array = exact_values(&texts, &wanted).unwrap();
                assert!(array.is_null(2) && array.slice(0, 1).as_ref() == array.slice(1, 1).as_ref());
                arrow::util::display::array_value_to_string(&array, 0).unwrap()
            };
            assert_eq!(read("5", DataType::Int64), "5", "{blank:?}");
            assert_eq!(read("2.5", DataType::Float64), "2.5", "{blank:?}");
            assert_eq!(read("true", DataType::Boolean), "true", "{blank:?}");
            assert_eq!(read("2024-01-31", DataType::Date32), "2024-01-31", "{blank:?}");
        }
    }

    #[test]
    fn nested_numbers_are_parsed_exactly() {
        let item = |data_type| Arc::new(Field::new("item", data_type, true));
        let wanted = Schema::new(vec![Field::new("l", DataType::List(item(DataType::Int32)), true)]);
        let texts = as_texts(&wanted, DataType::is_integer);
        assert_eq!(texts.field(0).data_type(), &DataType::List(item(DataType::Utf8)));
        let offsets = arrow::buffer::OffsetBuffer::from_lengths([2, 1]);
        let list = |last| {
            let values = Arc::new(StringArray::from(vec!["1", "2", last]));
            let list: ArrayRef = Arc::new(ListArray::new(item(DataType::Utf8), offsets.clone(), values, None));
            RecordBatch::try_new(Arc::clone(&texts), vec![list]).unwrap()
        };
        let wanted = Arc::new(wanted);
        let exact = exact_batch(&list("3"), &wanted, Syntax::Json).unwrap();
        assert_eq!(exact.column(0).as_list::<i32>().values().as_primitive::<Int32Type>().values(), &[1, 2, 3]);
        let error = exact_batch(&list("3.5"), &wanted, Syntax::Json).unwrap_err().to_string();
        assert!(error.contains("`3.5` is not Int32"), "{error}");
    }
}
