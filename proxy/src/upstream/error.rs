//! Why no host was chosen, and why an attempt failed: fields that callers decide by, and Envoy's words for them.

use std::rc::Rc;

use super::breaker::Overflow;
use crate::codec::SendError;
use crate::telemetry::flags::ResponseFlags;

/// Why there is no host for a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    #[error("no healthy upstream")]
    NoHealthyHost,
    /// The cluster takes the request's original destination, and there is none (or it is not an address).
    #[error("no healthy upstream")]
    NoDestination,
    /// The host that the client's session is bound to is not there.
    #[error("no healthy upstream")]
    NoSessionHost { status: u16 },
    /// The endpoints' `drop_overloads` told so: of all requests, or by chance.
    #[error("drop overload")]
    Dropped { unconditional: bool },
}

impl PickError {
    pub fn flag(&self) -> ResponseFlags {
        match self {
            PickError::NoHealthyHost | PickError::NoDestination | PickError::NoSessionHost { .. } => {
                ResponseFlags::NO_HEALTHY_UPSTREAM
            }
            PickError::Dropped { unconditional: true } => ResponseFlags::UNCONDITIONAL_DROP_OVERLOAD,
            PickError::Dropped { unconditional: false } => ResponseFlags::DROP_OVERLOAD,
        }
    }
}

/// Why an attempt gave no response.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AttemptError {
    #[error("overflow: {0}")]
    Overflow(#[from] Overflow),
    #[error("the connection was not made within connect_timeout")]
    ConnectTimeout,
    /// With the system's words.
    #[error("connecting failed: {0}")]
    Connect(Rc<str>),
    /// The source address could not be taken (`upstream_bind_config`).
    #[error("binding the source address failed: {0}")]
    Bind(Rc<str>),
    /// The handshake failed, with TLS's words.
    #[error("TLS failed: {0}")]
    Tls(Rc<str>),
    #[error(transparent)]
    Send(#[from] SendError),
}

impl AttemptError {
    /// A connection was not even made.
    pub fn is_connect_failure(&self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::Connect(_) | Self::Bind(_) | Self::Tls(_))
    }

    /// The host has certainly not begun to process the request: safe to send again, whatever its method.
    pub fn is_unprocessed(&self) -> bool {
        match self {
            Self::Overflow(_) | Self::ConnectTimeout | Self::Connect(_) | Self::Bind(_) | Self::Tls(_) => true,
            Self::Send(error) => error.is_unprocessed(),
        }
    }

    /// The host broke off the exchange (retry condition `reset`).
    pub fn is_reset(&self) -> bool {
        match self {
            Self::Overflow(_) => false,
            Self::ConnectTimeout | Self::Connect(_) | Self::Bind(_) | Self::Tls(_) => true,
            Self::Send(error) => error.is_reset(),
        }
    }

    /// Retry condition `refused-stream`.
    pub fn is_refused(&self) -> bool {
        matches!(self, Self::Send(SendError::Refused))
    }

    /// What follows "reset reason: " in the answer's body.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Overflow(_) => "overflow",
            Self::ConnectTimeout => "connection timeout",
            Self::Connect(_) | Self::Tls(_) => "remote connection failure",
            Self::Bind(_) => "local connection failure",
            Self::Send(error) => match error {
                SendError::NotSent | SendError::ClosedBeforeResponse { .. } => "connection termination",
                SendError::Io(_) => "connection termination",
                SendError::Refused => "remote refused stream reset",
                SendError::Reset(_) => "remote reset",
                SendError::Protocol(_) | SendError::TooLarge(_) | SendError::PartialResponse => "protocol error",
                SendError::RequestBody(_) => "local reset",
            },
        }
    }

    /// What follows "transport failure reason: ".
    pub fn detail(&self) -> Option<&str> {
        match self {
            Self::Connect(text) | Self::Tls(text) => Some(text).filter(|text| !text.is_empty()).map(|text| &**text),
            _ => None,
        }
    }

    /// The response flag, short.
    pub fn flag(&self) -> &'static str {
        match self {
            Self::Overflow(_) => "UO",
            Self::ConnectTimeout | Self::Connect(_) | Self::Bind(_) | Self::Tls(_) => "UF",
            Self::Send(error) => match error {
                SendError::NotSent | SendError::ClosedBeforeResponse { .. } | SendError::Io(_) => "UC",
                SendError::Refused | SendError::Reset(_) => "UR",
                SendError::Protocol(_) | SendError::TooLarge(_) | SendError::PartialResponse => "UPE",
                SendError::RequestBody(_) => "LR",
            },
        }
    }

    /// The same as a flag.
    pub fn response_flag(&self) -> ResponseFlags {
        ResponseFlags::parse(self.flag()).unwrap_or_default()
    }
}

/// The words of a failed system call, without the number.
pub(super) fn system_words(error: &std::io::Error) -> Rc<str> {
    let text = error.to_string();
    match text.find(" (os error") {
        Some(end) => Rc::from(&text[..end]),
        None => Rc::from(text),
    }
}
