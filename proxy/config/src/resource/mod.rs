//! Resources: wire message → validated value, or a [`Rejection`].
//!
//! Each kind has its types (what the proxy acts on, nothing else) and beside them the conversion from the wire. The entry
//! point is [`decode`]: bytes of one xDS resource → [`Resource`]; it runs the support table first, so that no field is ignored.

pub mod access_log;
pub mod cluster;
pub mod core;
mod decode;
pub mod endpoint;
pub mod http_connection_manager;
pub mod http_filter;
pub mod http_service;
pub mod listener;
pub mod network_filter;
pub mod route;
pub mod runtime;
pub mod secret;
pub mod socket_option;
pub mod substitution;
pub mod tcp_proxy;
pub mod tls;

pub use decode::{Decoded, Resource, ResourceKind, decode};
