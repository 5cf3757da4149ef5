//! What can go wrong with one exchange on an upstream connection, with the verdict whether it is safe to try again elsewhere.
use super::body;
use super::h2::Reason;

/// Why no (complete) response head came. The response body's own failures are [`body::Error`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The connection was found closed before a byte of the request left.
    #[error("the connection was closed before the request was sent")]
    NotSent,
    /// The peer says that it did not process the request (HTTP/2 REFUSED_STREAM, or a GOAWAY below this stream).
    #[error("the peer refused the stream unprocessed")]
    Refused,
    /// The peer closed the connection after (part of) the request was sent, and before any byte of a response.
    #[error("the connection was closed before a response")]
    ClosedBeforeResponse {
        /// The connection had carried an exchange before: the close may have crossed the request on the wire.
        reused: bool,
    },
    /// The peer closed the connection inside a response head.
    #[error("the connection was closed inside the response head")]
    PartialResponse,
    /// The peer reset the stream (HTTP/2), with its reason.
    #[error("the peer reset the stream: {0}")]
    Reset(Reason),
    /// The response breaks the protocol.
    #[error("protocol error in the response: {0}")]
    Protocol(&'static str),
    /// The response head exceeds a limit, which is named.
    #[error("the response head exceeds {0}")]
    TooLarge(&'static str),
    /// The request body failed while it was sent: the downstream side's fault.
    #[error("the request body failed: {0}")]
    RequestBody(body::Error),
    /// The socket failed.
    #[error("the connection failed: {0}")]
    Io(std::io::ErrorKind),
}

impl SendError {
    /// Whether the peer certainly has not begun to process the request: safe to send again whatever its method.
    pub fn is_unprocessed(&self) -> bool {
        matches!(self, Self::NotSent | Self::Refused)
    }

    /// Whether the peer ended or reset the connection or the stream (Envoy's retry condition `reset`).
    pub fn is_reset(&self) -> bool {
        !matches!(self, Self::RequestBody(_) | Self::TooLarge(_))
    }
}

/// How a downstream connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// The peer closed it between requests.
    ByPeer,
    /// The peer closed or reset it inside a request.
    ByPeerInRequest,
    /// After a response that said so (`connection: close`, HTTP/1.0, a limit on requests per connection).
    AfterResponse,
    /// After an answer of the codec's own to a request it could not accept.
    Rejected,
    /// A time limit was reached; the word names which.
    Timeout(&'static str),
    /// It was drained.
    Drained,
    /// A response could not be completed, so that the connection had to be cut.
    Aborted(body::Error),
    /// The peer broke HTTP/2 itself.
    Protocol {
        /// What a GOAWAY for it says.
        reason: Reason,
        /// Streams were open, or what came was to be one.
        in_request: bool,
    },
    /// The socket failed.
    Io(std::io::ErrorKind),
}
