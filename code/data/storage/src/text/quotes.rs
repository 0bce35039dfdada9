//! Follows the quotes of a CSV text, to find where its records end and quotes that are never closed. Arrow's reader
//! takes the rest of a file as one value if a quote is not closed.

use buzz_protocol::{CsvFormat, QueryError, Result};

/// Checks the quotes of `text`, whole records of a file after its first `lines` lines. `is_end` is true if the file ends
/// with it.
///
/// # Errors
/// `Data`, with the line, if a quote is open at the end of the file, or if a quoted value spans lines and text follows
/// its closing quote: its opening quote was not meant as one, or was not closed.
pub(super) fn check_quotes(csv: &CsvFormat, text: &[u8], lines: usize, is_end: bool) -> Result<()> {
    let ends_value = |byte: u8| byte == csv.delimiter || byte == b'\n' || byte == b'\r';
    let escape = csv.escape.filter(|escape| *escape != csv.quote);
    let is_comment = |start: usize| csv.comment.is_some() && text.get(start).copied() == csv.comment;
    let line_of = |at: usize| lines + lines_in(&text[..at]) + 1;
    let mut opened: Option<usize> = None;
    // The position from which special characters are to be handled, and the start of the current record.
    let (mut next, mut record) = (0, 0);
    for at in memchr::memchr3_iter(csv.quote, escape.unwrap_or(csv.quote), b'\n', text) {
        if at < next {
            continue;
        }
        let byte = text[at];
        let Some(open) = opened else {
            if byte == b'\n' {
                record = at + 1;
            } else if byte == csv.quote && (at == 0 || ends_value(text[at - 1])) && !is_comment(record) {
                opened = Some(at);
            }
            continue;
        };
        if Some(byte) == escape {
            next = at + 2;
        } else if byte == csv.quote {
            let after = text.get(at + 1).copied();
            if after == Some(csv.quote) {
                next = at + 2;
                continue;
            }
            opened = None;
            let is_text = after.is_some_and(|after| !ends_value(after) && after != b' ' && after != b'\t');
            if is_text && text[open..at].contains(&b'\n') {
                return Err(QueryError::data(format!(
                    "not readable CSV: the quote that opens in line {} is closed in line {}, and text follows it; correct \
                     the file, or set `quote` or `escape` in the catalog entry",
                    line_of(open),
                    line_of(at)
                )));
            }
        }
    }
    match opened {
        Some(open) if is_end => Err(QueryError::data(format!(
            "not readable CSV: the quote that opens in line {} is never closed; correct the file, or set `quote` or \
             `escape` in the catalog entry",
            line_of(open)
        ))),
        _ => Ok(()),
    }
}

/// Returns the number of line breaks in `text`.
pub(super) fn lines_in(text: &[u8]) -> usize {
    memchr::memchr_iter(b'\n', text).count()
}

/// The place of the next byte relative to quoted values.
#[derive(Debug, Clone, Copy)]
enum Place {
    Outside,
    Inside,
    /// After the escape character within a quoted value.
    Escaped,
    /// After a quote within a quoted value, which ends the value unless another quote follows.
    Closing,
}

/// Returns the end of the first record of `bytes`, after its line break, or `None` if it is incomplete. A comment or an
/// empty line counts as a record.
pub(super) fn record_end(csv: &CsvFormat, bytes: &[u8]) -> Option<usize> {
    if csv.comment.is_some() && bytes.first().copied() == csv.comment {
        return memchr::memchr(b'\n', bytes).map(|at| at + 1);
    }
    let mut place = Place::Outside;
    let mut previous = b'\n';
    for (at, &byte) in bytes.iter().enumerate() {
        place = match place {
            Place::Escaped => Place::Inside,
            Place::Inside if csv.escape == Some(byte) => Place::Escaped,
            Place::Inside if byte == csv.quote => Place::Closing,
            Place::Inside => Place::Inside,
            Place::Closing if byte == csv.quote => Place::Inside,
            Place::Outside if byte == csv.quote && [csv.delimiter, b'\n', b'\r'].contains(&previous) => Place::Inside,
            _ if byte == b'\n' => return Some(at + 1),
            // A line break may follow. At the end of the bytes, it is not known.
            _ if byte == b'\r' => match bytes.get(at + 1) {
                None => return None,
                Some(b'\n') => return Some(at + 2),
                Some(_) => return Some(at + 1),
            },
            _ => Place::Outside,
        };
        previous = byte;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(csv: &CsvFormat, text: &str) -> Result<(), String> {
        check_quotes(csv, text.as_bytes(), 0, true).map_err(|error| error.message)
    }

    #[test]
    fn unclosed_quote_is_named_by_its_line() {
        let csv = CsvFormat::default();
        for fine in [
            "a,b\n1,\"x\ny\"\n",
            "\"a\"\"b\",\"\"\n\"\"\n",
            "5\" pipe,1\n2,6\"\n",
            "a,\"x\n\" ,1\n",
            "\"x\"y,1\n",
            "a,\"x\"",
            "",
        ] {
            assert_eq!(checked(&csv, fine), Ok(()), "{fine:?}");
        }
        let open = checked(&csv, "a,b\n1,x\n2,\"y\n3,z\n").unwrap_err();
        assert!(open.contains("opens in line 3 is never closed"), "{open}");
        let late = checked(&csv, "a,b\n1,\"x\n2,y\n3,\"z\"\n").unwrap_err();
        assert!(late.contains("opens in line 2 is closed in line 4"), "{late}");
        let last = check_quotes(&csv, b"3,\"x", 10, true).unwrap_err().message;
        assert!(last.contains("opens in line 11 is never closed"), "{last}");
    }

    #[test]
    fn escapes_and_comments_are_respected() {
        let escaped = CsvFormat { escape: Some(b'\\'), ..CsvFormat::default() };
        assert_eq!(checked(&escaped, "1,\"say \\\"so\\\"\nmore\"\n2,\"\\\\\"\n"), Ok(()));
        let commented = CsvFormat { comment: Some(b'#'), ..CsvFormat::default() };
        assert_eq!(checked(&commented, "# it's a,\"b\na,b\n#,\"\n1,\"x\n#y\",\"z\"\n"), Ok(()));
        assert!(checked(&commented, "#\n1,\"x\n#\"y\n").unwrap_err().contains("opens in line 2"));
        assert_eq!(record_end(&escaped, b"a,\"x\\\"\ny\"\nb"), Some(10));
        assert_eq!(record_end(&escaped, b"a 5\",b\nc"), Some(7));
        assert_eq!(record_end(&escaped, b"a,\"x"), None);
        let ends = ["a\r\nb", "a\rb", "a\r", "a,\"\r\"\rb"].map(|text| record_end(&escaped, text.as_bytes()));
        assert_eq!(ends, [Some(3), Some(2), None, Some(6)]);
    }
}
