//! Values of parameters: from their form in the protocol to typed values of the engine.
//!
//! The engine takes numbers, texts and booleans. A value of another type is passed as one of these, and its place in the
//! statement, such as `$1`, is wrapped in a cast to the exact type. The rest of the statement stays as it is written.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use buzz_protocol::{Param, QueryError, Result};
use pgwire::messages::extendedquery::Bind;

use crate::postgres::arrays;
use crate::postgres::types::{self, Base, PgType};
use crate::scan::{self, Kind};

/// OIDs of texts, apart from `text` itself: unknown, name, char, bpchar, varchar, json, uuid.
const TEXT_OIDS: [u32; 7] = [705, 19, 18, 1042, 1043, 114, 2950];
const UUID: u32 = 2950;

/// The type `oid[]`, in which clients look up types.
const OIDS: u32 = 1028;

/// The types `varchar[]` and `uuid[]`.
const VARCHARS: u32 = 1015;
const UUIDS: u32 = 2951;

/// Casts that are not to an Arrow type by name: from hexadecimal digits to bytes, and from days to a date.
const HEX: &str = "hex";
const DAYS: &str = "days";

/// Casts of the statement: they take the zone of the session, and times without seconds.
const LOCAL: &str = "local";
const ZONED: &str = "zoned";

/// Microseconds and days from 1970 to 2000.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;
const EPOCH_DAYS: i64 = 10_957;

/// A statement whose parameters have values.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Bound {
    /// The text, with casts around parameters.
    pub(super) sql: String,
    /// The values, by name without `$`.
    pub(super) params: BTreeMap<String, Param>,
}

/// A value, and the Arrow type that it is cast to if it does not have it by itself.
#[derive(Debug, PartialEq)]
struct Value {
    param: Param,
    cast: Option<String>,
}

/// The value of a parameter.
#[derive(Debug, PartialEq)]
enum Given {
    One(Value),
    /// Elements of an array, and the Arrow type that they have as a list.
    Many(Vec<Value>, String),
}

impl Given {
    /// Returns what stands for `parameter` in the statement; None if the parameter stays as it is.
    fn written(&self, parameter: &str) -> Option<String> {
        match self {
            Self::One(value) => Some(cast(parameter, value.cast.as_deref()?)),
            Self::Many(elements, list) if elements.is_empty() => Some(format!("arrow_cast(make_array(), '{list}')")),
            Self::Many(elements, list) => {
                let element = |(at, value): (usize, &Value)| {
                    let name = format!("{parameter}_{}", at + 1);
                    value.cast.as_deref().map_or_else(|| name.clone(), |data_type| cast(&name, data_type))
                };
                let elements: Vec<String> = elements.iter().enumerate().map(element).collect();
                Some(format!("arrow_cast(make_array({}), '{list}')", elements.join(", ")))
            }
        }
    }

    /// Returns the parameters by name. Those of an array `1` are `1_1`, `1_2` and so on.
    fn named(self, number: usize) -> Vec<(String, Param)> {
        match self {
            Self::One(value) => vec![(number.to_string(), value.param)],
            Self::Many(elements, _) => {
                let named = elements.into_iter().enumerate();
                named.map(|(at, value)| (format!("{number}_{}", at + 1), value.param)).collect()
            }
        }
    }
}

/// Returns the number of parameters of `sql`: the largest `n` of its `$n`.
///
/// # Errors
/// `Invalid` if there are more than the protocol can bind.
pub(super) fn count(sql: &str) -> Result<usize> {
    let tokens = scan::tokens(sql);
    let numbers = tokens.iter().filter(|token| token.kind == Kind::Parameter).map(|token| &token.text(sql)[1..]);
    let mut most = 0;
    for number in numbers {
        match number.parse::<u16>() {
            Ok(number) if number > 0 => most = most.max(usize::from(number)),
            _ => return Err(QueryError::invalid(format!("parameter `${number}` is not a number from 1 to 65535"))),
        }
    }
    Ok(most)
}

/// Returns `sql` with a cast around each parameter whose type is given, to plan it without values.
pub(super) fn typed(sql: &str, types: &[u32]) -> String {
    wrapped(sql, |index, parameter| {
        let oid = *types.get(index)?;
        let data_type = match list_type(oid) {
            Some(list) => list,
            None => arrow_type(oid)?.to_string(),
        };
        Some(cast(parameter, &data_type))
    })
}

