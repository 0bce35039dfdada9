//! The records of a text: rows of CSV, JSON objects, or lines. A file is divided only where a record ends, so a row does
//! not depend on the place of a division.

use serde_json::value::RawValue;

use crate::decode::Format;

/// Maximum size of a quoted value that spans lines. A quote that is not closed within it counts as never closed.
const QUOTED_BYTES_MAX: usize = 64 << 20;

/// The mark with which some programs begin a file in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

const STRAY_QUOTE: &str =
    "the quote that opens in this line is never closed, or is closed in a later line and text follows it";

const PART_OF_BROKEN: &str = "it follows a JSON object that is not complete";

/// A record of a text, with its line break.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    pub(crate) text: &'a [u8],
    /// The reason why it is not a row, if this does not depend on the columns.
    pub(crate) fault: Option<&'static str>,
    /// Its syntax is broken, so it must not be decoded together with the record after it.
    pub(crate) alone: bool,
}

impl Record<'_> {
    /// Returns the record without its line break.
    pub(crate) fn row(&self) -> String {
        let row = self.text.strip_suffix(b"\n").unwrap_or(self.text);
        String::from_utf8_lossy(row.strip_suffix(b"\r").unwrap_or(row)).into_owned()
    }
}

/// The records of a text that begins with one.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    format: &'a Format,
    rest: &'a [u8],
    /// The lines may belong to a JSON object that is not complete.
    broken: bool,
    /// Bytes that were read in vain, for JSON objects that are not complete, and the most that may be. After them, a record is
    /// one line.
    lost: usize,
    lost_max: usize,
}

/// Number of times that a text may be read in vain.
const READ_IN_VAIN_MAX: usize = 16;

/// Returns the records of `text`, without blank ones.
pub(crate) fn records<'a>(format: &'a Format, text: &'a [u8]) -> Records<'a> {
    Records { format, rest: text, broken: false, lost: 0, lost_max: text.len().saturating_mul(READ_IN_VAIN_MAX) }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        while !self.rest.is_empty() {
            let (end, fault, alone) = match self.format {
                Format::Csv { delimiter, .. } => {
                    let (end, fault) = csv_record(self.rest, *delimiter);
                    (end, fault, false)
                }
                Format::Json { unstructured: false } => self.json_record(),
                _ => (line_end(self.rest, 0), None, false),
            };
            let (text, rest) = self.rest.split_at(end);
            self.rest = rest;
            let is_blank = match self.format {
                Format::Csv { .. } => is_empty_line(text),
                Format::Json { unstructured: false } => text.iter().all(u8::is_ascii_whitespace),
                _ => text == b"\n",
            };
            if !is_blank {
                return Some(Record { text, fault, alone });
            }
        }
        None
    }
}

impl Records<'_> {
    /// Returns the end of the first JSON record, which is one or more values up to a line break after a value, the reason
    /// why it is not a row, and whether its syntax is broken. After an object that is not complete, a line is only a
    /// record if it begins with `{`: the other lines may be parts of that object.
    fn json_record(&mut self) -> (usize, Option<&'static str>, bool) {
        let text = self.rest;
        let blanks = text.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        if let Some(line) = text[..blanks].iter().rposition(|&byte| byte == b'\n') {
            return (line + 1, None, false);
        }
        if self.broken && text[0] != b'{' {
            return (line_end(text, 0), Some(PART_OF_BROKEN), true);
        }
        self.broken = false;
        let text = if self.lost > self.lost_max { &text[..line_end(text, 0)] } else { text };
        let mut values = serde_json::Deserializer::from_slice(text).into_iter::<&RawValue>();
        let mut complete = 0;
        while let Some(value) = values.next() {
            let Err(error) = value else {
                complete = values.byte_offset();
                let end = line_end(text, complete);
                if text[complete..end].iter().all(u8::is_ascii_whitespace) {
                    return (end, None, false);
                }
                continue;
            };
            let line = text[..complete].iter().filter(|&&byte| byte == b'\n').count() + 1;
            self.broken = error.line() > line;
            if error.is_eof() {
                self.lost += text.len();
            }
            return (line_end(text, complete), None, true);
        }
        (text.len(), None, false)
    }
}

/// The place of the next byte of a CSV record.
#[derive(Debug, Clone, Copy)]
enum Place {
    Start,
    Text,
    Quoted,
    /// After a quote in a quoted value, which ends the value unless another quote follows.
    Closing,
}

