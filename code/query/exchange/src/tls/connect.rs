//! Connects to a comb with TLS, and accepts one certificate only.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use buzz_protocol::{CombAddress, QueryError, Result};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};
use tonic::codegen::Service;

use super::{Fingerprint, NAME, PROTOCOL};

/// Accepts the certificate with one fingerprint, without regard to its signer, names and dates.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        if Fingerprint::of(certificate) == self.fingerprint {
            return Ok(ServerCertVerified::assertion());
        }
        Err(CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Makes the connections to one comb. Each of them must show the comb's certificate.
#[derive(Clone)]
pub(crate) struct PinnedConnector {
    /// Host and port.
    place: (String, u16),
    tls: TlsConnector,
    timeout: Duration,
}

impl PinnedConnector {
    /// Creates a connector to the comb at `address`, whose certificate has `fingerprint`. A connection is ready within
    /// `timeout` or fails.
    pub(crate) fn new(address: &CombAddress, fingerprint: Fingerprint, timeout: Duration) -> Result<Self> {
        let wrong = || QueryError::internal(format!("`{address}` is not a valid comb address"));
        let host = address.0.host_str().ok_or_else(wrong)?.trim_matches(['[', ']']).to_string();
        let port = address.0.port_or_known_default().ok_or_else(wrong)?;
        let provider = Arc::new(default_provider());
        let pinned = Pinned { fingerprint, provider: Arc::clone(&provider) };
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13]);
        let builder = builder.map_err(|error| QueryError::internal(format!("TLS cannot be used: {error}")))?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(pinned));
        let mut config = builder.with_no_client_auth();
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        config.resumption = Resumption::disabled();
        Ok(Self { place: (host, port), tls: TlsConnector::from(Arc::new(config)), timeout })
    }

    async fn connect(self) -> io::Result<TlsStream<TcpStream>> {
        let (host, port) = &self.place;
        let stream = TcpStream::connect((host.as_str(), *port)).await;
        let stream = stream.map_err(|error| told(&error, format!("it cannot be reached: {error}")))?;
        // Without this, small requests wait 40 ms.
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        self.tls.connect(name, stream).await.map_err(|error| why_not(&error))
    }
}

/// Returns an error of the kind of `error` with another text.
fn told(error: &io::Error, text: String) -> io::Error {
    io::Error::new(error.kind(), text)
}

/// Explains a handshake that failed.
fn why_not(error: &io::Error) -> io::Error {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<TlsError>());
    let text = match cause {
        Some(TlsError::InvalidCertificate(_)) => {
            "its TLS certificate is not that of the comb which was started; another program has its address".to_string()
        }
        Some(TlsError::InvalidMessage(_)) => "it does not use TLS, which its address requires".to_string(),
        _ => format!("its TLS handshake failed: {error}"),
    };
    told(error, text)
}

impl Service<Uri> for PinnedConnector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _ctx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let (connector, timeout) = (self.clone(), self.timeout);
        Box::pin(async move {
            let late = |_| {
                let text = format!("it did not complete a TLS handshake within {} seconds", timeout.as_secs());
                io::Error::new(io::ErrorKind::TimedOut, text)
            };
            let stream = tokio::time::timeout(timeout, connector.connect()).await.map_err(late)??;
            Ok(TokioIo::new(stream))
        })
    }
}
