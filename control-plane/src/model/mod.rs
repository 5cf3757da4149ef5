//! What users write, checked: Kubernetes' Service and EndpointSlice, the Gateway API's routes, ReferenceGrant and
//! BackendTLSPolicy, and our own kinds.
//!
//! Pure: no I/O, no clock. Every mistake becomes a `FieldError` with the path of the field and the cure; nothing that
//! is not understood is let through. `Model` is the whole mesh at one revision.

pub mod admit;
pub mod backend_tls;
pub mod document;
pub mod filter;
pub mod grant;
mod grpc_route;
mod http_route;
pub mod kind;
pub mod policy;
pub mod route;
pub mod service;
pub mod state;
pub mod status;
pub mod strict;
mod tcp_route;
pub mod workload;

#[cfg(test)]
mod tests;

pub use kind::{Key, Kind, Name};
pub use state::{Endpoint, Model, Typed, typed};
pub use strict::FieldError;
