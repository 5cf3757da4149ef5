//! One downstream HTTP/1 connection: read a head, run the handler, write its response, again.
//!
//! The future returned by [`serve`] is the connection: it drives the handler, watches the client while it does (a client that goes
//! away cancels the handler), and holds no buffer and no handler state while the connection idles. It does not accept, does
//! not do TLS and knows nothing of routes.
mod conn;
mod exchange;
mod idle;
mod response;

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use http::HeaderValue;

use conn::Conn;
pub use conn::{InformationalSender, RequestBody};
use exchange::After;

use super::{HeaderCase, Limits};
use crate::codec::handler::Handler;
use crate::codec::linger::linger;
use crate::codec::{Closed, Drain, Local};
use crate::io::Io;

/// How a listener speaks HTTP/1. The defaults are Envoy's.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `max_request_headers_kb`, `max_headers_count`, `enable_trailers`.
    pub limits: Limits,
    /// `accept_http_10`
    pub accept_http_10: bool,
    /// `default_host_for_http_10`
    pub default_host_for_http_10: Option<HeaderValue>,
    /// `allow_absolute_url`
    pub allow_absolute_url: bool,
    /// `allow_chunked_length`
    pub allow_chunked_length: bool,
    /// `allow_custom_methods`
    pub allow_custom_methods: bool,
    /// `header_key_format`
    pub header_case: HeaderCase,
    /// `proxy_100_continue`: `expect` is passed on, and the origin's interim responses are the handler's to pass back.
    pub proxy_100_continue: bool,
    /// `common_http_protocol_options.idle_timeout`: between requests.
    pub idle_timeout: Option<Duration>,
    /// `request_headers_timeout`: from the first byte of a head to its last.
    pub request_headers_timeout: Option<Duration>,
    /// `request_timeout`, as far as it is the codec's: from the first byte of a head to its last.
    pub request_timeout: Option<Duration>,
    /// `stream_idle_timeout`, as far as it is the codec's: a head is incomplete for so long.
    pub stream_idle_timeout: Option<Duration>,
    /// `stream_flush_timeout`: the client takes no byte of a response for so long.
    pub flush_timeout: Option<Duration>,
    /// `common_http_protocol_options.max_connection_duration`, with its jitter added.
    pub max_connection_duration: Option<Duration>,
    /// How long a connection that has idled, or lasted, too long may still bring a request, whose response then says goodbye.
    pub drain_timeout: Duration,
    /// `http1_safe_max_connection_duration`: the connection ends with a response, not between requests.
    pub safe_max_connection_duration: bool,
    /// `common_http_protocol_options.max_requests_per_connection`
    pub max_requests_per_connection: Option<u64>,
    /// `delayed_close_timeout`: how long a client may take to read the last response before the connection is cut.
    pub delayed_close_timeout: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            accept_http_10: false,
            default_host_for_http_10: None,
            allow_absolute_url: true,
            allow_chunked_length: false,
            allow_custom_methods: false,
            header_case: HeaderCase::Lower,
            proxy_100_continue: false,
            idle_timeout: Some(Duration::from_secs(3600)),
            request_headers_timeout: None,
            request_timeout: None,
            stream_idle_timeout: Some(Duration::from_secs(300)),
            flush_timeout: Some(Duration::from_secs(300)),
            max_connection_duration: None,
            drain_timeout: Duration::from_secs(5),
            safe_max_connection_duration: false,
            max_requests_per_connection: None,
            delayed_close_timeout: Duration::from_secs(1),
        }
    }
}

/// Serves one connection to its end.
pub async fn serve<H: Handler>(io: Io, settings: Rc<Settings>, local: Local, handler: &H, drain: Drain) -> Closed {
    let opened = local.clock.now();
    let deadline = settings.max_connection_duration.and_then(|limit| opened.checked_add(limit));
    let idle_deadline = deadline.filter(|_| !settings.safe_max_connection_duration);
    let conn = Rc::new(RefCell::new(Conn::new(io, settings, local)));
    // An exchange, with the handler's future in it, lives in a box that is kept from request to request, and freed when the
    // connection idles.
    let mut slot = None;
    let after = loop {
        let head = match idle::next_head(&conn, &drain, idle_deadline, &mut slot).await {
            idle::Next::Head(head) => head,
            idle::Next::Refused(refusal, head_bytes) => {
                break Box::pin(exchange::refuse(&conn, handler, refusal, head_bytes)).await;
            }
            idle::Next::Closed(closed) => break After::Drop(closed),
        };
        let running = slot.get_or_insert_with(|| Box::pin(None));
        running.set(Some(exchange::run(&conn, handler, &drain, deadline, head)));
        let after = poll_fn(|cx| match running.as_mut().as_pin_mut() {
            Some(exchange) => exchange.poll(cx),
            None => Poll::Ready(After::Next),
        })
        .await;
        running.set(None);
        if !matches!(after, After::Next) {
            break after;
        }
    };
    drop(slot);
    match after {
        After::Linger(closed) => {
            Box::pin(goodbye(conn)).await;
            closed
        }
        After::Cut(closed) => {
            conn.borrow().io.reset_on_close();
            closed
        }
        After::Drop(closed) => closed,
        After::Next => Closed::AfterResponse,
    }
}

/// Lets the client read what was sent last, unless it has ended its half already.
async fn goodbye(conn: Rc<RefCell<Conn>>) {
    // A handler that kept a body or a sender keeps the connection's state too: then there is no waiting.
    if let Ok(conn) = Rc::try_unwrap(conn) {
        let conn = conn.into_inner();
        if !conn.ended {
            linger(&RefCell::new(conn.io), &conn.local, conn.settings.delayed_close_timeout).await;
        }
    }
}
