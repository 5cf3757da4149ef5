//! `buffer.v3.Buffer`: whole request bodies up to a limit, 413 beyond it.

use sidemesh_proto::envoy::extensions::filters::http::buffer::v3 as pb;

use super::FilterOverride;
use crate::rejection::{Rejection, Within};
use crate::wire::required;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    pub max_request_bytes: u32,
}

pub(super) fn parse(config: &pb::Buffer) -> Result<Buffer, Rejection> {
    match required(&config.max_request_bytes, "max_request_bytes")?.value {
        0 => Err(Rejection::invalid("max_request_bytes", "must be greater than 0")),
        max_request_bytes => Ok(Buffer { max_request_bytes }),
    }
}

pub(super) fn parse_override(config: &pb::BufferPerRoute) -> Result<FilterOverride, Rejection> {
    use pb::buffer_per_route::Override;
    match &config.r#override {
        Some(Override::Disabled(true)) => Ok(FilterOverride::Disabled),
        Some(Override::Disabled(false)) => Err(Rejection::invalid("disabled", "must be true")),
        Some(Override::Buffer(buffer)) => parse(buffer).map(FilterOverride::Buffer).within("buffer"),
        None => Err(Rejection::invalid("", "needs one of disabled, buffer")),
    }
}
