//! Session persistence (`stateful_session.v3.StatefulSession`): a client tells with a cookie or a header which host served it before,
//! and its requests go there again. What is kept there is the host's address, in Envoy's encoding, so that sessions survive a
//! mixed fleet. Retries are balanced like any other request.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::SET_COOKIE;
use http::{HeaderName, HeaderValue, Response};
use prost::Message;
use sidemesh_config::matcher::cookie::cookie;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::stateful_session::{SessionState, StatefulSession as Config};
use sidemesh_config::value::Name;

use super::{Data, Flow, take};
use crate::body::Body;
use crate::http::exchange::Exchange;
use crate::http::headers::set_cookie;
use crate::stats_group;
use crate::telemetry::stats::Scope;
use crate::upstream::Session;
use crate::worker::Worker;

/// Stands between the address and what the upstream has put into the header.
const ORIGINAL: &str = ";UV:";

stats_group! {
    /// `http.PREFIX.stateful_session.PREFIX.`
    pub struct SessionStats {
        routed: Counter,
        failed_open: Counter,
        failed_closed: Counter,
        no_session: Counter,
    }
}

pub(super) struct StatefulSession {
    config: Arc<Config>,
    stats: Option<Arc<SessionStats>>,
}

/// What the client has told, for the response.
pub struct Told {
    config: Arc<Config>,
    address: Option<SocketAddr>,
    /// A host was named, be it one or not.
    named: bool,
    /// Not under a route's own configuration.
    counted: bool,
}

/// The content of the cookie.
#[derive(Clone, PartialEq, Message)]
struct CookieContent {
    #[prost(string, tag = "1")]
    address: String,
    /// Seconds since 1970; zero: never.
    #[prost(uint64, tag = "2")]
    expires: u64,
}

impl StatefulSession {
    pub(super) fn new(config: Arc<Config>, worker: &Rc<Worker>, prefix: &Name) -> Self {
        let stats = (!config.stat_prefix.is_empty()).then(|| {
            let filter = Name::from(format!("stateful_session.{}", config.stat_prefix));
            worker.stats().shard(Scope::HttpFilter { prefix: prefix.clone(), filter })
        });
        StatefulSession { config, stats }
    }

    pub(super) fn on_request(&self, at: u16, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let config = match over {
            Some(FilterOverride::StatefulSession(own)) => own.clone(),
            _ => self.config.clone(),
        };
        let Some(state) = &config.state else { return Flow::Continue };
        if !covers(state, x.target()) {
            self.stats.iter().for_each(|stats| stats.no_session.inc());
            return Flow::Continue;
        }
        let told = told(state, x);
        let address = told.as_deref().and_then(|text| text.parse().ok());
        if told.is_some() {
            x.session = Some(Session { address, strict: config.strict, not_found_status: config.not_found_status });
        }
        let counted = !matches!(over, Some(FilterOverride::StatefulSession(_)));
        x.data.push((at, Data::Session(Told { config, address, named: told.is_some(), counted })));
        Flow::Continue
    }

    pub(super) fn on_response(&self, at: u16, x: &mut Exchange, response: &mut Response<Body>) {
        let Some(Data::Session(told)) = take(x, at) else { return };
        let host = x.info.upstream.host;
        if let Some(stats) = self.stats.as_ref().filter(|_| told.counted) {
            match host {
                Some(got) if told.address == Some(got) => stats.routed.inc(),
                // Also when nothing was named, as in Envoy.
                Some(_) if !told.config.strict => stats.failed_open.inc(),
                None if told.config.strict && told.named => stats.failed_closed.inc(),
                _ => {}
            }
        }
        if let (Some(host), Some(state)) = (host, &told.config.state) {
            tell(state, told.address, host, x.manager.worker.local.clock.system(), response);
        }
    }
}

/// Whether requests with this target have a state.
fn covers(state: &SessionState, target: &str) -> bool {
    let SessionState::Cookie { path, .. } = state else { return true };
    match target.strip_prefix(&**path) {
        None => false,
        Some(rest) => {
            path.is_empty() || path.ends_with('/') || matches!(rest.bytes().next(), None | Some(b'/' | b'?' | b'#'))
        }
    }
}

