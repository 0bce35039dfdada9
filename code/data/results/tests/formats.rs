//! Writes columns of every type in every format: each has a form, or is rejected by the check that comes before the query.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array, Decimal256Array,
    DictionaryArray, DurationSecondArray, FixedSizeBinaryArray, FixedSizeListArray, Float16Array, Float32Array,
    Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, IntervalDayTimeArray, IntervalMonthDayNanoArray,
    IntervalYearMonthArray, LargeBinaryArray, LargeStringArray, ListArray, MapBuilder, NullArray, RecordBatch,
    StringArray, StringBuilder, StringViewArray, StructArray, Time32MillisecondArray, Time32SecondArray,
    Time64MicrosecondArray, Time64NanosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray, UInt8Array, UInt16Array, UInt32Array, UInt64Array, new_null_array,
};
use arrow::array::{BinaryViewArray, Int64Builder, LargeListArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::datatypes::{DataType, Field, Fields, Int32Type, IntervalDayTime, IntervalMonthDayNano, i256};
use buzz_engine::{RowSink, Rows};
use buzz_protocol::Format;
use buzz_results::check;
use buzz_results::format::write;
use bytes::Bytes;
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use serde_json::Value;

const FORMATS: [Format; 6] = [Format::Table, Format::Json, Format::Ndjson, Format::Csv, Format::Arrow, Format::Parquet];

fn list(values: ArrayRef) -> ArrayRef {
    let field = Field::new_list_field(values.data_type().clone(), true);
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    Arc::new(ListArray::new(Arc::new(field), offsets, values, None))
}

fn structure(name: &str, values: ArrayRef) -> ArrayRef {
    let field = Field::new(name, values.data_type().clone(), true);
    Arc::new(StructArray::from(vec![(Arc::new(field), values)]))
}

fn map_of_numbers() -> ArrayRef {
    let mut map = MapBuilder::new(None, Int64Builder::new(), StringBuilder::new());
    map.keys().append_value(7);
    map.values().append_value("a");
    map.append(true).unwrap();
    Arc::new(map.finish())
}

/// Returns a column of one value for each type.
fn columns() -> Vec<ArrayRef> {
    let zoned = TimestampMicrosecondArray::from(vec![1_700_000_000_000_000]).with_timezone("Europe/Berlin");
    let texts: DictionaryArray<Int32Type> = vec!["d"].into_iter().collect();
    let no_fields = StructArray::new_empty_fields(1, None::<NullBuffer>);
    let large: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let item = Arc::new(Field::new_list_field(DataType::Int64, true));
    let simple: Vec<ArrayRef> = vec![
        Arc::new(NullArray::new(1)),
        Arc::new(BooleanArray::from(vec![true])),
        Arc::new(Int8Array::from(vec![1])),
        Arc::new(Int16Array::from(vec![1])),
        Arc::new(Int32Array::from(vec![1])),
        Arc::new(Int64Array::from(vec![1])),
        Arc::new(UInt8Array::from(vec![1])),
        Arc::new(UInt16Array::from(vec![1])),
        Arc::new(UInt32Array::from(vec![1])),
        Arc::new(UInt64Array::from(vec![u64::MAX])),
        new_null_array(&DataType::Float16, 1),
        Arc::new(Float32Array::from(vec![0.1])),
        Arc::new(Float64Array::from(vec![f64::NAN])),
        Arc::new(StringArray::from(vec!["a"])),
        Arc::new(LargeStringArray::from(vec!["a"])),
        Arc::new(StringViewArray::from(vec!["a"])),
        Arc::new(BinaryArray::from(vec![&b"\x00\xff"[..]])),
        Arc::new(LargeBinaryArray::from(vec![&b"\x00\xff"[..]])),
        Arc::new(BinaryViewArray::from(vec![&b"\x00\xff"[..]])),
        Arc::new(FixedSizeBinaryArray::try_from_iter([[1_u8, 2]].into_iter()).unwrap()),
        Arc::new(Date32Array::from(vec![1])),
        Arc::new(Date64Array::from(vec![86_400_000])),
        Arc::new(Time32SecondArray::from(vec![1])),
        Arc::new(Time32MillisecondArray::from(vec![1])),
        Arc::new(Time64MicrosecondArray::from(vec![1])),
        Arc::new(Time64NanosecondArray::from(vec![1])),
        Arc::new(TimestampSecondArray::from(vec![1])),
        Arc::new(TimestampMillisecondArray::from(vec![1])),
        Arc::new(TimestampMicrosecondArray::from(vec![1])),
        Arc::new(TimestampNanosecondArray::from(vec![1])),
        Arc::new(zoned),
        Arc::new(DurationSecondArray::from(vec![1])),
        Arc::new(IntervalYearMonthArray::from(vec![1])),
        Arc::new(IntervalDayTimeArray::from(vec![IntervalDayTime::new(1, 2)])),
        Arc::new(IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(1, 2, 3)])),
        Arc::new(Decimal128Array::from(vec![123]).with_precision_and_scale(38, 2).unwrap()),
        Arc::new(Decimal256Array::from(vec![i256::from(123)]).with_precision_and_scale(76, 2).unwrap()),
        Arc::new(texts),
        Arc::new(no_fields),
        Arc::new(LargeListArray::new(Arc::clone(&item), OffsetBuffer::from_lengths([2]), Arc::clone(&large), None)),
        Arc::new(FixedSizeListArray::new(item, 2, large, None)),
        map_of_numbers(),
    ];
    let nested = simple.iter().flat_map(|column| {
        let within = structure("s", Arc::clone(column));
        [list(Arc::clone(column)), Arc::clone(&within), list(within), structure("l", list(Arc::clone(column)))]
    });
    simple.iter().cloned().chain(nested).collect()
}

