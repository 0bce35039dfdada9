//! Conversion between errors and the statuses of gRPC.

use std::error::Error;

use arrow_flight::error::FlightError;
use buzz_protocol::{CombAddress, Place, QueryError};
use bytes::Bytes;
use datafusion::error::DataFusionError;
use tonic::{Code, Status};

/// Converts `error` to a status whose details are the error as JSON.
pub(crate) fn to_status(error: &QueryError) -> Status {
    let details = serde_json::to_vec(error).map(Bytes::from).unwrap_or_default();
    Status::with_details(Code::FailedPrecondition, error.to_string(), details)
}

/// Converts the status of a call to a comb: the error in its details, or one whose kind follows from the code.
pub(crate) fn from_status(status: &Status) -> QueryError {
    if let Ok(error) = serde_json::from_slice(status.details()) {
        return error;
    }
    let message = format!("a comb did not respond: {}", told(status));
    // A status with a source was made on this side, from an error of the connection.
    if is_lost(status.code()) || status.source().is_some() {
        QueryError::unavailable(message)
    } else {
        QueryError::internal(format!("a comb rejected a call ({}): {}", status.code(), status.message()))
    }
}

/// Returns the message of `status` with its first cause, which the message of a broken connection leaves out.
fn told(status: &Status) -> String {
    let message = status.message();
    let mut first = status.source();
    while let Some(cause) = first.and_then(|error| error.source()) {
        first = Some(cause);
    }
    match first.map(ToString::to_string) {
        Some(cause) if !message.contains(&cause) => format!("{message}: {cause}"),
        _ => message.to_string(),
    }
}

/// Returns true if `code` means that the comb is lost, was restarted, or is about to stop.
fn is_lost(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            // A comb that was restarted does not know the query's token.
            | Code::Unauthenticated
            // tonic: the connection broke, or the response ended before its status.
            | Code::Unknown
    )
}

/// Converts an error of a Flight stream.
pub(crate) fn from_flight(error: FlightError) -> QueryError {
    match error {
        FlightError::Tonic(status) => from_status(&status),
        FlightError::Arrow(error) => error.into(),
        FlightError::ExternalError(source) => DataFusionError::External(source).into(),
        other => QueryError::internal(format!("a delivery cannot be decoded: {other}")),
    }
}

/// Converts an error of a call to another comb's reduce worker. `datafusion-distributed` wraps the status or the error
/// of the stream if the failure is not one of DataFusion's. All later conversions keep the text only, so the kind is
/// found here, where the type is known.
pub(crate) fn from_worker(comb: &CombAddress, error: DataFusionError) -> DataFusionError {
    let at_comb = |error: QueryError| match error.comb() {
        // The comb that the error names is the one that failed; others only pass it on.
        Some(_) => error,
        None => error.at(Place::Comb(comb.to_string())),
    };
    match error {
        DataFusionError::External(source) => match source.downcast::<Status>() {
            Ok(status) => at_comb(from_status(&status)).into_datafusion(),
            Err(source) => match source.downcast::<FlightError>() {
                Ok(flight) => at_comb(from_flight(*flight)).into_datafusion(),
                Err(source) => DataFusionError::External(source),
            },
        },
        DataFusionError::Execution(message) if message.starts_with(PLAN_NOT_SET) => {
            at_comb(QueryError::unavailable("it did not receive its part of the plan within 10 seconds"))
                .into_datafusion()
        }
        error => error,
    }
}

/// The start of an error of `datafusion-distributed`, which has no type: a comb is called for rows before it has its part
/// of the plan, because Fuse or the comb is overloaded.
const PLAN_NOT_SET: &str = "Worker::execute_task timed-out while waiting for the plan";

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use arrow::error::ArrowError;
    use buzz_protocol::{ErrorKind, TaskIndex};

    use super::*;

    fn comb() -> CombAddress {
        CombAddress("http://[::1]:1/".parse().unwrap())
    }

    #[test]
    fn error_survives_a_status_whole() {
        let error = QueryError::limit("full").retry_after(Some(Duration::from_secs(1)));
        let error = error.at(Place::Comb(comb().to_string())).at_task("m", TaskIndex(2));
        assert_eq!(from_status(&to_status(&error)), error);
        let worker = DataFusionError::External(Box::new(to_status(&error)));
        assert_eq!(QueryError::from(from_worker(&comb(), worker)), error);
        let flight = FlightError::Tonic(Box::new(to_status(&error)));
        assert_eq!(QueryError::from(from_worker(&comb(), DataFusionError::External(Box::new(flight)))), error);
    }

    #[test]
    fn code_decides_the_kind_and_the_text_does_not() {
        use ErrorKind::{Internal, Unavailable};
        let cases = [
            (Code::Unavailable, Unavailable),
            (Code::Cancelled, Unavailable),
            (Code::DeadlineExceeded, Unavailable),
            (Code::Aborted, Unavailable),
            (Code::Unauthenticated, Unavailable),
            (Code::Unknown, Unavailable),
            (Code::Internal, Internal),
            (Code::InvalidArgument, Internal),
            (Code::Unimplemented, Internal),
            (Code::OutOfRange, Internal),
        ];
        for (code, kind) in cases {
            let status = Status::new(code, "connect: h2 transport error");
            assert_eq!(from_status(&status).kind, kind, "{code:?}");
            let worker = from_worker(&comb(), DataFusionError::External(Box::new(status)));
            let error = QueryError::from(worker);
            assert_eq!((error.kind, error.comb()), (kind, Some("http://[::1]:1/")), "{code:?}");
        }
    }

    #[test]
    fn comb_without_its_plan_is_unavailable() {
        let late = format!("{PLAN_NOT_SET} to be set by the coordinator. (deadline has elapsed)");
        let error = QueryError::from(from_worker(&comb(), DataFusionError::Execution(late)));
        assert_eq!((error.kind, error.comb()), (ErrorKind::Unavailable, Some("http://[::1]:1/")));
        let other = QueryError::from(from_worker(&comb(), DataFusionError::Execution("x".to_string())));
        assert_ne!(other.kind, ErrorKind::Unavailable);
    }

    #[test]
    fn status_made_from_a_connection_error_is_unavailable() {
        let mut status = Status::internal("an error of the connection");
        status.set_source(std::sync::Arc::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert_eq!(from_status(&status).kind, ErrorKind::Unavailable);
    }

    #[test]
    fn flight_error_keeps_its_type() {
        assert_eq!(from_flight(FlightError::Arrow(ArrowError::DivideByZero)).kind, ErrorKind::Invalid);
        assert_eq!(from_flight(FlightError::DecodeError("x".to_string())).kind, ErrorKind::Internal);
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        assert_eq!(from_flight(FlightError::ExternalError(Box::new(io))).kind, ErrorKind::Unavailable);
    }
}
