//! The aggregate `sum`, which fails if a sum does not fit its type, and `buzz_wrapping_sum`, which wraps.
//!
//! DataFusion's own `sum` wraps. Sums of integers are kept in 128 bits here, also in partial states, so that only the
//! result can exceed its type: a query fails or not however its rows are divided.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Field, FieldRef, Int64Type, UInt64Type};
use datafusion::error::Result;
use datafusion::functions_aggregate::sum::Sum;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::{AggregateOrderSensitivity, format_state_name};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, Documentation, Expr, GroupsAccumulator, Operator, ReversedUDAF,
    SetMonotonicity, Signature, StatisticsArgs,
};
use datafusion::scalar::ScalarValue;

use super::wide_sum::{DistinctWideSum, GroupedWideSums, STATE, WideSum};

/// Returns the aggregate `sum`, which fails with `Invalid` if a sum does not fit its type.
pub fn checked_sum() -> Arc<AggregateUDF> {
    static FUNCTION: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| Arc::new(AggregateUDF::new_from_impl(AnySum { inner: Sum::new(), wraps: false })));
    Arc::clone(&FUNCTION)
}

/// Returns the aggregate `buzz_wrapping_sum`, DataFusion's `sum`.
pub fn wrapping_sum() -> Arc<AggregateUDF> {
    static FUNCTION: LazyLock<Arc<AggregateUDF>> =
        LazyLock::new(|| Arc::new(AggregateUDF::new_from_impl(AnySum { inner: Sum::new(), wraps: true })));
    Arc::clone(&FUNCTION)
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct AnySum {
    inner: Sum,
    wraps: bool,
}

/// Evaluates an expression with the Arrow type of a sum that can overflow; otherwise returns what `$inner` makes.
macro_rules! wide {
    ($self:ident, $data_type:expr, $make:ident, $inner:expr) => {
        match $data_type.clone() {
            DataType::Int64 if !$self.wraps => Ok(Box::new($make::<Int64Type>::new(DataType::Int64))),
            DataType::UInt64 if !$self.wraps => Ok(Box::new($make::<UInt64Type>::new(DataType::UInt64))),
            // Sums of shorter decimals have 10 more digits than their input.
            decimal @ DataType::Decimal128(38, _) if !$self.wraps => {
                Ok(Box::new($make::<Decimal128Type>::new(decimal)))
            }
            decimal @ DataType::Decimal256(76, _) if !$self.wraps => {
                Ok(Box::new($make::<Decimal256Type>::new(decimal)))
            }
            _ => $inner,
        }
    };
}

impl AggregateUDFImpl for AnySum {
    fn name(&self) -> &str {
        if self.wraps { "buzz_wrapping_sum" } else { self.inner.name() }
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(types)
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        if args.is_distinct {
            let data_type = args.return_field.data_type().clone();
            return wide!(self, data_type, DistinctWideSum, self.inner.accumulator(args));
        }
        let data_type = args.return_field.data_type().clone();
        wide!(self, data_type, WideSum, self.inner.accumulator(args))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let integer = matches!(args.return_type(), DataType::Int64 | DataType::UInt64);
        if integer && !self.wraps && !args.is_distinct {
            return Ok(vec![Arc::new(Field::new(format_state_name(args.name, "sum"), STATE, true))]);
        }
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs<'_>) -> bool {
        self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn GroupsAccumulator>> {
        let data_type = args.return_field.data_type().clone();
        wide!(self, data_type, GroupedWideSums, self.inner.create_groups_accumulator(args))
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        let data_type = args.return_field.data_type().clone();
        if args.is_distinct {
            return wide!(self, data_type, DistinctWideSum, self.inner.create_sliding_accumulator(args));
        }
        wide!(self, data_type, WideSum, self.inner.create_sliding_accumulator(args))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        self.inner.reverse_expr()
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn simplify_expr_op_literal(
        &self,
        function: &AggregateFunction,
        arg: &Expr,
        op: Operator,
        literal: &Expr,
        arg_is_left: bool,
    ) -> Result<Option<Expr>> {
        self.inner.simplify_expr_op_literal(function, arg, op, literal, arg_is_left)
    }

    fn value_from_stats(&self, args: &StatisticsArgs<'_>) -> Option<ScalarValue> {
        self.inner.value_from_stats(args)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn set_monotonicity(&self, data_type: &DataType) -> SetMonotonicity {
        self.inner.set_monotonicity(data_type)
    }
}