fn rows(column: &ArrayRef) -> Rows {
    let field = Field::new("a", column.data_type().clone(), true);
    let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
    let batch = RecordBatch::try_new(schema, vec![Arc::clone(column)]).unwrap();
    let mut rows = Rows::new();
    rows.start(batch.schema()).unwrap();
    rows.write(batch).unwrap();
    rows
}

#[test]
fn every_type_is_written_or_rejected_before_the_query_runs() {
    let mut rejected = Vec::new();
    for column in columns() {
        let rows = rows(&column);
        for format in FORMATS {
            let mut out = Vec::new();
            let written = write(&rows, format, &mut out);
            match check(&rows.schema(), format) {
                Ok(()) => assert!(written.is_ok(), "{format}: {}: {written:?}", column.data_type()),
                Err(error) => {
                    assert!(error.to_string().starts_with("column `a` has the type "), "{error}");
                    rejected.push((format, column.data_type().clone()));
                }
            }
        }
    }
    // Only Parquet rejects these: it has no intervals of months, days and nanoseconds, and no empty structs.
    let unsupported = |data_type: &DataType| {
        let text = data_type.to_string();
        text.contains("Interval(MonthDayNano)") || text.contains("Struct()")
    };
    for (format, data_type) in &rejected {
        assert!(*format == Format::Parquet && unsupported(data_type), "{format}: {data_type}");
    }
    assert_eq!(rejected.len(), 10, "{rejected:?}");
}

#[test]
fn keys_of_maps_become_text_at_any_depth() {
    let map = map_of_numbers();
    let expected = serde_json::json!({"7": "a"});
    for (column, expected) in [
        (Arc::clone(&map), expected.clone()),
        (list(Arc::clone(&map)), serde_json::json!([expected])),
        (structure("s", list(structure("m", Arc::clone(&map)))), serde_json::json!({"s": [{"m": expected}]})),
    ] {
        let mut out = Vec::new();
        write(&rows(&column), Format::Ndjson, &mut out).unwrap();
        let row: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(row["a"], expected);
    }
}

#[test]
fn names_that_repeat_are_rejected_by_the_formats_that_cannot_have_them() {
    let number = Field::new("a", DataType::Int64, true);
    let twice = arrow::datatypes::Schema::new(vec![number.clone(), number.clone()]);
    let within = DataType::Struct(Fields::from(vec![number.clone(), number]));
    let within = Field::new("s", DataType::List(Arc::new(Field::new_list_field(within, true))), true);
    let within = arrow::datatypes::Schema::new(vec![within]);
    for format in FORMATS {
        let json = matches!(format, Format::Json | Format::Ndjson);
        assert_eq!(check(&twice, format).is_err(), json || format == Format::Parquet, "{format}");
        assert_eq!(check(&within, format).is_err(), json, "{format}");
    }
    assert!(check(&within, Format::Json).unwrap_err().to_string().contains("a struct with two fields `a`"));
}

#[test]
fn csv_tells_nulls_from_empty_texts() {
    let texts: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), Some(""), None, Some("x,\"y\"\nz")]));
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![Some(1), None, None, Some(2)]));
    let batch = RecordBatch::try_from_iter([("t", Arc::clone(&texts)), ("n, 1", numbers)]).unwrap();
    let mut two = Rows::new();
    two.start(batch.schema()).unwrap();
    two.write(batch).unwrap();
    let written = |rows: &Rows| {
        let mut out = Vec::new();
        write(rows, Format::Csv, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written(&two), "t,\"n, 1\"\na,1\n\"\",\n,\n\"x,\"\"y\"\"\nz\",2\n");
    // An empty line would be skipped by most readers.
    assert_eq!(written(&rows(&texts)), "a\na\n\"\"\n\"\"\n\"x,\"\"y\"\"\nz\"\n");
}