/// Returns the end of the first record of `text`, after its line break, and the reason why it is not a row. If a quote is
/// never closed, or is closed in a later line and text follows it, its opening quote was not meant as one: then the record
/// ends with the line of that quote, so that the rows after it are read.
fn csv_record(text: &[u8], delimiter: u8) -> (usize, Option<&'static str>) {
    let mut place = Place::Start;
    // The opening quote of the current value, and the end of its line.
    let (mut opened, mut line) = (0, None);
    let after_break = |at: usize| if text[at..].starts_with(b"\r\n") { at + 2 } else { at + 1 };
    for (at, &byte) in text.iter().enumerate() {
        let is_break = byte == b'\n' || byte == b'\r';
        place = match place {
            Place::Quoted | Place::Closing if byte == b'"' => match place {
                Place::Quoted => Place::Closing,
                _ => Place::Quoted,
            },
            Place::Quoted => {
                if is_break && line.is_none() {
                    line = Some(after_break(at));
                }
                match line {
                    Some(line) if at - opened > QUOTED_BYTES_MAX => return (line, Some(STRAY_QUOTE)),
                    _ => Place::Quoted,
                }
            }
            _ if is_break => return (after_break(at), None),
            _ if byte == delimiter => Place::Start,
            Place::Start if byte == b'"' => {
                (opened, line) = (at, None);
                Place::Quoted
            }
            Place::Closing if byte != b' ' && byte != b'\t' => match line {
                Some(line) => return (line, Some(STRAY_QUOTE)),
                None => Place::Text,
            },
            _ => Place::Text,
        };
    }
    match place {
        Place::Quoted => (line.unwrap_or(text.len()), Some(STRAY_QUOTE)),
        _ => (text.len(), None),
    }
}

/// Returns the bytes before the first record of a CSV file without a header.
pub(crate) fn csv_start(text: &[u8]) -> usize {
    if text.starts_with(BYTE_ORDER_MARK) { BYTE_ORDER_MARK.len() } else { 0 }
}

/// Returns the end of the header of a CSV file, which is its first record that is not empty.
///
/// # Errors
/// The reason why it is not a header.
pub(crate) fn csv_header_end(text: &[u8], delimiter: u8) -> Result<usize, &'static str> {
    let mut end = csv_start(text);
    loop {
        let start = end;
        let (length, fault) = csv_record(&text[start..], delimiter);
        end += length;
        if let Some(fault) = fault {
            return Err(fault);
        }
        if end == text.len() || !is_empty_line(&text[start..end]) {
            return Ok(end);
        }
    }
}

/// Returns the end of the first record of `text` that ends after more than `size` bytes, or the end of `text`.
pub(crate) fn cut(format: &Format, text: &[u8], size: usize) -> usize {
    if size >= text.len() {
        return text.len();
    }
    match format {
        Format::Csv { delimiter, .. } => {
            let is_quoted = text[..size].contains(&b'"');
            // Without quotes, each line break ends a record.
            let last_break = || text[..size].iter().rposition(|&byte| byte == b'\n' || byte == b'\r');
            let mut end = if is_quoted { 0 } else { last_break().map_or(0, |at| at + 1) };
            while end <= size && end < text.len() {
                end += csv_record(&text[end..], *delimiter).0;
            }
            end
        }
        Format::Json { unstructured: false } => {
            let mut end = size;
            loop {
                end = line_end(text, end);
                if end == text.len() || is_between_objects(text, end) {
                    return end;
                }
            }
        }
        _ => line_end(text, size),
    }
}

/// Returns true if an object ends before `at` and another one begins after it. Within an object of several lines, a comma
/// would stand between them.
fn is_between_objects(text: &[u8], at: usize) -> bool {
    let is_text = |byte: &&u8| !byte.is_ascii_whitespace();
    let (before, after) = (text[..at].iter().rev().find(is_text), text[at..].iter().find(is_text));
    before == Some(&b'}') && matches!(after, None | Some(b'{'))
}

fn is_empty_line(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte == b'\n' || byte == b'\r')
}

