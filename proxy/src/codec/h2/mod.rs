//! HTTP/2 (RFC 9113), both sides, over the `h2` crate, translated to and from the one request form of [`super`].
//!
//! Flow control is released as a body is read, so an unread body is back-pressure on its own stream. The frame layer (`h2`) checks
//! pseudo-headers and stream states; what is checked here is Envoy's limits, and what a proxy may not pass on.
pub mod client;
mod flood;
mod keepalive;
mod recv;
pub mod server;
#[cfg(test)]
mod tests;
mod translate;
mod upload;

use std::time::Duration;

pub use recv::RecvBody;
pub use server::InformationalSender;

use sidemesh_config::resource::cluster::FloodLimits;

use super::body::Error;

/// `Http2ProtocolOptions`, of either side. The defaults are Envoy's.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `max_concurrent_streams`
    pub max_concurrent_streams: u32,
    /// `initial_stream_window_size`
    pub initial_stream_window: u32,
    /// `initial_connection_window_size`
    pub initial_connection_window: u32,
    /// `hpack_table_size`
    pub hpack_table_size: u32,
    /// `allow_connect`: extended CONNECT (RFC 8441).
    pub allow_connect: bool,
    /// `max_request_headers_kb` or `max_response_headers_kb`, in bytes.
    pub max_head_bytes: u32,
    /// `max_headers_count`
    pub max_headers: usize,
    /// What the peer may send before it counts as flooding.
    pub floods: FloodLimits,
    /// `connection_keepalive`
    pub keepalive: Option<Keepalive>,
    /// Bytes of a stream that may wait for the socket. `initial_stream_window_size` in Envoy; memory is the reason for less here.
    pub max_send_buffer: usize,
    /// `stream_reset_burst`, as far as `h2` has it: streams that a peer opened and reset before they were looked at, past which the
    /// connection is ended.
    pub max_pending_resets: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_concurrent_streams: 1024,
            initial_stream_window: 16 * 1024 * 1024,
            initial_connection_window: 24 * 1024 * 1024,
            hpack_table_size: 4096,
            allow_connect: false,
            max_head_bytes: 60 * 1024,
            max_headers: 100,
            floods: FloodLimits { control_frames: 1000, empty_frames: 1, priority_frames: 100, window_updates: 10 },
            keepalive: None,
            max_send_buffer: 256 * 1024,
            max_pending_resets: 100,
        }
    }
}

/// `KeepaliveSettings`
#[derive(Clone, Copy, Debug)]
pub struct Keepalive {
    /// Between pings.
    pub interval: Duration,
    /// How long the answer may take.
    pub timeout: Duration,
    /// Random share added to the interval, in percent.
    pub jitter_percent: f64,
}

/// Why a stream's body ended.
fn body_error(error: &::h2::Error) -> Error {
    match error.reason() {
        Some(reason) if error.is_reset() && error.is_remote() => Error::Reset(reason),
        // Found by the frame layer: the peer broke the protocol on this stream.
        Some(::h2::Reason::PROTOCOL_ERROR) if error.is_library() => Error::Malformed("HTTP/2 protocol error"),
        Some(_) => Error::Closed,
        None => match error.get_io() {
            Some(io) if !is_disconnect(io.kind()) => Error::Io(io.kind()),
            _ => Error::Closed,
        },
    }
}

fn is_disconnect(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
