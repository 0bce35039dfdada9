//! `COPY (query) TO STDOUT`: parses the statement, and writes rows as text, CSV or PostgreSQL's binary format.

use arrow::array::Array;
use arrow::array::timezone::Tz;
use bytes::{BufMut, BytesMut};

use crate::postgres::cursor::is_null;
use crate::postgres::error::PgError;
use crate::postgres::types::PgType;
use crate::postgres::value::{Misfit, with_length, write_binary_as, write_text};
use crate::scan::{self, Kind, Token};

type Result<T, E = PgError> = std::result::Result<T, E>;

/// The format of a COPY.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CopyFormat {
    pub(super) kind: CopyKind,
    pub(super) has_header: bool,
    delimiter: char,
    null: String,
    quote: char,
    escape: char,
    force_quote: bool,
}

/// The three formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CopyKind {
    Text,
    Csv,
    Binary,
}

/// Parses a COPY statement. Returns its query and format.
///
/// # Errors
/// If it does not copy a query or table to the client, or an option is not supported.
pub(super) fn parse(sql: &str) -> Result<(String, CopyFormat)> {
    let tokens = scan::tokens(sql);
    let wrong = |at: usize| {
        let near = tokens.get(at).map_or("the end", |token| token.text(sql));
        PgError::syntax(format!("syntax error at or near \"{near}\"; write COPY (SELECT …) TO STDOUT"))
    };
    let is_word = |at: usize, word: &str| tokens.get(at).is_some_and(|token| token.is_word(sql, word));
    let (query, mut at) = if tokens.get(1).is_some_and(|token| token.is_symbol(sql, '(')) {
        let end = closing(sql, &tokens, 1).ok_or_else(|| wrong(tokens.len()))?;
        (sql[tokens[1].at.end..tokens[end].at.start].trim().to_string(), end + 1)
    } else {
        let mut end = 1;
        while end < tokens.len() && !is_word(end, "to") && !is_word(end, "from") && !tokens[end].is_symbol(sql, '(') {
            end += 1;
        }
        if end == 1 || end >= tokens.len() {
            return Err(wrong(end));
        }
        let table = &sql[tokens[1].at.start..tokens[end - 1].at.end];
        if tokens[end].is_symbol(sql, '(') {
            let close = closing(sql, &tokens, end).ok_or_else(|| wrong(tokens.len()))?;
            let columns = &sql[tokens[end].at.end..tokens[close].at.start];
            (format!("SELECT {columns} FROM {table}"), close + 1)
        } else {
            (format!("SELECT * FROM {table}"), end)
        }
    };
    if is_word(at, "from") {
        return Err(PgError::new(
            "25006",
            "cannot execute COPY FROM: Buzz only reads; write COPY (SELECT …) TO STDOUT",
        ));
    }
    if !is_word(at, "to") || !is_word(at + 1, "stdout") {
        return Err(wrong(at));
    }
    at += 2;
    if is_word(at, "with") {
        at += 1;
    }
    let mut options = tokens[at.min(tokens.len())..].to_vec();
    // Both forms: in parentheses with commas, and the older one without.
    options.retain(|token| ![',', '(', ')'].iter().any(|symbol| token.is_symbol(sql, *symbol)));
    Ok((query, format(sql, &options)?))
}

fn closing(sql: &str, tokens: &[Token], open: usize) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        depth += usize::from(token.is_symbol(sql, '('));
        if token.is_symbol(sql, ')') {
            depth -= 1;
            if depth == 0 {
                return Some(at);
            }
        }
    }
    None
}