/// Returns the OID of the type of parameter `index`: as the client gave it, or as the statement determines it.
pub(super) fn oid(types: &[u32], index: usize, planned: &BTreeMap<String, Option<DataType>>) -> u32 {
    let given = types.get(index).copied().filter(|oid| ![0, 705].contains(oid));
    given.unwrap_or_else(|| {
        let inferred = planned.get(&format!("${}", index + 1)).cloned().flatten();
        inferred.map_or(Base::Text.oid(), |data_type| PgType::of(&data_type).oid())
    })
}

fn wrapped(sql: &str, written: impl Fn(usize, &str) -> Option<String>) -> String {
    scan::replaced(sql, |_, token| {
        let index = (token.kind == Kind::Parameter).then(|| token.text(sql)[1..].parse::<usize>().ok())??;
        written(index.checked_sub(1)?, token.text(sql))
    })
}

/// Writes the cast of `parameter` to an Arrow type.
fn cast(parameter: &str, data_type: &str) -> String {
    match data_type {
        HEX => format!("decode({parameter}, 'hex')"),
        DAYS => format!("arrow_cast(arrow_cast({parameter}, 'Int32'), 'Date32')"),
        LOCAL => format!("CAST({parameter} AS TIMESTAMP)"),
        ZONED => format!("CAST({parameter} AS TIMESTAMP WITH TIME ZONE)"),
        data_type => format!("arrow_cast({parameter}, '{data_type}')"),
    }
}

/// Returns the Arrow type of the arrays with this OID as a list, None if it is not that of an array that can be bound.
fn list_type(oid: u32) -> Option<String> {
    // Clients look up types by them, in statements of the catalog.
    if oid == OIDS {
        return None;
    }
    let element = element(oid)?;
    // Elements of an array are compared bit by bit, so that intervals of one length would differ.
    if element == Base::Interval.oid() {
        return None;
    }
    // Numbers have any digits; as many as a literal may have.
    let data_type = arrow_type(element).unwrap_or("Decimal128(38, 10)");
    Some(format!("List({data_type})"))
}

/// Returns the OID of the elements of the arrays with this OID.
fn element(oid: u32) -> Option<u32> {
    match oid {
        VARCHARS => Some(1043),
        UUIDS => Some(UUID),
        _ => types::all().find(|(_, array, ..)| *array == oid).map(|(own, ..)| own),
    }
}

fn arrow_type(oid: u32) -> Option<&'static str> {
    Some(match base(oid)? {
        Base::Bool => "Boolean",
        Base::Int2 => "Int16",
        Base::Int4 => "Int32",
        Base::Int8 | Base::Oid => "Int64",
        Base::Float4 => "Float32",
        Base::Float8 => "Float64",
        Base::Text | Base::Json => "Utf8",
        Base::Bytea => "Binary",
        Base::Date => "Date32",
        Base::Time => "Time64(Microsecond)",
        Base::Timestamp => "Timestamp(Microsecond, None)",
        Base::Timestamptz => "Timestamp(Microsecond, Some(\"UTC\"))",
        Base::Interval => "Interval(MonthDayNano)",
        // Its precision depends on the value.
        Base::Numeric => return None,
    })
}

fn base(oid: u32) -> Option<Base> {
    use Base::{
        Bool, Bytea, Date, Float4, Float8, Int2, Int4, Int8, Interval, Numeric, Oid, Text, Time, Timestamp, Timestamptz,
    };
    if TEXT_OIDS.contains(&oid) {
        return Some(Text);
    }
    let all = [
        Bool,
        Bytea,
        Date,
        Float4,
        Float8,
        Int2,
        Int4,
        Int8,
        Interval,
        Numeric,
        Oid,
        Text,
        Time,
        Timestamp,
        Timestamptz,
    ];
    all.into_iter().find(|base| base.oid() == oid)
}

