//! Sums in 128 bits, and in 256 bits for decimals of that width.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::Hash;
use std::mem::size_of_val;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, ArrowNativeTypeOp, ArrowNumericType, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Int64Type, UInt64Type, i256};
use datafusion::common::internal_err;
use datafusion::common::utils::SingleRowListArrayBuilder;
use datafusion::error::Result;
use datafusion::logical_expr::{Accumulator, EmitTo, GroupsAccumulator};
use datafusion::physical_expr::NullState;
use datafusion::scalar::ScalarValue;

use super::arithmetic::exceeds;

/// The type of the partial sums of integers.
pub(super) const STATE: DataType = DataType::Decimal128(38, 0);

/// A type whose sums are kept in more bits.
pub(super) trait Wide: ArrowNumericType + Send + Sync + fmt::Debug + 'static {
    /// The type of the partial sums.
    type Sum: ArrowPrimitiveType<Native: ArrowNativeTypeOp + Hash + Eq> + ArrowNumericType + Send;

    /// Returns `value` as a sum.
    fn wide(value: Self::Native) -> Native<Self>;

    /// Returns `sum` as a value of type `data_type`. `None` if it does not fit.
    fn narrow(sum: Native<Self>, data_type: &DataType) -> Option<Self::Native>;

    /// Returns the sum of the `values` that `nulls` leaves. `None` if it overflows.
    fn total(values: &[Self::Native], nulls: Option<&NullBuffer>) -> Option<Native<Self>> {
        let zero = Native::<Self>::ZERO;
        let add = |sum: Native<Self>, value: Self::Native| sum.add_checked(Self::wide(value)).ok();
        match nulls {
            None => values.iter().copied().try_fold(zero, add),
            Some(nulls) => nulls.valid_indices().map(|index| values[index]).try_fold(zero, add),
        }
    }
}

/// A partial sum of values of type `T`.
type Native<T> = <<T as Wide>::Sum as ArrowPrimitiveType>::Native;

/// Values of a block: their sums of 32 bits each fit 64 bits.
const BLOCK: usize = 1 << 20;

/// Adds the two halves of each value on their own: neither sum can overflow, and the processor adds several values at once.
fn block_total(values: impl Iterator<Item = i64>) -> i128 {
    let (low, high) =
        values.fold((0_u64, 0_i64), |(low, high), value| (low + (value as u64 & 0xffff_ffff), high + (value >> 32)));
    (i128::from(high) << 32) + i128::from(low)
}

impl Wide for Int64Type {
    type Sum = Decimal128Type;

    fn wide(value: i64) -> i128 {
        i128::from(value)
    }

    fn narrow(sum: i128, _: &DataType) -> Option<i64> {
        i64::try_from(sum).ok()
    }

    fn total(values: &[i64], nulls: Option<&NullBuffer>) -> Option<i128> {
        let Some(nulls) = nulls else {
            return Some(values.chunks(BLOCK).map(|block| block_total(block.iter().copied())).sum());
        };
        let mut present = nulls.iter();
        let block = |block: &[i64]| {
            block_total(block.iter().zip(present.by_ref()).map(|(value, present)| if present { *value } else { 0 }))
        };
        Some(values.chunks(BLOCK).map(block).sum())
    }
}

impl Wide for UInt64Type {
    type Sum = Decimal128Type;

    fn wide(value: u64) -> i128 {
        i128::from(value)
    }

    fn narrow(sum: i128, _: &DataType) -> Option<u64> {
        u64::try_from(sum).ok()
    }
}

impl Wide for Decimal128Type {
    type Sum = Self;

    fn wide(value: i128) -> i128 {
        value
    }

    fn narrow(sum: i128, data_type: &DataType) -> Option<i128> {
        let DataType::Decimal128(precision, _) = data_type else { return None };
        (sum.unsigned_abs() < 10_u128.pow(u32::from(*precision))).then_some(sum)
    }
}

impl Wide for Decimal256Type {
    type Sum = Self;

    fn wide(value: i256) -> i256 {
        value
    }

