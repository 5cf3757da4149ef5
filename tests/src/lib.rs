//! Harness of the integration tests: finds the workspace and the programs built from it, and starts real peers.
//!
//! What a test gets here are the means of a user: programs with flags and files, sockets, HTTP, the control plane's API.
//! Nothing in it reaches into a program. It fails by panicking, with the log of the program concerned.
#![forbid(unsafe_code)]

pub mod programs;
pub mod process;
pub mod wait;
pub mod ports;
pub mod http;
pub mod origin;
pub mod proxy;
pub mod control_plane;
pub mod xds_client;
pub mod background;
pub mod shop;
pub mod peer;
pub mod source;