/// Gives the parameters of `sql`, whose types are `oids`, the values of `bind`.
///
/// # Errors
/// `Invalid` if the number of values is wrong, or a value is not valid for its type.
pub(super) fn bound(sql: &str, oids: &[u32], bind: &Bind) -> Result<Bound> {
    if bind.parameters.len() != oids.len() {
        return Err(QueryError::invalid(format!(
            "the statement has {} parameters and {} values were bound",
            oids.len(),
            bind.parameters.len()
        )));
    }
    let mut values = Vec::new();
    for (index, (bytes, oid)) in bind.parameters.iter().zip(oids).enumerate() {
        let format = match bind.parameter_format_codes.as_slice() {
            [] => 0,
            [one] => *one,
            many => *many.get(index).unwrap_or(&0),
        };
        let name = index + 1;
        let value = given(*oid, format == 1, bytes.as_deref())
            .map_err(|reason| QueryError::invalid(format!("the value of parameter ${name} is not valid: {reason}")))?;
        values.push(value);
    }
    let sql = wrapped(sql, |index, parameter| values.get(index).and_then(|value| value.written(parameter)));
    let params = values.into_iter().enumerate().flat_map(|(index, value)| value.named(index + 1));
    Ok(Bound { sql, params: params.collect() })
}

fn given(oid: u32, is_binary: bool, bytes: Option<&[u8]>) -> Result<Given, String> {
    let Some(list) = list_type(oid) else { return value(oid, is_binary, bytes).map(Given::One) };
    let Some(bytes) = bytes else { return Ok(Given::One(Value { param: Param::Null, cast: Some(list) })) };
    let element = element(oid).ok_or("its type is not that of an array")?;
    let elements = if is_binary { arrays::of_binary(bytes)? } else { arrays::of_text(bytes)? };
    let values = elements.iter().map(|bytes| value(element, is_binary, bytes.as_deref()));
    let mut values = values.collect::<Result<Vec<Value>, String>>()?;
    if element != Base::Numeric.oid() || values.is_empty() {
        return Ok(Given::Many(values, list));
    }
    let own = decimal_of(&values)?;
    for value in &mut values {
        value.cast = Some(own.clone());
    }
    Ok(Given::Many(values, format!("List({own})")))
}

/// Returns the type that holds all digits of `numbers`.
fn decimal_of(numbers: &[Value]) -> Result<String, String> {
    let (mut whole, mut fraction) = (1, 0);
    for number in numbers {
        let Param::Text(text) = &number.param else { continue };
        let unsigned = text.trim_start_matches(['-', '+']);
        let (before, after) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        whole = whole.max(before.trim_start_matches('0').len());
        fraction = fraction.max(after.len());
    }
    match whole + fraction {
        precision @ ..=38 => Ok(format!("Decimal128({precision}, {fraction})")),
        precision @ 39..=76 => Ok(format!("Decimal256({precision}, {fraction})")),
        _ => Err("its numbers need more than 76 digits".to_string()),
    }
}

fn value(oid: u32, is_binary: bool, bytes: Option<&[u8]>) -> Result<Value, String> {
    if oid == OIDS {
        return bytes.map_or(plain(Param::Null), |bytes| oids(is_binary, bytes));
    }
    let base = base(oid).ok_or_else(|| {
        format!("its type, OID {oid}, cannot be bound; cast it in the statement and bind a text, or list the values")
    })?;
    let cast = || arrow_type(oid).map(str::to_string);
    let Some(bytes) = bytes else {
        return Ok(Value { param: Param::Null, cast: cast() });
    };
    if is_binary { of_binary(oid, base, bytes, cast()) } else { of_text(base, bytes, cast()) }
}

fn plain(param: Param) -> Result<Value, String> {
    Ok(Value { param, cast: None })
}

/// Returns an array of OIDs as its text, which only statements of the catalog can use.
fn oids(is_binary: bool, bytes: &[u8]) -> Result<Value, String> {
    if !is_binary {
        return of_text(Base::Text, bytes, None);
    }
    let wrong = || "it is not an array of OIDs with one dimension and without nulls".to_string();
    let (words, rest) = bytes.as_chunks::<4>();
    let words: Vec<u32> = words.iter().map(|word| u32::from_be_bytes(*word)).collect();
    // Dimensions, nulls, type; then length and first index of the dimension; then length and value of each element.
    let elements = match words.as_slice() {
        [0, 0, _] => &[],
        [1, 0, _, count, _, elements @ ..] if elements.len() as u64 == 2 * u64::from(*count) => elements,
        _ => return Err(wrong()),
    };
    if !rest.is_empty() || elements.chunks(2).any(|element| element[0] != 4) {
        return Err(wrong());
    }
    let numbers: Vec<String> = elements.chunks(2).map(|element| element[1].to_string()).collect();
    plain(Param::Text(format!("{{{}}}", numbers.join(","))))
}

