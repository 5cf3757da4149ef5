//! TLS of both sides on rustls with aws-lc-rs: contexts and secrets → configurations, handshakes, what is known of the peer.
//!
//! A [`Server`] or [`Client`] is made of a validated context and the snapshot's secrets. Building reads files and parses
//! keys; it happens once per context and set of secrets in the process (see `store`), on the control thread when that calls
//! [`prepare`] before it publishes a snapshot, and never per connection. A rotated secret makes a new configuration for new
//! handshakes; open connections keep theirs.
//!
//! Peers are verified as Envoy does it, not as a browser: without a trusted CA nothing is verified, and the name of a server is
//! compared only where SAN rules or SAN validation ask for it. Choosing a filter chain and looking at a ClientHello
//! belong to `downstream`; making keys and certificates to `identity`.
mod client;
mod context;
mod error;
mod key_log;
mod material;
mod merge;
mod observed;
mod ocsp;
mod params;
mod peer;
mod protected;
mod roots;
mod san;
mod server;
mod store;
#[cfg(test)]
mod tests;
mod tickets;
mod verified;
mod verify;

pub use client::{Client, Target};
pub use error::{Error, Failure};
pub use peer::{Certificate, PeerInfo};
pub use server::Server;
pub use store::{Expirations, Prepared, check, prepare, refresh_files};
