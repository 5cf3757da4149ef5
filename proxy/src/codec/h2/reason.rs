//! HTTP/2's error codes (RFC 9113, section 7).
use std::fmt;

/// Why a stream was reset or a connection ended: the code of RST_STREAM and GOAWAY. Unknown codes are kept as they came.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(u32);

/// The codes in the order of their numbers.
const NAMES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

impl Reason {
    /// Nothing went wrong.
    pub const NO_ERROR: Self = Self(0);
    /// The peer broke the protocol, in a way that has no code of its own.
    pub const PROTOCOL_ERROR: Self = Self(1);
    /// Something failed on this side.
    pub const INTERNAL_ERROR: Self = Self(2);
    /// The peer sent more than its window.
    pub const FLOW_CONTROL_ERROR: Self = Self(3);
    /// A frame came for a stream that is closed.
    pub const STREAM_CLOSED: Self = Self(5);
    /// A frame of a length that its type does not have.
    pub const FRAME_SIZE_ERROR: Self = Self(6);
    /// The stream was not processed at all.
    pub const REFUSED_STREAM: Self = Self(7);
    /// The stream is no longer needed.
    pub const CANCEL: Self = Self(8);
    /// The header compression is out of step.
    pub const COMPRESSION_ERROR: Self = Self(9);
    /// The peer does too much of something.
    pub const ENHANCE_YOUR_CALM: Self = Self(11);
    /// The peer wants HTTP/1.1.
    pub const HTTP_1_1_REQUIRED: Self = Self(13);

    /// As on the wire.
    pub const fn code(self) -> u32 {
        self.0
    }

    /// Its name in the RFC, if it has one.
    pub fn name(self) -> Option<&'static str> {
        NAMES.get(self.0 as usize).copied()
    }
}

impl From<u32> for Reason {
    fn from(code: u32) -> Self {
        Self(code)
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "error code {:#x}", self.0),
        }
    }
}

impl fmt::Debug for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
