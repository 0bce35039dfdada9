//! The binary form of values.

use arrow::array::Array;
use arrow::array::timezone::Tz;
use bytes::{BufMut, BytesMut};

use crate::postgres::json;
use crate::postgres::types::{Base, PgType};
use crate::postgres::value::{EPOCH_DAYS, EPOCH_MICROSECONDS, Misfit, Scalar, elements, scalar};

/// Writes the value at `row` of `array`, which is not null, in the binary form of a column that was announced as `kind`.
pub(crate) fn write_binary_as(
    kind: PgType,
    array: &dyn Array,
    row: usize,
    zone: Tz,
    out: &mut BytesMut,
) -> Result<(), Misfit> {
    // An OID has four bytes. Its Arrow type is also that of numbers, which have eight.
    if kind == PgType::of_base(Base::Oid)
        && let Some(Scalar::Int8(number)) = scalar(array, row)?
    {
        out.put_u32(u32::try_from(number).map_err(|_| format!("{number} is not an OID"))?);
        return Ok(());
    }
    write_binary(array, row, zone, out)
}

/// Writes the value at `row` of `array`, which is not null, in binary form.
pub(crate) fn write_binary(array: &dyn Array, row: usize, zone: Tz, out: &mut BytesMut) -> Result<(), Misfit> {
    if let Some(value) = scalar(array, row)? {
        return scalar_binary(&value, out);
    }
    let kind = PgType::of(array.data_type());
    if !kind.is_array {
        let mut text = String::new();
        json::write(array, row, zone, &mut text)?;
        out.put_slice(text.as_bytes());
        return Ok(());
    }
    let elements = elements(array, row);
    let count = i32::try_from(elements.len()).map_err(|_| "an array has more than 2^31 elements".to_string())?;
    out.put_i32(i32::from(count > 0));
    out.put_i32(i32::from(elements.null_count() > 0));
    out.put_u32(kind.base.oid());
    if count == 0 {
        return Ok(());
    }
    out.put_i32(count);
    // The index of the first element.
    out.put_i32(1);
    for index in 0..elements.len() {
        if elements.is_null(index) {
            out.put_i32(-1);
        } else {
            with_length(out, |out| write_binary(elements.as_ref(), index, zone, out))?;
        }
    }
    Ok(())
}

/// Writes what `write` writes after its length.
pub(crate) fn with_length(
    out: &mut BytesMut,
    write: impl FnOnce(&mut BytesMut) -> Result<(), Misfit>,
) -> Result<(), Misfit> {
    let start = out.len();
    out.put_i32(0);
    write(out)?;
    let length = i32::try_from(out.len() - start - 4).map_err(|_| "a value has more than 2 GiB".to_string())?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn scalar_binary(value: &Scalar<'_>, out: &mut BytesMut) -> Result<(), Misfit> {
    match value {
        Scalar::Bool(value) => out.put_u8(u8::from(*value)),
        Scalar::Int2(value) => out.put_i16(*value),
        Scalar::Int4(value) => out.put_i32(*value),
        Scalar::Int8(value) => out.put_i64(*value),
        Scalar::Float4(value) => out.put_f32(*value),
        Scalar::Float8(value) => out.put_f64(*value),
        Scalar::Numeric(digits) => numeric(digits, out)?,
        Scalar::Text(text) => out.put_slice(text.as_bytes()),
        Scalar::Bytea(bytes) => out.put_slice(bytes),
        Scalar::Date(days) => out.put_i32(days - EPOCH_DAYS),
        Scalar::Time(microseconds) => out.put_i64(*microseconds),
        Scalar::Timestamp(microseconds) | Scalar::Timestamptz(microseconds) => {
            out.put_i64(microseconds - EPOCH_MICROSECONDS);
        }
        Scalar::Interval { months, days, microseconds } => {
            out.put_i64(*microseconds);
            out.put_i32(*days);
            out.put_i32(*months);
        }
    }
    Ok(())
}

/// Writes a decimal number: groups of four digits, the power of 10,000 of the first, the sign, and the number of decimals.
fn numeric(digits: &str, out: &mut BytesMut) -> Result<(), Misfit> {
    let (sign, digits) = digits.strip_prefix('-').map_or((0_u16, digits), |digits| (0x4000, digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let padded = format!("{whole}{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
    let groups: Result<Vec<i16>, _> = (0..padded.len() / 4).map(|at| padded[at * 4..at * 4 + 4].parse()).collect();
    let groups = groups.map_err(|_| format!("`{digits}` is not a decimal number"))?;
    let leading = groups.iter().take_while(|group| **group == 0).count();
    let end = groups.iter().rposition(|group| *group != 0).map_or(leading, |last| last + 1);
    let kept = &groups[leading.min(end)..end];
    let weight = if kept.is_empty() { 0 } else { whole.len() / 4 - 1 };
    let short = |count: usize| i16::try_from(count).map_err(|_| "a number has too many digits".to_string());
    out.put_i16(short(kept.len())?);
    out.put_i16(if kept.is_empty() { 0 } else { short(weight)? - short(leading)? });
    out.put_u16(if kept.is_empty() { 0 } else { sign });
    out.put_i16(short(fraction.len())?);
    kept.iter().for_each(|group| out.put_i16(*group));
    Ok(())
}

#[cfg(test)]
mod tests {
    use arrow::array::{Decimal256Array, ListArray, TimestampMicrosecondArray, UInt32Array};
    use arrow::datatypes::{Int32Type, i256};

    use super::*;

    fn as_binary(array: &dyn Array) -> Vec<u8> {
        let mut out = BytesMut::new();
        write_binary(array, 0, "+00:00".parse().unwrap(), &mut out).unwrap();
        out.to_vec()
    }

    #[test]
    fn numbers_of_any_width_are_exact() {
        let wide = |text: &str, scale| {
            let array = Decimal256Array::from(vec![i256::from_string(text).unwrap()]);
            array.with_precision_and_scale(76, scale).unwrap()
        };
        let shorts = |values: &[i16]| values.iter().flat_map(|value| value.to_be_bytes()).collect::<Vec<u8>>();
        assert_eq!(as_binary(&wide("-1234567", 2)), shorts(&[3, 1, 0x4000, 2, 1, 2345, 6700]));
        assert_eq!(as_binary(&wide("0", 2)), shorts(&[0, 0, 0, 2]));
        assert_eq!(as_binary(&wide("5", 6)), shorts(&[1, -2, 0, 6, 500]));
        assert_eq!(as_binary(&wide("10000", 0)), shorts(&[1, 1, 0, 0, 1]));
    }

    #[test]
    fn timestamps_count_from_2000() {
        let at = TimestampMicrosecondArray::from(vec![0]).with_timezone("UTC");
        assert_eq!(as_binary(&at), (-EPOCH_MICROSECONDS).to_be_bytes());
    }

    #[test]
    fn oids_have_four_bytes() {
        let mut out = BytesMut::new();
        let oids = UInt32Array::from(vec![u32::MAX]);
        write_binary_as(PgType::of_base(Base::Oid), &oids, 0, "+00:00".parse().unwrap(), &mut out).unwrap();
        assert_eq!(out[..], u32::MAX.to_be_bytes());
        assert_eq!(as_binary(&oids), i64::from(u32::MAX).to_be_bytes());
    }

    #[test]
    fn arrays_have_the_type_and_count_of_their_elements() {
        let numbers = ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(7), None])]);
        let ints: Vec<u8> = [1, 1, 23, 2, 1, 4, 7, -1_i32].iter().flat_map(|value| value.to_be_bytes()).collect();
        assert_eq!(as_binary(&numbers), ints);
    }
}
