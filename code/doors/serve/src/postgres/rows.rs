//! Sends the rows of a cursor: as messages of rows, or as the data of a COPY.

use arrow::array::timezone::Tz;
use bytes::{BufMut, BytesMut};
use pgwire::messages::copy::{CopyData, CopyDone, CopyOutResponse};
use pgwire::messages::data::{DataRow, FieldDescription, RowDescription};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::postgres::copy::{self, CopyFormat, CopyKind};
use crate::postgres::cursor::{Column, Cursor, is_null};
use crate::postgres::error::{PgError, Stop};
use crate::postgres::types::PgType;
use crate::postgres::value::{with_length, write_binary_as, write_text};
use crate::postgres::wire::Wire;

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
) -> Result<(), PgError> {
    let field = |(index, column): (usize, &Column)| {
        let (kind, format) = (column.kind, i16::from(is_binary(formats, index)));
        // No table and no column of it.
        FieldDescription::new(column.name.clone(), 0, 0, kind.oid(), kind.size(), kind.modifier, format)
    };
    wire.put(&RowDescription::new(columns.iter().enumerate().map(field).collect()))
}

fn column_count(columns: &[Column]) -> Result<i16, PgError> {
    i16::try_from(columns.len()).map_err(|_| PgError::new("54011", "the result has more than 32767 columns"))
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
    let mut message = DataRow::new(BytesMut::new(), column_count(&columns)?);
    let mut count = 0;
    while count < rows_max {
        let Some((arrays, row)) = cursor.next()? else { return Ok((count, true)) };
        message.data.clear();
        for (index, array) in arrays.iter().enumerate() {
            if is_null(array.as_ref(), row) {
                message.data.put_i32(-1);
                continue;
            }
            let written = with_length(&mut message.data, |out| {
                if formats[index] {
                    return write_binary_as(columns[index].kind, array.as_ref(), row, zone, out);
                }
                text.clear();
                write_text(array.as_ref(), row, zone, &mut text)?;
                out.put_slice(text.as_bytes());
                Ok(())
            });
            // Half a row is not sent.
            written.map_err(|reason| Cursor::misfit(&columns, index, &reason))?;
        }
        wire.put(&message)?;
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
    let is_binary = format.kind == CopyKind::Binary;
    let codes = vec![i16::from(is_binary); columns.len()];
    wire.put(&CopyOutResponse::new(i8::from(is_binary), column_count(&columns)?, codes))?;
    let kinds: Vec<PgType> = columns.iter().map(|column| column.kind).collect();
    let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let mut line = BytesMut::new();
    copy::write_header(format, &names, &mut line);
    let mut count = 0;
    while let Some((arrays, row)) = cursor.next()? {
        if !line.is_empty() {
            wire.put(&CopyData::new(line.split().freeze()))?;
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
        wire.put(&CopyData::new(line.freeze()))?;
    }
    wire.put(&CopyDone::new())?;
    Ok(count)
}
