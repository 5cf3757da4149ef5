//! Upgrades (RFC 9110 section 7.8), CONNECT (RFC 9110 section 9.3.6) and extended CONNECT (RFC 8441); and the look at a connection's first
//! bytes that tells HTTP/2 with prior knowledge from HTTP/1.
//!
//! Once accepted, the bodies are the raw bytes; the codecs translate between the protocols' forms.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::{Response, StatusCode};
use sidemesh_config::resource::route::Forward;
use tokio::io::{AsyncRead, ReadBuf};

use super::exchange::Exchange;
use super::finish::Answer;
use super::forward::{self, Plan};
use super::guard::Limits;
use super::handler::Filters;
use super::reply::LocalReply;
use crate::body::Body;
use crate::codec::{Closed, Drain, Local, Protocol, Tunnel, Upgrade};
use crate::io::Io;
use crate::upstream::AttemptInfo;

/// What an HTTP/2 connection with prior knowledge starts with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const FOR_EVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// How long a connection may be silent before its first byte, how long the first bytes may take from there, and how long it may last.
pub struct Patience {
    pub idle: Option<Duration>,
    pub head: Option<Duration>,
    pub duration: Option<Duration>,
}

impl Patience {
    /// The limit that comes first while nothing is said.
    fn silence(&self) -> (Duration, Closed) {
        let idle = (self.idle.unwrap_or(FOR_EVER), Closed::Timeout("the idle timeout"));
        match self.duration {
            Some(duration) if duration < idle.0 => (duration, Closed::Timeout("the maximum connection duration")),
            _ => idle,
        }
    }
}

/// Reads until the protocol is clear and gives the bytes back; the error is how the connection ended instead.
pub async fn sniff(io: &mut Io, local: &Local, patience: Patience, drain: &Drain) -> Result<Protocol, Closed> {
    let mut seen = BytesMut::with_capacity(PREFACE.len());
    let first = first_bytes(io, &mut seen, drain);
    let (limit, reached) = patience.silence();
    match local.timers.timeout(limit, first).await {
        Err(_) => return Err(reached),
        Ok(Err(_)) => return Err(Closed::ByPeer),
        Ok(Ok(())) => {}
    }
    if is_begun(&seen) {
        // Boxed: the first read mostly tells.
        let more = Box::pin(more_bytes(io, &mut seen, local, patience, drain)).await;
        more.ok_or(Closed::Timeout("the limit for request headers"))?;
    }
    if seen.is_empty() {
        return Err(if drain.is_closing() { Closed::Drained } else { Closed::ByPeer });
    }
    let http2 = seen.as_ref() == PREFACE;
    let bytes = seen.freeze();
    let taken = std::mem::replace(io, Io::boxed(tokio::io::empty()));
    *io = taken.rewind(bytes);
    Ok(if http2 { Protocol::Http2 } else { Protocol::Http11 })
}

/// Whether it may yet become the preface.
fn is_begun(seen: &[u8]) -> bool {
    !seen.is_empty() && seen.len() < PREFACE.len() && PREFACE.starts_with(seen)
}

/// Reads on until the protocol is clear or the client ends; `None`: it takes too long.
async fn more_bytes(io: &mut Io, seen: &mut BytesMut, local: &Local, patience: Patience, drain: &Drain) -> Option<()> {
    let look = async {
        while is_begun(seen) {
            if read_some(io, seen, PREFACE.len()).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    tokio::select! {
        biased;
        done = local.timers.timeout(patience.head.or(patience.idle).unwrap_or(FOR_EVER), look) => done.ok()?.ok(),
        () = drain.overdue(&local.timers) => None,
    }
}

/// Leaves `seen` empty when the client left, or the connection is idle and to be closed.
async fn first_bytes(io: &mut Io, seen: &mut BytesMut, drain: &Drain) -> io::Result<()> {
    let mut space = [0u8; 24];
    let mut buf = ReadBuf::new(&mut space);
    poll_fn(|cx| match Pin::new(&mut *io).poll_read(cx, &mut buf) {
        Poll::Pending if drain.is_closing() => Poll::Ready(Ok(())),
        Poll::Pending => {
            drain.wake_on_change(cx.waker());
            Poll::Pending
        }
        ready => ready,
    })
    .await?;
    seen.extend_from_slice(buf.filled());
    Ok(())
}

async fn read_some(io: &mut Io, into: &mut BytesMut, upto: usize) -> io::Result<usize> {
    let mut space = [0u8; 24];
    let room = upto.saturating_sub(into.len()).min(space.len());
    let mut buf = ReadBuf::new(&mut space[..room]);
    poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, &mut buf)).await?;
    into.extend_from_slice(buf.filled());
    Ok(buf.filled().len())
}

