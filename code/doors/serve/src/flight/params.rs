//! Values of parameters that a client of Flight SQL binds: from the columns of a batch to values of the engine.

use std::collections::BTreeMap;

use arrow::array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, Int64Type, Time64MicrosecondType,
    TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType, UInt64Type,
};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimeUnit};
use buzz_protocol::{Param, QueryError, Result};

use crate::scan::{self, Kind};

/// Binds the values of `batch`, which must have one row, to the parameters of `sql`, in the order of their numbers. Returns
/// the statement, with casts around parameters that need one, and the values.
///
/// # Errors
/// `Invalid` if there are several rows or too few values, or a type cannot be bound.
pub(super) fn bound(sql: &str, batch: &RecordBatch) -> Result<(String, BTreeMap<String, Param>)> {
    if batch.num_rows() != 1 {
        return Err(QueryError::invalid(format!(
            "{} rows of parameters were bound; bind one row, and run the statement once for each",
            batch.num_rows()
        )));
    }
    let mut names: Vec<String> = Vec::new();
    for token in scan::tokens(sql).iter().filter(|token| token.kind == Kind::Parameter) {
        let name = token.text(sql)[1..].to_string();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    // `$1` comes before `$2`, wherever it stands in the statement.
    names.sort_by_key(|name| name.parse::<u32>().unwrap_or(u32::MAX));
    if names.len() != batch.num_columns() {
        return Err(QueryError::invalid(format!(
            "the statement has {} parameters and {} values were bound",
            names.len(),
            batch.num_columns()
        )));
    }
    let (mut params, mut casts) = (BTreeMap::new(), BTreeMap::new());
    for (name, column) in names.into_iter().zip(batch.columns()) {
        let (param, data_type) = value(column.as_ref()).map_err(|reason| {
            QueryError::invalid(format!("the value of parameter ${name} cannot be bound: {reason}"))
        })?;
        if let Some(data_type) = data_type {
            casts.insert(format!("${name}"), data_type);
        }
        params.insert(name, param);
    }
    let sql = scan::replaced(sql, |_, token| {
        let parameter = token.text(sql);
        let data_type = (token.kind == Kind::Parameter).then(|| casts.get(parameter))??;
        Some(data_type.replace("{}", parameter))
    });
    Ok((sql, params))
}

/// Returns the first value of `array`, and the cast that gives it its type.
fn value(array: &dyn Array) -> Result<(Param, Option<String>), String> {
    let data_type = array.data_type();
    let as_type = || Some(format!("arrow_cast({{}}, '{data_type}')"));
    if array.is_null(0) {
        return Ok((Param::Null, if data_type.is_null() { None } else { as_type() }));
    }
    let changed = |to: &DataType| cast(array, to).map_err(|error| error.to_string());
    Ok(match data_type {
        DataType::Null => (Param::Null, None),
        DataType::Boolean => (Param::Bool(array.as_boolean().value(0)), None),
        integer if integer.is_integer() && *integer != DataType::UInt64 => {
            (Param::Int(changed(&DataType::Int64)?.as_primitive::<Int64Type>().value(0)), None)
        }
        DataType::UInt64 => (Param::Text(array.as_primitive::<UInt64Type>().value(0).to_string()), as_type()),
        DataType::Float16 | DataType::Float32 => {
            let wide = changed(&DataType::Float32)?;
            float(wide.as_primitive::<Float32Type>().value(0).into(), as_type())
        }
        DataType::Float64 => float(array.as_primitive::<Float64Type>().value(0), as_type()),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            (Param::Text(changed(&DataType::Utf8)?.as_string::<i32>().value(0).to_string()), None)
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            let bytes = changed(&DataType::Binary)?;
            let digits: String = bytes.as_binary::<i32>().value(0).iter().map(|byte| format!("{byte:02x}")).collect();
            (Param::Text(digits), Some("decode({}, 'hex')".to_string()))
        }
        DataType::Decimal128(..) => (Param::Text(array.as_primitive::<Decimal128Type>().value_as_string(0)), as_type()),
        DataType::Decimal256(..) => (Param::Text(array.as_primitive::<Decimal256Type>().value_as_string(0)), as_type()),
        DataType::Date32 => {
            let days = array.as_primitive::<Date32Type>().value(0);
            (Param::Int(days.into()), Some("arrow_cast(arrow_cast({}, 'Int32'), 'Date32')".to_string()))
        }
        DataType::Timestamp(unit, _) => {
            let count = match unit {
                TimeUnit::Second => array.as_primitive::<TimestampSecondType>().value(0),
                TimeUnit::Millisecond => array.as_primitive::<TimestampMillisecondType>().value(0),
                TimeUnit::Microsecond => array.as_primitive::<TimestampMicrosecondType>().value(0),
                TimeUnit::Nanosecond => array.as_primitive::<TimestampNanosecondType>().value(0),
            };
            (Param::Int(count), as_type())
        }
        DataType::Time64(TimeUnit::Microsecond) => {
            (Param::Int(array.as_primitive::<Time64MicrosecondType>().value(0)), as_type())
        }
        other => return Err(format!("type {other} is not supported; bind a text and cast it in the statement")),
    })
}

fn float(value: f64, data_type: Option<String>) -> (Param, Option<String>) {
    if value.is_finite() { (Param::Float(value), None) } else { (Param::Text(value.to_string()), data_type) }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Date32Array, Int32Array, StringArray};

    use super::*;

    #[test]
    fn values_are_bound_in_the_order_of_their_numbers() {
        let columns: Vec<(&str, ArrayRef)> =
            vec![("a", Arc::new(Date32Array::from(vec![19_000]))), ("b", Arc::new(StringArray::from(vec!["x"])))];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let (sql, params) = bound("SELECT * FROM t WHERE b = $2 AND a = $1 AND c = '$1'", &batch).unwrap();
        let cast = "arrow_cast(arrow_cast($1, 'Int32'), 'Date32')";
        assert_eq!(sql, format!("SELECT * FROM t WHERE b = $2 AND a = {cast} AND c = '$1'"));
        assert_eq!(params["1"], Param::Int(19_000));
        let two: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
        let two = RecordBatch::try_from_iter([("a", two)]).unwrap();
        assert!(bound("SELECT $1", &two).unwrap_err().to_string().contains("bind one row"));
        assert!(bound("SELECT $1", &batch).unwrap_err().to_string().contains("1 parameters and 2 values"));
    }
}
