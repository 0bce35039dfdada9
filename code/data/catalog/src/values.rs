//! Parses partition values, which every format stores as text.

use arrow::array::StringArray;
use arrow::datatypes::DataType;
use buzz_protocol::{QueryError, Result};
use buzz_storage::text::exact_values;
use datafusion::scalar::ScalarValue;

/// Parses `text` as a value of partition column `column`. `None` and the empty string are null, as in the
/// [Delta protocol](https://github.com/delta-io/delta/blob/master/PROTOCOL.md#partition-value-serialization).
///
/// # Errors
/// `Data` if `text` is not exactly a value of `data_type`.
pub fn partition_value(column: &str, data_type: &DataType, text: Option<&str>) -> Result<ScalarValue> {
    let bad = || {
        let text = text.unwrap_or_default();
        QueryError::data(format!("partition column `{column}`: `{text}` is not a value of type {data_type}"))
    };
    match text {
        None | Some("") => ScalarValue::try_from(data_type).map_err(|_| bad()),
        // Blanks of bytes are kept.
        Some(text)
            if matches!(
                data_type,
                DataType::Boolean | DataType::Binary | DataType::LargeBinary | DataType::BinaryView
            ) =>
        {
            ScalarValue::try_from_string(text.to_string(), data_type).map_err(|_| bad())
        }
        // In CSV, blanks are null.
        Some(text)
            if !matches!(data_type, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View)
                && text.trim().is_empty() =>
        {
            Err(bad())
        }
        // A cast would round decimals, and cut times.
        Some(text) => {
            let values = exact_values(&StringArray::from(vec![text]), data_type).map_err(|_| bad())?;
            ScalarValue::try_from_array(&values, 0).map_err(|_| bad())
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::TimeUnit;

    use super::*;

    #[test]
    fn text_is_parsed_as_the_column_type() {
        let value = |data_type: DataType, text| partition_value("p", &data_type, Some(text)).unwrap().to_string();
        assert_eq!(value(DataType::Date32, "2009-01-05"), "2009-01-05");
        assert_eq!(value(DataType::Int32, "-7"), "-7");
        assert_eq!(value(DataType::Boolean, "true"), "true");
        assert_eq!(value(DataType::Decimal128(10, 2), "12.5"), "12.50");
        let utc = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        assert_eq!(value(utc.clone(), "1970-01-01 00:00:01"), value(utc, "1970-01-01T00:00:01.000000Z"));
        assert!(partition_value("p", &DataType::Int32, Some("")).unwrap().is_null());
        assert_eq!(
            partition_value("p", &DataType::Int32, Some("x")).unwrap_err().to_string(),
            "partition column `p`: `x` is not a value of type Int32"
        );
    }

    #[test]
    fn value_that_the_type_cannot_hold_is_an_error() {
        let micros = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (text, data_type) in [
            ("1.005", DataType::Decimal128(5, 2)),
            ("2024-01-31 10:00:00", DataType::Date32),
            ("2024-01-31 10:00:00.5", DataType::Timestamp(TimeUnit::Second, None)),
            ("2024-01-31 10:00:00.1234567", micros.clone()),
            ("2024-01-31T10:00:00+02:00", micros.clone()),
            ("1e-60", DataType::Float32),
            ("300", DataType::Int8),
            ("1.5", DataType::Int64),
            (" ", DataType::Int32),
            (" ", DataType::Date32),
            (" ", micros.clone()),
        ] {
            assert!(partition_value("p", &data_type, Some(text)).is_err(), "{text} as {data_type}");
        }
        for (text, data_type, value) in [
            ("1.10", DataType::Decimal128(5, 2), "1.10"),
            ("2024-01-31 00:00:00", DataType::Date32, "2024-01-31"),
            (" x ", DataType::Utf8, " x "),
            ("-Infinity", DataType::Float64, "-inf"),
        ] {
            assert_eq!(partition_value("p", &data_type, Some(text)).unwrap().to_string(), value);
        }
        let minute = partition_value("p", &micros, Some("2024-01-31 10:05")).unwrap();
        assert_eq!(minute, ScalarValue::TimestampMicrosecond(Some(1_706_695_500_000_000), None));
        let bytes = partition_value("p", &DataType::Binary, Some("ab")).unwrap();
        assert_eq!(bytes, ScalarValue::Binary(Some(b"ab".to_vec())));
        let blank = partition_value("p", &DataType::Binary, Some(" ")).unwrap();
        assert_eq!(blank, ScalarValue::Binary(Some(b" ".to_vec())));
    }
}