    fn narrow(sum: i256, data_type: &DataType) -> Option<i256> {
        let DataType::Decimal256(precision, _) = data_type else { return None };
        let bound = i256::from_i128(10).checked_pow(u32::from(*precision))?;
        (sum < bound && sum > bound.checked_neg()?).then_some(sum)
    }
}

/// Returns the type of the partial sums of a sum of type `data_type`.
fn state_type(data_type: &DataType) -> DataType {
    if matches!(data_type, DataType::Decimal128(..) | DataType::Decimal256(..)) { data_type.clone() } else { STATE }
}

fn too_large(data_type: &DataType) -> datafusion::error::DataFusionError {
    exceeds("a sum", data_type).into_datafusion()
}

/// The sum of one group.
pub(super) struct WideSum<T: Wide> {
    sum: Native<T>,
    /// Values and partial sums that were added and not removed.
    count: u64,
    data_type: DataType,
}

impl<T: Wide> fmt::Debug for WideSum<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WideSum({})", self.data_type)
    }
}

impl<T: Wide> WideSum<T> {
    /// Creates the sum of no rows, of type `data_type`.
    pub(super) fn new(data_type: DataType) -> Self {
        Self { sum: Native::<T>::ZERO, count: 0, data_type }
    }

    fn total(&self, values: &ArrayRef) -> Result<(Native<T>, u64)> {
        let values = values.as_primitive::<T>();
        let count = (values.len() - values.null_count()) as u64;
        let nulls = values.nulls().filter(|nulls| nulls.null_count() > 0);
        let sum = T::total(values.values(), nulls).ok_or_else(|| too_large(&self.data_type))?;
        Ok((sum, count))
    }

    fn add(&mut self, sum: Native<T>, count: u64) -> Result<()> {
        self.sum = self.sum.add_checked(sum).map_err(|_| too_large(&self.data_type))?;
        self.count += count;
        Ok(())
    }

    fn remove(&mut self, sum: Native<T>, count: u64) -> Result<()> {
        self.sum = self.sum.sub_checked(sum).map_err(|_| too_large(&self.data_type))?;
        self.count -= count;
        Ok(())
    }
}

impl<T: Wide> Accumulator for WideSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = self.total(&values[0])?;
        self.add(sum, count)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let (sum, count) = self.total(&values[0])?;
        self.remove(sum, count)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for sum in states[0].as_primitive::<T::Sum>().iter().flatten() {
            self.add(sum, 1)?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum = (self.count > 0).then_some(self.sum);
        Ok(vec![ScalarValue::new_primitive::<T::Sum>(sum, &state_type(&self.data_type))?])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.count == 0 {
            return ScalarValue::new_primitive::<T>(None, &self.data_type);
        }
        let sum = T::narrow(self.sum, &self.data_type).ok_or_else(|| too_large(&self.data_type))?;
        ScalarValue::new_primitive::<T>(Some(sum), &self.data_type)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }
}

/// The sum of the different values of one group.
#[derive(Debug)]
pub(super) struct DistinctWideSum<T: Wide> {
    /// Number of times that each value was added and not removed.
    values: HashMap<Native<T>, u64>,
    sum: WideSum<T>,
}

impl<T: Wide> DistinctWideSum<T> {
    /// Creates the sum of no rows, of type `data_type`.
    pub(super) fn new(data_type: DataType) -> Self {
        Self { values: HashMap::new(), sum: WideSum::new(data_type) }
    }
}

