//! Infers the types of columns from the text of their values.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::{DataType, Date32Type, Field, Fields, Schema, TimeUnit};
use buzz_protocol::{CsvFormat, QueryError, Result};
use buzz_storage::text::{column_names, float, timestamp_form};

use crate::dialect::records;
use crate::spelling::Spellings;

/// A column and the common type of its values so far; `None` if all are null.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Inferred {
    pub(crate) name: String,
    pub(crate) data_type: Option<DataType>,
}

/// Maximum number of digits of a whole number that is read as a decimal. With more, comparing it with a fraction
/// overflows, because the common type has 15 digits after the point and 38 in total.
pub(crate) const DIGITS_MAX: usize = 23;

/// The type of whole numbers that do not fit 64 bits.
pub(crate) const WHOLE: DataType = DataType::Decimal128(38, 0);

/// Stands for `Int64` while types are inferred, if a value has no exact Float64: together with fractions, such values are
/// read as text.
pub(crate) const LONG: DataType = DataType::UInt64;

/// Stands for `Date32` while types are inferred, if a day is outside the range of timestamps in nanoseconds: together with
/// such timestamps, it is read as text.
const FAR_DAY: DataType = DataType::Date64;

/// Stands for microseconds while types are inferred, as [`FAR_DAY`] does for days.
const FAR_TIME: TimeUnit = TimeUnit::Second;

/// Returns the type of the whole number `text`, which has digits and maybe a minus. Returns `None` if it has too many
/// digits for a type of whole numbers.
pub(crate) fn whole_number(text: &str) -> Option<DataType> {
    const EXACT: u64 = 1 << f64::MANTISSA_DIGITS;
    match text.parse::<i64>() {
        Ok(number) if number.unsigned_abs() <= EXACT => Some(DataType::Int64),
        Ok(_) => Some(LONG),
        Err(_) if text.trim_start_matches('-').len() <= DIGITS_MAX => Some(WHOLE),
        Err(_) => None,
    }
}

/// Returns the columns of a CSV file that starts with `head`, in file order.
///
/// # Errors
/// `Data` if `head` is not valid CSV.
pub(crate) fn csv_columns(csv: &CsvFormat, head: &[u8]) -> Result<Vec<Inferred>> {
    let names = column_names(csv, head)?;
    let mut columns: Vec<Inferred> = names.into_iter().map(|name| Inferred { name, data_type: None }).collect();
    let mut decided = vec![false; columns.len()];
    for record in records(csv, csv.header, head) {
        let record = record.map_err(|error| QueryError::data(format!("invalid CSV: {error}")))?;
        for (index, cell) in record.iter().take(columns.len()).enumerate() {
            let cell = String::from_utf8_lossy(cell);
            // A value of blanks is null, unless the column is text.
            if decided[index] || cell.trim().is_empty() || csv.null.as_deref() == Some(&*cell) {
                continue;
            }
            let column = &mut columns[index];
            let seen = type_of(&cell);
            column.data_type = Some(column.data_type.take().map_or(seen.clone(), |known| common(&known, &seen)));
            decided[index] = column.data_type == Some(DataType::Utf8);
        }
    }
    Ok(columns)
}

/// Returns the narrowest type of which `text` is a value. Blanks around it do not count, except that text keeps them. A
/// number with a plus, or with zeros in front, is text: it may be a phone number or a code, of which these are a part.
pub(crate) fn type_of(text: &str) -> DataType {
    let text = text.trim();
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_code = digits.starts_with('0') && digits.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return if is_code { DataType::Utf8 } else { whole_number(text).unwrap_or(DataType::Utf8) };
    }
    let is_number = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        || ["nan", "inf", "infinity"].iter().any(|name| digits.eq_ignore_ascii_case(name));
    if is_number && float(text).is_some() {
        return if is_code { DataType::Utf8 } else { DataType::Float64 };
    }
    if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") {
        return DataType::Boolean;
    }
    let dated = text.len() >= 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    let form = dated.then(|| timestamp_form(text)).flatten();
    if dated && text.len() == 10 && Date32Type::parse(text).is_some() {
        return if form.is_some_and(|form| form.has_nanoseconds) { DataType::Date32 } else { FAR_DAY };
    }
    match form {
        Some(form) => {
            let unit = if form.has_nanoseconds { form.unit } else { FAR_TIME };
            DataType::Timestamp(unit, form.is_zoned.then(|| "UTC".into()))
        }
        None => DataType::Utf8,
    }
}

