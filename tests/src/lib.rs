//! Harness of the integration tests: finds the workspace and the programs built from it, and starts real peers.
//!
//! What a test gets here are the means of a user: programs with flags and files, sockets, HTTP, the control plane's API.
//! Nothing in it reaches into a program. It fails by panicking, with the log of the program concerned.
#![forbid(unsafe_code)]

pub mod background;
pub mod control_plane;
pub mod http;
pub mod origin;
pub mod peer;
pub mod ports;
pub mod process;
pub mod programs;
pub mod proxy;
pub mod shop;
pub mod source;
pub mod wait;
pub mod xds_client;
