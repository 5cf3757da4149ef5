//! The TCP stage: network filters and the forwarding of connections that are not HTTP.

mod copy;
pub mod filter;
mod forward;
mod stats;
mod tunnel;

pub use forward::Forward;
