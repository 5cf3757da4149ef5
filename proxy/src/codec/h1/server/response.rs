//! Writing a response: its head and first bytes in one write, the rest as the body yields it.
use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::response::Parts;
use http::{Response, StatusCode, Version, header};

use super::conn::Conn;
use super::exchange::{After, Exchange};
use crate::clock::Sleep;
use crate::codec::Closed;
use crate::codec::body::{Body, Error};
use crate::codec::h1::encode::{self, Encoder};
use crate::codec::h1::spelling::Names;

/// How the writing ended, if not well.
enum Failure {
    /// The client went away, or took nothing for too long.
    Client(Closed),
    /// The body failed.
    Body(Error),
}

/// Sends `response`, and says what becomes of the connection.
pub(super) async fn send(
    conn: &Rc<RefCell<Conn>>,
    response: Response<Body>,
    exchange: &Exchange,
    goodbye: bool,
) -> After {
    let (parts, body) = response.into_parts();
    if let Some(error) = body.failure() {
        return After::Cut(Closed::Aborted(error.clone()));
    }
    // Asked before the cell is borrowed: the body may be the request's own.
    let exact = body.exact_len();
    let (encoder, close) = start(&mut conn.borrow_mut(), &parts, exact, exchange, goodbye);
    // The head is written: what it shares with the upstream's buffer is let go before the body streams.
    drop(parts);
    let mut pump = Pump { conn, body, encoder, done: encoder == Encoder::None, stalled: None };
    let result = poll_fn(|cx| pump.poll(cx)).await;
    let after = match result {
        Ok(()) => {
            if encoder == Encoder::None {
                pump.body.skip();
            }
            if close { After::Linger(Closed::AfterResponse) } else { After::Next }
        }
        Err(Failure::Client(closed)) => {
            pump.body.fail(if closed == Closed::ByPeerInRequest { Error::Canceled } else { Error::Closed });
            After::Drop(closed)
        }
        // Nobody takes the end of a tunnel for the end of anything else.
        Err(Failure::Body(error)) if conn.borrow().is_tunnel() => After::Linger(Closed::Aborted(error)),
        // Without a length or chunks an orderly close would look like the end of the body.
        Err(Failure::Body(error)) if encoder == Encoder::UntilEnd => After::Cut(Closed::Aborted(error)),
        Err(Failure::Body(error)) => After::Drop(Closed::Aborted(error)),
    };
    drop(pump);
    conn.borrow_mut().finish();
    after
}

/// Puts the head into the output, and settles how the body is framed and whether the connection ends with it.
fn start(conn: &mut Conn, parts: &Parts, exact: Option<u64>, exchange: &Exchange, goodbye: bool) -> (Encoder, bool) {
    conn.before_response = false;
    let switched = parts.status == StatusCode::SWITCHING_PROTOCOLS && exchange.upgrade.is_some();
    let tunnel = switched || (exchange.connect && parts.status.is_success());
    let complete = if tunnel {
        conn.open_tunnel();
        true
    } else {
        conn.discard_body()
    };
    let names = Names::of(conn.settings.header_case, &parts.extensions);
    let buf = conn.out.buf(&conn.local.buffers);
    encode::put_status(buf, exchange.version, parts.status, names.reason());
    let own = encode::put_fields(buf, &parts.headers, names);
    let (encoder, length) = framing(conn, parts, exact, own.length, exchange, tunnel);
    let limit = conn.settings.max_requests_per_connection;
    let close = goodbye
        || tunnel
        || exchange.upgrade.is_some()
        || exchange.connect
        || !exchange.keep_alive
        || !complete
        || encoder == Encoder::UntilEnd
        || limit.is_some_and(|limit| conn.current + 1 >= limit)
        || own.close;
    let buf = conn.out.buf(&conn.local.buffers);
    if let Some(length) = length {
        encode::put_length(buf, length, names);
    }
    let unknown =
        exchange.head && length.is_none() && has_content(parts.status) && exchange.version == Version::HTTP_11;
    if matches!(encoder, Encoder::Chunked { .. }) || unknown {
        encode::put_field(buf, "transfer-encoding", b"chunked", names);
    }
    if switched {
        let protocol = parts.headers.get(header::UPGRADE).or(exchange.upgrade.as_ref());
        encode::put_field(buf, "connection", b"Upgrade", names);
        encode::put_field(buf, "upgrade", protocol.map_or(b"", |value| value.as_bytes()), names);
    } else if close && !tunnel {
        encode::put_field(buf, "connection", b"close", names);
    } else if exchange.keep_alive_said {
        encode::put_field(buf, "connection", b"keep-alive", names);
    }
    buf.extend_from_slice(b"\r\n");
    (encoder, close)
}

