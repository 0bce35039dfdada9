//! The aggregates `max` and `min`, which order floats as comparisons do: infinities are values, and NaN is the greatest.
//!
//! DataFusion's own begin each group with the least and the greatest finite number, so the `max` of a group of `-Infinity` is
//! `-1.8e308`, and take any value after a NaN. Here groups of floats have whole numbers in the same order instead.

use std::fmt;
use std::sync::{Arc, LazyLock};

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Field, Float16Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
};
use datafusion::common::internal_err;
use datafusion::error::Result;
use datafusion::functions_aggregate::min_max::{max_udaf, min_udaf};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, EmitTo, GroupsAccumulator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};
use datafusion::scalar::ScalarValue;

type F16 = <Float16Type as ArrowPrimitiveType>::Native;

/// Returns the aggregates `max` and `min`.
pub(crate) fn extremes() -> [Arc<AggregateUDF>; 2] {
    static FUNCTIONS: LazyLock<[Arc<AggregateUDF>; 2]> = LazyLock::new(|| {
        [max_udaf(), min_udaf()].map(|inner| Arc::new(AggregateUDF::new_from_impl(Extreme { inner })))
    });
    FUNCTIONS.clone()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    inner: Arc<AggregateUDF>,
}

impl Extreme {
    fn inner(&self) -> &dyn AggregateUDFImpl {
        self.inner.inner().as_ref()
    }
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner().coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner().return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner().accumulator(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner().groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let floats = args.return_type().clone();
        let Some(keys) = key_type(&floats) else { return self.inner().create_groups_accumulator(args) };
        let return_field = Arc::new(Field::new(args.name, keys, true));
        let inner = self.inner().create_groups_accumulator(AccumulatorArgs { return_field, ..args })?;
        Ok(Box::new(FloatGroups { inner, floats }))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        self.inner().create_sliding_accumulator(args)
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner().is_descending()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner().order_sensitivity()
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner().reverse_expr()
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.inner().value_from_stats(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner().set_monotonicity(data_type)
    }
}

/// Groups of floats, which `inner` has as whole numbers.
struct FloatGroups {
    inner: Box<dyn GroupsAccumulator>,
    floats: DataType,
}

impl fmt::Debug for FloatGroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FloatGroups").field("floats", &self.floats).finish_non_exhaustive()
    }
}

impl GroupsAccumulator for FloatGroups {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.inner.update_batch(&converted(values)?, group_indices, opt_filter, total_num_groups)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        convert(&self.inner.evaluate(emit_to)?)
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        converted(&self.inner.state(emit_to)?)
    }

    fn merge_batch(&mut self, values: &[ArrayRef], group_indices: &[usize], total_num_groups: usize) -> Result<()> {
        self.inner.merge_batch(&converted(values)?, group_indices, total_num_groups)
    }

    fn convert_to_state(&self, values: &[ArrayRef], opt_filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        converted(&self.inner.convert_to_state(&converted(values)?, opt_filter)?)
    }

    fn size(&self) -> usize {
        self.inner.size()
    }
}

/// Returns the type of the whole numbers that stand for floats of a type; `None` if it is another type.
fn key_type(floats: &DataType) -> Option<DataType> {
    match floats {
        DataType::Float16 => Some(DataType::Int16),
        DataType::Float32 => Some(DataType::Int32),
        DataType::Float64 => Some(DataType::Int64),
        _ => None,
    }
}

fn converted(arrays: &[ArrayRef]) -> Result<Vec<ArrayRef>> {
    arrays.iter().map(convert).collect()
}

/// Returns for floats the whole numbers that have their order, and for these the floats.
fn convert(array: &ArrayRef) -> Result<ArrayRef> {
    let converted: ArrayRef = match array.data_type() {
        DataType::Float16 => Arc::new(
            array.as_primitive::<Float16Type>().unary::<_, Int16Type>(|x| in_order_16(x.to_bits().cast_signed())),
        ),
        DataType::Float32 => Arc::new(
            array.as_primitive::<Float32Type>().unary::<_, Int32Type>(|x| in_order_32(x.to_bits().cast_signed())),
        ),
        DataType::Float64 => Arc::new(
            array.as_primitive::<Float64Type>().unary::<_, Int64Type>(|x| in_order_64(x.to_bits().cast_signed())),
        ),
        DataType::Int16 => Arc::new(
            array
                .as_primitive::<Int16Type>()
                .unary::<_, Float16Type>(|n| F16::from_bits(in_order_16(n).cast_unsigned())),
        ),
        DataType::Int32 => Arc::new(
            array
                .as_primitive::<Int32Type>()
                .unary::<_, Float32Type>(|n| f32::from_bits(in_order_32(n).cast_unsigned())),
        ),
        DataType::Int64 => Arc::new(
            array
                .as_primitive::<Int64Type>()
                .unary::<_, Float64Type>(|n| f64::from_bits(in_order_64(n).cast_unsigned())),
        ),
        other => return internal_err!("{other} is not a float"),
    };
    Ok(converted)
}

