//! Functions of DataFusion whose results are wrong for some values, with these results mended. They replace the functions of their
//! names in every session.

use std::sync::{Arc, LazyLock};

use arrow::array::Array;
use arrow::datatypes::{DataType, FieldRef, IntervalUnit};
use datafusion::common::ScalarValue;
use datafusion::error::Result;
use datafusion::functions::{core, datetime, math};
use datafusion::logical_expr::sort_properties::{ExprProperties, SortProperties};
use datafusion::logical_expr::{
    ColumnarValue, Documentation, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
};

use super::{bins, rounding, truncation};

/// Returns the mended functions: `round`, `trunc`, `date_bin`, `date_trunc`, `greatest` and `least`.
pub(crate) fn mended_functions() -> Vec<Arc<ScalarUDF>> {
    static FUNCTIONS: LazyLock<Vec<Arc<ScalarUDF>>> = LazyLock::new(|| {
        let functions = [
            (math::round(), Mend::Round),
            (math::trunc(), Mend::Trunc),
            (datetime::date_bin(), Mend::DateBin),
            (datetime::date_trunc(), Mend::DateTrunc),
            (core::greatest(), Mend::Extreme),
            (core::least(), Mend::Extreme),
        ];
        let mended = |(inner, mend)| Arc::new(ScalarUDF::new_from_impl(Mended { inner, mend }));
        functions.into_iter().map(mended).collect()
    });
    FUNCTIONS.clone()
}

/// The function that is mended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mend {
    Round,
    Trunc,
    DateBin,
    DateTrunc,
    /// Reads a text beside an interval as an interval, as comparisons do.
    Extreme,
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Mended {
    inner: Arc<ScalarUDF>,
    mend: Mend,
}

impl Mended {
    fn inner(&self) -> &dyn ScalarUDFImpl {
        self.inner.inner().as_ref()
    }
}

impl ScalarUDFImpl for Mended {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn aliases(&self) -> &[String] {
        self.inner().aliases()
    }

    fn is_strict(&self) -> bool {
        self.inner().is_strict()
    }

    fn signature(&self) -> &Signature {
        self.inner().signature()
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let is_interval = |data_type: &DataType| matches!(data_type, DataType::Interval(_));
        let has_text = types.iter().any(DataType::is_string);
        if has_text && types.iter().any(is_interval) && types.iter().all(|one| is_interval(one) || one.is_string()) {
            return Ok(vec![DataType::Interval(IntervalUnit::MonthDayNano); types.len()]);
        }
        self.inner().coerce_types(types)
    }

    fn return_type(&self, types: &[DataType]) -> Result<DataType> {
        self.inner().return_type(types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner().return_field_from_args(args)
    }

    fn invoke_with_args(&self, mut args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let is_constant = args.args.iter().all(|arg| matches!(arg, ColumnarValue::Scalar(_)));
        if self.mend == Mend::Trunc {
            rounding::bound_places(&mut args.args);
        }
        if self.mend == Mend::DateTrunc {
            truncation::as_array(&mut args.args)?;
        }
        let given = args.args.clone();
        let computed = self.inner().invoke_with_args(args);
        let mended = match self.mend {
            Mend::Round | Mend::Trunc => rounding::finite(&given, computed?),
            Mend::DateBin => bins::beyond_nanoseconds(&given, computed?),
            Mend::DateTrunc => truncation::beyond_nanoseconds(&given, computed),
            Mend::Extreme => computed,
        }?;
        match mended {
            ColumnarValue::Array(array) if is_constant && array.len() == 1 => {
                Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&array, 0)?))
            }
            mended => Ok(mended),
        }
    }

    fn output_ordering(&self, inputs: &[ExprProperties]) -> Result<SortProperties> {
        self.inner().output_ordering(inputs)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner().documentation()
    }
}
