//! Rows as JSON.

use std::io::Write;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BinaryViewArray, FixedSizeBinaryArray, FixedSizeListArray, LargeBinaryArray,
    LargeListArray, ListArray, MapArray, RecordBatch, StringArray, StructArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, FieldRef, Fields, Float16Type, Float32Type, Float64Type};
use arrow::error::ArrowError;
use arrow::json::writer::{JsonFormat, LineDelimited, NullableEncoder};
use arrow::json::{Encoder, EncoderFactory, EncoderOptions, WriterBuilder as JsonWriterBuilder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use buzz_engine::Batches;

use crate::columns::replace_columns;
use crate::format::WriteError;
use crate::parallel::{PIECE_ROWS, in_order, threads};

/// Writes one JSON object per line. Nulls are written.
pub(crate) fn json_lines(batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    in_order(batches, PIECE_ROWS, threads(), &encoded::<LineDelimited>, &mut |lines| Ok(out.write_all(&lines)?))
}

/// Writes a JSON array of objects. Nulls are written.
pub(crate) fn json_array(batches: Batches, out: &mut dyn Write) -> Result<(), WriteError> {
    out.write_all(b"[")?;
    let mut is_first = true;
    in_order(batches, PIECE_ROWS, threads(), &encoded::<Elements>, &mut |elements| {
        if !std::mem::take(&mut is_first) {
            out.write_all(b",")?;
        }
        Ok(out.write_all(&elements)?)
    })?;
    Ok(out.write_all(b"]\n")?)
}

/// Encodes the rows of `batch`.
fn encoded<F: JsonFormat>(batch: RecordBatch) -> Result<Vec<u8>, WriteError> {
    let mut bytes = Vec::new();
    let builder = JsonWriterBuilder::new().with_explicit_nulls(true).with_encoder_factory(Arc::new(ExactValues));
    let mut writer = builder.build::<_, F>(&mut bytes);
    writer.write(&json_batch(&batch)?)?;
    writer.finish()?;
    drop(writer);
    Ok(bytes)
}

/// The elements of an array, without its brackets.
#[derive(Debug, Default)]
struct Elements;

impl JsonFormat for Elements {
    fn start_row<W: Write>(&self, writer: &mut W, is_first_row: bool) -> Result<(), ArrowError> {
        if !is_first_row {
            writer.write_all(b",")?;
        }
        Ok(())
    }
}

/// Converts the keys of maps to text, which JSON requires, at any depth.
fn json_batch(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    replace_columns(batch, text_keys)
}

/// Returns true if a value of this type has a map whose keys are not text.
fn has_other_keys(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => {
                pair[0].data_type() != &DataType::Utf8 || has_other_keys(pair[1].data_type())
            }
            _ => false,
        },
        DataType::Struct(fields) => fields.iter().any(|field| has_other_keys(field.data_type())),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            has_other_keys(item.data_type())
        }
        DataType::Dictionary(_, values) => has_other_keys(values),
        _ => false,
    }
}

fn text_keys(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    if !has_other_keys(array.data_type()) {
        return Ok(Arc::clone(array));
    }
    let nulls = array.nulls().cloned();
    let typed =
        |field: &FieldRef, array: &ArrayRef| Arc::new(field.as_ref().clone().with_data_type(array.data_type().clone()));
    Ok(match array.data_type() {
        DataType::Map(entries, sorted) => {
            let map = array.as_map();
            let (keys, values) = (as_text(map.keys())?, text_keys(map.values())?);
            let (key, value) = map.entries_fields();
            let key = Arc::new(key.clone().with_data_type(DataType::Utf8));
            let value = Arc::new(value.clone().with_data_type(values.data_type().clone()));
            let pairs = StructArray::try_new(vec![key, value].into(), vec![keys, values], None)?;
            let entries = Arc::new(entries.as_ref().clone().with_data_type(pairs.data_type().clone()));
            Arc::new(MapArray::try_new(entries, map.offsets().clone(), pairs, nulls, *sorted)?)
        }
        DataType::Struct(fields) => {
            let columns = array.as_struct().columns().iter().map(text_keys).collect::<Result<Vec<_>, _>>()?;
            let fields: Fields = fields.iter().zip(&columns).map(|(field, column)| typed(field, column)).collect();
            Arc::new(StructArray::try_new_with_length(fields, columns, nulls, array.len())?)
        }
        DataType::List(item) => {
            let list = array.as_list::<i32>();
            let values = text_keys(list.values())?;
            Arc::new(ListArray::try_new(typed(item, &values), list.offsets().clone(), values, nulls)?)
        }
        DataType::LargeList(item) => {
            let list = array.as_list::<i64>();
            let values = text_keys(list.values())?;
            Arc::new(LargeListArray::try_new(typed(item, &values), list.offsets().clone(), values, nulls)?)
        }
        DataType::FixedSizeList(item, size) => {
            let values = text_keys(array.as_fixed_size_list().values())?;
            Arc::new(FixedSizeListArray::try_new(typed(item, &values), *size, values, nulls)?)
        }
        DataType::Dictionary(_, values) => text_keys(&cast(array, values)?)?,
        _ => Arc::clone(array),
    })
}

