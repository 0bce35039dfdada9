//! Pieces of segments: rows that are decoded together.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;
use buzz_epoch::{Sealed, Segment};
use buzz_protocol::{QueryError, Result};
use buzz_storage::text::{RowFormat, check_capitals, foreign_row};
use bytes::Bytes;

use super::check::{check_header, csv_header};
use super::format::decoder;
use crate::decode::{Decoded, decode_file, decode_lines, foreign_keys};
use crate::names::first_keys;
use crate::records::{cut, records};
use crate::source::{BadData, BadRow};

/// Bytes of JSON rows that one task decodes.
const PIECE_BYTES: usize = 1 << 20;

/// The partition of rows without a producer, and of all rows if the source does not divide them by producer.
pub(super) const SHARED: &str = "0";

/// Returns the rows of a segment that count, divided into pieces. With `by_producer`, each producer is a partition. The JSON
/// rows of a partition keep their order.
pub(super) fn pieces(segment: &Segment, sealed: &Sealed, by_producer: bool, schema: &SchemaRef) -> Result<Vec<Piece>> {
    let mut pieces: Vec<Piece> = Vec::new();
    let mut joined: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let json = |partition: &str, bytes: Bytes| {
        let partition = partition.to_string();
        Piece { format: RowFormat::Json, partition, bytes }
    };
    for (part, bytes) in segment.counted(sealed)? {
        let format = RowFormat::of(part.format.as_deref())?;
        let partition = match &part.producer {
            Some(producer) if by_producer => format!("producer {producer}"),
            _ => SHARED.to_string(),
        };
        if format != RowFormat::Json {
            pieces.push(Piece { format, partition, bytes });
            continue;
        }
        // Behind rows that fit, those of another request would not be noticed.
        let alone = bytes.len() > PIECE_BYTES || unfit(schema, &bytes).is_some();
        let text = joined.entry(partition.clone()).or_default();
        if !text.is_empty() && (alone || text.len() + bytes.len() > PIECE_BYTES) {
            pieces.push(json(&partition, std::mem::take(text).into()));
        }
        if alone {
            pieces.push(json(&partition, bytes));
        } else {
            text.extend_from_slice(&bytes);
        }
    }
    let rest = joined.into_iter().filter(|(_, text)| !text.is_empty());
    pieces.extend(rest.map(|(partition, text)| json(&partition, text.into())));
    Ok(pieces.into_iter().flat_map(Piece::divided).collect())
}

/// Decodes JSON objects, of which each begins a line.
///
/// # Errors
/// `Data` if one does not fit and `bad_data` says so.
pub(crate) fn decode_objects(lines: Bytes, schema: &SchemaRef, bad_data: BadData) -> Result<Decoded> {
    Piece { format: RowFormat::Json, partition: SHARED.to_string(), bytes: lines }.decode(schema, bad_data)
}

/// Rows of one format and one partition.
#[derive(Debug)]
pub(super) struct Piece {
    format: RowFormat,
    pub(super) partition: String,
    pub(super) bytes: Bytes,
}

impl Piece {
    /// Divides a large text at the ends of objects.
    fn divided(self) -> Vec<Piece> {
        if self.format != RowFormat::Json {
            return vec![self];
        }
        let (mut rest, mut pieces) = (self.bytes.clone(), Vec::new());
        while !rest.is_empty() {
            let bytes = rest.split_to(cut(&decoder(self.format), &rest, PIECE_BYTES));
            pieces.push(Piece { format: self.format, partition: self.partition.clone(), bytes });
        }
        pieces
    }

    /// Decodes the rows.
    ///
    /// # Errors
    /// `Data` if one does not fit and `bad_data` says so.
    pub(super) fn decode(&self, schema: &SchemaRef, bad_data: BadData) -> Result<Decoded> {
        let format = decoder(self.format);
        let decoded = match self.format {
            // They are rows of several requests, and none decides about another.
            RowFormat::Json if bad_data != BadData::Fail => return self.decode_fitting(schema),
            RowFormat::Json => match unfit(schema, &self.bytes) {
                None => return decode_lines(&format, schema, &[], &self.bytes, bad_data),
                Some(reason) => Err(reason),
            },
            RowFormat::Csv { header } => match self.csv_names(header, schema) {
                Ok((start, names)) => {
                    return decode_lines(&format, schema, &names, &self.bytes.slice(start..), bad_data);
                }
                Err(error) => Err(error.message),
            },
            RowFormat::Arrow => decode_file(&format, schema, self.bytes.clone()).map_err(|error| error.message),
        };
        match decoded {
            Ok(batches) => Ok(Decoded { batches, bad: Vec::new() }),
            Err(reason) if bad_data == BadData::Fail => Err(QueryError::data(format!(
                "rows of a request cannot be decoded: {reason}; correct the columns of the table, or set \
                 bad_data = 'drop'"
            ))),
            Err(reason) => Ok(Decoded { batches: Vec::new(), bad: self.all_bad(&reason) }),
        }
    }

    /// Decodes the JSON rows that have columns of the table, and sets the others aside.
    fn decode_fitting(&self, schema: &SchemaRef) -> Result<Decoded> {
        let format = decoder(self.format);
        let (mut fitting, mut bad) = (Vec::with_capacity(self.bytes.len()), Vec::new());
        for record in records(&format, &self.bytes) {
            match foreign_row(schema, record.text) {
                Some(reason) => bad.push(BadRow { text: record.row(), reason }),
                None => fitting.extend_from_slice(record.text),
            }
        }
        let mut decoded = decode_lines(&format, schema, &[], &fitting, BadData::Drop)?;
        decoded.bad.append(&mut bad);
        Ok(decoded)
    }

    /// Returns where the rows of a CSV text begin, and the names of its columns.
    fn csv_names(&self, header: bool, schema: &SchemaRef) -> Result<(usize, Vec<String>)> {
        if !header {
            return Ok((0, schema.fields().iter().map(|field| field.name().clone()).collect()));
        }
        let (start, names) = csv_header(&self.bytes)?;
        check_header(&names, schema)?;
        Ok((start, names))
    }

    /// Returns all rows as bad ones.
    fn all_bad(&self, reason: &str) -> Vec<BadRow> {
        if self.format == RowFormat::Arrow {
            let text = format!("(an Arrow IPC stream of {} bytes)", self.bytes.len());
            return vec![BadRow { text, reason: reason.to_string() }];
        }
        let header = usize::from(self.format == RowFormat::Csv { header: true });
        let format = decoder(self.format);
        let bad = records(&format, &self.bytes).skip(header);
        bad.map(|record| BadRow { text: record.row(), reason: reason.to_string() }).collect()
    }
}

/// Returns the reason why JSON rows would have NULL in all columns, or in one that they spell otherwise.
fn unfit(schema: &SchemaRef, rows: &[u8]) -> Option<String> {
    if let Err(error) = check_capitals(schema, first_keys(rows).iter().map(String::as_str)) {
        return Some(error.message);
    }
    foreign_keys(schema, rows).map(|keys| format!("it has none of the table's columns; it has {keys}"))
}