/// Whether a request that asks for an upgrade may have it, and which filters it runs through.
pub fn admit(x: &mut Exchange) -> Result<Filters, LocalReply> {
    let manager = x.manager.clone();
    let kind = match &x.upgrade {
        None => return Ok(manager.chain.clone()),
        Some(Upgrade::Connect) => "connect".to_owned(),
        Some(Upgrade::Protocol(name)) => String::from_utf8_lossy(name.as_bytes()).to_ascii_lowercase(),
    };
    let of_route =
        x.selected.as_ref().and_then(|s| s.forward()).and_then(|f| f.upgrades.iter().find(|u| *u.kind == *kind));
    let of_manager = manager.config.upgrades.iter().find(|u| *u.config.kind == *kind);
    let allowed = match (of_route, of_manager) {
        (Some(route), _) => route.enabled,
        (None, Some(own)) => own.config.enabled,
        (None, None) => false,
    };
    if !allowed {
        let routed = x.selected.as_ref().is_some_and(|s| s.route.is_some());
        if x.is_connect() && !routed {
            manager.stats.no_route.inc();
            return Err(LocalReply::no_route());
        }
        manager.stats.downstream_rq_ws_on_non_ws_route.inc();
        return Err(LocalReply::upgrade_refused());
    }
    manager.stats.downstream_cx_upgrades_total.inc();
    let chain = manager.upgrade_chains.iter().find(|(k, _)| **k == *kind).map(|(_, c)| c);
    Ok(chain.unwrap_or(&manager.chain).clone())
}

/// Whether the route ends a CONNECT here (`connect_config`) and passes its bytes on as plain TCP.
pub fn terminates_connect(x: &Exchange, forward: &Forward) -> bool {
    let config = forward.upgrades.iter().find(|u| &*u.kind == "connect").and_then(|u| u.connect);
    let posts = || x.upgrade.is_none() && x.parts.method == http::Method::POST;
    config.is_some_and(|c| (x.is_connect() && x.upgrade.is_some()) || (c.allow_post && posts()))
}

/// Opens the TCP connection and makes the bodies its two directions.
pub async fn connect(x: &mut Exchange, plan: &mut Plan) -> Answer {
    let host = match forward::pick(x, plan) {
        Ok(host) => host,
        Err(reply) => return Answer::Local(reply),
    };
    x.info.upstream.attempts += 1;
    x.info.upstream.endpoint = Some(host.endpoint().clone());
    let info = AttemptInfo::default();
    let downstream = forward::downstream(x, &plan.cluster);
    let opened = plan.cluster.connect_tcp(&host, plan.priority, downstream.as_ref(), &info).await;
    forward::note(x, &info);
    match opened {
        Ok(upstream) => {
            let request = x.upload.as_ref().map_or_else(Body::empty, |u| u.reader());
            let buffers = x.manager.worker.local.buffers.clone();
            let tunnel = Tunnel::new(upstream.io, request, buffers);
            let body = Body::boxed(Held { body: Body::from(tunnel), _guard: upstream.guard });
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::OK;
            x.info.details = "via_upstream".into();
            x.info.timing.upstream_rx_begin = Some(x.now());
            let limits = Limits {
                route: None,
                per_try_idle: None,
                upstream_ends: None,
                cluster: plan.cluster.clone(),
                host,
                protocol: None,
                trailers_tell: false,
            };
            Answer::Upstream(response, Box::new(limits))
        }
        Err(error) => Answer::Local(LocalReply::upstream_failure(&error, false)),
    }
}

/// A tunnel that keeps the upstream connection's accounting to its end.
struct Held<G> {
    body: Body,
    _guard: G,
}

impl<G: Unpin> http_body::Body for Held<G> {
    type Data = bytes::Bytes;
    type Error = crate::body::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, crate::body::Error>>> {
        self.get_mut().body.poll_next(cx)
    }
}
