//! The exchange between map and reduce: deliveries, the inboxes that hold them, and the plan leaf that reads an inbox.
//!
//! An HBee opens a [`DeliveryWriter`], which divides its rows among the partitions of all combs and sends them through
//! an [`InboxNetwork`]: by reference within the process, or by Arrow Flight. The [`Inboxes`] of each comb hold
//! deliveries back until Fuse accepts one for each task; [`InboxExec`] reads the accepted ones. Fuse (when it reduces
//! itself) and the combs use the same code.
//!
//! Read in this order: [`service`] (the interface), [`delivery`] (the sending side), [`inbox`] (the holding side),
//! [`inbox_exec`] (the reading side), then [`network`] and [`flight`] (the transport).

pub mod service;

pub mod delivery;

pub mod inbox;

mod spill;

pub mod inbox_exec;

pub mod network;

pub mod flight;

pub use delivery::DeliveryWriter;
pub use inbox::{InboxLimits, Inboxes};
pub use inbox_exec::{InboxCodec, InboxExec};
pub use network::{
    InboxNetwork, MemoryNetwork, Network, NetworkChannelResolver, SESSION_HEADER, TOKEN_HEADER, TcpNetwork,
};
pub use service::{Commit, DeliveryHeader, DeliverySink, InboxService, OpenQuery, StageSpec};