/// Whether a GET's response with this status may have content.
fn has_content(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT && status != StatusCode::NOT_MODIFIED
}

/// RFC 9112, section 6: by status and method first, then by what is known of the length.
fn framing(
    conn: &Conn,
    parts: &Parts,
    exact: Option<u64>,
    declared: Option<u64>,
    exchange: &Exchange,
    tunnel: bool,
) -> (Encoder, Option<u64>) {
    if tunnel {
        return (Encoder::UntilEnd, None);
    }
    if parts.status.is_informational() || parts.status == StatusCode::NO_CONTENT {
        return (Encoder::None, None);
    }
    if exchange.head {
        return (Encoder::None, declared.or(exact.filter(|&length| length > 0)));
    }
    if parts.status == StatusCode::NOT_MODIFIED {
        return (Encoder::None, declared);
    }
    match exact.or(declared) {
        Some(length) => (Encoder::Length(length), Some(length)),
        None if exchange.version == Version::HTTP_10 => (Encoder::UntilEnd, None),
        None => (Encoder::Chunked { trailers: conn.settings.limits.trailers }, None),
    }
}

/// Moves a body into the socket.
struct Pump<'a> {
    conn: &'a RefCell<Conn>,
    body: Body,
    encoder: Encoder,
    /// All of the body is in the output.
    done: bool,
    /// Runs while the client takes nothing.
    stalled: Option<Sleep>,
}

impl Pump<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Failure>> {
        loop {
            let more = match self.gather(cx) {
                Ok(more) => more,
                Err(error) => {
                    // What came before the failure is the client's; as much as the socket takes at once.
                    let mut conn = self.conn.borrow_mut();
                    let conn = &mut *conn;
                    let _flushed_or_not = conn.out.poll_flush(&mut conn.io, cx);
                    return Poll::Ready(Err(Failure::Body(error)));
                }
            };
            let mut conn = self.conn.borrow_mut();
            let conn = &mut *conn;
            match conn.out.poll_flush(&mut conn.io, cx) {
                Poll::Ready(Ok(())) => {
                    self.stalled = None;
                    if self.done {
                        return Poll::Ready(Ok(()));
                    }
                    if more {
                        continue;
                    }
                }
                Poll::Ready(Err(_)) => return Poll::Ready(Err(Failure::Client(Closed::ByPeerInRequest))),
                Poll::Pending => {
                    if self.stalled.is_none() {
                        self.stalled = conn.settings.flush_timeout.map(|limit| conn.local.timers.after(limit));
                    }
                    if let Some(sleep) = &mut self.stalled
                        && Pin::new(sleep).poll(cx).is_ready()
                    {
                        let timeout = Closed::Timeout("the stream idle timeout");
                        return Poll::Ready(Err(Failure::Client(timeout)));
                    }
                }
            }
            return conn.poll_gone(cx).map(|_| Err(Failure::Client(Closed::ByPeerInRequest)));
        }
    }

    /// Takes frames as long as the output has room. Whether it stopped for want of room, not of frames.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, Error> {
        while !self.done {
            if !self.conn.borrow().out.has_room() {
                return Ok(true);
            }
            let frame = match self.body.poll_next(cx) {
                Poll::Pending => return Ok(false),
                Poll::Ready(frame) => frame.transpose()?,
            };
            let mut conn = self.conn.borrow_mut();
            let conn = &mut *conn;
            let case = conn.settings.header_case;
            match frame.map(http_body::Frame::into_data) {
                Some(Ok(data)) => self.encoder.data(&mut conn.out, data, &conn.local.buffers)?,
                Some(Err(frame)) => {
                    self.encoder.end(&mut conn.out, frame.trailers_ref(), case, &conn.local.buffers)?;
                    self.done = true;
                }
                None => {
                    self.encoder.end(&mut conn.out, None, case, &conn.local.buffers)?;
                    self.done = true;
                }
            }
        }
        Ok(false)
    }
}
