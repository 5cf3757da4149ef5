//! Figures of whole proxies: ours and, where it is installed, Envoy's, on the same resources in the same run.

pub mod idle;
pub mod resources;
pub mod scale;
pub mod start;
pub mod tls;
pub mod update;
