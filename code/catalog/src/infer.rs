//! Types of columns, from the text of their values.

use std::sync::Arc;

use arrow::compute::kernels::cast_utils::Parser;
use arrow::datatypes::TimestampMicrosecondType;
use arrow::datatypes::{DataType, Date32Type, Field, Fields, Float64Type, Int64Type, Schema, TimeUnit};
use buzz_protocol::{CsvFormat, QueryError, Result};
use buzz_storage::text::column_names;

/// A column and the type that all its values seen so far have; None when only nulls were seen.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Inferred {
    pub(crate) name: String,
    pub(crate) data_type: Option<DataType>,
}

/// Digits of the longest whole number that is read as a decimal: with more, what compares it with a fraction overflows,
/// since that has 15 digits behind the point and 38 in all.
pub(crate) const DIGITS_MAX: usize = 23;

/// The type of whole numbers beyond 64 bits.
pub(crate) const WHOLE: DataType = DataType::Decimal128(38, 0);

const MICROSECONDS: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// The columns of a CSV file that begins with `head`, in its order.
///
/// # Errors
/// `Data` when it is not such a file.
pub(crate) fn csv_columns(csv: &CsvFormat, head: &[u8]) -> Result<Vec<Inferred>> {
    let names = column_names(csv, head)?;
    let mut columns: Vec<Inferred> = names.into_iter().map(|name| Inferred { name, data_type: None }).collect();
    let mut decided = vec![false; columns.len()];
    for record in records(csv, csv.header, head) {
        let record = record.map_err(|error| QueryError::data(format!("not readable CSV: {error}")))?;
        for (index, cell) in record.iter().take(columns.len()).enumerate() {
            let cell = String::from_utf8_lossy(cell);
            if decided[index] || cell.is_empty() || csv.null.as_deref() == Some(&*cell) {
                continue;
            }
            let column = &mut columns[index];
            let seen = type_of(&cell);
            column.data_type = Some(column.data_type.take().map_or(seen.clone(), |known| common(&known, &seen)));
            decided[index] = column.data_type == Some(DataType::Utf8);
        }
    }
    Ok(columns)
}

fn records<'a>(
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

/// The narrowest type of which `text` is a value; what this says, arrow's CSV reader can read.
fn type_of(text: &str) -> DataType {
    let digits = text.trim_start_matches(['-', '+']);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.is_empty() {
        if digits.len() > 1 && digits.starts_with('0') {
            // A zip code or the like, which is another one without its zeros.
            return DataType::Utf8;
        }
        return match Int64Type::parse(text) {
            Some(_) => DataType::Int64,
            None if digits.len() <= DIGITS_MAX => WHOLE,
            None => DataType::Utf8,
        };
    }
    if digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && Float64Type::parse(text).is_some() {
        return DataType::Float64;
    }
    if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") {
        return DataType::Boolean;
    }
    let dated = text.len() >= 10 && text.as_bytes()[4] == b'-' && text.as_bytes()[7] == b'-';
    if dated && text.len() == 10 && Date32Type::parse(text).is_some() {
        return DataType::Date32;
    }
    if dated && text.len() > 10 && TimestampMicrosecondType::parse(text).is_some() {
        let time = &text[10..];
        let zoned = time.ends_with(['Z', 'z']) || time.contains(['+', '-']);
        return if zoned { DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())) } else { MICROSECONDS };
    }
    DataType::Utf8
}

/// The type that can hold values of both.
pub(crate) fn common(a: &DataType, b: &DataType) -> DataType {
    use DataType::{Date32, Decimal128, Float64, Int64, List, Null, Struct, Timestamp, Utf8};
    match (a, b) {
        (a, b) if a == b => a.clone(),
        (Null, other) | (other, Null) => other.clone(),
        (Int64 | Decimal128(..), Float64) | (Float64, Int64 | Decimal128(..)) => Float64,
        (Int64, decimal @ Decimal128(..)) | (decimal @ Decimal128(..), Int64) => decimal.clone(),
        (Date32, time @ Timestamp(_, None)) | (time @ Timestamp(_, None), Date32) => time.clone(),
        (List(a), List(b)) => List(Arc::new(Field::new(a.name(), common(a.data_type(), b.data_type()), true))),
        (Struct(a), Struct(b)) => Struct(common_fields(a, b)),
        _ => Utf8,
    }
}

