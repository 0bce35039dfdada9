//! What a CSV file is like, as its first lines show: what divides values, what escapes quotes, whether there is a header.

use arrow::datatypes::DataType;
use buzz_protocol::CsvFormat;

use crate::infer::type_of;

/// The records of a CSV file that begins with `head`, without the first if that is a `header`.
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

/// How a file divides its lines into values, and what stands before quotes inside of quoted ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) escape: Option<u8>,
}

/// The dialect of a file that begins with `head`, as far as `delimiter` and the escape of `csv` leave it open: of comma, tab,
/// semicolon and bar the one that divides its first lines in the same number of parts, and the most. None where nothing
/// divides them.
pub(crate) fn sniff_dialect(csv: &CsvFormat, delimiter: Option<u8>, head: &[u8]) -> Option<Dialect> {
    let candidates = delimiter.map_or(vec![b',', b'\t', b';', b'|'], |given| vec![given]);
    let mut best = (1, None);
    for &delimiter in &candidates {
        let csv = CsvFormat { delimiter, ..csv.clone() };
        let escape = csv.escape.or_else(|| sniff_escape(&csv, head));
        let csv = CsvFormat { escape, ..csv };
        let mut counts = records(&csv, false, head).take(20).map_while(Result::ok).map(|record| record.len());
        let first = counts.next().unwrap_or_default();
        let dialect = Some(Dialect { delimiter, escape });
        if first > best.0 && counts.all(|count| count == first) {
            best = (first, dialect);
        } else if escape.is_some() && first == 1 && delimiter == candidates[0] {
            // One column, whose values have quotes.
            best = (1, dialect);
        }
    }
    best.1
}

/// What stands before quotes inside of quoted values in a file that begins with `head`: a backslash, if without it the
/// first lines have different numbers of parts, more of them are within one value, or a quoted value would go on behind its
/// end, and with it none of these; usually nothing.
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
            // Perhaps within a value.
            counts.pop();
        }
        (counts.iter().all(|count| Some(count) == counts.first()), counts.len())
    };
    let ((plain_even, plain), (even, escaped)) = (read(None), read(Some(b'\\')));
    // Breaks within a value are lines of their own to whoever takes its first quote for its end.
    let more = (!plain_even && escaped >= plain) || escaped > plain;
    (even && (more || goes_on_behind_backslash(csv, head))).then_some(b'\\')
}

/// Whether a quoted value, read as if nothing were escaped, ends with a backslash and text follows, as in `"say \"so"`.
/// Blanks alone are no text.
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

/// Whether the first line of a file that begins with `head` names its columns: each value in it is a text. A file of
/// one line is its header.
pub(crate) fn sniff_header(csv: &CsvFormat, head: &[u8]) -> bool {
    match records(csv, false, head).next() {
        Some(Ok(first)) => first.iter().all(|cell| {
            let cell = String::from_utf8_lossy(cell);
            cell.is_empty() || type_of(&cell) == DataType::Utf8
        }),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(head: &str) -> Option<(char, bool)> {
        let found = sniff_dialect(&CsvFormat::default(), None, head.as_bytes())?;
        Some((char::from(found.delimiter), found.escape.is_some()))
    }

    #[test]
    fn what_a_file_is_like_is_seen_from_its_first_lines() {
        let csv = CsvFormat::default();
        assert_eq!(dialect("a\tb\n1,5\t2,5\n"), Some(('\t', false)));
        assert_eq!(dialect("a;b\n1,5;2,5\n"), Some((';', false)));
        assert_eq!(dialect("1|x, y|3\n2|z|3\n"), Some(('|', false)));
        assert_eq!(dialect("only\none\n"), None);
        assert!(sniff_header(&csv, b"a,b\n1,2\n"));
        assert!(!sniff_header(&csv, b"1,b\n1,2\n"));
    }

    #[test]
    fn backslashes_before_quotes_are_seen_where_they_are_no_part_of_values() {
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
        // Folders, also before a space.
        assert_eq!(dialect("1,\"C:\\\"\n2,\"say \"\"x\"\"\"\n"), Some((',', false)));
        assert_eq!(dialect("1,\"C:\\\",\"a \"\"b\"\"\"\r\n2,\"\",y\r\n"), Some((',', false)));
        assert_eq!(dialect("\"C:\\tmp\\\" ,1\n\"C:\\tmp\\\" ,2\n"), Some((',', false)));
        assert_eq!(dialect("p,n\n\"C:\\dir\\\" ,1\n\"D:\\\" ,2\n\"E:\\\" ,3\n\"x\",4\n"), Some((',', false)));
        assert_eq!(dialect("1,5\\\" x\n"), Some((',', false)));
    }
}
