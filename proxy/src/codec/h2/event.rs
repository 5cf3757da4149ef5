//! What a connection does and suffers that is worth counting, under Envoy's names for it (`http2.*`).

/// Something that has happened on an HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// RST_STREAM came, for a stream that is open.
    ResetReceived,
    /// A stream was refused: there were too many.
    Refused,
    /// RST_STREAM was sent.
    ResetSent,
    /// A message is malformed (RFC 9113, section 8.1.1).
    MalformedMessage,
    /// The connection ended for too many frames without a payload.
    EmptyFrames,
    /// The connection ended for too many PRIORITY frames.
    PriorityFrames,
    /// The connection ended for too many WINDOW_UPDATE frames.
    WindowUpdates,
    /// The connection ended for too many frames that the peer does not read.
    OutboundFrames,
    /// The connection ended for too many answers that the peer does not read.
    ControlFrames,
    /// A head has more fields than there may be.
    HeaderOverflow,
    /// A head is larger than it may be.
    ListTooLarge,
    /// A request had trailers.
    Trailers,
    /// GOAWAY was sent, with the last stream there is.
    GoawaySent,
    /// The peer did not answer a keepalive ping in time.
    KeepaliveTimeout,
}

/// How many kinds there are.
const KINDS: usize = Event::KeepaliveTimeout as usize + 1;

/// How often each has happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events([u32; KINDS]);

impl Events {
    pub(super) fn note(&mut self, event: Event) {
        let count = &mut self.0[event as usize];
        *count = count.saturating_add(1);
    }

    /// How often `event` has.
    pub fn count(&self, event: Event) -> u64 {
        self.0[event as usize].into()
    }
}
