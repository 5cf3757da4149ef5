//! Integration tests: one binary, one module per promise. Each asserts what a user observes, on real processes.

mod demo;
mod meshctl;
mod control_plane;
mod drain;
mod access_log_and_trace;
mod bad_days;
mod peers;
mod tidy;
