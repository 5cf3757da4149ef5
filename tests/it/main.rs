//! Integration tests: one binary, one module per promise.

mod tidy;
