//! The doors of a server, tried with clients: tokio-postgres, the Flight SQL client of arrow-flight, and plain sockets.

mod common;
mod console;
mod flight;
mod history;
mod http;
mod limits;
mod mcp;
mod names;
mod postgres;
mod postgres_bytes;
mod postgres_catalog;
mod postgres_tools;
mod streams;
