//! Messages between a client and the Fuse function of a stack, as JSON. Each has one type, which both ends use.
//!
//! ```text
//! client                                      Fuse's function
//!   Event::Ask, asynchronous  ─────────────▶  Submitted { query_id }
//!   Event::Watch(query_id)    ─────────────▶  ProgressReport, or AnswerMessage, or FailureMessage
//!   Event::Cancel(query_id)   ─────────────▶  the same as for Watch
//!   Event::Describe           ─────────────▶  Described { tables }
//!   Event::Names, to list     ─────────────▶  NameList { names }
//!   Event::Names, to change   ─────────────▶  NameChanged { message }
//! ```
//!
//! An event with `"failure": "json"` is answered with a [`FailureMessage`] if it fails; without, the invocation fails.

mod event;
mod message;

pub use event::{
    Ask, Encoding, Event, FailureForm, IN_ENVELOPE, NamesAsk, OutputRequest, ask_event, cancel_event, describe_event,
    names_event, watch_event,
};
pub use message::{
    AnswerMessage, Column, Described, FailureMessage, OutputPlace, Phases, Submitted, SummaryMessage, answer_rows,
};
