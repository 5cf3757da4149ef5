//! Harness of the integration tests: finds the workspace and the programs built from it, and starts real peers.
#![forbid(unsafe_code)]

pub mod source;