/// Returns the unit that holds times in both units, which are microseconds, nanoseconds or [`FAR_TIME`].
fn common_unit(a: TimeUnit, b: TimeUnit) -> Option<TimeUnit> {
    let has = |unit: TimeUnit| a == unit || b == unit;
    match (has(FAR_TIME), has(TimeUnit::Nanosecond)) {
        (true, true) => None,
        (true, false) => Some(FAR_TIME),
        (false, true) => Some(TimeUnit::Nanosecond),
        (false, false) => Some(TimeUnit::Microsecond),
    }
}

/// Returns the narrowest type that can hold values of both types.
pub(crate) fn common(a: &DataType, b: &DataType) -> DataType {
    use DataType::{Date32, Date64, Decimal128, Float64, Int64, List, Null, Struct, Timestamp, Utf8};
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (Null, other) | (other, Null) => other.clone(),
        (Int64, Float64) | (Float64, Int64) => Float64,
        (Int64, &LONG) | (&LONG, Int64) => LONG,
        (Int64 | &LONG, decimal @ Decimal128(..)) | (decimal @ Decimal128(..), Int64 | &LONG) => decimal.clone(),
        (Date32, Date64) | (Date64, Date32) => FAR_DAY,
        (day @ (Date32 | Date64), Timestamp(unit, None)) | (Timestamp(unit, None), day @ (Date32 | Date64)) => {
            let of_day = if *day == FAR_DAY { FAR_TIME } else { TimeUnit::Microsecond };
            common_unit(of_day, *unit).map_or(Utf8, |unit| Timestamp(unit, None))
        }
        (Timestamp(a, zone), Timestamp(b, other)) if zone == other => {
            common_unit(*a, *b).map_or(Utf8, |unit| Timestamp(unit, zone.clone()))
        }
        (List(a), List(b)) => List(Arc::new(Field::new(a.name(), common(a.data_type(), b.data_type()), true))),
        (Struct(a), Struct(b)) => Struct(common_fields(a, b)),
        _ => Utf8,
    }
}

fn common_fields(a: &Fields, b: &Fields) -> Fields {
    if a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name() == b.name()) {
        let joined =
            |(a, b): (&Arc<Field>, &Arc<Field>)| Field::new(a.name(), common(a.data_type(), b.data_type()), true);
        return a.iter().zip(b).map(joined).collect();
    }
    let other = |fields: &Fields, name: &str| fields.find(name).map(|(_, field)| field.data_type().clone());
    let joined = a.iter().map(|field| match other(b, field.name()) {
        Some(data_type) => Field::new(field.name(), common(field.data_type(), &data_type), true),
        None => field.as_ref().clone(),
    });
    let added = b.iter().filter(|field| a.find(field.name()).is_none()).map(|field| field.as_ref().clone());
    joined.chain(added).collect()
}

/// Merges the columns of all files by name, in one of its `spellings`. Columns that contain only nulls become text.
pub(crate) fn merged(files: Vec<Vec<Inferred>>, spellings: &Spellings) -> Schema {
    let mut all: Vec<Inferred> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for column in files.into_iter().flatten() {
        let name = spellings.name(&column.name).to_string();
        match places.get(&name) {
            None => {
                places.insert(name.clone(), all.len());
                all.push(Inferred { name, ..column });
            }
            Some(place) => {
                let known = &mut all[*place];
                known.data_type = match (known.data_type.take(), column.data_type) {
                    (Some(a), Some(b)) => Some(common(&a, &b)),
                    (a, b) => a.or(b),
                }
            }
        }
    }
    let field = |column: Inferred| Field::new(column.name, known(&column.data_type.unwrap_or(DataType::Null)), true);
    Schema::new(all.into_iter().map(field).collect::<Vec<_>>())
}