fn common_fields(a: &Fields, b: &Fields) -> Fields {
    if a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.name() == b.name()) {
        let joined =
            |(a, b): (&Arc<Field>, &Arc<Field>)| Field::new(a.name(), common(a.data_type(), b.data_type()), true);
        return a.iter().zip(b).map(joined).collect();
    }
    let other = |fields: &Fields, name: &str| fields.find(name).map(|(_, field)| field.data_type().clone());
    let joined = a.iter().map(|field| match other(b, field.name()) {
        Some(data_type) => Field::new(field.name(), common(field.data_type(), &data_type), true),
        None => field.as_ref().clone(),
    });
    let added = b.iter().filter(|field| a.find(field.name()).is_none()).map(|field| field.as_ref().clone());
    joined.chain(added).collect()
}

/// All columns of all files. Of a column that only had nulls, nothing more is known than that texts may come.
pub(crate) fn merged(files: Vec<Vec<Inferred>>) -> Schema {
    let mut all: Vec<Inferred> = Vec::new();
    for column in files.into_iter().flatten() {
        match all.iter_mut().find(|known| known.name == column.name) {
            None => all.push(column),
            Some(known) => {
                known.data_type = match (known.data_type.take(), column.data_type) {
                    (Some(a), Some(b)) => Some(common(&a, &b)),
                    (a, b) => a.or(b),
                }
            }
        }
    }
    let field = |column: Inferred| Field::new(column.name, known(&column.data_type.unwrap_or(DataType::Null)), true);
    Schema::new(all.into_iter().map(field).collect::<Vec<_>>())
}

/// `data_type` with text where nothing is known, also inside.
fn known(data_type: &DataType) -> DataType {
    let inner = |field: &Arc<Field>| Field::new(field.name(), known(field.data_type()), true);
    match data_type {
        DataType::Null => DataType::Utf8,
        DataType::List(item) => DataType::List(Arc::new(inner(item))),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect()),
        other => other.clone(),
    }
}

/// How a file divides its lines into values, and what stands before quotes inside of quoted ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dialect {
    pub(crate) delimiter: u8,
    pub(crate) escape: Option<u8>,
}

/// The dialect of a file that begins with `head`, as far as `csv` and what is `given` leave it open: of comma, tab,
/// semicolon and bar the one that divides its first lines in the same number of parts, and the most. None where nothing
/// divides them.
pub(crate) fn sniff_dialect(csv: &CsvFormat, given: (Option<u8>, Option<u8>), head: &[u8]) -> Option<Dialect> {
    let (delimiter, escape) = given;
    let candidates = delimiter.map_or(vec![b',', b'\t', b';', b'|'], |given| vec![given]);
    let mut best = (1, None);
    for &delimiter in &candidates {
        let csv = CsvFormat { delimiter, ..csv.clone() };
        let escape = escape.or_else(|| sniff_escape(&csv, head));
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

    fn types(text: &str) -> Vec<String> {
        let schema = merged(vec![csv_columns(&CsvFormat::default(), text.as_bytes()).unwrap()]);
        schema.fields().iter().map(|field| format!("{}: {}", field.name(), field.data_type())).collect()
    }

    #[test]
    fn a_column_has_the_narrowest_type_of_all_its_values() {
        assert_eq!(types("a,b,c\n1,2.5,x\n-2,3,\n"), ["a: Int64", "b: Float64", "c: Utf8"]);
        assert_eq!(types("a,b\n1,true\n1.5,FALSE\n"), ["a: Float64", "b: Boolean"]);
        assert_eq!(types("d,t\n2024-01-31,2024-01-31\n,2024-01-31 10:00:00\n"), ["d: Date32", "t: Timestamp(µs)"]);
        assert_eq!(types("z\n2024-01-31T10:00:00Z\n"), ["z: Timestamp(µs, \"UTC\")"]);
        assert_eq!(types("n\n17929716297117857676\n"), ["n: Decimal128(38, 0)"]);
        assert_eq!(types("e,v\n,1\n,-\n"), ["e: Utf8", "v: Utf8"]);
        assert_eq!(types("zip,n\n01234,0\n12345,-1\n"), ["zip: Utf8", "n: Int64"]);
    }

    #[test]
    fn files_are_joined_by_name() {
        let csv = CsvFormat::default();
        let files = ["a,b\n1,2\n", "b,c\n2.5,x\n"].map(|text| csv_columns(&csv, text.as_bytes()).unwrap());
        let schema = merged(files.to_vec());
        let names: Vec<_> = schema.fields().iter().map(|field| field.to_string()).collect();
        assert_eq!(names.len(), 3, "{names:?}");
        assert_eq!(schema.field(1).data_type(), &DataType::Float64);
    }

    fn dialect(head: &str) -> Option<(char, bool)> {
        let found = sniff_dialect(&CsvFormat::default(), (None, None), head.as_bytes())?;
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
