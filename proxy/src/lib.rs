//! The Sidemesh proxy: one process beside one workload, configured over xDS.
//!
//! Modules in the order a byte meets them, then the way of a configuration update, then what both stand on. Imports point
//! one way: `downstream → http | tcp → upstream → foundations → sidemesh-config`; `xds` imports no stage, `http` and `tcp`
//! never each other, and nothing imports `app` or `admin`.
#![forbid(unsafe_code)]

// Puts the rest together.
pub mod app;

// A connection's and a request's way.
pub mod downstream;
pub mod http;
pub mod tcp;
pub mod upstream;

// A configuration update's way.
pub mod xds;
pub mod live;

// What both stand on.
pub mod worker;
pub mod connection;
pub mod rbac;
pub mod grpc;
pub mod token_bucket;
pub mod tls;
pub mod identity;
pub mod shutdown;
pub mod body;
pub mod codec;
pub mod io;
pub mod clock;
pub mod telemetry;

// A side door.
pub mod admin;
