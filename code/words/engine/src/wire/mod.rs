//! Messages between a client and the Fuse function of a stack, as JSON. Each has one type, which both ends use.
//!
//! ```text
//! client                                      Fuse's function
//!   Event::Ask, asynchronous  ─────────────▶  Submitted { query_id }
//!   Event::Watch(query_id)    ─────────────▶  ProgressReport, or AnswerMessage, or the query's error
//!   Event::Cancel(query_id)   ─────────────▶  the same as for Watch
//!   Event::Describe           ─────────────▶  Described { tables }
//! ```

mod event;
mod message;

pub use event::{Ask, Encoding, Event, IN_ENVELOPE, OutputRequest, ask_event, describe_event};
pub use message::{
    AnswerMessage, Column, Described, FailureMessage, OutputPlace, Phases, Submitted, SummaryMessage, answer_rows,
};
