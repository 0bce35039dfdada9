//! Sources and sinks of streams.
//!
//! A [`Source`] returns batches and an offset; reading again from an offset returns the same rows. A [`Sink`] takes the
//! rows of an epoch, repeatedly with the same result. This crate does not depend on queries.
//!
//! Read in this order: [`Source`] and [`Sink`] are the traits; `generated`, with the generators `nexmark` and `impulse`,
//! `files` (in the order of `listing`), `delta` and `pushed` (the log of rows that clients send) are the sources, and `received` has those without offsets, whose messages
//! are kept first; `records` divides texts, `decode` reads formats,
//! `names` compares columns with those of a file, `partition` has the columns in paths; `sink` has the sinks; `open` makes a
//! source or a sink of a table's options, in a [`Place`], and checks that places do not meet.

mod source;

mod generate;
mod generated;
mod impulse;
mod nexmark;

#[cfg(feature = "kafka")]
mod kafka;

mod decode;
mod delta;
mod files;
mod listing;
mod names;
mod partition;
mod pushed;
mod received;
mod records;

mod sink;
mod web;

mod open;
mod options;
mod place;

pub use decode::Format;
pub use delta::DeltaSource;
pub use files::FileSource;
pub use generate::Generator;
pub use generated::GeneratedSource;
pub use impulse::Impulse;
pub use nexmark::Nexmark;
pub use open::{OpenSource, OpenTable, PRINTED, check_places, keeps_rows, open_sink, open_source};
pub use options::{Options, parse_duration};
pub use place::{Inbox, Place};
pub use pushed::{CheckedRows, PushedSource, PushedStart, StreamsRoot, check_rows, stream_bad_data, stream_columns};
pub use sink::{
    Blackhole, Changes, DeltaSink, Files, Folder, SingleFile, Sink, Stdout, TakesChanges, Webhook, WriteFormat,
    Written, check_columns, encode_lines,
};
pub use source::{BadData, BadRow, End, Source, SourceBatch};
