//! Keys of users, which decide who may ask; tokens; and random values.

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use buzz_protocol::{QueryError, Result};
use ring::rand::{SecureRandom, SystemRandom};
use ring::{digest, hmac};

/// Longest name of a user, in bytes.
const USER_BYTES_MAX: usize = 63;

/// The keys that are accepted.
pub struct Keys {
    known: Known,
    /// Signs tokens. New at each start of the server, so that tokens end with it.
    signing: hmac::Key,
}

enum Known {
    /// One key for every user.
    One(String),
    /// A key for each user.
    Users(BTreeMap<String, String>),
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

/// Returns `N` random bytes.
///
/// # Errors
/// `Internal` if the operating system has none.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| QueryError::internal("the operating system returned no random bytes"))?;
    Ok(bytes)
}

impl Keys {
    /// Accepts `key` for any user name.
    ///
    /// # Errors
    /// `Invalid` if the key is too short; `Internal` without random bytes.
    pub fn one(key: &str) -> Result<Self> {
        check("", key)?;
        Self::of(Known::One(key.to_string()))
    }

    /// Accepts each user with a key.
    ///
    /// # Errors
    /// `Invalid` without users, or if a name or key cannot be used; `Internal` without random bytes.
    pub fn of_users(users: BTreeMap<String, String>) -> Result<Self> {
        if users.is_empty() {
            return Err(QueryError::invalid("the file of keys has no users; write {\"name\": \"key\"}"));
        }
        for (user, key) in &users {
            check(user, key)?;
            if user.is_empty() || user.len() > USER_BYTES_MAX || user.contains([':', '\0']) {
                return Err(QueryError::invalid(format!(
                    "user `{user}` cannot be used; a name has 1 to {USER_BYTES_MAX} bytes and no colon"
                )));
            }
        }
        Self::of(Known::Users(users))
    }

    fn of(known: Known) -> Result<Self> {
        Ok(Self { known, signing: hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?) })
    }

    /// Returns a fresh key of 256 random bits.
    ///
    /// # Errors
    /// `Internal` without random bytes.
    pub fn fresh() -> Result<String> {
        Ok(URL_SAFE_NO_PAD.encode(random::<32>()?))
    }

    /// Returns true if all users have one key.
    pub(crate) fn is_one(&self) -> bool {
        matches!(self.known, Known::One(_))
    }

    /// Returns the key of `user`, for SCRAM.
    pub(crate) fn key_of(&self, user: &str) -> Option<&str> {
        match &self.known {
            Known::One(key) if user.len() <= USER_BYTES_MAX => Some(key),
            Known::One(_) => None,
            Known::Users(users) => users.get(user).map(String::as_str),
        }
    }

    /// Returns a value that only this server can compute, for `text`.
    pub(crate) fn derived(&self, text: &str) -> Vec<u8> {
        hmac::sign(&self.signing, text.as_bytes()).as_ref().to_vec()
    }

    /// Returns a token that stands for `user` until the server ends.
    pub(crate) fn token(&self, user: &str) -> String {
        let tag = hmac::sign(&self.signing, format!("token {user}").as_bytes());
        format!("{}.{}", URL_SAFE_NO_PAD.encode(user), URL_SAFE_NO_PAD.encode(tag))
    }

    fn user_of_token(&self, token: &str) -> Option<String> {
        let (user, tag) = token.split_once('.')?;
        let user = String::from_utf8(URL_SAFE_NO_PAD.decode(user).ok()?).ok()?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.signing, format!("token {user}").as_bytes(), &tag).ok()?;
        Some(user)
    }

    fn user_of_key(&self, shown: &str) -> Option<String> {
        match &self.known {
            Known::One(key) => same(key, shown).then(|| "key".to_string()),
            Known::Users(users) => users.iter().find(|(_, key)| same(key, shown)).map(|(user, _)| user.clone()),
        }
    }

    /// Returns the user of an `Authorization` header: `Bearer` with a key or a token, or `Basic` with a user and a key.
    pub(crate) fn user_of_header(&self, header: &str) -> Option<String> {
        let (scheme, rest) = header.trim().split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.user_of_key(rest).or_else(|| self.user_of_token(rest));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        // Some clients leave the padding out.
        let bytes = STANDARD.decode(rest).or_else(|_| STANDARD_NO_PAD.decode(rest)).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (user, shown) = text.split_once(':')?;
        same(self.key_of(user)?, shown).then(|| user.to_string())
    }
}

/// Compares two keys by their digests, so that the time does not depend on their common part.
fn same(key: &str, shown: &str) -> bool {
    let of = |text: &str| digest::digest(&digest::SHA256, text.as_bytes());
    of(key).as_ref() == of(shown).as_ref()
}

fn check(user: &str, key: &str) -> Result<()> {
    let printable = key.bytes().all(|byte| byte.is_ascii_graphic());
    if key.len() >= 16 && printable {
        return Ok(());
    }
    let whose = if user.is_empty() { String::new() } else { format!(" of user `{user}`") };
    Err(QueryError::invalid(format!(
        "the key{whose} cannot be used; a key has at least 16 printable ASCII characters without spaces"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "0123456789abcdef";

    #[test]
    fn headers_with_the_key_are_accepted() {
        let keys = Keys::one(KEY).unwrap();
        let basic = |text: &str| format!("Basic {}", STANDARD_NO_PAD.encode(text));
        assert_eq!(keys.user_of_header(&format!("Bearer {KEY}")), Some("key".to_string()));
        assert_eq!(keys.user_of_header(&basic(&format!("ann:{KEY}"))), Some("ann".to_string()));
        let token = keys.token("ann");
        assert_eq!(keys.user_of_header(&format!("bearer {token}")), Some("ann".to_string()));
        for wrong in ["", "Bearer", "Bearer x", "Digest x", "Basic !", &basic("ann:wrong"), &format!("Bearer {token}x")]
        {
            assert_eq!(keys.user_of_header(wrong), None, "{wrong}");
        }
        let others = Keys::one(KEY).unwrap();
        assert_eq!(others.user_of_header(&format!("Bearer {token}")), None, "a token of another server");
    }

    #[test]
    fn keys_of_users_are_told_apart() {
        let users = [("ann", KEY), ("bob", "fedcba9876543210")];
        let keys = Keys::of_users(users.map(|(user, key)| (user.to_string(), key.to_string())).into()).unwrap();
        assert_eq!(keys.user_of_header("Bearer fedcba9876543210"), Some("bob".to_string()));
        let wrong = STANDARD.encode(format!("bob:{KEY}"));
        assert_eq!(keys.user_of_header(&format!("Basic {wrong}")), None);
        let short = Keys::of_users([("ann".to_string(), "short".to_string())].into()).unwrap_err();
        assert!(short.to_string().contains("the key of user `ann` cannot be used"), "{short}");
    }
}
