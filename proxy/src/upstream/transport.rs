//! How a cluster's connections are made: everything of its configuration that a connection depends on, in the codecs' terms.

use std::rc::Rc;
use std::time::Duration;

use sidemesh_config::resource::cluster::{Cluster as Config, UpstreamVersion};
use sidemesh_config::resource::tls::UpstreamTransport;

use super::pool::{Limits, Mode};
use crate::codec::{Protocol, h1, h2};

/// Idle connections are closed after this long when nothing else is said.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// `per_connection_buffer_limit_bytes` below this is taken as this: a frame must fit.
const MIN_SEND_BUFFER: usize = 16 * 1024;
const DEFAULT_HEADERS: usize = 100;
/// Response heads: HTTP/1 may send more.
const DEFAULT_HEAD_KB: u32 = 60;
const DEFAULT_H1_HEAD_KB: u32 = 80;

/// Codec settings and limits of one cluster.
pub struct Settings {
    pub h1: Rc<h1::client::Settings>,
    pub h2: h2::Settings,
    pub limits: Limits,
    pub max_streams: usize,
}

impl Settings {
    pub fn new(config: &Config) -> Settings {
        let common = &config.protocol.common;
        let head_kb = common.max_response_headers_kb.unwrap_or(DEFAULT_HEAD_KB);
        let h1_head_kb = common.max_response_headers_kb.unwrap_or(DEFAULT_H1_HEAD_KB);
        let headers = common.max_headers_count.map_or(DEFAULT_HEADERS, |n| n as usize);
        let http1 = &config.protocol.http1;
        let h1 = h1::client::Settings {
            limits: h1::Limits { head_bytes: h1_head_kb as usize * 1024, headers, trailers: http1.enable_trailers },
            header_case: http1.header_case,
            allow_chunked_length: http1.allow_chunked_length,
            send_fully_qualified_url: http1.send_fully_qualified_url,
        };
        let http2 = &config.protocol.http2;
        let h2 = h2::Settings {
            max_concurrent_streams: http2.max_concurrent_streams,
            initial_stream_window: http2.initial_stream_window_size,
            initial_connection_window: http2.initial_connection_window_size,
            hpack_table_size: http2.hpack_table_size,
            allow_connect: http2.allow_connect,
            max_head_bytes: head_kb.saturating_mul(1024),
            max_headers: headers,
            max_send_buffer: (config.buffer_limit as usize)
                .clamp(MIN_SEND_BUFFER, h2::Settings::default().max_send_buffer),
            floods: http2.floods,
            keepalive: http2.keepalive.as_ref().and_then(keepalive),
            stream_errors: http2.stream_error_on_invalid_message.unwrap_or(false),
            ..h2::Settings::default()
        };
        let requests = common.max_requests_per_connection.or(config.max_requests_per_connection);
        Settings {
            h1: Rc::new(h1),
            max_streams: http2.max_concurrent_streams as usize,
            h2,
            limits: Limits {
                idle: common.idle_timeout.unwrap_or(Some(IDLE_TIMEOUT)),
                duration: common.max_connection_duration,
                requests: requests.filter(|n| *n > 0).map(u64::from),
            },
        }
    }
}

fn keepalive(ping: &sidemesh_config::resource::cluster::KeepalivePing) -> Option<h2::Keepalive> {
    let interval = ping.interval?;
    Some(h2::Keepalive { interval, timeout: ping.timeout, jitter_percent: ping.interval_jitter_percent })
}

/// The protocol a request to the cluster travels by, when it came by `downstream`.
pub fn mode(config: &Config, downstream: Option<Protocol>) -> Mode {
    match config.protocol.version {
        UpstreamVersion::Http1 => Mode::Http1,
        UpstreamVersion::Http2 => Mode::Http2,
        UpstreamVersion::Auto => Mode::Auto,
        UpstreamVersion::Downstream if downstream == Some(Protocol::Http2) => Mode::Http2,
        UpstreamVersion::Downstream => Mode::Http1,
    }
}

/// Whether connections made under `old` may go on being used under `new`.
pub fn is_same_transport(old: &Config, new: &Config) -> bool {
    old.protocol == new.protocol
        && old.transport == new.transport
        && old.transport_matches == new.transport_matches
        && old.bind == new.bind
        && old.tcp_keepalive == new.tcp_keepalive
        && old.max_requests_per_connection == new.max_requests_per_connection
        && old.buffer_limit == new.buffer_limit
}

/// The PROXY protocol layer of a transport socket, and what is inside it.
pub fn layers(transport: &UpstreamTransport) -> (Option<&UpstreamTransport>, &UpstreamTransport) {
    match transport {
        UpstreamTransport::ProxyProtocol { inner, .. } => (Some(transport), inner),
        other => (None, other),
    }
}
