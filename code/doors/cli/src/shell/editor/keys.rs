//! Keys, from the bytes that a terminal sends.

use std::io;
use std::os::fd::AsFd;

/// A key, or a paste.
#[derive(Debug, PartialEq, Eq, Clone)]
pub(super) enum Key {
    Char(char),
    /// Ctrl and a lowercase letter.
    Ctrl(char),
    /// Alt and a character.
    Alt(char),
    Enter,
    Tab,
    Backspace,
    Delete,
    Left,
    Right,
    Up,
    Down,
    Home,
    End,
    WordLeft,
    WordRight,
    /// Text that was pasted at once.
    Paste(String),
    /// A sequence without a meaning here.
    Other,
}

const PASTE_END: &[u8] = b"\x1b[201~";

/// Reads keys from a terminal.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pending: Vec<u8>,
}

impl Keys {
    /// Reads one key. Returns `None` at the end of the input.
    pub(super) fn next(&mut self, input: impl AsFd) -> io::Result<Option<Key>> {
        loop {
            if let Some((key, length)) = parse(&self.pending) {
                self.pending.drain(..length);
                return Ok(Some(key));
            }
            let mut buffer = [0; 4096];
            match rustix::io::read(&input, &mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Returns the first key of `bytes` and its length, or `None` if more bytes are needed.
fn parse(bytes: &[u8]) -> Option<(Key, usize)> {
    let key = match *bytes.first()? {
        b'\r' | b'\n' => Key::Enter,
        b'\t' => Key::Tab,
        0x08 | 0x7f => Key::Backspace,
        0x1b => return escape(bytes),
        code @ 1..=26 => Key::Ctrl(char::from(b'a' + code - 1)),
        0..=0x1f => Key::Other,
        _ => return character(bytes).map(|(found, length)| (found.map_or(Key::Other, Key::Char), length)),
    };
    Some((key, 1))
}

/// Decodes one character of UTF-8. A byte that begins none is skipped.
fn character(bytes: &[u8]) -> Option<(Option<char>, usize)> {
    let length = match bytes.first()? {
        0..=0x7f => 1,
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf7 => 4,
        _ => return Some((None, 1)),
    };
    let text = bytes.get(..length)?;
    match std::str::from_utf8(text) {
        Ok(text) => Some((text.chars().next(), length)),
        Err(_) => Some((None, 1)),
    }
}

/// Parses a sequence that begins with the escape character.
fn escape(bytes: &[u8]) -> Option<(Key, usize)> {
    match *bytes.get(1)? {
        b'[' => {
            let end = 2 + bytes[2..].iter().position(|byte| (0x40..=0x7e).contains(byte))?;
            let parameters = std::str::from_utf8(&bytes[2..end]).unwrap_or_default();
            if (parameters, bytes[end]) == ("200", b'~') {
                let rest = &bytes[end + 1..];
                let length = rest.windows(PASTE_END.len()).position(|window| window == PASTE_END)?;
                let text = String::from_utf8_lossy(&rest[..length]).into_owned();
                return Some((Key::Paste(text), end + 1 + length + PASTE_END.len()));
            }
            Some((sequence(parameters, bytes[end]), end + 1))
        }
        b'O' => Some((sequence("", *bytes.get(2)?), 3)),
        0x1b => Some((Key::Other, 1)),
        b'\r' | b'\n' => Some((Key::Alt('\n'), 2)),
        0x7f => Some((Key::Alt('\u{7f}'), 2)),
        _ => character(&bytes[1..]).map(|(found, length)| (found.map_or(Key::Other, Key::Alt), 1 + length)),
    }
}

fn sequence(parameters: &str, last: u8) -> Key {
    let with_modifier = parameters.contains(';');
    match (last, parameters) {
        (b'A', _) => Key::Up,
        (b'B', _) => Key::Down,
        (b'C', _) if with_modifier => Key::WordRight,
        (b'D', _) if with_modifier => Key::WordLeft,
        (b'C', _) => Key::Right,
        (b'D', _) => Key::Left,
        (b'H', _) | (b'~', "1" | "7") => Key::Home,
        (b'F', _) | (b'~', "4" | "8") => Key::End,
        (b'~', "3") => Key::Delete,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_a_terminal_are_keys() {
        let mut bytes = "aé\r\t\x7f\x01\x1b[A\x1b[1;5D\x1bOH\x1b[3~\x1bb\x1b[200~x;\ny\x1b[201~\x1b[99~".as_bytes();
        let mut keys = Vec::new();
        while let Some((key, length)) = parse(bytes) {
            keys.push(key);
            bytes = &bytes[length..];
        }
        let pasted = Key::Paste("x;\ny".to_string());
        let expected = [
            Key::Char('a'),
            Key::Char('é'),
            Key::Enter,
            Key::Tab,
            Key::Backspace,
            Key::Ctrl('a'),
            Key::Up,
            Key::WordLeft,
            Key::Home,
            Key::Delete,
            Key::Alt('b'),
            pasted,
            Key::Other,
        ];
        assert_eq!(keys, expected);
        assert!(bytes.is_empty());
        for partial in ["\x1b", "\x1b[", "\x1b[1;5", "\x1b[200~abc\x1b[20"] {
            assert_eq!(parse(partial.as_bytes()), None);
        }
        assert_eq!(parse(&[0xc3]), None);
        assert_eq!(parse(&[0xff]), Some((Key::Other, 1)));
    }
}
