//! Types of PostgreSQL, and the type in which each Arrow type is sent.

use arrow::datatypes::{DataType, TimeUnit};

/// A type of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Base {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Text,
    Bytea,
    Date,
    Time,
    Timestamp,
    Timestamptz,
    Interval,
    Json,
}

/// All types: OID, OID of its array, bytes (−1 if they vary), name, and SQL name.
const TYPES: [(Base, u32, u32, i16, &str, &str); 16] = [
    (Base::Bool, 16, 1000, 1, "bool", "boolean"),
    (Base::Int2, 21, 1005, 2, "int2", "smallint"),
    (Base::Int4, 23, 1007, 4, "int4", "integer"),
    (Base::Int8, 20, 1016, 8, "int8", "bigint"),
    (Base::Oid, 26, 1028, 4, "oid", "oid"),
    (Base::Float4, 700, 1021, 4, "float4", "real"),
    (Base::Float8, 701, 1022, 8, "float8", "double precision"),
    (Base::Numeric, 1700, 1231, -1, "numeric", "numeric"),
    (Base::Text, 25, 1009, -1, "text", "text"),
    (Base::Bytea, 17, 1001, -1, "bytea", "bytea"),
    (Base::Date, 1082, 1182, 4, "date", "date"),
    (Base::Time, 1083, 1183, 8, "time", "time without time zone"),
    (Base::Timestamp, 1114, 1115, 8, "timestamp", "timestamp without time zone"),
    (Base::Timestamptz, 1184, 1185, 8, "timestamptz", "timestamp with time zone"),
    (Base::Interval, 1186, 1187, 16, "interval", "interval"),
    (Base::Json, 114, 199, -1, "json", "json"),
];

/// The type of a column of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PgType {
    /// The type, or that of the elements of an array.
    pub(crate) base: Base,
    /// True for an array.
    pub(crate) is_array: bool,
    /// Precision and scale of a number as PostgreSQL encodes them; −1 without.
    pub(crate) modifier: i32,
}

impl Base {
    fn row(self) -> (Base, u32, u32, i16, &'static str, &'static str) {
        *TYPES.iter().find(|row| row.0 == self).expect("the table has a row for each type")
    }

    /// Returns the OID.
    pub(crate) fn oid(self) -> u32 {
        self.row().1
    }
}

impl PgType {
    /// Returns the type with `base`.
    pub(crate) fn of_base(base: Base) -> Self {
        Self { base, is_array: false, modifier: -1 }
    }

    /// Returns the type in which values of `data_type` are sent. Views, dictionaries and runs were removed before. Nested
    /// types other than lists of plain values are sent as JSON.
    pub(crate) fn of(data_type: &DataType) -> Self {
        match data_type {
            DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
                match scalar(field.data_type()) {
                    Some(element) => Self { is_array: true, ..element },
                    None => Self::of_base(Base::Json),
                }
            }
            other => scalar(other).unwrap_or(Self::of_base(Base::Json)),
        }
    }

    /// Returns the OID.
    pub(crate) fn oid(self) -> u32 {
        let (_, own, array, ..) = self.base.row();
        if self.is_array { array } else { own }
    }

    /// Returns the number of bytes, −1 if it varies.
    pub(crate) fn size(self) -> i16 {
        if self.is_array { -1 } else { self.base.row().3 }
    }
}

/// Returns the name of type `oid` as `format_type` prints it.
pub(crate) fn format_type(oid: u32, modifier: i32) -> Option<String> {
    let (base, own, .., name) = TYPES.iter().find(|row| row.1 == oid || row.2 == oid)?;
    let digits = if *base == Base::Numeric && modifier >= 4 {
        let packed = modifier - 4;
        format!("({},{})", (packed >> 16) & 0xffff, packed & 0x7ff)
    } else {
        String::new()
    };
    Some(format!("{name}{digits}{}", if *own == oid { "" } else { "[]" }))
}

/// Returns each type with its OID, its array's OID, its size, and its name.
pub(crate) fn all() -> impl Iterator<Item = (u32, u32, i16, &'static str)> {
    TYPES.iter().map(|row| (row.1, row.2, row.3, row.4))
}

/// Returns the OID of the type called `name`, also by its SQL name.
pub(crate) fn oid_of(name: &str) -> Option<u32> {
    let name = name.trim().trim_start_matches("pg_catalog.").to_ascii_lowercase();
    let (plain, is_array) = match name.strip_suffix("[]") {
        Some(plain) => (plain, true),
        None => (name.strip_prefix('_').unwrap_or(&name), name.starts_with('_')),
    };
    let row = TYPES.iter().find(|row| row.4 == plain || row.5 == plain)?;
    Some(if is_array { row.2 } else { row.1 })
}

fn scalar(data_type: &DataType) -> Option<PgType> {
    let base = match data_type {
        DataType::Boolean => Base::Bool,
        DataType::Int8 | DataType::Int16 | DataType::UInt8 => Base::Int2,
        DataType::Int32 | DataType::UInt16 => Base::Int4,
        DataType::Int64 | DataType::UInt32 => Base::Int8,
        DataType::UInt64 => Base::Numeric,
        DataType::Float16 | DataType::Float32 => Base::Float4,
        DataType::Float64 => Base::Float8,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal128(precision, scale)
        | DataType::Decimal256(precision, scale) => {
            // PostgreSQL stores a negative scale as one of 11 bits; no client reads it so.
            let modifier = if *scale < 0 { -1 } else { (i32::from(*precision) << 16 | i32::from(*scale)) + 4 };
            return Some(PgType { modifier, ..PgType::of_base(Base::Numeric) });
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => Base::Text,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => Base::Bytea,
        DataType::Date32 => Base::Date,
        DataType::Time32(_) | DataType::Time64(_) => Base::Time,
        // Arrow's Date64 counts milliseconds, and some writers put times of the day into it.
        DataType::Timestamp(_, None) | DataType::Date64 => Base::Timestamp,
        DataType::Timestamp(_, Some(_)) => Base::Timestamptz,
        DataType::Interval(_) | DataType::Duration(_) => Base::Interval,
        _ => return None,
    };
    Some(PgType::of_base(base))
}

/// Returns the number of microseconds in `value` units, None if that overflows or is not a whole number.
pub(crate) fn microseconds(value: i64, unit: TimeUnit) -> Option<i64> {
    match unit {
        TimeUnit::Second => value.checked_mul(1_000_000),
        TimeUnit::Millisecond => value.checked_mul(1000),
        TimeUnit::Microsecond => Some(value),
        TimeUnit::Nanosecond => (value % 1000 == 0).then_some(value / 1000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_types_are_those_of_postgresql() {
        let numeric = PgType::of(&DataType::Decimal128(12, 2));
        assert_eq!(format_type(numeric.oid(), numeric.modifier).unwrap(), "numeric(12,2)");
        let list = PgType::of(&DataType::new_list(DataType::Int32, true));
        assert_eq!(format_type(list.oid(), -1).unwrap(), "integer[]");
        assert_eq!(
            (oid_of("int4[]"), oid_of("_int4"), oid_of("timestamp with time zone")),
            (Some(1007), Some(1007), Some(1184))
        );
        assert_eq!((oid_of("hstore"), format_type(1, -1)), (None, None));
        let nested = DataType::new_list(DataType::new_list(DataType::Int32, true), true);
        assert_eq!(PgType::of(&nested).oid(), 114);
    }
}