impl<T: Wide> Accumulator for DistinctWideSum<T> {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<T>().iter().flatten().map(T::wide) {
            let times = self.values.entry(value).or_default();
            *times += 1;
            if *times == 1 {
                self.sum.add(value, 1)?;
            }
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for value in values[0].as_primitive::<T>().iter().flatten().map(T::wide) {
            let Entry::Occupied(mut times) = self.values.entry(value) else {
                return internal_err!("a value leaves a window that it is not in");
            };
            *times.get_mut() -= 1;
            if *times.get() == 0 {
                times.remove();
                self.sum.remove(value, 1)?;
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for values in states[0].as_list::<i32>().iter().flatten() {
            self.update_batch(&[values])?;
        }
        Ok(())
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let data_type = &self.sum.data_type;
        let values: PrimitiveArray<T> = self.values.keys().map(|value| T::narrow(*value, data_type)).collect();
        let values = values.with_data_type(data_type.clone());
        Ok(vec![SingleRowListArrayBuilder::new(Arc::new(values)).build_list_scalar()])
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.sum.evaluate()
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * size_of::<(Native<T>, u64)>()
    }
}

/// The sums of many groups.
pub(super) struct GroupedWideSums<T: Wide> {
    sums: Vec<Native<T>>,
    seen: NullState,
    overflowed: bool,
    data_type: DataType,
}

impl<T: Wide> fmt::Debug for GroupedWideSums<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GroupedWideSums({})", self.data_type)
    }
}

impl<T: Wide> GroupedWideSums<T> {
    /// Creates sums of type `data_type`.
    pub(super) fn new(data_type: DataType) -> Self {
        Self { sums: Vec::new(), seen: NullState::new(), overflowed: false, data_type }
    }

    fn add<V: ArrowNumericType + Send>(
        &mut self,
        values: &PrimitiveArray<V>,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
        wide: impl Fn(V::Native) -> Native<T> + Send + Sync,
    ) -> Result<()> {
        self.sums.resize(total, Native::<T>::ZERO);
        let (sums, overflowed) = (&mut self.sums, &mut self.overflowed);
        self.seen.accumulate(groups, values, filter, total, |group, value| {
            match sums[group].add_checked(wide(value)) {
                Ok(sum) => sums[group] = sum,
                Err(_) => *overflowed = true,
            }
        });
        if self.overflowed { Err(too_large(&self.data_type)) } else { Ok(()) }
    }
}

impl<T: Wide> GroupsAccumulator for GroupedWideSums<T> {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.add(values[0].as_primitive::<T>(), groups, filter, total, T::wide)
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.add(states[0].as_primitive::<T::Sum>(), groups, None, total, |sum| sum)
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let sums = emit_to.take_needed(&mut self.sums);
        let nulls = self.seen.build(emit_to);
        let fits = |sum: &Native<T>| T::narrow(*sum, &self.data_type);
        let values: Vec<T::Native> = sums.iter().map(|sum| fits(sum).unwrap_or_default()).collect();
        let is_null = |group: usize| nulls.as_ref().is_some_and(|nulls| nulls.is_null(group));
        if sums.iter().enumerate().any(|(group, sum)| fits(sum).is_none() && !is_null(group)) {
            return Err(too_large(&self.data_type));
        }
        let values = PrimitiveArray::<T>::new(values.into(), nulls);
        Ok(Arc::new(values.with_data_type(self.data_type.clone())))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let sums = emit_to.take_needed(&mut self.sums);
        let nulls = self.seen.build(emit_to);
        let sums = PrimitiveArray::<T::Sum>::new(sums.into(), nulls).with_data_type(state_type(&self.data_type));
        Ok(vec![Arc::new(sums)])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let values = values[0].as_primitive::<T>();
        let kept = filter.map(|filter| match filter.nulls() {
            Some(nulls) => NullBuffer::new(nulls.inner() & filter.values()),
            None => NullBuffer::new(filter.values().clone()),
        });
        let nulls = NullBuffer::union(values.nulls(), kept.as_ref());
        let sums: Vec<Native<T>> = values.values().iter().map(|value| T::wide(*value)).collect();
        let sums = PrimitiveArray::<T::Sum>::new(sums.into(), nulls).with_data_type(state_type(&self.data_type));
        Ok(vec![Arc::new(sums)])
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<Native<T>>() + self.seen.size()
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;

    use super::*;

