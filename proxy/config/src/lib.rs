//! Configuration of the proxy: raw wire messages → validated values → one immutable [`snapshot::Snapshot`].
//!
//! Synchronous and pure: no runtime, no socket, no file access, no clock. Whatever needs I/O (a certificate file named by
//! a [`value::DataSource`]) is named here and read by the proxy.
//!
//! Modules in reading order: the words every resource uses, what can be wrong with one, the support table that walks the
//! wire bytes, the resources, what they are matched with, and the snapshot that links them.
#![forbid(unsafe_code)]
// Deprecated fields of the API are still sent, and so still read.
#![allow(deprecated)]

pub mod bootstrap;
pub mod diff;
pub mod format;
pub mod matcher;
pub mod rejection;
pub mod resource;
pub mod snapshot;
pub mod support;
pub mod value;
pub mod wire;