/// The host that the request names, which may be anything.
fn told(state: &SessionState, x: &mut Exchange) -> Option<String> {
    match state {
        SessionState::Cookie { name, .. } => {
            let value = STANDARD.decode(cookie(&x.parts.headers, name)?).ok()?;
            address_in(&value, x.manager.worker.local.clock.system())
        }
        SessionState::Header(name) => {
            let value = STANDARD.decode(x.parts.headers.get(name)?.as_bytes()).ok()?;
            String::from_utf8(value).ok().filter(|text| !text.is_empty())
        }
        SessionState::Envelope(name) => {
            let value = x.parts.headers.get(name)?.to_str().ok()?;
            let (address, original) = value.split_once(ORIGINAL)?;
            let address = String::from_utf8(STANDARD.decode(address).ok()?).ok()?;
            let original = HeaderValue::from_bytes(&STANDARD.decode(original).ok()?).ok()?;
            x.parts.headers.insert(name, original);
            Some(address)
        }
    }
}

/// What a cookie holds: a message, or in old ones the address alone.
fn address_in(value: &[u8], now: SystemTime) -> Option<String> {
    let Ok(content) = CookieContent::decode(value) else { return String::from_utf8(value.to_vec()).ok() };
    let expired = content.expires != 0 && content.expires < seconds(now);
    Some(content.address).filter(|address| !expired && !address.is_empty())
}

fn seconds(now: SystemTime) -> u64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Tells the client which host has served it, unless it knows.
fn tell(
    state: &SessionState,
    known: Option<SocketAddr>,
    host: SocketAddr,
    now: SystemTime,
    response: &mut Response<Body>,
) {
    let headers = response.headers_mut();
    match state {
        SessionState::Envelope(name) => {
            let Some(original) = headers.get(name) else { return };
            let text = format!("{}{ORIGINAL}{}", STANDARD.encode(host.to_string()), STANDARD.encode(original));
            set(headers, name, text);
        }
        _ if known == Some(host) => {}
        SessionState::Header(name) => set(headers, name, STANDARD.encode(host.to_string())),
        SessionState::Cookie { name, ttl, path, attributes } => {
            let expires = if ttl.is_zero() { 0 } else { seconds(now) + ttl.as_secs() };
            let content = CookieContent { address: host.to_string(), expires }.encode_to_vec();
            // Names that make no header value make no cookie.
            if let Some(value) = set_cookie(name, &STANDARD.encode(content), *ttl, path, attributes) {
                headers.append(SET_COOKIE, value);
            }
        }
    }
}

fn set(headers: &mut http::HeaderMap, name: &HeaderName, text: String) {
    if let Ok(value) = HeaderValue::try_from(text) {
        headers.insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_cookie_holds_an_address_until_it_expires() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        let holds = |expires| CookieContent { address: "10.0.0.1:80".into(), expires }.encode_to_vec();
        let host = Some("10.0.0.1:80".to_owned());
        assert_eq!(address_in(&holds(0), now), host);
        assert_eq!(address_in(&holds(1001), now), host);
        assert_eq!(address_in(&holds(999), now), None);
        assert_eq!(address_in(b"nonsense", now), Some("nonsense".to_owned()));
    }

    #[test]
    fn a_cookie_is_for_its_path() {
        let state = |path: &str| SessionState::Cookie {
            name: "c".into(),
            ttl: Duration::ZERO,
            path: path.into(),
            attributes: Vec::new(),
        };
        for (path, target, expected) in [
            ("", "/x", true),
            ("/", "/x", true),
            ("/a", "/a", true),
            ("/a", "/a/b", true),
            ("/a", "/a?b", true),
            ("/a", "/ab", false),
            ("/a", "/b", false),
        ] {
            assert_eq!(covers(&state(path), target), expected, "{path} {target}");
        }
    }
}
