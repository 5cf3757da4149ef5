//! [`Exchange`]: one request on its way through the stages, from the codec's hand-over to the last byte of its answer.
//!
//! It owns the head as it stands, the record that logs and spans read, and what the stages leave for each other. It is a
//! local of the handler's future while the answer is made, and lives on in the answer's body until that is through; whoever
//! drops it early has lost the client.

use std::borrow::Cow;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{HOST, HeaderMap};
use http::request::Parts;
use http::{Method, StatusCode};
use sidemesh_config::format::Format;
use sidemesh_config::matcher::header::HeaderName as AnyHeader;
use sidemesh_config::matcher::{PeerCertificate, RequestView};
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::value::Name;

use super::filter::Data;
use super::forwarded::Caller;
use super::record;
use super::route::Selected;
use super::upload::Upload;
use super::{Connection, ConnectionManager};
use crate::codec::{self, Ending, Informational, Protocol, RequestMeta, Scheme, Upgrade};
use crate::live::Current;
use crate::telemetry::flags::ResponseFlags;
use crate::telemetry::format;
use crate::telemetry::stream_info::{LogContext, RequestHead, StreamInfo};
use crate::upstream::{Cluster, RetryPermit, Session};

pub struct Exchange {
    pub manager: Rc<ConnectionManager>,
    pub config: Current,
    pub info: StreamInfo,
    pub parts: Parts,
    pub protocol: Protocol,
    pub upgrade: Option<Upgrade>,
    pub informational: Informational,
    pub caller: Caller,
    /// The scheme that the request's target names.
    pub named_scheme: Option<Scheme>,
    pub peer_certificate: PeerCertificate,
    /// The host that served the client before.
    pub session: Option<Session>,
    /// How its connection ended, once it has.
    pub ending: Rc<Cell<Option<Ending>>>,
    pub requests_before: u64,
    /// 64 random bits of this request.
    pub random: u64,
    pub selected: Option<Selected>,
    /// The request body's progress; `None` for a request without one.
    pub upload: Option<Rc<Upload>>,
    /// What filters left for their response side.
    pub data: Vec<(u16, Data)>,
    /// When the whole stream must be over.
    pub duration_ends: Option<Instant>,
    /// When it is logged next while it lasts.
    pub next_log: Cell<Option<Instant>>,
    /// The stream's idle limit.
    pub idle: Option<Duration>,
    pub trace_state: Option<http::HeaderValue>,
    /// The span of the attempt under way, where attempts have their own.
    pub attempt_span: Option<(u64, std::time::SystemTime)>,
    /// The span's name, where something gave it one.
    pub operation: Option<Box<str>>,
    /// Tells the client the operation (`decorator.propagate`).
    pub tells_operation: bool,
    /// The cluster that answered.
    pub answered_by: Option<Rc<Cluster>>,
    /// Held until the retry that is under way is over.
    pub retry_permit: Option<RetryPermit>,
    /// A host port that was stripped for matching and goes back on a CONNECT.
    pub stripped_host: Option<http::HeaderValue>,
    /// The response's head, kept for logs and formats.
    pub response_headers: HeaderMap,
    pub response_trailers: Option<HeaderMap>,
    /// Text of a local reply.
    pub local_body: Cow<'static, str>,
    /// Set-cookie of a hash policy that made a cookie.
    pub hash_cookie: Option<http::HeaderValue>,
    /// The filters the request runs through.
    pub chain: Option<Rc<super::filter::Chain>>,
    /// What the request is counted under besides its cluster.
    pub counted: super::tally::Counted,
    /// There was no head: what is answered is no request.
    pub headless: bool,
    /// It came as gRPC-Web: what is answered here is HTTP, which the filter translates.
    pub grpc_web: bool,
    /// Internal redirects followed so far.
    pub redirects: u32,
    /// The routes they led from and to, where a predicate asks.
    pub redirected: Vec<(Name, Name)>,
    pub(super) done: bool,
}

impl Exchange {
    pub fn begin(connection: &Connection, parts: Parts, meta: RequestMeta) -> Self {
        let manager = connection.manager.clone();
        let config = manager.worker.config();
        let local = &manager.worker.local;
        let wall = local.clock.system();
        let mut info = StreamInfo::new(connection.info.clone(), Some(meta.protocol), meta.received, wall);
        info.request_header_bytes = meta.head_bytes as u64;
        info.received_headers = parts.headers.len() as u32;
        info.revision = config.revision.clone();
        let random = local.random.next_u64();
        info.stream_id = (u128::from(random) << 64) | u128::from(info.connection.id);
        let remote = info.remote;
        let idle = manager.config.stream_idle_timeout;
        let next_log = manager.config.log_interval.and_then(|every| meta.received.checked_add(every));
        Exchange {
            config,
            info,
            parts,
            protocol: meta.protocol,
            upgrade: meta.upgrade,
            informational: meta.informational,
            caller: Caller {
                address: remote,
                internal: false,
                edge: false,
                scheme: meta.scheme.unwrap_or(Scheme::Http),
                identified: false,
            },
            named_scheme: meta.scheme,
            peer_certificate: connection.peer_certificate,
            ending: connection.ending.clone(),
            session: None,
            requests_before: meta.requests_before,
            random,
            selected: None,
            upload: None,
            data: Vec::new(),
            duration_ends: None,
            next_log: Cell::new(next_log),
            idle,
            trace_state: None,
            attempt_span: None,
            operation: None,
            tells_operation: false,
            answered_by: None,
            retry_permit: None,
            stripped_host: None,
            response_headers: HeaderMap::new(),
            response_trailers: None,
            local_body: Cow::Borrowed(""),
            hash_cookie: None,
            chain: None,
            counted: Default::default(),
            headless: false,
            grpc_web: false,
            redirects: 0,
            redirected: Vec::new(),
            done: false,
            manager,
        }
    }

