//! The network side.

pub mod session;
