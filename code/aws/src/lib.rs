//! The roles as AWS runs them.