    /// For an answer to what the codec could not read as a request.
    pub fn headless(connection: &Connection, protocol: Protocol, head_bytes: usize) -> Self {
        let parts = http::Request::new(()).into_parts().0;
        let meta = RequestMeta {
            protocol,
            scheme: None,
            upgrade: None,
            received: connection.manager.worker.local.clock.now(),
            head_bytes,
            requests_before: 0,
            continued: false,
            informational: Informational::default(),
        };
        let mut x = Exchange::begin(connection, parts, meta);
        x.headless = true;
        x
    }

    pub fn now(&self) -> Instant {
        self.manager.worker.local.clock.now()
    }

    pub fn headers(&self) -> &HeaderMap {
        &self.parts.headers
    }

    /// A header or pseudo-header as configuration names it.
    pub fn header(&self, name: &AnyHeader) -> Option<&str> {
        match name {
            AnyHeader::Header(name) => self.parts.headers.get(name)?.to_str().ok(),
            AnyHeader::Method => Some(self.parts.method.as_str()),
            AnyHeader::Path => Some(self.target()),
            AnyHeader::Authority => Some(self.authority()),
            AnyHeader::Scheme => Some(self.caller.scheme.as_str()),
        }
    }

    pub fn authority(&self) -> &str {
        self.parts.headers.get(HOST).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    pub fn is_connect(&self) -> bool {
        self.parts.method == Method::CONNECT
    }

    /// `/path?query`; nothing for a CONNECT that names an authority alone.
    pub fn target(&self) -> &str {
        if self.is_connect() && self.parts.uri.path_and_query().is_none() {
            return "";
        }
        if self.parts.uri.path() == "*" {
            return "*";
        }
        codec::path_and_query(&self.parts)
    }

    pub fn is_grpc(&self) -> bool {
        is_grpc(&self.parts.headers)
    }

    /// What matchers look at.
    pub fn view(&self) -> RequestView<'_> {
        RequestView {
            method: &self.parts.method,
            scheme: self.caller.scheme.as_str(),
            authority: self.authority(),
            path: self.target(),
            headers: &self.parts.headers,
            tls: self.info.connection.is_tls(),
            peer_certificate: self.peer_certificate,
            metadata: Some(&self.info.metadata),
            filter_state: Some(&self.info.filter_state),
            runtime: &self.config.runtime,
            random: self.random,
        }
    }

    /// What formats look at.
    pub fn log_context(&self) -> LogContext<'_> {
        LogContext {
            info: &self.info,
            request: (!self.headless).then(|| RequestHead {
                method: &self.parts.method,
                scheme: self.caller.scheme.as_str(),
                authority: self.authority(),
                path: self.target(),
                headers: &self.parts.headers,
            }),
            response_headers: (!self.response_headers.is_empty()).then_some(&self.response_headers),
            response_trailers: self.response_trailers.as_ref(),
            local_reply_body: &self.local_body,
            now: self.manager.worker.local.clock.coarse(),
        }
    }

    /// Evaluates a format; absent values come out as nothing.
    pub fn format(&self, f: &Format) -> String {
        format::to_string(f, &self.log_context(), "")
    }

    /// The most specific override of a filter: weighted cluster, route, virtual host, table.
    pub fn filter_override(&self, filter: &str) -> Option<&Arc<FilterOverride>> {
        let selected = self.selected.as_ref()?;
        selected
            .weighted()
            .and_then(|w| w.overrides.get(filter))
            .or_else(|| selected.route.as_ref()?.overrides.get(filter))
            .or_else(|| selected.vhost.as_ref()?.overrides.get(filter))
            .or_else(|| selected.table.overrides.get(filter))
    }

    /// Every override of a filter, the most specific first.
    pub fn filter_overrides(&self, filter: &str) -> smallvec::SmallVec<[&Arc<FilterOverride>; 4]> {
        let Some(selected) = self.selected.as_ref() else { return smallvec::SmallVec::new() };
        let levels = [
            selected.weighted().and_then(|w| w.overrides.get(filter)),
            selected.route.as_ref().and_then(|r| r.overrides.get(filter)),
            selected.vhost.as_ref().and_then(|v| v.overrides.get(filter)),
            selected.table.overrides.get(filter),
        ];
        levels.into_iter().flatten().collect()
    }

    /// Whether every byte of the request has come.
    pub fn request_complete(&self) -> bool {
        self.upload.as_ref().is_none_or(|u| u.ended().is_some())
    }

    /// When the request was complete.
    pub fn request_ended(&self) -> Option<Instant> {
        match &self.upload {
            Some(upload) => upload.ended(),
            None => Some(self.info.start),
        }
    }

    /// 504, or 408 while the client has not sent all of its request.
    pub fn timeout_status(&self) -> StatusCode {
        if self.request_complete() { StatusCode::GATEWAY_TIMEOUT } else { StatusCode::REQUEST_TIMEOUT }
    }

    pub fn flag(&mut self, flag: ResponseFlags) {
        self.info.flags.insert(flag);
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if !self.done {
            record::abandoned(self);
        }
    }
}

pub use crate::grpc::is_request as is_grpc;
