//! Makes responses of buckets take as long as on S3, and refuses some, as S3 does under load.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::Response;
use futures::StreamExt;
use parking_lot::Mutex;

use super::bandwidth::{Bandwidth, Meter};

/// The times of responses. By default, they are as fast as the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Time before the first byte of each response; S3 takes 10 to 40 milliseconds.
    pub first_byte: Duration,
    /// Maximum bytes of one response in a second; S3 gives 50 to 90 MiB. `None` sets no limit.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Bytes of requests and responses of one function; Lambda gives 300 MiB and then about 75 MiB a second. `None` sets no limit.
    pub per_function: Option<Bandwidth>,
    /// Bytes of requests and responses of all functions together, as of those in one network. `None` sets no limit.
    pub of_functions: Option<Bandwidth>,
    /// Percentage of the requests that are refused with 503 and `SlowDown`, chosen at random.
    pub refused_percent: u8,
}

/// Counts the bytes of one function.
#[derive(Debug, Clone)]
pub(super) struct Metered {
    pub(super) meter: Arc<Mutex<Meter>>,
    /// Access key of the function; `None` for other clients, which are not counted.
    pub(super) function: Option<String>,
}

impl Metered {
    /// Waits until `bytes` may have passed the limits of functions.
    pub(super) async fn pass(&self, bytes: u64, shape: Shape) {
        let Some(function) = &self.function else { return };
        let limits = (shape.per_function, shape.of_functions);
        let wait = self.meter.lock().take(function, bytes, limits, Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }
}

impl Shape {
    /// Decides if the next request is refused.
    pub(super) fn refuses(self) -> bool {
        crate::by_chance(self.refused_percent)
    }

    /// Returns the time after the first byte at which `bytes` may have been sent.
    fn due(self, bytes: u64) -> Duration {
        self.bytes_per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 / rate.get() as f64))
    }

    /// Returns true if the bytes of responses are delayed.
    fn paces(self) -> bool {
        self.bytes_per_second.is_some() || self.per_function.is_some() || self.of_functions.is_some()
    }

    /// Delays `response` and its body.
    pub(super) async fn applied(self, response: Response<Body>, metered: Metered) -> Response<Body> {
        if self == Self::default() {
            return response;
        }
        tokio::time::sleep(self.first_byte).await;
        if !self.paces() {
            return response;
        }
        let started = Instant::now();
        let paced = |body: Body| {
            let frames = body.into_data_stream();
            let paced =
                futures::stream::unfold((frames, 0_u64, metered), move |(mut frames, sent, metered)| async move {
                    let frame: Result<Bytes, axum::Error> = frames.next().await?;
                    let bytes = frame.as_ref().map_or(0, |bytes| bytes.len() as u64);
                    metered.pass(bytes, self).await;
                    tokio::time::sleep(self.due(sent + bytes).saturating_sub(started.elapsed())).await;
                    Some((frame, (frames, sent + bytes, metered)))
                });
            Body::from_stream(paced)
        };
        response.map(paced)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_due_by_the_rate() {
        let shape = Shape { bytes_per_second: NonZeroU64::new(1000), ..Shape::default() };
        assert_eq!((shape.due(0), shape.due(250)), (Duration::ZERO, Duration::from_millis(250)));
        assert_eq!(Shape::default().due(u64::MAX), Duration::ZERO);
    }

    #[tokio::test]
    async fn shaped_response_has_all_bytes() {
        let metered = Metered { meter: Arc::default(), function: Some("ASIA".to_string()) };
        let bytes: Vec<Vec<u8>> = (0..5_u8).map(|fill| vec![fill; 1000]).collect();
        let frames = futures::stream::iter(bytes.clone().into_iter().map(Ok::<_, std::io::Error>));
        let first_byte = Duration::from_millis(1);
        let bytes_per_second = NonZeroU64::new(1_000_000);
        let per_function = bytes_per_second.map(|per_second| Bandwidth { burst: 4000, per_second });
        let shape = Shape { first_byte, bytes_per_second, per_function, ..Shape::default() };
        let shaped = shape.applied(Response::new(Body::from_stream(frames)), metered).await;
        let read = axum::body::to_bytes(shaped.into_body(), usize::MAX).await.unwrap();
        assert_eq!(read, bytes.concat());
    }
}
