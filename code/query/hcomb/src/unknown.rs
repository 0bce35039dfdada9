//! Bounds the messages of callers that do not know the token of an open query.
//!
//! A message is received as a whole before its service sees it. A caller without a token could fill the comb's memory.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use buzz_exchange::{Inboxes, TOKEN_HEADER};
use buzz_protocol::QueryToken;
use http::HeaderMap;
use http_body_util::Limited;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;

/// Maximum bytes of a call without the token of an open query: it opens one, or asks for the build.
const UNKNOWN_CALL_BYTES_MAX: usize = 16 << 20;

/// Checks if `headers` have the token of a query that is open in `inboxes`.
pub(crate) fn is_known(inboxes: &Inboxes, headers: &HeaderMap) -> bool {
    let token = headers.get(TOKEN_HEADER).and_then(|token| token.to_str().ok()).unwrap_or_default();
    inboxes.knows(&QueryToken::shown(token))
}

/// A gRPC service that receives at most 16 MiB in a call without the token of an open query.
#[derive(Debug, Clone)]
pub(crate) struct BoundedIfUnknown<S> {
    pub(crate) inner: S,
    pub(crate) inboxes: Arc<Inboxes>,
}

impl<S: NamedService> NamedService for BoundedIfUnknown<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for BoundedIfUnknown<S>
where
    S: Service<http::Request<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = S::Future;

    fn poll_ready(&mut self, ctx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(ctx)
    }

    fn call(&mut self, request: http::Request<Body>) -> S::Future {
        let request = match is_known(&self.inboxes, request.headers()) {
            true => request,
            false => request.map(|body| Body::new(Limited::new(body, UNKNOWN_CALL_BYTES_MAX))),
        };
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use buzz_exchange::{InboxNetwork, InboxService, OpenQuery, StageSpec, TcpNetwork};
    use buzz_kernel::encode_schema;
    use buzz_protocol::{BUILD_ID, CombAddress, QueryId, StageId};
    use datafusion::arrow::datatypes::Schema;

    use super::*;
    use crate::{Comb, ComputeRuntime, serve};

    fn opening(query: QueryId, token: &QueryToken, step: &str) -> OpenQuery {
        let stage = StageSpec {
            stage: StageId(0),
            step: step.to_string(),
            schema: encode_schema(&Schema::empty()).into(),
            partitions: 0..1,
            tasks: 1,
            readers: 1,
        };
        OpenQuery {
            build: BUILD_ID.to_string(),
            query,
            token: token.clone(),
            deadline_ms: None,
            lease_ms: None,
            stages: vec![stage],
            flowing: false,
            paced: false,
            ahead: false,
            memory_bytes: 1 << 30,
            disk_bytes: 1 << 30,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn large_messages_require_the_token_of_an_open_query() {
        let network = Arc::new(TcpNetwork::default());
        let comb = Comb::new(Arc::clone(&network) as _, 1 << 30).unwrap();
        let inboxes = Arc::clone(comb.inboxes());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = CombAddress(format!("http://{}", listener.local_addr().unwrap()).parse().unwrap());
        let compute = ComputeRuntime::start(1).unwrap();
        tokio::spawn(serve(comb, listener, None, compute.handle().clone(), std::future::pending()));

        let large = "x".repeat(3 * UNKNOWN_CALL_BYTES_MAX);
        let (query, token) = (QueryId::fresh(), QueryToken::fresh());
        let inbox: Arc<dyn InboxService> = network.inbox(&address, &token).await.unwrap();
        inbox.open(opening(query, &token, &large)).await.unwrap_err();
        assert_eq!(inboxes.open_queries(), 0);
        inbox.open(opening(query, &token, "m")).await.unwrap();
        inbox.open(opening(query, &token, &large)).await.unwrap();
        assert_eq!(inboxes.open_queries(), 1);
    }
}
