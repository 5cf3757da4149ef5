//! HTTP/1.0 and 1.1 (RFC 9112), server and client side. Start lines are read by `httparse`, fields by `head`.
//!
//! Parsing is strict where leniency lets two hops disagree about where a message ends: lines end with CRLF, one
//! `content-length` of digits only, `chunked` as the only transfer coding, never both, no folded lines, names are tokens and values
//! hold no control characters. Nothing here spawns a task: the server's future drives its handler, the client's the upload.
pub mod client;
mod decode;
mod encode;
mod head;
mod names;
mod request;
pub mod server;
mod spelling;
#[cfg(test)]
pub(crate) mod tests;
mod writer;

pub(crate) use encode::parse_length;
pub(crate) use head::{is_connection_specific, tokens};
pub(crate) use request::is_authority;
pub use sidemesh_config::resource::cluster::HeaderCase;

/// Limits of what a peer may send in one head or trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the head, from the first of the start line to the empty line.
    pub head_bytes: usize,
    /// Header lines.
    pub headers: usize,
    /// Whether trailers are passed on; they are read and dropped otherwise.
    pub trailers: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self { head_bytes: 60 * 1024, headers: 100, trailers: false }
    }
}
