//! Sources and sinks of streams.
//!
//! A [`Source`] returns batches and an offset; reading again from an offset returns the same rows. A [`Sink`] encodes the
//! rows of an epoch into files and later brings these files into its target, as often as it is asked to, with the same
//! result. This crate knows no query.

mod generate;
mod impulse;
mod nexmark;

pub use generate::Generator;
pub use impulse::Impulse;
pub use nexmark::Nexmark;
