//! Detects the dialect of a CSV file from its first lines: delimiter, escape character, and header.

use arrow::datatypes::DataType;
use buzz_protocol::CsvFormat;

use crate::infer::{common, type_of};

/// Returns the records of a CSV file that starts with `head`. Skips the first record if `header` is true.
pub(crate) fn records<'a>(
    csv: &CsvFormat,
    header: bool,
    head: &'a [u8],
) -> impl Iterator<Item = Result<csv::ByteRecord, csv::Error>> + 'a {
    let reader = csv::ReaderBuilder::new()
        .has_headers(header)
        .flexible(true)
        .delimiter(csv.delimiter)
        .quote(csv.quote)
        .double_quote(csv.escape.is_none())
        .escape(csv.escape)
        .comment(csv.comment)
        .from_reader(head);
    reader.into_byte_records()
}

/// The delimiter of a CSV file, and the character that escapes quotes within quoted values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) escape: Option<u8>,
}

/// Detects the dialect of a file that starts with `head`. A given `delimiter` and the escape of `csv` are kept.
/// Otherwise the delimiter is one of comma, tab, semicolon and bar that gives the first 20 records the same number of
/// values: one with which all quotes are around values, and of these the one that gives the most values. Returns `None`
/// if no delimiter gives more than one value and no escape is detected.
pub(crate) fn sniff_dialect(csv: &CsvFormat, delimiter: Option<u8>, head: &[u8]) -> Option<Dialect> {
    let candidates = delimiter.map_or(vec![b',', b'\t', b';', b'|'], |given| vec![given]);
    let mut best = ((false, 1), None);
    for &delimiter in &candidates {
        let csv = CsvFormat { delimiter, ..csv.clone() };
        let escape = csv.escape.or_else(|| sniff_escape(&csv, head));
        let csv = CsvFormat { escape, ..csv };
        let mut counts = records(&csv, false, head).take(20).map_while(Result::ok).map(|record| record.len());
        let first = counts.next().unwrap_or_default();
        let dialect = Some(Dialect { delimiter, escape });
        let rank = (!has_quote_within_value(&csv, head), first);
        if first > 1 && rank > best.0 && counts.all(|count| count == first) {
            best = (rank, dialect);
        } else if escape.is_some() && first == 1 && delimiter == candidates[0] {
            // A file with one column, whose values contain escaped quotes.
            best = ((false, 1), dialect);
        }
    }
    best.1
}

/// Returns whether one of the first 20 lines has a quote that neither begins nor ends a value, nor is doubled or escaped.
fn has_quote_within_value(csv: &CsvFormat, head: &[u8]) -> bool {
    let lines = head.split_inclusive(|&byte| byte == b'\n').take(20).map(<[u8]>::len).sum();
    let head = &head[..lines];
    let is_edge = |byte: Option<&u8>| match byte {
        None => true,
        Some(&byte) => [csv.delimiter, csv.quote, b'\n', b'\r', b' '].contains(&byte),
    };
    head.iter().enumerate().filter(|(_, byte)| **byte == csv.quote).any(|(at, _)| {
        let before = at.checked_sub(1).and_then(|before| head.get(before));
        !is_edge(before) && !is_edge(head.get(at + 1)) && before.copied() != csv.escape
    })
}

/// Detects the character that escapes quotes within quoted values, in a file that starts with `head`: a backslash or,
/// more often, none. A backslash is chosen if the first 1,000 lines, read with it as escape character, give records of
/// equal length, and reading them without it does one of these:
/// - gives records of different lengths, but not more of them,
/// - gives fewer records, because several lines are within one value,
/// - leaves text behind the closing quote of a value.
fn sniff_escape(csv: &CsvFormat, head: &[u8]) -> Option<u8> {
    if !head.contains(&b'\\') {
        return None;
    }
    let lines = head.split_inclusive(|&byte| byte == b'\n').take(1000).map(<[u8]>::len).sum();
    let is_cut = lines < head.len();
    let head = &head[..lines];
    let read = |escape: Option<u8>| {
        let csv = CsvFormat { escape, ..csv.clone() };
        let mut counts: Vec<usize> =
            records(&csv, false, head).map_while(Result::ok).map(|record| record.len()).collect();
        if is_cut {
            // The last record may be incomplete.
            counts.pop();
        }
        (counts.iter().all(|count| Some(count) == counts.first()), counts.len())
    };
    let ((plain_even, plain), (even, escaped)) = (read(None), read(Some(b'\\')));
    // Without the escape, an escaped quote may end its value, and a later line break within the value starts a record.
    // Such files have fewer records with the escape; `goes_on_behind_backslash` detects them.
    let more = (!plain_even && escaped >= plain) || escaped > plain;
    (even && (more || goes_on_behind_backslash(csv, head))).then_some(b'\\')
}

/// Returns whether a quoted value, read without an escape character, ends with a backslash and text follows, as in
/// `"say \"so"`. Spaces alone do not count as text.
fn goes_on_behind_backslash(csv: &CsvFormat, head: &[u8]) -> bool {
    let ends_value = |byte: u8| byte == csv.delimiter || byte == b'\n' || byte == b'\r';
    let (mut quoted, mut position) = (false, 0);
    while position < head.len() {
        let next = head.get(position + 1).copied();
        let text = || head[position + 1..].iter().find(|&&byte| byte != b' ').is_some_and(|&byte| !ends_value(byte));
        if head[position] == csv.quote {
            let begins = position == 0 || ends_value(head[position - 1]);
            match next {
                _ if !quoted => quoted = begins,
                // A doubled quote is part of the value.
                Some(next) if next == csv.quote => position += 1,
                Some(_) if head[position - 1] == b'\\' && text() => return true,
                _ => quoted = false,
            }
        }
        position += 1;
    }
    false
}

