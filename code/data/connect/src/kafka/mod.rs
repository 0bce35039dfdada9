//! Topics of Kafka: `source` reads one, `sink` writes to one, `client` has what they share.
//!
//! The source assigns partitions to itself and keeps no offsets in Kafka: they are in the records of epochs. The sink writes
//! an epoch in one transaction.

mod client;
mod sink;
mod source;

pub(crate) use self::client::{Cluster, brokers};
pub(crate) use self::sink::{CommitMode, KafkaSink};
pub(crate) use self::source::{KafkaSource, RecordFormat, Start};
