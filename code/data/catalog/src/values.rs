//! Parses partition values, which every format stores as text.

use arrow::datatypes::DataType;
use buzz_protocol::{QueryError, Result};
use datafusion::scalar::ScalarValue;

/// Parses `text` as a value of partition column `column`. `None` and the empty string are null, as in the
/// [Delta protocol](https://github.com/delta-io/delta/blob/master/PROTOCOL.md#partition-value-serialization).
///
/// # Errors
/// `Data` if `text` is not a value of `data_type`.
pub fn partition_value(column: &str, data_type: &DataType, text: Option<&str>) -> Result<ScalarValue> {
    let bad = || {
        let text = text.unwrap_or_default();
        QueryError::data(format!("partition column `{column}`: `{text}` is not a value of type {data_type}"))
    };
    match text {
        None | Some("") => ScalarValue::try_from(data_type).map_err(|_| bad()),
        Some(text) => ScalarValue::try_from_string(text.to_string(), data_type).map_err(|_| bad()),
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
}