fn format(sql: &str, options: &[Token]) -> Result<CopyFormat> {
    let mut kind = CopyKind::Text;
    let mut has_header = false;
    let (mut delimiter, mut null, mut quote, mut escape, mut force_quote) = (None, None, None, None, false);
    let mut at = 0;
    while at < options.len() {
        let word = options[at].text(sql).to_lowercase();
        at += 1;
        if word == "force" || word == "force_quote" {
            // Only for all columns, written as `*`.
            force_quote = true;
            at += options[at..]
                .iter()
                .take_while(|token| token.is_word(sql, "quote") || token.is_symbol(sql, '*'))
                .count();
            continue;
        }
        if at < options.len() && ["delimiter", "null", "quote", "escape", "encoding"].contains(&word.as_str()) {
            at += usize::from(options[at].is_word(sql, "as"));
        }
        let value = options.get(at).map(|token| token.value(sql));
        let is_value = options.get(at).is_some_and(|token| matches!(token.kind, Kind::Text | Kind::Number));
        let missing = || PgError::syntax(format!("option `{word}` of COPY has no value"));
        match word.as_str() {
            "csv" => kind = CopyKind::Csv,
            "binary" => kind = CopyKind::Binary,
            "text" => kind = CopyKind::Text,
            "format" => {
                kind = match value.as_deref().map(str::to_lowercase).as_deref() {
                    Some("csv") => CopyKind::Csv,
                    Some("binary") => CopyKind::Binary,
                    Some("text") => CopyKind::Text,
                    _ => return Err(PgError::syntax("the format of COPY is text, csv or binary")),
                };
                at += 1;
            }
            "header" => {
                let flag = options.get(at).map(|token| token.value(sql).to_lowercase());
                let flag = flag.filter(|flag| ["true", "false", "on", "off", "1", "0"].contains(&flag.as_str()));
                has_header = !matches!(flag.as_deref(), Some("false" | "off" | "0"));
                at += usize::from(flag.is_some());
            }
            "delimiter" | "null" | "quote" | "escape" | "encoding" => {
                let value = value.filter(|_| is_value).ok_or_else(missing)?;
                at += 1;
                match word.as_str() {
                    "delimiter" => delimiter = Some(one_byte(&word, &value)?),
                    "null" => null = Some(value),
                    "quote" => quote = Some(one_byte(&word, &value)?),
                    "escape" => escape = Some(one_byte(&word, &value)?),
                    _ if ["utf8", "utf-8"].contains(&value.to_lowercase().as_str()) => {}
                    _ => return Err(PgError::syntax("rows are copied in the encoding UTF8 only")),
                }
            }
            _ => return Err(PgError::syntax(format!("option `{word}` of COPY is not supported"))),
        }
    }
    let is_csv = kind == CopyKind::Csv;
    let quote = quote.unwrap_or('"');
    Ok(CopyFormat {
        kind,
        has_header,
        delimiter: delimiter.unwrap_or(if is_csv { ',' } else { '\t' }),
        null: null.unwrap_or_else(|| if is_csv { String::new() } else { "\\N".to_string() }),
        quote,
        escape: escape.unwrap_or(quote),
        force_quote,
    })
}

fn one_byte(option: &str, value: &str) -> Result<char> {
    let mut characters = value.chars();
    match (characters.next(), characters.next()) {
        (Some(character), None) if character.is_ascii() && !"\r\n".contains(character) => Ok(character),
        _ => Err(PgError::syntax(format!("option `{option}` of COPY must be one ASCII character"))),
    }
}

/// Writes the beginning of a file: nothing, the names of the columns, or the mark of the binary format.
pub(super) fn write_header(format: &CopyFormat, names: &[&str], out: &mut BytesMut) {
    match format.kind {
        CopyKind::Binary => {
            out.put_slice(b"PGCOPY\n\xff\r\n\0");
            out.put_i32(0);
            out.put_i32(0);
        }
        _ if format.has_header => {
            let mut line = String::new();
            for (index, name) in names.iter().enumerate() {
                separate(format, index, &mut line);
                field(format, name, names.len() == 1, &mut line);
            }
            line.push('\n');
            out.put_slice(line.as_bytes());
        }
        _ => {}
    }
}

/// Writes the end of a file.
pub(super) fn write_end(format: &CopyFormat, out: &mut BytesMut) {
    if format.kind == CopyKind::Binary {
        out.put_i16(-1);
    }
}

/// Writes row `row` of `columns`, which were announced as `kinds`.
///
/// # Errors
/// The number of the column that cannot be written, and the reason.
pub(super) fn write_row(
    format: &CopyFormat,
    columns: &[std::sync::Arc<dyn Array>],
    kinds: &[PgType],
    row: usize,
    zone: Tz,
    out: &mut BytesMut,
) -> Result<(), (usize, Misfit)> {
    if format.kind == CopyKind::Binary {
        out.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
        for (index, column) in columns.iter().enumerate() {
            if is_null(column.as_ref(), row) {
                out.put_i32(-1);
            } else {
                let kind = kinds.get(index).copied().unwrap_or_else(|| PgType::of(column.data_type()));
                with_length(out, |out| write_binary_as(kind, column.as_ref(), row, zone, out))
                    .map_err(|misfit| (index, misfit))?;
            }
        }
        return Ok(());
    }
    let (mut line, mut value) = (String::new(), String::new());
    for (index, column) in columns.iter().enumerate() {
        separate(format, index, &mut line);
        if is_null(column.as_ref(), row) {
            line.push_str(&format.null);
            continue;
        }
        value.clear();
        write_text(column.as_ref(), row, zone, &mut value).map_err(|misfit| (index, misfit))?;
        field(format, &value, columns.len() == 1, &mut line);
    }
    line.push('\n');
    out.put_slice(line.as_bytes());
    Ok(())
}

