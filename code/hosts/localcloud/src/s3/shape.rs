//! Makes responses of buckets take as long as on S3, and refuses some, as S3 does under load.

use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::Response;
use futures::StreamExt;

/// The times of responses. By default, they are as fast as the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// Time before the first byte of each response; S3 takes 10 to 40 milliseconds.
    pub first_byte: Duration,
    /// Maximum bytes of one response in a second; S3 gives 50 to 90 MiB. `None` sets no limit.
    pub bytes_per_second: Option<NonZeroU64>,
    /// Percentage of the requests that are refused with 503 and `SlowDown`, chosen at random.
    pub refused_percent: u8,
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

    /// Delays `response` and its body.
    pub(super) async fn applied(self, response: Response<Body>) -> Response<Body> {
        if self == Self::default() {
            return response;
        }
        tokio::time::sleep(self.first_byte).await;
        if self.bytes_per_second.is_none() {
            return response;
        }
        let started = Instant::now();
        let paced = |body: Body| {
            let frames = body.into_data_stream();
            let paced = futures::stream::unfold((frames, 0_u64), move |(mut frames, sent)| async move {
                let frame: Result<Bytes, axum::Error> = frames.next().await?;
                let sent = sent + frame.as_ref().map_or(0, |bytes| bytes.len() as u64);
                tokio::time::sleep(self.due(sent).saturating_sub(started.elapsed())).await;
                Some((frame, (frames, sent)))
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
        let bytes: Vec<Vec<u8>> = (0..5_u8).map(|fill| vec![fill; 1000]).collect();
        let frames = futures::stream::iter(bytes.clone().into_iter().map(Ok::<_, std::io::Error>));
        let first_byte = Duration::from_millis(1);
        let bytes_per_second = NonZeroU64::new(1_000_000);
        let shape = Shape { first_byte, bytes_per_second, ..Shape::default() };
        let shaped = shape.applied(Response::new(Body::from_stream(frames))).await;
        let read = axum::body::to_bytes(shaped.into_body(), usize::MAX).await.unwrap();
        assert_eq!(read, bytes.concat());
    }
}