fn as_text(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let formatter = ArrayFormatter::try_new(array, &FormatOptions::default())?;
    let texts = (0..array.len()).map(|index| formatter.value(index).try_to_string());
    Ok(Arc::new(StringArray::from(texts.collect::<Result<Vec<_>, _>>()?)))
}

/// Encodes values that JSON cannot represent or that arrow's writer would lose. NaN and infinities become strings,
/// binary becomes base64. Integers and decimals keep every digit.
#[derive(Debug)]
struct ExactValues;

impl EncoderFactory for ExactValues {
    fn make_default_encoder<'a>(
        &self,
        _field: &'a FieldRef,
        array: &'a dyn Array,
        _options: &'a EncoderOptions,
    ) -> Result<Option<NullableEncoder<'a>>, ArrowError> {
        let nulls = array.nulls().cloned();
        let encoder: Box<dyn Encoder + 'a> = match array.data_type() {
            DataType::Float16 => {
                let values = array.as_primitive::<Float16Type>();
                Box::new(Floats(Box::new(move |index| f64::from(values.value(index)).to_text())))
            }
            DataType::Float32 => {
                let values = array.as_primitive::<Float32Type>();
                Box::new(Floats(Box::new(move |index| values.value(index).to_text())))
            }
            DataType::Float64 => {
                let values = array.as_primitive::<Float64Type>();
                Box::new(Floats(Box::new(move |index| values.value(index).to_text())))
            }
            DataType::Binary => bytes_of(array.as_any().downcast_ref::<BinaryArray>().map(|a| a as _))?,
            DataType::LargeBinary => bytes_of(array.as_any().downcast_ref::<LargeBinaryArray>().map(|a| a as _))?,
            DataType::BinaryView => bytes_of(array.as_any().downcast_ref::<BinaryViewArray>().map(|a| a as _))?,
            DataType::FixedSizeBinary(_) => {
                bytes_of(array.as_any().downcast_ref::<FixedSizeBinaryArray>().map(|a| a as _))?
            }
            _ => return Ok(None),
        };
        Ok(Some(NullableEncoder::new(encoder, nulls)))
    }
}

/// Formats a float as JSON: the shortest text that parses to the same value.
trait ToText {
    fn to_text(self) -> String;
}

macro_rules! float_to_text {
    ($float:ty) => {
        impl ToText for $float {
            fn to_text(self) -> String {
                match self {
                    value if value.is_nan() => "\"NaN\"".to_string(),
                    <$float>::INFINITY => "\"Infinity\"".to_string(),
                    <$float>::NEG_INFINITY => "\"-Infinity\"".to_string(),
                    value => format!("{value:?}"),
                }
            }
        }
    };
}

float_to_text!(f32);
float_to_text!(f64);

struct Floats<'a>(Box<dyn Fn(usize) -> String + 'a>);

impl Encoder for Floats<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        out.extend_from_slice((self.0)(index).as_bytes());
    }
}

trait Bytes {
    fn bytes(&self, index: usize) -> &[u8];
}

macro_rules! bytes_by_value {
    ($($array:ty),*) => {
        $(impl Bytes for $array {
            fn bytes(&self, index: usize) -> &[u8] {
                self.value(index)
            }
        })*
    };
}

bytes_by_value!(BinaryArray, LargeBinaryArray, BinaryViewArray, FixedSizeBinaryArray);

struct Base64<'a>(&'a dyn Bytes);

impl Encoder for Base64<'_> {
    fn encode(&mut self, index: usize, out: &mut Vec<u8>) {
        out.push(b'"');
        out.extend_from_slice(STANDARD.encode(self.0.bytes(index)).as_bytes());
        out.push(b'"');
    }
}

fn bytes_of<'a>(array: Option<&'a dyn Bytes>) -> Result<Box<dyn Encoder + 'a>, ArrowError> {
    let array = array.ok_or_else(|| ArrowError::CastError("an array has another type than it declares".to_string()))?;
    Ok(Box::new(Base64(array)))
}