/// Returns the end of the line of `text` that has the byte at `from`.
fn line_end(text: &[u8], from: usize) -> usize {
    text[from..].iter().position(|&byte| byte == b'\n').map_or(text.len(), |at| from + at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CSV: Format = Format::Csv { header: true, delimiter: b',' };
    const JSON: Format = Format::Json { unstructured: false };

    fn rows(format: &Format, text: &str) -> Vec<(String, bool)> {
        records(format, text.as_bytes()).map(|record| (record.row(), record.fault.is_none())).collect()
    }

    fn good(rows: &[&str]) -> Vec<(String, bool)> {
        rows.iter().map(|row| (row.to_string(), true)).collect()
    }

    #[test]
    fn line_break_in_quotes_does_not_end_a_record() {
        let text = "1,\"a\nb\"\r\n\n2,\"c\"\"\n\"\r3,5\" pipe\n\"x\"y,4\n\"a\nb\" ,5";
        let expected = ["1,\"a\nb\"", "2,\"c\"\"\n\"\r", "3,5\" pipe", "\"x\"y,4", "\"a\nb\" ,5"];
        let found: Vec<String> = rows(&CSV, text).into_iter().map(|(row, _)| row).collect();
        assert_eq!(found, expected.map(|row| row.trim_end_matches('\r').to_string()));
        assert!(rows(&CSV, text).iter().all(|(_, good)| *good));
    }

    #[test]
    fn quote_that_was_not_meant_as_one_spoils_its_line_only() {
        for rest in ["2,\"c\"\n3,d\n", "2,c\n3,d\n"] {
            let text = format!("0,\"a\nb\"\n1,\"x\n{rest}");
            let found = rows(&CSV, &text);
            let bad: Vec<_> = found.iter().filter(|(_, good)| !good).map(|(row, _)| row.as_str()).collect();
            assert_eq!((found.len(), bad), (4, vec!["1,\"x"]), "{text}");
        }
    }

    #[test]
    fn json_record_may_span_lines() {
        let text = "{\"a\":1}\n\n {\"a\":\n  [{\"b\":2},\n{\"b\":3}]\n}\n{\"a\":4} {\"a\":5}\n";
        let expected = ["{\"a\":1}", " {\"a\":\n  [{\"b\":2},\n{\"b\":3}]\n}", "{\"a\":4} {\"a\":5}"];
        assert_eq!(rows(&JSON, text), good(&expected));
        // The lines of an object that is not complete are not rows, and the next object is one.
        let found: Vec<_> = records(&JSON, b"nothing\n{\"a\":\n  {\"a\":9},\n{\"a\":1}\n{\"a\":1e400}\n")
            .map(|record| (record.row(), record.fault.is_none() && !record.alone))
            .collect();
        let expected = [("nothing", false), ("{\"a\":", false), ("  {\"a\":9},", false), ("{\"a\":1}", true)];
        let expected = expected.into_iter().chain([("{\"a\":1e400}", true)]);
        assert_eq!(found, expected.map(|(row, good)| (row.to_string(), good)).collect::<Vec<_>>());
    }

    #[test]
    fn text_is_cut_at_the_ends_of_records() {
        let pieces = |format: &Format, text: &str, size: usize| {
            let (mut rest, mut pieces) = (text.as_bytes(), Vec::new());
            while !rest.is_empty() {
                let (piece, more) = rest.split_at(cut(format, rest, size));
                pieces.push(String::from_utf8_lossy(piece).into_owned());
                rest = more;
            }
            pieces
        };
        assert_eq!(pieces(&Format::RawString, "aaa\nbb\nc\ndddddd", 2), ["aaa\n", "bb\n", "c\ndddddd"]);
        assert_eq!(pieces(&CSV, "aaa\nbb\nc\ndddddd", 2), ["aaa\n", "bb\n", "c\ndddddd"]);
        let objects = "{\"a\":[\n{\"b\":1},\n{\"b\":2}\n]}\n{\"a\":[]}\n";
        assert_eq!(pieces(&JSON, objects, 2), ["{\"a\":[\n{\"b\":1},\n{\"b\":2}\n]}\n", "{\"a\":[]}\n"]);
        let text = "1,\"a\nb\"\n2,\"x\n3,c\n4,\"d\n\n\"\n";
        for size in 0..text.len() {
            let cuts = pieces(&CSV, text, size);
            assert_eq!(cuts.concat(), text);
            let apart: Vec<_> = cuts.iter().flat_map(|piece| rows(&CSV, piece)).collect();
            assert_eq!(apart, rows(&CSV, text), "pieces of {size} bytes");
        }
    }

    #[test]
    fn header_may_have_line_breaks() {
        assert_eq!(csv_header_end(b"\xef\xbb\xbf\r\n\"a\nb\",c\r\n1,2", b','), Ok(14));
        assert_eq!(csv_header_end(b"n\r1\r2", b','), Ok(2));
        assert_eq!(csv_header_end(b"n,\"m\n1,2\n", b','), Err(STRAY_QUOTE));
    }
}
