//! Integration tests: one binary, one module per promise. Each asserts what a user observes, on real processes.

mod access_log_and_trace;
mod admin_access;
mod bad_days;
mod control_plane;
mod demo;
mod documents;
mod drain;
mod filters;
mod meshctl;
mod peers;
mod tidy;