    #[test]
    fn only_the_result_can_exceed_its_type() {
        let batch: ArrayRef = Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(i64::MAX), Some(-7)]));
        let mut sum = WideSum::<Int64Type>::new(DataType::Int64);
        sum.update_batch(&[Arc::clone(&batch)]).unwrap();
        assert!(sum.evaluate().unwrap_err().to_string().contains("a sum exceeds the type Int64"));
        let state = sum.state().unwrap()[0].to_array().unwrap();
        let mut merged = WideSum::<Int64Type>::new(DataType::Int64);
        merged.merge_batch(&[state]).unwrap();
        merged.update_batch(&[Arc::new(Int64Array::from(vec![i64::MIN, i64::MIN, 10]))]).unwrap();
        assert_eq!(merged.evaluate().unwrap(), ScalarValue::Int64(Some(1)));

        let mut sums = GroupedWideSums::<Int64Type>::new(DataType::Int64);
        sums.update_batch(&[batch], &[0, 0, 0, 1], None, 3).unwrap();
        let states = sums.state(EmitTo::All).unwrap();
        sums.merge_batch(&states, &[0, 1, 2], 3).unwrap();
        assert!(sums.evaluate(EmitTo::All).is_err());
        sums.merge_batch(&states, &[0, 1, 2], 3).unwrap();
        sums.update_batch(&[Arc::new(Int64Array::from(vec![-i64::MAX]))], &[0], None, 3).unwrap();
        let values = sums.evaluate(EmitTo::All).unwrap();
        assert_eq!(values.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(i64::MAX), Some(-7), None]));
    }

    #[test]
    fn distinct_sum_follows_a_window() {
        let rows = |values: &[i64]| [Arc::new(Int64Array::from(values.to_vec())) as ArrayRef];
        let mut sum = DistinctWideSum::<Int64Type>::new(DataType::Int64);
        sum.update_batch(&rows(&[i64::MAX, 5, 5])).unwrap();
        assert!(sum.evaluate().unwrap_err().to_string().contains("a sum exceeds the type Int64"));
        sum.retract_batch(&rows(&[i64::MAX, 5])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(Some(5)));
        sum.retract_batch(&rows(&[5])).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Int64(None));
        assert!(sum.retract_batch(&rows(&[5])).is_err());
    }

    #[test]
    fn sum_of_the_widest_decimals_is_an_error_instead_of_another_number() {
        let most = i256::from_i128(10).checked_pow(76).unwrap().checked_sub(i256::ONE).unwrap();
        let data_type = DataType::Decimal256(76, 0);
        let rows = |values: Vec<i256>| -> ArrayRef {
            Arc::new(PrimitiveArray::<Decimal256Type>::from(values).with_data_type(data_type.clone()))
        };
        let mut sum = WideSum::<Decimal256Type>::new(data_type.clone());
        sum.update_batch(&[rows(vec![most, most])]).unwrap();
        assert!(sum.evaluate().is_err());
        sum.update_batch(&[rows(vec![most.checked_neg().unwrap()])]).unwrap();
        assert_eq!(sum.evaluate().unwrap(), ScalarValue::Decimal256(Some(most), 76, 0));
        assert!(sum.update_batch(&[rows(vec![most; 7])]).is_err());

        let mut sums = GroupedWideSums::<Decimal256Type>::new(data_type.clone());
        sums.update_batch(&[rows(vec![most; 8])], &[0, 1, 2, 3, 0, 1, 2, 3], None, 4).unwrap();
        assert!(sums.evaluate(EmitTo::All).is_err());
        let mut sums = GroupedWideSums::<Decimal256Type>::new(data_type.clone());
        assert!(sums.update_batch(&[rows(vec![most; 8])], &[0; 8], None, 1).is_err());
    }

    #[test]
    fn total_of_many_values_is_exact() {
        let values: Vec<i64> = (0..5000_i64).map(|value| (value - 2500) * 1_234_567_890_123).collect();
        let expected: i128 = values.iter().copied().map(i128::from).sum();
        assert_eq!(Int64Type::total(&values, None), Some(expected));
        let nulls: NullBuffer = (0..5000).map(|index| index % 3 > 0).collect::<Vec<bool>>().into();
        let present: i128 = nulls.valid_indices().map(|index| i128::from(values[index])).sum();
        assert_eq!(Int64Type::total(&values, Some(&nulls)), Some(present));
        assert_eq!(Int64Type::total(&[i64::MIN; 3], None), Some(3 * i128::from(i64::MIN)));
    }
}
