//! Asks a stack from outside.
