//! Access-log sinks, formats and filters (`accesslog.v3.AccessLog`).

mod parse;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;

pub use parse::{parse, parse_all, parse_filter};

use crate::format::Format;
use crate::matcher::header::HeaderMatcher;
use crate::matcher::metadata::MetadataMatcher;
use crate::resource::http_connection_manager::CustomTag;
use crate::value::{GrpcService, Name, RuntimeFraction};

#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub filter: Option<AccessLogFilter>,
    pub sink: AccessLogSink,
}

#[derive(Debug, Clone, PartialEq)]
pub enum AccessLogSink {
    File { path: PathBuf, format: LogFormat },
    Stdout(LogFormat),
    Stderr(LogFormat),
    Grpc(Arc<GrpcAccessLog>),
    OpenTelemetry(Arc<OpenTelemetryLog>),
}

/// `CommonGrpcAccessLogConfig` of the HTTP or TCP gRPC logger.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcAccessLog {
    pub log_name: Name,
    pub service: GrpcService,
    pub flush_interval: std::time::Duration,
    pub buffer_bytes: u32,
    pub request_headers: Vec<http::HeaderName>,
    pub response_headers: Vec<http::HeaderName>,
    pub response_trailers: Vec<http::HeaderName>,
    pub custom_tags: Vec<CustomTag>,
    pub tcp: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub struct OpenTelemetryLog {
    pub log_name: Name,
    pub service: GrpcService,
    pub flush_interval: std::time::Duration,
    pub buffer_bytes: u32,
    pub resource_attributes: Vec<(Name, JsonFormat)>,
    pub body: Option<JsonFormat>,
    pub attributes: Vec<(Name, JsonFormat)>,
    pub disable_builtin_labels: bool,
    pub stat_prefix: Name,
}

#[derive(Debug, Clone, PartialEq)]
pub enum LogFormat {
    /// One line; the format carries its own newline. `omit_empty`: absent values print as nothing instead of `-`.
    Text { format: Arc<Format>, omit_empty: bool },
    /// One object a line; `omit_empty` leaves absent values out.
    Json { format: Arc<JsonFormat>, omit_empty: bool, sort_properties: bool },
}

/// A JSON value whose strings are formats. A string of exactly one operator keeps that operator's type.
#[derive(Debug, Clone, PartialEq)]
pub enum JsonFormat {
    Value(Arc<Format>),
    Object(Vec<(String, JsonFormat)>),
    List(Vec<JsonFormat>),
    Literal(serde_json::Value),
}

#[derive(Debug, Clone, PartialEq)]
pub enum AccessLogFilter {
    StatusCode {
        op: Comparison,
        value: u32,
        runtime_key: Option<Name>,
    },
    Duration {
        op: Comparison,
        value: u32,
        runtime_key: Option<Name>,
    },
    NotHealthCheck,
    Traceable,
    Runtime {
        fraction: RuntimeFraction,
        independent: bool,
    },
    And(Vec<AccessLogFilter>),
    Or(Vec<AccessLogFilter>),
    Header(HeaderMatcher),
    /// Short flags (`UF`, `NR`); empty: any flag.
    ResponseFlag(Vec<Name>),
    /// gRPC status codes; `exclude` inverts.
    GrpcStatus {
        statuses: Vec<u32>,
        exclude: bool,
    },
    Metadata {
        matcher: MetadataMatcher,
        match_if_missing: bool,
    },
    LogType {
        types: Vec<i32>,
        exclude: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    Eq,
    Ge,
    Le,
    Ne,
}
