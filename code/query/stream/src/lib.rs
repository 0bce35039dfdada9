//! Continuous queries: from a script to stages, and one epoch as a function of state and rows.
//!
//! A script is parsed (`script`), each statement is planned by DataFusion and cut at its windowed aggregates (`lower`),
//! and what comes out is a [`Pipeline`]: stages with state (`stage`) and a batch plan over closed windows (`ranks` makes top
//! rows of windows cheap). The caller feeds it the rows of an epoch and stores what it returns (`state_file`). This crate
//! does no I/O.

mod feed;
mod lower;
mod pipeline;
mod ranks;
mod script;
mod stage;
pub mod state_file;
mod window;

pub use pipeline::{
    EpochInput, EpochOutput, LeftOut, Pipeline, SourceInput, SourceRows, SourceTime, StageDelta, StageId, State,
    declared_columns,
};
pub use script::{Emission, MATERIALIZED_VIEW, Output, Script, TableDefinition, View};
pub use stage::{END_OF_TIME, KEY_GROUPS, KeyedRows};
pub use window::WindowSpec;