#[test]
fn large_values_and_many_rows_are_written_in_bounded_space() {
    let long = "x ".repeat(1_000_000);
    let values: ArrayRef = Arc::new(StringArray::from_iter_values([long.as_str(), "b"]));
    let mut out = Vec::new();
    write(&rows(&values), Format::Table, &mut out).unwrap();
    assert!(out.len() < 10_000, "{}", out.len());
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1_000_000));
    let list = list(numbers);
    out.clear();
    write(&rows(&list), Format::Table, &mut out).unwrap();
    assert!(out.len() < 10_000, "{}", out.len());
}

#[test]
fn time_beyond_the_calendar_is_an_error_before_the_first_row() {
    let times: ArrayRef = Arc::new(TimestampSecondArray::from(vec![Some(1), None, Some(i64::MAX)]));
    let days: ArrayRef = Arc::new(Date32Array::from(vec![1, i32::MIN]));
    for column in [Arc::clone(&times), list(Arc::clone(&times)), structure("s", Arc::clone(&times)), days] {
        for format in FORMATS {
            let mut out = Vec::new();
            let written = write(&rows(&column), format, &mut out);
            if matches!(format, Format::Json | Format::Ndjson | Format::Csv) {
                let error = format!("{:?}", written.unwrap_err());
                assert!(error.contains("column `a` has a date or time without a text"), "{error}");
                assert!(out.is_empty(), "{format}: {}", column.data_type());
            } else if format == Format::Parquet && column.data_type() != &DataType::Date32 {
                // Parquet has no seconds, and 64 bits of milliseconds do not hold this time.
                written.unwrap_err();
            } else {
                written.unwrap();
            }
        }
    }
    // Hidden by nulls and slices, such values do not matter.
    let mut out = Vec::new();
    write(&rows(&times.slice(0, 2)), Format::Csv, &mut out).unwrap();
    assert_eq!(out, b"a\n1970-01-01T00:00:01\n\"\"\n");
}

#[test]
fn half_floats_are_written_as_numbers() {
    let values = Float16Array::from_iter_values([half_of_one()]);
    let mut out = Vec::new();
    write(&rows(&(Arc::new(values) as ArrayRef)), Format::Ndjson, &mut out).unwrap();
    assert_eq!(out, b"{\"a\":1.0}\n");
}

fn half_of_one() -> <arrow::datatypes::Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native {
    let one = arrow::compute::cast(&Float32Array::from(vec![1.0]), &DataType::Float16).unwrap();
    arrow::array::AsArray::as_primitive::<arrow::datatypes::Float16Type>(&one).value(0)
}

#[test]
fn parquet_has_only_types_of_time_that_every_reader_knows() {
    let seconds = TimestampSecondArray::from(vec![Some(-62_135_596_800), None, Some(253_402_300_799)]);
    let zoned: ArrayRef = Arc::new(seconds.clone().with_timezone("UTC"));
    let seconds: ArrayRef = Arc::new(seconds);
    for (column, stored) in [
        (Arc::clone(&seconds), "Timestamp(ms)"),
        (zoned, "Timestamp(ms, \"UTC\")"),
        (list(Arc::clone(&seconds)), "Timestamp(ms)"),
        (structure("s", seconds), "Timestamp(ms)"),
        (Arc::new(Time32SecondArray::from(vec![Some(86_399), None])), "Time32(ms)"),
        (Arc::new(Date64Array::from(vec![Some(-86_400_000), None, Some(172_800_000)])), "Date32"),
    ] {
        let mut out = Vec::new();
        write(&rows(&column), Format::Parquet, &mut out).unwrap();
        // Other readers do not read the Arrow types that the file stores beside those of Parquet.
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(Bytes::from(out), options).unwrap();
        let read = reader.build().unwrap().next().unwrap().unwrap();
        let found = read.column(0).data_type().to_string();
        assert!(found.contains(stored), "{}: {found}", column.data_type());
        let again = arrow::compute::cast(read.column(0), column.data_type()).unwrap();
        assert_eq!(again.as_ref(), column.as_ref(), "{found}");
    }
}

#[test]
fn day_with_a_time_is_not_cut_in_parquet() {
    let days: ArrayRef = Arc::new(Date64Array::from(vec![86_400_000, 86_400_001]));
    let error = format!("{:?}", write(&rows(&days), Format::Parquet, &mut Vec::new()).unwrap_err());
    assert!(error.contains("a value of type Date64 is not one of Date32"), "{error}");
}
