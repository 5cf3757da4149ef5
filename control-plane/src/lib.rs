//! The control plane of Sidemesh: keeps what users write, and tells every proxy what it means.
//!
//! ```text
//! meshctl, sidecars ──> server ──> source (store, revisions) ──> model (checked objects)
//!                                                                  │
//! proxies <── server (ADS sessions) <── cache (versions) <── translate (model -> xDS)
//!                  ca (identities) serves IdentityService and our own TLS
//! ```
//!
//! `model` and `translate` are pure; `source` owns the disk; `server` is the glue.
#![forbid(unsafe_code)]

pub mod ca;
pub mod cache;
pub mod model;
pub mod run;
pub mod server;
pub mod source;
pub mod translate;