/// The kind of a file's first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstLine {
    /// It has names: its values are texts, above a column of numbers, times or truth values.
    Names,
    /// It has a value that is not a text.
    Values,
    /// All values of the file's start are texts, or there is only one line.
    Unknown,
}

/// Number of records in which a column of another type than text is looked for.
const RECORDS_COMPARED: usize = 100;

/// Determines if the first line of a file that starts with `head` has the names of the columns.
pub(crate) fn first_line(csv: &CsvFormat, head: &[u8]) -> FirstLine {
    let types = |record: &csv::ByteRecord| -> Vec<Option<DataType>> {
        let typed = |cell: &[u8]| {
            let cell = String::from_utf8_lossy(cell);
            (!cell.trim().is_empty()).then(|| type_of(&cell))
        };
        record.iter().map(typed).collect()
    };
    let mut records = records(csv, false, head).take(RECORDS_COMPARED + 1).map_while(Result::ok);
    let Some(first) = records.next().map(|record| types(&record)) else { return FirstLine::Unknown };
    let is_typed = |data_type: &Option<DataType>| data_type.as_ref().is_some_and(|known| *known != DataType::Utf8);
    if first.iter().any(is_typed) {
        return FirstLine::Values;
    }
    let mut columns: Vec<Option<DataType>> = vec![None; first.len()];
    for record in records {
        for (column, seen) in columns.iter_mut().zip(types(&record)) {
            let Some(seen) = seen else { continue };
            *column = Some(column.take().map_or(seen.clone(), |known| common(&known, &seen)));
        }
    }
    let is_named = columns.iter().zip(&first).any(|(column, name)| name.is_some() && is_typed(column));
    if is_named { FirstLine::Names } else { FirstLine::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(head: &str) -> Option<(char, bool)> {
        let found = sniff_dialect(&CsvFormat::default(), None, head.as_bytes())?;
        Some((char::from(found.delimiter), found.escape.is_some()))
    }

    #[test]
    fn delimiter_and_header_are_detected() {
        let csv = CsvFormat::default();
        assert_eq!(dialect("a\tb\n1,5\t2,5\n"), Some(('\t', false)));
        assert_eq!(dialect("a;b\n1,5;2,5\n"), Some((';', false)));
        assert_eq!(dialect("1|x, y|3\n2|z|3\n"), Some(('|', false)));
        assert_eq!(dialect("only\none\n"), None);
        assert_eq!(dialect("id;\"amount, EUR\"\n1;2,50\n2;3,75\n"), Some((';', false)));
        assert_eq!(dialect("a,b\n5\" x;y,2\n"), Some((',', false)));
        assert_eq!(first_line(&csv, b"a,b\n1,2\n"), FirstLine::Names);
        assert_eq!(first_line(&csv, b"1,b\n1,2\n"), FirstLine::Values);
        assert_eq!(first_line(&csv, b"a,b\nx,y\n"), FirstLine::Unknown);
        assert_eq!(first_line(&csv, b"-,b\n1,x\n-,z\n"), FirstLine::Unknown);
    }

    #[test]
    fn backslash_escape_is_distinguished_from_backslash_in_value() {
        assert_eq!(dialect("1,\"say \\\"a, b\\\"\"\n2,x\n"), Some((',', true)));
        assert_eq!(dialect("1,\"say \\\"so\\\"\"\n2,x\n"), Some((',', true)));
        assert_eq!(dialect("a;b\n1;\"x\\\";y\"\n"), Some((';', true)));
        assert_eq!(dialect("a|b\n1|\"{\\\"k\\\": \\\"v|w\\\"}\"\n2|\"{}\"\n"), Some(('|', true)));
        // Inches at the end of each value.
        assert_eq!(dialect(&["1,\"27\\\"\"\n"; 4].concat()), Some((',', true)));
        assert_eq!(dialect("t,n\n\"say \\\"so\\\", then\nmore\",1\n"), Some((',', true)));
        assert_eq!(dialect("t,n\n\"say \\\"so\\\"\nmore\",1\n"), Some((',', true)));
        let long = ["t,n\n\"say \\\"so\\\"\",1\nz,1\n", &"\"x\ny\",1\n".repeat(700)].concat();
        assert_eq!(dialect(&long), Some((',', true)));
        assert_eq!(dialect("a,b\n\"x \\\"q\\\" y\",1\nz\n").map(|(delimiter, _)| delimiter), None);
        // Windows paths that end with a backslash, also before a space.
        assert_eq!(dialect("1,\"C:\\\"\n2,\"say \"\"x\"\"\"\n"), Some((',', false)));
        assert_eq!(dialect("1,\"C:\\\",\"a \"\"b\"\"\"\r\n2,\"\",y\r\n"), Some((',', false)));
        assert_eq!(dialect("\"C:\\tmp\\\" ,1\n\"C:\\tmp\\\" ,2\n"), Some((',', false)));
        assert_eq!(dialect("p,n\n\"C:\\dir\\\" ,1\n\"D:\\\" ,2\n\"E:\\\" ,3\n\"x\",4\n"), Some((',', false)));
        assert_eq!(dialect("1,5\\\" x\n"), Some((',', false)));
    }
}