fn separate(format: &CopyFormat, index: usize, line: &mut String) {
    if index > 0 {
        line.push(format.delimiter);
    }
}

/// Writes one value. `is_only` is true if the row has no other.
fn field(format: &CopyFormat, value: &str, is_only: bool, line: &mut String) {
    if format.kind == CopyKind::Text {
        for character in value.chars() {
            match character {
                '\\' => line.push_str("\\\\"),
                '\n' => line.push_str("\\n"),
                '\r' => line.push_str("\\r"),
                '\t' => line.push_str("\\t"),
                '\u{8}' => line.push_str("\\b"),
                '\u{b}' => line.push_str("\\v"),
                '\u{c}' => line.push_str("\\f"),
                other if other == format.delimiter => {
                    line.push('\\');
                    line.push(other);
                }
                other => line.push(other),
            }
        }
        return;
    }
    let special = |character: char| [format.delimiter, format.quote, '\n', '\r'].contains(&character);
    let is_end_mark = is_only && value == "\\.";
    if !format.force_quote && value != format.null && !value.contains(special) && !is_end_mark {
        return line.push_str(value);
    }
    line.push(format.quote);
    for character in value.chars() {
        if character == format.quote || character == format.escape {
            line.push(format.escape);
        }
        line.push(character);
    }
    line.push(format.quote);
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Int32Array, StringArray};

    use super::*;

    fn copied(sql: &str) -> String {
        let (_, format) = parse(sql).unwrap();
        let texts = StringArray::from(vec![Some("a,\"b\"\tc\\\n"), None, Some("")]);
        let columns: Vec<Arc<dyn Array>> =
            vec![Arc::new(texts), Arc::new(Int32Array::from(vec![Some(1), None, Some(3)]))];
        let mut out = BytesMut::new();
        write_header(&format, &["t", "n"], &mut out);
        for row in 0..3 {
            write_row(&format, &columns, &[], row, "+00:00".parse().unwrap(), &mut out).unwrap();
        }
        write_end(&format, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn nulls_and_special_characters_are_told_apart() {
        assert_eq!(copied("COPY (SELECT 1) TO STDOUT"), "a,\"b\"\\tc\\\\\\n\t1\n\\N\t\\N\n\t3\n");
        let csv = "t,n\n\"a,\"\"b\"\"\tc\\\n\",1\n,\n\"\",3\n";
        assert_eq!(copied("COPY (SELECT 1) TO STDOUT WITH (FORMAT csv, HEADER)"), csv);
        assert_eq!(copied("COPY (SELECT 1) TO STDOUT csv header"), csv);
        let other = "COPY (SELECT 1) TO STDOUT (FORMAT csv, DELIMITER ';', NULL 'x', HEADER false)";
        assert_eq!(copied(other), "\"a,\"\"b\"\"\tc\\\n\";1\nx;x\n;3\n");
        assert!(copied("COPY (SELECT 1) TO STDOUT BINARY").starts_with("PGCOPY\n"));
    }

    #[test]
    fn queries_and_tables_are_copied() {
        let query = |sql: &str| parse(sql).unwrap().0;
        assert_eq!(query("COPY ( SELECT (1), ')' ) TO STDOUT"), "SELECT (1), ')'");
        assert_eq!(query("COPY public.\"T\" TO STDOUT WITH BINARY"), "SELECT * FROM public.\"T\"");
        assert_eq!(query("copy trips (a, \"B\") to stdout"), "SELECT a, \"B\" FROM trips");
        let error = |sql: &str| parse(sql).unwrap_err().message;
        assert!(error("COPY t FROM STDIN").starts_with("cannot execute COPY FROM"));
        for wrong in [
            "COPY",
            "COPY t",
            "COPY (SELECT 1",
            "COPY t TO 'file'",
            "COPY t TO STDOUT (FORMAT xml)",
            "COPY t TO STDOUT (DELIMITER)",
            "COPY t TO STDOUT (DELIMITER 'ab')",
        ] {
            assert!(!error(wrong).is_empty());
        }
    }
}