fn of_text(base: Base, bytes: &[u8], cast: Option<String>) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is not valid UTF-8".to_string())?;
    if text.contains('\0') {
        return Err("it contains the character 0".to_string());
    }
    let trimmed = text.trim();
    let misfit = |kind: &str| format!("`{text}` is not {kind}");
    match base {
        Base::Text | Base::Json => plain(Param::Text(text.to_string())),
        Base::Bool => match trimmed.to_ascii_lowercase().as_str() {
            "t" | "true" | "y" | "yes" | "on" | "1" => plain(Param::Bool(true)),
            "f" | "false" | "n" | "no" | "off" | "0" => plain(Param::Bool(false)),
            _ => Err(misfit("a boolean")),
        },
        Base::Int2 | Base::Int4 | Base::Int8 | Base::Oid => {
            plain(Param::Int(trimmed.parse().map_err(|_| misfit("a whole number of 64 bits"))?))
        }
        Base::Float4 | Base::Float8 => float(trimmed.parse().map_err(|_| misfit("a number"))?, cast),
        Base::Numeric => numeric(trimmed),
        Base::Bytea => {
            let digits = trimmed.strip_prefix("\\x").ok_or_else(|| misfit("bytes in the form \\x…"))?;
            if digits.len() % 2 != 0 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(misfit("bytes in the form \\x…"));
            }
            Ok(Value { param: Param::Text(digits.to_string()), cast: Some(HEX.to_string()) })
        }
        Base::Date => Ok(Value { param: Param::Text(day(trimmed).to_string()), cast }),
        Base::Timestamp => Ok(Value { param: Param::Text(trimmed.to_string()), cast: Some(LOCAL.to_string()) }),
        Base::Timestamptz => Ok(Value { param: Param::Text(trimmed.to_string()), cast: Some(ZONED.to_string()) }),
        Base::Time | Base::Interval => Ok(Value { param: Param::Text(trimmed.to_string()), cast }),
    }
}

/// Returns the day of a date that has a time or a zone behind it, which PostgreSQL ignores and JDBC sends.
fn day(text: &str) -> &str {
    let Some((day, rest)) = text.split_once(' ') else { return text };
    let is_time = rest.bytes().all(|byte| byte.is_ascii_digit() || b"+-:. TZ".contains(&byte));
    if is_time && day.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') { day } else { text }
}

fn float(value: f64, cast: Option<String>) -> Result<Value, String> {
    // JSON, in which a question can travel, has no other numbers.
    if value.is_finite() {
        return plain(Param::Float(value));
    }
    Ok(Value { param: Param::Text(value.to_string()), cast })
}

fn numeric(text: &str) -> Result<Value, String> {
    let misfit = || format!("`{text}` is not a decimal number");
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let digits = whole.len() + fraction.len();
    if digits == 0 || !whole.bytes().chain(fraction.bytes()).all(|digit| digit.is_ascii_digit()) {
        return Err(misfit());
    }
    let whole = whole.trim_start_matches('0');
    let precision = (whole.len() + fraction.len()).max(1);
    let data_type = match precision {
        ..=38 => format!("Decimal128({precision}, {})", fraction.len()),
        39..=76 => format!("Decimal256({precision}, {})", fraction.len()),
        _ => return Err(format!("`{text}` has more than 76 digits")),
    };
    Ok(Value { param: Param::Text(text.to_string()), cast: Some(data_type) })
}

