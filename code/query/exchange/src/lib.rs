//! The exchange between map and reduce: deliveries, the inboxes that hold them, and the plan leaf that reads an inbox.
//!
//! An HBee opens a [`DeliveryWriter`], which divides its rows among the partitions of all combs and sends them through
//! an [`InboxNetwork`]: by reference within the process, or by Arrow Flight. The [`Inboxes`] of each comb hold
//! deliveries back until Fuse accepts one for each task; [`InboxExec`] reads the accepted ones. Fuse (when it reduces
//! itself) and the combs use the same code.
//!
//! Read in this order: `service` (the interface), `delivery` (the sending side), `inbox` (the holding side),
//! `inbox_exec` (the reading side), `plan_codec` (its encoding), `exchanged` (rows between combs), `objects` (deliveries
//! through storage), then `network`, `connections`, `tls`, `flight`, `status` and `headers` (the transport).

mod connections;
mod delivery;
mod exchanged;
mod flight;
mod headers;
mod inbox;
mod inbox_exec;
mod network;
mod objects;
mod plan_codec;
mod service;
mod spill;
mod status;
mod tls;

pub use delivery::{Delivery, DeliveryWriter, Destination};
pub use exchanged::{ExchangeCount, ExchangeId, Exchanges, Side, below_exchange, lost_in_exchange};
pub use flight::flight_server;
pub use headers::{SESSION_HEADER, TOKEN_HEADER, session_headers, session_of};
pub use inbox::{ClosedQuery, InboxLimits, Inboxes};
pub use inbox_exec::{InboxExec, LeafCodec, unread_stages};
pub use network::{InboxNetwork, MemoryNetwork, Network, NetworkChannelResolver, TcpNetwork};
pub use objects::{ObjectOfDelivery, ObjectPlace};
pub use plan_codec::{InboxCodec, keys_can_be_sent};
pub use service::{Commit, DeliveryHeader, DeliverySink, InboxService, OpenQuery, StageSpec};
pub use tls::{CombCertificate, CombStream, Fingerprint, incoming};
