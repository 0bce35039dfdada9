//! TLS to combs, with a certificate that each comb makes for itself.
//!
//! A comb proves that it is the one that Fuse started: its address has the [`Fingerprint`] of its certificate, and callers
//! accept no other. Certificates are signed by themselves, and no key is stored.

mod accept;
mod connect;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use buzz_protocol::{CombAddress, QueryError, Result};
use ring::digest::{SHA256, digest};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::version::TLS13;

pub use accept::{CombStream, incoming};
pub(crate) use connect::PinnedConnector;

/// The protocol that both ends name in their handshake: gRPC runs over HTTP/2.
const PROTOCOL: &[u8] = b"h2";

/// The name that certificates have and handshakes ask for. Nothing depends on it.
const NAME: &str = "comb";

/// Length of a fingerprint in bytes.
const LENGTH: usize = 32;

/// The SHA-256 hash of a comb's certificate. Its text is 64 small hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; LENGTH]);

impl Fingerprint {
    /// Returns the fingerprint of `certificate`.
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let mut bytes = [0; LENGTH];
        bytes.copy_from_slice(digest(&SHA256, certificate).as_ref());
        Self(bytes)
    }

    /// Returns the address of the comb at `address` whose certificate has this fingerprint: `https://host:port/#<digits>`.
    ///
    /// # Errors
    /// `Internal` if `address` is not one of a remote comb.
    pub fn pinned(self, address: &CombAddress) -> Result<CombAddress> {
        let impossible = |()| QueryError::internal(format!("`{address}` cannot have a certificate"));
        let (mut url, port) = (address.0.clone(), address.0.port_or_known_default());
        url.set_scheme("https").map_err(impossible)?;
        // The usual port of HTTP is not written, and would become that of HTTPS.
        url.set_port(port).map_err(impossible)?;
        url.set_fragment(Some(&self.to_string()));
        Ok(CombAddress(url))
    }

    /// Returns the fingerprint that `address` names, or `None` if it is reached without TLS.
    ///
    /// # Errors
    /// `Internal` if the address requires TLS and names no fingerprint.
    pub(crate) fn of_address(address: &CombAddress) -> Result<Option<Self>> {
        if address.0.scheme() != "https" {
            return Ok(None);
        }
        let unknown = |_| QueryError::internal(format!("`{address}` does not name the certificate of its comb"));
        address.0.fragment().unwrap_or_default().parse().map(Some).map_err(unknown)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

impl FromStr for Fingerprint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a fingerprint of {} hexadecimal digits", 2 * LENGTH);
        if text.len() != 2 * LENGTH || !text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(wrong());
        }
        let mut bytes = [0; LENGTH];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

/// The certificate of a comb, with its key. It lives as long as the process.
#[derive(Clone)]
pub struct CombCertificate {
    config: Arc<ServerConfig>,
    fingerprint: Fingerprint,
}

impl fmt::Debug for CombCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CombCertificate").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

impl CombCertificate {
    /// Makes a key and a certificate of it that is signed by itself.
    ///
    /// # Errors
    /// `Internal` if the system has no random numbers.
    pub fn fresh() -> Result<Self> {
        let failed =
            |error: &dyn fmt::Display| QueryError::internal(format!("a comb cannot make a certificate: {error}"));
        let made = rcgen::generate_simple_self_signed(vec![NAME.to_string()]).map_err(|error| failed(&error))?;
        let certificate = made.cert.der().clone();
        let fingerprint = Fingerprint::of(&certificate);
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_protocol_versions(&[&TLS13])
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![certificate], key.into()));
        let mut config = config.map_err(|error| failed(&error))?;
        config.alpn_protocols = vec![PROTOCOL.to_vec()];
        // Each connection proves the certificate again.
        config.send_tls13_tickets = 0;
        Ok(Self { config: Arc::new(config), fingerprint })
    }

    /// Returns the hash by which callers know the certificate.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

#[cfg(test)]
mod tests {
    use buzz_protocol::ErrorKind;

    use super::*;

    fn address(text: &str) -> CombAddress {
        CombAddress(text.parse().unwrap())
    }

    #[test]
    fn fingerprint_is_the_sha_256_hash_in_hexadecimal_digits() {
        let hash = Fingerprint::of(&CertificateDer::from(b"abc".to_vec()));
        // The first example of FIPS 180-2.
        let text = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!((hash.to_string().as_str(), text.parse()), (text, Ok(hash)));
        for wrong in
            ["", "ba78", &text.to_uppercase(), &format!("{text}00"), &text.replace('b', "é"), &text.replace('b', "+")]
        {
            let error = wrong.parse::<Fingerprint>().unwrap_err();
            assert!(error.contains("not a fingerprint of 64 hexadecimal digits"), "{error}");
        }
    }

    #[test]
    fn address_carries_the_fingerprint_and_requires_it_with_https() {
        let fingerprint = CombCertificate::fresh().unwrap().fingerprint();
        for plain in ["http://10.0.1.5:3333/", "http://[2600:1f16::5]:3333/"] {
            let pinned = fingerprint.pinned(&address(plain)).unwrap();
            assert_eq!(pinned.to_string(), format!("{}#{fingerprint}", plain.replace("http", "https")));
            assert_eq!(Fingerprint::of_address(&pinned).unwrap(), Some(fingerprint));
            assert_eq!(Fingerprint::of_address(&address(&pinned.to_string())).unwrap(), Some(fingerprint));
            assert_eq!(Fingerprint::of_address(&address(plain)).unwrap(), None);
        }
        for unknown in ["https://10.0.1.5:3333/", "https://10.0.1.5:3333/#abc"] {
            let error = Fingerprint::of_address(&address(unknown)).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Internal);
            assert!(error.message.contains("does not name the certificate"), "{error}");
        }
        let usual = fingerprint.pinned(&address("http://10.0.1.5:80/")).unwrap();
        assert_eq!(usual.to_string(), format!("https://10.0.1.5:80/#{fingerprint}"));
        assert!(fingerprint.pinned(&CombAddress::in_memory(0)).is_err());
    }

    #[test]
    fn each_certificate_has_a_key_of_its_own_which_is_not_shown() {
        let (one, other) = (CombCertificate::fresh().unwrap(), CombCertificate::fresh().unwrap());
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert_eq!(format!("{one:?}"), format!("CombCertificate {{ fingerprint: {:?}, .. }}", one.fingerprint()));
    }
}