fn of_binary(oid: u32, base: Base, bytes: &[u8], cast: Option<String>) -> Result<Value, String> {
    let wrong = |size: usize| format!("it has {} bytes instead of {size}", bytes.len());
    macro_rules! number {
        ($kind:ty) => {
            <$kind>::from_be_bytes(bytes.try_into().map_err(|_| wrong(size_of::<$kind>()))?)
        };
    }
    let counted = |count: i64| Ok(Value { param: Param::Int(count), cast: cast.clone() });
    match base {
        Base::Bool => plain(Param::Bool(number!(u8) != 0)),
        Base::Int2 => plain(Param::Int(number!(i16).into())),
        Base::Int4 => plain(Param::Int(number!(i32).into())),
        Base::Int8 => plain(Param::Int(number!(i64))),
        Base::Oid => plain(Param::Int(number!(u32).into())),
        Base::Float4 => float(number!(f32).into(), cast),
        Base::Float8 => float(number!(f64), cast),
        Base::Date => {
            let days = i64::from(number!(i32)) + EPOCH_DAYS;
            Ok(Value { param: Param::Int(days), cast: Some(DAYS.to_string()) })
        }
        Base::Time => counted(number!(i64)),
        Base::Timestamp | Base::Timestamptz => {
            counted(number!(i64).checked_add(EPOCH_MICROSECONDS).ok_or("it is infinite or too late")?)
        }
        Base::Interval => {
            if bytes.len() != 16 {
                return Err(wrong(16));
            }
            let part = |at: usize, length: usize| &bytes[at..at + length];
            let microseconds = i64::from_be_bytes(part(0, 8).try_into().map_err(|_| wrong(16))?);
            let days = i32::from_be_bytes(part(8, 4).try_into().map_err(|_| wrong(16))?);
            let months = i32::from_be_bytes(part(12, 4).try_into().map_err(|_| wrong(16))?);
            let text = format!("{months} months {days} days {microseconds} microseconds");
            Ok(Value { param: Param::Text(text), cast })
        }
        Base::Bytea => {
            let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            Ok(Value { param: Param::Text(digits), cast: Some(HEX.to_string()) })
        }
        Base::Numeric => numeric(&numeric_text(bytes)?),
        Base::Text if oid == UUID => {
            let value = number!(u128);
            let digits = format!("{value:032x}");
            let parts = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]];
            plain(Param::Text(parts.join("-")))
        }
        Base::Text | Base::Json => of_text(Base::Text, bytes, None),
    }
}

