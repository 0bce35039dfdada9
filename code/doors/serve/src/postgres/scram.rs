//! Login with SCRAM-SHA-256 (RFC 5802 and RFC 7677), without channel binding: the key itself is never sent.

use std::num::NonZeroU32;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use buzz_protocol::Result;
use ring::{digest, hmac, pbkdf2};

use crate::Keys;
use crate::keys::random;

/// The name of the mechanism.
pub(super) const MECHANISM: &str = "SCRAM-SHA-256";

const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("4096 is not zero");

/// A login between the client's first message and its last.
#[derive(Debug)]
pub(super) struct Login {
    /// The header of the client's first message, which its last repeats.
    header: String,
    client_first: String,
    server_first: String,
    nonce: String,
    stored_key: Vec<u8>,
    server_key: Vec<u8>,
    is_known: bool,
}

impl Login {
    /// Takes the client's first message. Returns the login and the server's answer, or None if the message is not valid. For
    /// an unknown user, the login continues like any other, and fails at its end.
    ///
    /// # Errors
    /// `Internal` without random bytes.
    pub(super) fn start(keys: &Keys, user: &str, message: &str) -> Result<Option<(Self, String)>> {
        let Some((header, client_first)) = split_header(message) else { return Ok(None) };
        // An extension that the server must understand or refuse.
        if client_first.split(',').any(|field| field.starts_with("m=")) {
            return Ok(None);
        }
        let client_nonce = client_first.split(',').find_map(|field| field.strip_prefix("r="));
        let Some(client_nonce) = client_nonce.filter(|nonce| !nonce.is_empty()) else { return Ok(None) };

        let nonce = format!("{client_nonce}{}", STANDARD.encode(random::<18>()?));
        // The same salt at each login of a user, whether it is known or not.
        let salt = &keys.derived(&format!("salt {user}"))[..16];
        let server_first = format!("r={nonce},s={},i={ITERATIONS}", STANDARD.encode(salt));
        let known = keys.key_of(user);
        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        let secret = known.map_or_else(random_secret, |key| Ok(key.to_string()))?;
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, ITERATIONS, salt, secret.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        let login = Self {
            header: header.to_string(),
            client_first: client_first.to_string(),
            server_first: server_first.clone(),
            nonce,
            stored_key: digest::digest(&digest::SHA256, &client_key).as_ref().to_vec(),
            server_key: sign(&salted, b"Server Key"),
            is_known: known.is_some(),
        };
        Ok(Some((login, server_first)))
    }

    /// Takes the client's last message. Returns the server's last one if the client has proven that it knows the key.
    pub(super) fn finish(self, message: &str) -> Option<String> {
        let (without_proof, proof) = message.rsplit_once(",p=")?;
        let mut fields = without_proof.split(',');
        let binding = STANDARD.decode(fields.next()?.strip_prefix("c=")?).ok()?;
        let nonce = fields.next()?.strip_prefix("r=")?;
        let proof = STANDARD.decode(proof).ok()?;
        if binding != self.header.as_bytes() || nonce != self.nonce || proof.len() != self.stored_key.len() {
            return None;
        }
        let signed = format!("{},{},{without_proof}", self.client_first, self.server_first);
        let signature = sign(&self.stored_key, signed.as_bytes());
        let client_key: Vec<u8> = proof.iter().zip(&signature).map(|(one, other)| one ^ other).collect();
        let is_proven = digest::digest(&digest::SHA256, &client_key).as_ref() == self.stored_key;
        let answer = format!("v={}", STANDARD.encode(sign(&self.server_key, signed.as_bytes())));
        (is_proven && self.is_known).then_some(answer)
    }
}

fn random_secret() -> Result<String> {
    Ok(STANDARD.encode(random::<32>()?))
}

/// Splits the client's first message into its header, which must not require channel binding, and the rest.
fn split_header(message: &str) -> Option<(&str, &str)> {
    let mut commas = message.match_indices(',').map(|(at, _)| at);
    let end = commas.nth(1)? + 1;
    let (header, rest) = message.split_at(end);
    (header.starts_with("n,") || header.starts_with("y,")).then_some((header, rest))
}

fn sign(key: &[u8], data: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), data).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    /// Computes the client's last message as RFC 5802 describes it.
    fn answer(key: &str, server_first: &str) -> String {
        let field = |name: &str| server_first.split(',').find_map(|field| field.strip_prefix(name)).unwrap();
        let salt = STANDARD.decode(field("s=")).unwrap();
        let mut salted = [0; 32];
        let iterations = field("i=").parse().unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, &salt, key.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        let without_proof = format!("c=biws,r={}", field("r="));
        let signed = format!("n=,r=abc,{server_first},{without_proof}");
        let stored = digest::digest(&digest::SHA256, &client_key);
        let signature = sign(stored.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key.iter().zip(&signature).map(|(one, other)| one ^ other).collect();
        format!("{without_proof},p={}", STANDARD.encode(proof))
    }

    fn login(keys: &Keys, user: &str, key: &str) -> Option<String> {
        let (login, server_first) = Login::start(keys, user, "n,,n=,r=abc").unwrap().unwrap();
        login.finish(&answer(key, &server_first))
    }

    #[test]
    fn only_the_right_key_logs_in() {
        let keys = Keys::of_users([("ann".to_string(), KEY.to_string())].into()).unwrap();
        assert!(login(&keys, "ann", KEY).unwrap().starts_with("v="));
        assert_eq!(login(&keys, "ann", "0123456789abcdeX"), None);
        assert_eq!(login(&keys, "bob", KEY), None);
    }

    #[test]
    fn malformed_messages_are_refused() {
        let keys = Keys::one(KEY).unwrap();
        for first in
            ["", "n", "n,,", "n,,n=", "n,,r=", "p=tls-server-end-point,,n=,r=abc", "x,,n=,r=abc", "n,,m=x,n=,r=abc"]
        {
            assert!(Login::start(&keys, "ann", first).unwrap().is_none(), "{first}");
        }
        for last in ["", "c=biws", "c=biws,r=abc,p=", "c=!,r=,p=AAAA", ",p=", "c=biws,r=abc,p=AAAA"] {
            let (login, _) = Login::start(&keys, "ann", "n,,n=,r=abc").unwrap().unwrap();
            assert_eq!(login.finish(last), None, "{last}");
        }
    }
}
