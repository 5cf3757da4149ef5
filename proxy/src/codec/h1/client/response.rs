//! A response head's meaning: framing (RFC 9112, section 6.3), persistence, and what is passed on.
use bytes::Bytes;
use http::{Response, StatusCode, Version, header};

use super::exchange::Kind;
use super::{Settings, request};
use crate::codec::SendError;
use crate::codec::h1::decode::{Chunk, Decoder};
use crate::codec::h1::encode::parse_length;
use crate::codec::h1::head::{self, Fault, Field, Lines};
use crate::codec::h1::spelling;
use crate::codec::repeated::{self, Side};

/// A response head.
pub(super) struct Answered {
    pub(super) response: Response<()>,
    pub(super) body: Decoder,
    pub(super) keep_alive: bool,
    /// The upgrade or the tunnel was accepted.
    pub(super) tunnel: bool,
}

impl From<Fault> for SendError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::TooLarge => Self::TooLarge("max_response_headers_kb"),
            Fault::TooMany => Self::TooLarge("max_headers_count"),
            Fault::Version => Self::Protocol("unsupported HTTP version"),
            Fault::Value => Self::Protocol("invalid header value"),
            Fault::Malformed(why) => Self::Protocol(why),
        }
    }
}

/// Reads one complete head of `count` lines; `lines` are filled where they are not yet.
pub(super) fn parse(
    raw: &Bytes,
    count: usize,
    lines: &mut Lines,
    kind: Kind,
    settings: &Settings,
) -> Result<Answered, SendError> {
    if count.saturating_sub(1) > settings.limits.headers {
        return Err(Fault::TooMany.into());
    }
    lines.of_head(raw)?;
    let line = head::status_line(raw, lines)?;
    let status = StatusCode::from_u16(line.code).map_err(|_| SendError::Protocol("invalid status"))?;
    let version = if line.minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut headers = head::header_map(lines.fields());
    let (mut length, mut chunked, mut keep_alive) = (None, false, request::persists(version));
    let switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let mut repeated = false;
    for field in lines.entries(raw) {
        let Field { name, value, own } = field?;
        if !own {
            repeated |= head::append(&mut headers, name, value)?;
            continue;
        }
        match name.as_str() {
            "content-length" => match parse_length(value.as_bytes()) {
                Some(n) if length.is_none() => length = Some(n),
                _ => return Err(SendError::Protocol("invalid or repeated content-length")),
            },
            "transfer-encoding" => {
                if chunked || !value.as_bytes().eq_ignore_ascii_case(b"chunked") {
                    return Err(SendError::Protocol("unsupported transfer coding"));
                }
                chunked = true;
                continue;
            }
            "connection" => {
                for token in head::tokens(value.as_bytes()) {
                    if token.eq_ignore_ascii_case(b"close") {
                        keep_alive = false;
                    } else if token.eq_ignore_ascii_case(b"keep-alive") && version == Version::HTTP_10 {
                        keep_alive = true;
                    }
                }
                continue;
            }
            "keep-alive" | "proxy-connection" | "http2-settings" => continue,
            "upgrade" if !switching => continue,
            _ => {}
        }
        repeated |= head::append(&mut headers, name, value)?;
    }
    if repeated {
        repeated::join(&mut headers, Side::Response);
    }
    let (body, tunnel) = framing(status, length, chunked, kind, settings)?;
    if chunked {
        headers.remove(header::CONTENT_LENGTH);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version;
    *response.headers_mut() = headers;
    spelling::keep(settings.header_case, lines.raw(raw), line.reason, response.extensions_mut());
    Ok(Answered { response, keep_alive: keep_alive && body != Decoder::UntilEnd, body, tunnel })
}

fn framing(
    status: StatusCode,
    length: Option<u64>,
    chunked: bool,
    kind: Kind,
    settings: &Settings,
) -> Result<(Decoder, bool), SendError> {
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return match kind {
            Kind::Upgrade => Ok((Decoder::UntilEnd, true)),
            _ => Err(SendError::Protocol("101 without an upgrade")),
        };
    }
    if kind == Kind::Connect && status.is_success() {
        return Ok((Decoder::UntilEnd, true));
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        return match (chunked, length) {
            (true, _) => Err(SendError::Protocol("transfer coding in a response without content")),
            (false, None | Some(0)) => Ok((Decoder::Done, false)),
            (false, Some(_)) => Err(SendError::Protocol("content-length in a response without content")),
        };
    }
    if chunked && length.is_some() && !settings.allow_chunked_length {
        return Err(SendError::Protocol("both content-length and transfer-encoding"));
    }
    Ok(match (length, chunked) {
        _ if kind == Kind::Head || status == StatusCode::NOT_MODIFIED => (Decoder::Done, false),
        (_, true) => (Decoder::Chunked(Chunk::Size), false),
        (Some(0), false) => (Decoder::Done, false),
        (Some(length), false) => (Decoder::Length(length), false),
        (None, false) => (Decoder::UntilEnd, false),
    })
}