/// Returns the digits of a number in binary form.
fn numeric_text(bytes: &[u8]) -> Result<String, String> {
    let mut shorts = bytes.chunks(2).map(|pair| match pair {
        [high, low] => Ok(i32::from(i16::from_be_bytes([*high, *low]))),
        _ => Err("it ends within a number".to_string()),
    });
    let mut next = || shorts.next().unwrap_or_else(|| Err("it is too short".to_string()));
    let (count, weight, sign, decimals) = (next()?, next()?, next()?, next()?);
    if sign != 0 && sign != 0x4000 {
        return Err("it is not a finite number".to_string());
    }
    if !(0..=100).contains(&count) || !(-100..=100).contains(&weight) || !(0..=400).contains(&decimals) {
        return Err("it has too many digits".to_string());
    }
    let groups: Vec<i32> = (0..count).map(|_| next()).collect::<Result<_, _>>()?;
    let group = |power: i32| usize::try_from(weight - power).ok().and_then(|at| groups.get(at)).copied().unwrap_or(0);
    let whole: String = (0..=weight.max(0)).rev().map(|power| format!("{:04}", group(power))).collect();
    let fraction: String = (1..=(decimals + 3) / 4).map(|power| format!("{:04}", group(-power))).collect();
    let fraction = fraction.get(..usize::try_from(decimals).unwrap_or(0)).unwrap_or(&fraction);
    let point = if fraction.is_empty() { "" } else { "." };
    Ok(format!("{}{whole}{point}{fraction}", if sign == 0 { "" } else { "-" }))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn bind(values: &[Option<&[u8]>], formats: &[i16]) -> Bind {
        let values = values.iter().map(|value| value.map(Bytes::copy_from_slice)).collect();
        Bind::new(None, None, formats.to_vec(), values, Vec::new())
    }

    #[test]
    fn values_are_typed_and_the_text_stays() {
        let sql = "SELECT '$1' WHERE a = $1 AND b < $2 AND c > $3";
        let bound =
            bound(sql, &[23, 1082, 1700], &bind(&[Some(b"7"), Some(b"2024-01-31"), Some(b"-12.50")], &[])).unwrap();
        assert_eq!(
            bound.sql,
            "SELECT '$1' WHERE a = $1 AND b < arrow_cast($2, 'Date32') AND c > arrow_cast($3, 'Decimal128(4, 2)')"
        );
        assert_eq!(bound.params["1"], Param::Int(7));
        assert_eq!(bound.params["3"], Param::Text("-12.50".to_string()));
        assert_eq!((count(sql).unwrap(), count("SELECT $12, $3").unwrap()), (3, 12));
        assert!(count("SELECT $0").is_err() && count("SELECT $70000").is_err() && count("SELECT $a").is_err());
    }

    #[test]
    fn arrays_become_lists_of_parameters() {
        let given = bind(&[Some(b"{a,NULL}"), Some(b"{}"), None, Some(b"2024-03-01 +00")], &[]);
        let bound = bound("SELECT a = ANY($1), $2, $3, $4", &[1009, 1182, 1016, 1082], &given).unwrap();
        assert_eq!(
            bound.sql,
            "SELECT a = ANY(arrow_cast(make_array(arrow_cast($1_1, 'Utf8'), arrow_cast($1_2, 'Utf8')), 'List(Utf8)')), \
             arrow_cast(make_array(), 'List(Date32)'), arrow_cast($3, 'List(Int64)'), arrow_cast($4, 'Date32')"
                .replace("arrow_cast($1_1, 'Utf8')", "$1_1")
        );
        let expected = [
            ("1_1", Param::Text("a".to_string())),
            ("1_2", Param::Null),
            ("3", Param::Null),
            ("4", Param::Text("2024-03-01".to_string())),
        ];
        assert_eq!(bound.params, expected.map(|(name, value)| (name.to_string(), value)).into());
        assert_eq!(typed("SELECT $1, $2", &[1016, 25]), "SELECT arrow_cast($1, 'List(Int64)'), arrow_cast($2, 'Utf8')");
    }

    #[test]
    fn binary_numbers_keep_their_digits() {
        let shorts = |values: &[i16]| values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<u8>>();
        let cases = [
            (&[3, 1, 0x4000, 2, 1, 2345, 6700][..], "-00012345.67"),
            (&[0, 0, 0, 2], "0000.00"),
            (&[1, -2, 0, 6, 500], "0000.000005"),
            (&[1, 1, 0, 0, 1], "00010000"),
        ];
        for (parts, text) in cases {
            assert_eq!(numeric_text(&shorts(parts)).unwrap(), text);
        }
        for wrong in [&[1, 0, 0, 0][..], &[0, 0, -16384, 0], &[-1, 0, 0, 0], &[30000, 0, 0, 0], &[0]] {
            assert!(numeric_text(&shorts(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn arrays_of_oids_are_texts() {
        let words = |words: &[u32]| words.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
        let text = |bytes: &[u8]| value(OIDS, true, Some(bytes)).map(|value| value.param);
        assert_eq!(text(&words(&[1, 0, 26, 2, 1, 4, 1007, 4, 20])), Ok(Param::Text("{1007,20}".to_string())));
        assert_eq!(text(&words(&[0, 0, 26])), Ok(Param::Text("{}".to_string())));
        let wrong: [&[u32]; 5] =
            [&[], &[1, 0, 26], &[1, 0, 26, 2, 1, 4, 1], &[1, 1, 26, 1, 1, u32::MAX], &[1, 0, 26, 1, 1, 5, 1]];
        for wrong in wrong {
            text(&words(wrong)).unwrap_err();
        }
        text(&[words(&[0, 0, 26]), vec![0]].concat()).unwrap_err();
    }

    #[test]
    fn values_that_do_not_fit_are_refused() {
        let cases: [(u32, i16, &[u8], &str); 7] = [
            (23, 0, b"x", "`x` is not a whole number of 64 bits"),
            (23, 1, b"abc", "it has 3 bytes instead of 4"),
            (16, 0, b"maybe", "`maybe` is not a boolean"),
            (1700, 0, b"1e5", "`1e5` is not a decimal number"),
            (1007, 0, b"{1,x}", "`x` is not a whole number of 64 bits"),
            (600, 0, b"(1,2)", "its type, OID 600, cannot be bound"),
            (25, 0, b"\xff", "it is not valid UTF-8"),
        ];
        for (oid, format, value, reason) in cases {
            let error = bound("SELECT $1", &[oid], &bind(&[Some(value)], &[format])).unwrap_err().to_string();
            assert!(error.starts_with("the value of parameter $1 is not valid: ") && error.contains(reason), "{error}");
        }
        let error = bound("SELECT $1", &[23], &bind(&[], &[])).unwrap_err().to_string();
        assert_eq!(error, "the statement has 1 parameters and 0 values were bound");
    }
}
