//! HTTP/2 (RFC 9113), both sides, translated to and from the one request form of [`super`].
//!
//! ```text
//! Io <-> link::Driver <-> session::Session <-> streams: server::stream, client::ResponseFuture, RecvBody, Upload
//!                          frame, hpack, head      each through a link::StreamRef
//! ```
//!
//! [`session`] is the protocol, without a socket and without a clock. A connection and its streams share it in one cell: no channel and no lock
//! is between them. What a turn produces leaves in one write. Flow control is released as a body is read, so an unread body is
//! back-pressure on its own stream. Not here: server push, priorities, METADATA frames.
pub mod server;
pub mod client;
mod translate;
mod recv;
mod upload;
mod keepalive;
mod link;
mod session;
mod streams;
mod output;
mod event;
mod flood;
mod head;
pub mod hpack;
mod frame;
mod reason;
#[cfg(test)]
mod tests;

use std::time::Duration;

use sidemesh_config::resource::cluster::FloodLimits;

pub use event::{Event, Events};
pub use reason::Reason;
pub use recv::RecvBody;
pub use server::InformationalSender;

use self::streams::Cause;
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
    /// `connection_keepalive`
    pub keepalive: Option<Keepalive>,
    /// Bytes of a stream that may wait for the socket. `initial_stream_window_size` in Envoy; memory is the reason for less here.
    pub max_send_buffer: usize,
    /// Streams that a client opened and reset in one turn, before they were looked at, past which the connection is ended.
    pub max_pending_resets: usize,
    /// `override_stream_error_on_invalid_http_message`: a malformed message ends its stream alone, not the connection.
    pub stream_errors: bool,
    /// Bounds against floods.
    pub floods: FloodLimits,
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
            keepalive: None,
            max_send_buffer: 256 * 1024,
            max_pending_resets: 100,
            stream_errors: false,
            floods: FloodLimits::default(),
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
fn body_error(cause: Cause) -> Error {
    match cause {
        Cause::Reset(reason) => Error::Reset(reason),
        Cause::Protocol => Error::Malformed("HTTP/2 protocol error"),
        Cause::Canceled => Error::Canceled,
        Cause::Refused | Cause::Closed => Error::Closed,
        Cause::Io(kind) => Error::Io(kind),
    }
}

fn is_disconnect(kind: std::io::ErrorKind) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    matches!(kind, BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof)
}
