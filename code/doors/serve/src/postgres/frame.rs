//! Checks messages of a client before `pgwire` decodes them.
//!
//! `pgwire` reads fields without a look at the end of their message: a count that is too large makes it panic, or read the next
//! message. A text without an end is an empty one to it, and bytes that are not UTF-8 are replaced. So each message is decoded
//! alone, once `check` has found that its fields fill it exactly and its texts are valid.

use pgwire::messages::startup::{GssEncRequest, SslRequest};

/// Code of a request to cancel a query, at the place of the version.
const CANCEL: u32 = 80_877_102;

/// The part of a connection in which a message is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client chooses a mechanism and begins its login.
    LoginFirst,
    /// The client proves that it has the key.
    LoginLast,
    /// The client has logged in.
    Ready,
}

/// A field of a message.
#[derive(Debug, Clone, Copy)]
enum Field {
    /// `S` for a statement, `P` for a portal.
    Target,
    Int,
    Text,
    /// A length and as many bytes; −1 for null.
    Value,
    /// A number of fields of two bytes, and the fields.
    Shorts,
    /// The same with four bytes each.
    Ints,
    /// The same with values.
    Values,
    /// All bytes that are left.
    Rest,
}

/// Returns the fields of a message of `kind`, if it exists.
fn fields(kind: u8, phase: Phase) -> Option<&'static [Field]> {
    use Field::{Int, Ints, Rest, Shorts, Target, Text, Value, Values};
    Some(match kind {
        b'Q' | b'f' => &[Text],
        b'P' => &[Text, Text, Ints],
        b'B' => &[Text, Text, Shorts, Values, Shorts],
        b'D' | b'C' => &[Target, Text],
        b'E' => &[Text, Int],
        b'S' | b'H' | b'X' | b'c' => &[],
        b'p' if phase == Phase::LoginFirst => &[Text, Value],
        b'p' | b'd' => &[Rest],
        _ => return None,
    })
}

/// Checks that the bytes of a message after its length are those of its fields.
///
/// # Errors
/// The fault of the message.
pub(super) fn check(kind: u8, phase: Phase, body: &[u8]) -> Result<(), String> {
    let Some(fields) = fields(kind, phase) else {
        return Err(match kind {
            b'F' => "function calls are not supported; use SELECT".to_string(),
            _ => format!("message `{}` does not exist", kind.escape_ascii()),
        });
    };
    let mut reader = Reader(body);
    fields.iter().try_for_each(|field| reader.skip(*field))?;
    reader.end()
}

/// Checks the first message of a connection, without its length.
///
/// # Errors
/// The fault of the message.
pub(super) fn check_startup(body: &[u8]) -> Result<(), String> {
    let mut reader = Reader(body);
    let code = reader.int()?;
    if [SslRequest::BODY_MAGIC_NUMBER, GssEncRequest::BODY_MAGIC_NUMBER].map(i32::cast_unsigned).contains(&code) {
        return reader.end();
    }
    if code == CANCEL {
        // The process and a secret of at least four bytes.
        return reader.take(8).map(drop);
    }
    if code >> 16 != 3 {
        let (major, minor) = (code >> 16, code & 0xffff);
        return Err(format!("protocol version {major}.{minor} is not supported; use version 3.0"));
    }
    while !reader.text()?.is_empty() {
        reader.text()?;
    }
    reader.end()
}

/// The bytes of a message that were not checked yet.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or("a message ends before its last field")?;
        self.0 = rest;
        Ok(taken)
    }

    fn int(&mut self) -> Result<u32, String> {
        Ok(self.take(4)?.iter().fold(0, |value, byte| value << 8 | u32::from(*byte)))
    }

    fn count(&mut self) -> Result<usize, String> {
        Ok(self.take(2)?.iter().fold(0, |value, byte| value << 8 | usize::from(*byte)))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or("a text of a message has no end")?;
        let text = std::str::from_utf8(self.take(end)?).map_err(|_| "a text is not valid UTF-8")?;
        self.take(1)?;
        Ok(text)
    }

    fn value(&mut self) -> Result<(), String> {
        match self.int()?.cast_signed() {
            -1 => Ok(()),
            length => {
                let length = usize::try_from(length).map_err(|_| "the length of a value is negative")?;
                self.take(length).map(drop)
            }
        }
    }

    fn skip(&mut self, field: Field) -> Result<(), String> {
        match field {
            Field::Target => match self.take(1)? {
                b"S" | b"P" => Ok(()),
                other => Err(format!("`{}` names no statement and no portal", other.escape_ascii())),
            },
            Field::Int => self.take(4).map(drop),
            Field::Text => self.text().map(drop),
            Field::Value => self.value(),
            Field::Shorts => self.count().and_then(|count| self.take(2 * count)).map(drop),
            Field::Ints => self.count().and_then(|count| self.take(4 * count)).map(drop),
            Field::Values => (0..self.count()?).try_for_each(|_| self.value()),
            Field::Rest => self.take(self.0.len()).map(drop),
        }
    }

    fn end(&self) -> Result<(), String> {
        match self.0.len() {
            0 => Ok(()),
            left => Err(format!("a message has {left} bytes after its last field")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_must_fill_their_message() {
        let bind: &[u8] = b"p\0s\0\0\x01\0\x01\0\x02\0\0\0\x03abc\xff\xff\xff\xff\0\x01\0\x01";
        check(b'B', Phase::Ready, bind).unwrap();
        for length in 0..bind.len() {
            check(b'B', Phase::Ready, &bind[..length]).unwrap_err();
        }
        check(b'B', Phase::Ready, &[bind, b"x"].concat()).unwrap_err();
    }

    #[test]
    fn faults_are_named() {
        let fault = |kind, body: &[u8]| check(kind, Phase::Ready, body).unwrap_err();
        assert_eq!(fault(b'Q', b"SELECT 1"), "a text of a message has no end");
        assert_eq!(fault(b'Q', b"SELECT '\xff'\0"), "a text is not valid UTF-8");
        assert_eq!(fault(b'P', b"\0\0\xff\xff"), "a message ends before its last field");
        assert_eq!(fault(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"), "the length of a value is negative");
        assert_eq!(fault(b'D', b"X\0"), "`X` names no statement and no portal");
        assert_eq!(fault(b'S', b"\0"), "a message has 1 bytes after its last field");
        assert_eq!(fault(b'!', b""), "message `!` does not exist");
        assert_eq!(fault(b'F', b""), "function calls are not supported; use SELECT");
        check(b'p', Phase::LoginFirst, b"SCRAM-SHA-256\0\0\0\0\x09n").unwrap_err();
    }

    #[test]
    fn first_messages_are_checked() {
        check_startup(b"\0\x03\0\0user\0ann\0database\0\0\0").unwrap();
        check_startup(b"\x04\xd2\x16\x2f").unwrap();
        check_startup(b"\x04\xd2\x16\x2e\0\0\0\x01\0\0\0\x02").unwrap();
        for wrong in [
            &b"\0\x02\0\0"[..],
            b"\0\x03\0\0user\0ann",
            b"\0\x03\0\0user\0",
            b"\0\x03\0\0\0x",
            b"\0\x03\0\0\xff\0\0\0",
            b"\x04\xd2\x16\x2fx",
            b"\x04\xd2\x16\x2e\0\0\0\x01",
            b"",
        ] {
            check_startup(wrong).unwrap_err();
        }
    }
}