/// Turns over the bits behind the sign of negative numbers, so that the bits of floats are in the order of the floats. Twice, it
/// returns the bits.
fn in_order_16(bits: i16) -> i16 {
    if bits < 0 { bits ^ i16::MAX } else { bits }
}

fn in_order_32(bits: i32) -> i32 {
    if bits < 0 { bits ^ i32::MAX } else { bits }
}

fn in_order_64(bits: i64) -> i64 {
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

#[cfg(test)]
mod tests {
    use arrow::array::{Float16Array, Float32Array, Float64Array};
    use arrow::datatypes::Schema;

    use super::*;

    const NAN: f64 = f64::NAN.abs();

    /// Values of the groups 0 to 4, and the `max` and `min` of each.
    const ROWS: [(usize, Option<f64>); 11] = [
        (0, Some(f64::NEG_INFINITY)),
        (1, Some(f64::INFINITY)),
        (2, Some(1.0)),
        (2, Some(NAN)),
        (2, Some(-2.5)),
        (3, None),
        (4, Some(NAN)),
        (4, None),
        (2, Some(-1.5)),
        (5, Some(f64::NEG_INFINITY)),
        (5, Some(f64::INFINITY)),
    ];
    const EXPECTED: [(Option<f64>, Option<f64>); 6] = [
        (Some(f64::NEG_INFINITY), Some(f64::NEG_INFINITY)),
        (Some(f64::INFINITY), Some(f64::INFINITY)),
        (Some(NAN), Some(-2.5)),
        (None, None),
        (Some(NAN), Some(NAN)),
        (Some(f64::INFINITY), Some(f64::NEG_INFINITY)),
    ];

    fn groups(function: &AggregateUDF, floats: &DataType) -> Box<dyn GroupsAccumulator> {
        let field = Arc::new(Field::new("x", floats.clone(), true));
        let args = AccumulatorArgs {
            return_field: Arc::clone(&field),
            schema: &Schema::empty(),
            ignore_nulls: false,
            order_bys: &[],
            is_reversed: false,
            name: "x",
            is_distinct: false,
            exprs: &[],
            expr_fields: &[field],
        };
        function.inner().create_groups_accumulator(args).unwrap()
    }

    fn floats(values: impl Iterator<Item = Option<f64>>, of: &DataType) -> ArrayRef {
        #[expect(clippy::cast_possible_truncation, reason = "the values of the test are exact in each type")]
        match of {
            DataType::Float16 => Arc::new(values.map(|x| x.map(F16::from_f64)).collect::<Float16Array>()),
            DataType::Float32 => Arc::new(values.map(|x| x.map(|x| x as f32)).collect::<Float32Array>()),
            _ => Arc::new(values.collect::<Float64Array>()),
        }
    }

    #[test]
    fn groups_have_infinities_and_nan_is_the_greatest() {
        for data_type in [DataType::Float16, DataType::Float32, DataType::Float64] {
            for (function, expected) in
                extremes().iter().zip([EXPECTED.map(|(max, _)| max), EXPECTED.map(|(_, min)| min)])
            {
                let expected = floats(expected.into_iter(), &data_type);
                let (mut whole, mut merged) = (groups(function, &data_type), groups(function, &data_type));
                let mut known = 0;
                for rows in ROWS.chunks(3) {
                    let indices: Vec<usize> = rows.iter().map(|(group, _)| *group).collect();
                    known = indices.iter().fold(known, |known, group| known.max(group + 1));
                    let values = [floats(rows.iter().map(|(_, value)| *value), &data_type)];
                    whole.update_batch(&values, &indices, None, known).unwrap();
                    let state = whole.convert_to_state(&values, None).unwrap();
                    merged.merge_batch(&state, &indices, known).unwrap();
                }
                let mut restored = groups(function, &data_type);
                let state = merged.state(EmitTo::All).unwrap();
                let indices: Vec<usize> = (0..EXPECTED.len()).collect();
                restored.merge_batch(&state, &indices, EXPECTED.len()).unwrap();
                for mut found in [whole, restored] {
                    let found = found.evaluate(EmitTo::All).unwrap();
                    assert_eq!(format!("{found:?}"), format!("{expected:?}"), "{} of {data_type}", function.name());
                }
            }
        }
    }
}
