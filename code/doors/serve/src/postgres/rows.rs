//! Sends the rows of a cursor: as messages of rows, or as the data of a COPY.

use arrow::array::timezone::Tz;
use bytes::{BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::postgres::copy::{self, CopyFormat, CopyKind};
use crate::postgres::cursor::{Column, Cursor, is_null};
use crate::postgres::error::{PgError, Stop};
use crate::postgres::types::PgType;
use crate::postgres::value::{with_length, write_binary_as, write_text};
use crate::postgres::wire::{Wire, put_text};

/// Returns true if column `index` is sent in binary form.
pub(super) fn is_binary(formats: &[i16], index: usize) -> bool {
    match formats {
        [] => false,
        [one] => *one == 1,
        many => many.get(index) == Some(&1),
    }
}

/// Checks the formats that a client chose for `count` columns.
pub(super) fn check_formats(formats: &[i16], count: usize) -> Result<(), PgError> {
    if formats.len() > 1 && formats.len() != count {
        return Err(PgError::new("08P01", format!("{} formats were sent for {count} columns", formats.len())));
    }
    match formats.iter().find(|format| ![0, 1].contains(*format)) {
        Some(format) => Err(PgError::new("08P01", format!("format {format} does not exist; use 0 or 1"))),
        None => Ok(()),
    }
}

/// Writes the message that announces `columns`.
pub(super) fn put_description<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    columns: &[Column],
    formats: &[i16],
) {
    wire.put(b'T', |out| {
        out.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
        for (index, column) in columns.iter().enumerate() {
            put_text(out, &column.name);
            // No table and no column of it.
            out.put_u32(0);
            out.put_i16(0);
            out.put_u32(column.kind.oid());
            out.put_i16(column.kind.size());
            out.put_i32(column.kind.modifier);
            out.put_i16(i16::from(is_binary(formats, index)));
        }
    });
}

/// Checks that the client did not cancel the statement.
pub(super) fn check_cancelled(token: &CancellationToken) -> Result<(), PgError> {
    if token.is_cancelled() { Err(PgError::cancelled()) } else { Ok(()) }
}

/// Sends up to `rows_max` rows. Returns their number, and true if there are no more. Looks at `token` whenever bytes were
/// sent.
pub(super) async fn send<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    cursor: &mut Cursor,
    formats: &[i16],
    zone: Tz,
    rows_max: usize,
    token: &CancellationToken,
) -> Result<(usize, bool), Stop> {
    let columns = cursor.columns.clone();
    let formats: Vec<bool> = (0..columns.len()).map(|index| is_binary(formats, index)).collect();
    let mut text = String::new();
    let mut count = 0;
    while count < rows_max {
        let Some((arrays, row)) = cursor.next()? else { return Ok((count, true)) };
        let mut misfit = None;
        let start = wire.output().len();
        wire.put(b'D', |out| {
            out.put_u16(u16::try_from(arrays.len()).unwrap_or(u16::MAX));
            for (index, array) in arrays.iter().enumerate() {
                if is_null(array.as_ref(), row) {
                    out.put_i32(-1);
                    continue;
                }
                let written = with_length(out, |out| {
                    if formats[index] {
                        return write_binary_as(columns[index].kind, array.as_ref(), row, zone, out);
                    }
                    text.clear();
                    write_text(array.as_ref(), row, zone, &mut text)?;
                    out.put_slice(text.as_bytes());
                    Ok(())
                });
                if let Err(reason) = written {
                    misfit = Some((index, reason));
                    break;
                }
            }
        });
        if let Some((index, reason)) = misfit {
            // Half a row must not be sent.
            wire.output().truncate(start);
            return Err(Cursor::misfit(&columns, index, &reason).into());
        }
        count += 1;
        if wire.send_if_full().await? {
            check_cancelled(token)?;
        }
    }
    Ok((count, false))
}

/// Sends all rows as a file. Returns their number. Looks at `token` whenever bytes were sent.
pub(super) async fn copy<S: AsyncRead + AsyncWrite + Unpin>(
    wire: &mut Wire<S>,
    cursor: &mut Cursor,
    format: &CopyFormat,
    zone: Tz,
    token: &CancellationToken,
) -> Result<usize, Stop> {
    let columns = cursor.columns.clone();
    let code = i16::from(format.kind == CopyKind::Binary);
    wire.put(b'H', |out| {
        out.put_i8(i8::from(code == 1));
        out.put_u16(u16::try_from(columns.len()).unwrap_or(u16::MAX));
        columns.iter().for_each(|_| out.put_i16(code));
    });
    let kinds: Vec<PgType> = columns.iter().map(|column| column.kind).collect();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let mut line = BytesMut::new();
    copy::write_header(format, &names, &mut line);
    let mut count = 0;
    while let Some((arrays, row)) = cursor.next()? {
        if !line.is_empty() {
            wire.put(b'd', |out| out.put_slice(&line));
            line.clear();
        }
        copy::write_row(format, arrays, &kinds, row, zone, &mut line)
            .map_err(|(index, reason)| Cursor::misfit(&columns, index, &reason))?;
        count += 1;
        if wire.send_if_full().await? {
            check_cancelled(token)?;
        }
    }
    copy::write_end(format, &mut line);
    if !line.is_empty() {
        wire.put(b'd', |out| out.put_slice(&line));
    }
    wire.put(b'c', |_| {});
    Ok(count)
}