/// Replaces unknown types in `data_type` by text, and those that stand for another one, also within nested types.
fn known(data_type: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| Field::new(field.name(), known(field.data_type()), true);
    match data_type {
        DataType::Null => DataType::Utf8,
        &LONG => DataType::Int64,
        &FAR_DAY => DataType::Date32,
        DataType::Timestamp(FAR_TIME, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::List(item) => DataType::List(Arc::new(inner(item))),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(text: &str) -> Vec<String> {
        let columns = csv_columns(&CsvFormat::default(), text.as_bytes()).unwrap();
        let schema = merged(vec![columns], &Spellings::default());
        schema.fields().iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect()
    }

    #[test]
    fn column_gets_the_narrowest_type_of_its_values() {
        assert_eq!(types("a,b,c\n1,2.5,x\n-2,3,\n"), ["a: Int64", "b: Float64", "c: Utf8"]);
        assert_eq!(types("a,b\n1,true\n1.5,FALSE\n"), ["a: Float64", "b: Boolean"]);
        assert_eq!(types("d,t\n2024-01-31,2024-01-31\n,2024-01-31 10:00:00\n"), ["d: Date32", "t: Timestamp(µs)"]);
        assert_eq!(types("z\n2024-01-31T10:00:00Z\n"), ["z: Timestamp(µs, \"UTC\")"]);
        assert_eq!(types("n\n17929716297117857676\n"), ["n: Decimal128(38, 0)"]);
        assert_eq!(types("e,v\n,1\n,-\n"), ["e: Utf8", "v: Utf8"]);
        assert_eq!(types("zip,n\n01234,0\n12345,-1\n"), ["zip: Utf8", "n: Int64"]);
        assert_eq!(types("t\n2024-01-01 10:00:00 Europe/Berlin\n"), ["t: Timestamp(µs, \"UTC\")"]);
        assert_eq!(types("t\n2024-01-01 10:00:00\n2024-01-01 10:00:00.1234567\n"), ["t: Timestamp(ns)"]);
        assert_eq!(
            types("t,u\n2024-01-01 10:00,2024-01-01T10:00Z\n"),
            ["t: Timestamp(µs)", "u: Timestamp(µs, \"UTC\")"]
        );
        assert_eq!(types("icd,zip,n\n001.1,-01.5,0.5\n01.1,2,0e1\n"), ["icd: Utf8", "zip: Utf8", "n: Float64"]);
    }

    #[test]
    fn times_far_from_now_have_microseconds_unless_others_need_nanoseconds() {
        let fine = "2024-01-01 10:00:00.1234567";
        assert_eq!(types("t\n9999-12-31 23:59:59\n0001-01-01 00:00\n"), ["t: Timestamp(µs)"]);
        assert_eq!(types("t\n9999-12-31T00:00:00Z\n2024-01-01T00:00:00Z\n"), ["t: Timestamp(µs, \"UTC\")"]);
        assert_eq!(types("d\n9999-12-31\n2024-01-01\n"), ["d: Date32"]);
        assert_eq!(types("t\n9999-12-31\n2024-01-01 10:00:00\n"), ["t: Timestamp(µs)"]);
        assert_eq!(types(&format!("t\n2024-01-01\n{fine}\n")), ["t: Timestamp(ns)"]);
        for far in ["9999-12-31", "9999-12-31 00:00:00", "0001-01-01"] {
            assert_eq!(types(&format!("t\n{far}\n{fine}\n")), ["t: Utf8"], "{far}");
            assert_eq!(types(&format!("t\n{fine}\n2024-01-01\n{far}\n")), ["t: Utf8"], "{far}");
        }
    }

    #[test]
    fn sign_blank_and_nan_do_not_change_values() {
        assert_eq!(types("tel\n+4917012345\n"), ["tel: Utf8"]);
        assert_eq!(types("a,b,c\n--5,+-10,+1.5\n"), ["a: Utf8", "b: Utf8", "c: Utf8"]);
        assert_eq!(types("a, b,c\n1, 5 , x\n2,,\n3,  ,y\n"), ["a: Int64", "b: Int64", "c: Utf8"]);
        assert_eq!(types("a\n9007199254740993 \n"), ["a: Int64"]);
        assert_eq!(types("x\n1\nnan\n-inf\nInfinity\n"), ["x: Float64"]);
        assert_eq!(types("x\n1.5\n9007199254740993\n"), ["x: Utf8"]);
        assert_eq!(types("x,y\n1e999,1e-999\n"), ["x: Utf8", "y: Utf8"]);
        assert_eq!(types("x\n9007199254740992\n1.5\n"), ["x: Float64"]);
        assert_eq!(types("x\n9007199254740993\n12345678901234567890\n"), ["x: Decimal128(38, 0)"]);
    }

    #[test]
    fn columns_of_files_are_merged_by_name() {
        let csv = CsvFormat::default();
        let files = ["a,b\n1,2\n", "b,c\n2.5,x\n"].map(|text| csv_columns(&csv, text.as_bytes()).unwrap());
        let schema = merged(files.to_vec(), &Spellings::default());
        let names: Vec<_> = schema.fields().iter().map(|field| field.to_string()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(schema.field(1).data_type(), &DataType::Float64);
    }
}
