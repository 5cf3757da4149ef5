//! Authentication by JSON Web Tokens (`jwt_authn.v3.JwtAuthentication`): which requests need whose token, and what is passed on
//! of it.
//!
//! Headers that tell the upstream of claims are this filter's alone: what a client sends in them never passes. All tokens that a
//! requirement finds must be good. Statuses, texts and details are Envoy's. Bearer challenges: RFC 6750 section 3.

mod error;
mod jwks;
mod keys;
mod locate;
mod requirement;
#[cfg(test)]
mod tests;
mod token;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{HeaderName, HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::Value;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::jwt_authn::{JwtAuthn as Config, JwtOverride, JwtProvider};
use sidemesh_config::value::{Name, name};

use super::{Exchange, Flow};
use crate::http::handler;
use crate::http::names::X_ENVOY_ORIGINAL_PATH;
use crate::http::reply::LocalReply;
use crate::stats_group;
use crate::telemetry::stats::Scope;
use crate::upstream::Upstream;
use crate::worker::Worker;
use error::JwtError;
use keys::KeyStore;
use requirement::{Accepted, Node, Pass, Unmet};
use token::Token;

stats_group! {
    /// `http.<stat_prefix>.jwt_authn.`
    pub struct JwtStats {
        allowed: Counter,
        denied: Counter,
        cors_preflight_bypassed: Counter,
        jwks_fetch_success: Counter,
        jwks_fetch_failed: Counter,
        jwt_cache_hit: Counter,
        jwt_cache_miss: Counter,
    }
}

/// Under which name claims are kept.
const METADATA: &str = "envoy.filters.http.jwt_authn";
/// So much of the path stands in a challenge.
const MAX_REALM_PATH: usize = 256;

pub struct JwtAuthn {
    config: Arc<Config>,
    keys: Rc<KeyStore>,
    /// In the order of the configuration's rules; `None`: no token needed.
    rules: Vec<Option<Node>>,
    named: Vec<(Name, Node)>,
    /// Headers that only this filter writes.
    owned_headers: Vec<HeaderName>,
    stats: Arc<JwtStats>,
}

impl JwtAuthn {
    pub fn new(config: Arc<Config>, worker: &Rc<Worker>, upstream: &Rc<Upstream>, stat_prefix: &Name) -> Self {
        let filter = match config.stat_prefix.is_empty() {
            true => name("jwt_authn"),
            false => name(&format!("jwt_authn.{}", config.stat_prefix)),
        };
        let stats: Arc<JwtStats> = worker.stats().shard(Scope::HttpFilter { prefix: stat_prefix.clone(), filter });
        let providers = &config.providers;
        let written = |p: &Arc<JwtProvider>| {
            let claims = p.claim_to_headers.iter().map(|(header, _)| header.clone());
            claims.chain(p.forward_payload_header.clone()).collect::<Vec<_>>()
        };
        let mut owned_headers: Vec<HeaderName> = providers.iter().flat_map(written).collect();
        owned_headers.sort_by(|a, b| a.as_str().cmp(b.as_str()));
        owned_headers.dedup();
        let compile = |r: &_| Node::compile(r, providers);
        JwtAuthn {
            keys: KeyStore::new(providers, worker, upstream, stats.clone()),
            rules: config.rules.iter().map(|r| r.requirement.as_deref().map(compile)).collect(),
            named: config.requirement_map.iter().map(|(n, r)| (n.clone(), compile(r))).collect(),
            owned_headers,
            stats,
            config,
        }
    }

    pub fn on_request(&self, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        if self.config.bypass_cors_preflight && is_preflight(x) {
            self.stats.cors_preflight_bypassed.inc();
            return self.allow(x, Vec::new());
        }
        let node = match self.node(x, over) {
            Ok(Some(node)) => node,
            Ok(None) => return self.allow(x, Vec::new()),
            Err(reply) => return *reply,
        };
        match self.check(x, node, &[]) {
            (Ok(()), accepted) => self.allow(x, accepted),
            (Err(Unmet::Fetch(_)), _) => Flow::Wait,
            (Err(Unmet::Error(error)), accepted) => self.deny(x, error, &accepted),
        }
    }

    /// Fetches what is missing, then decides.
    pub async fn wait(&self, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let node = match self.node(x, over) {
            Ok(Some(node)) => node,
            Ok(None) => return self.allow(x, Vec::new()),
            Err(reply) => return *reply,
        };
        let mut unreachable = Vec::new();
        // Each provider is fetched once a request, twice when another's fetch took so long that its keys ran out.
        for _ in 0..=2 * self.config.providers.len() {
            match self.check(x, node, &unreachable) {
                (Ok(()), accepted) => return self.allow(x, accepted),
                (Err(Unmet::Error(error)), accepted) => return self.deny(x, error, &accepted),
                (Err(Unmet::Fetch(at)), _) => {
                    if !self.keys.fetch(at).await {
                        unreachable.push(at);
                    }
                }
            }
        }
        self.deny(x, JwtError::Fetch, &[])
    }

    /// What the request must show; `None`: nothing.
    fn node(&self, x: &Exchange, over: Option<&FilterOverride>) -> Result<Option<&Node>, Box<Flow>> {
        match over {
            Some(FilterOverride::JwtAuthn(JwtOverride::Disabled)) => Ok(None),
            Some(FilterOverride::JwtAuthn(JwtOverride::RequirementName(wanted))) => {
                let found = self.named.iter().find(|(n, _)| n == wanted);
                found.map(|(_, node)| Some(node)).ok_or_else(|| Box::new(self.unknown_requirement(wanted)))
            }
            _ => {
                let view = x.view();
                let rule = self.config.rules.iter().position(|r| r.matcher.matches(&view));
                Ok(rule.and_then(|at| self.rules[at].as_ref()))
            }
        }
    }

    /// What the request shows, and the tokens that hold, also when they are not enough.
    fn check(&self, x: &mut Exchange, node: &Node, unreachable: &[usize]) -> (Result<(), Unmet>, Vec<Accepted>) {
        let now = x.manager.worker.local.clock.system().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let mut pass = Pass {
            headers: &x.parts.headers,
            query: x.view().query(),
            now: now.as_secs(),
            keys: &self.keys,
            unreachable,
            accepted: Vec::new(),
            failures: Vec::new(),
        };
        let met = node.check(&mut pass);
        let (accepted, failures) = (pass.accepted, pass.failures);
        if !matches!(met, Err(Unmet::Fetch(_))) {
            self.tell_failures(x, &failures);
        }
        (met, accepted)
    }

    /// Puts why a provider's token is bad into the metadata, where the provider says so.
    fn tell_failures(&self, x: &mut Exchange, failures: &[(usize, JwtError)]) {
        for (provider, error) in failures {
            let key = self.config.providers[*provider].failed_status_in_metadata.as_ref();
            keep(x, key, || serde_json::json!({"code": error.code(), "message": error.to_string()}));
        }
    }

    /// Passes on what the configuration says, and takes the tokens away unless they are forwarded.
    fn allow(&self, x: &mut Exchange, all: Vec<Accepted>) -> Flow {
        self.stats.allowed.inc();
        for header in &self.owned_headers {
            x.parts.headers.remove(header);
        }
        let mut clear = false;
        for Accepted { provider, token, place } in all {
            let provider = &self.config.providers[provider];
            clear |= provider.clear_route_cache;
            if let Some(header) = &provider.forward_payload_header {
                append(x, header, payload(token.payload(), provider.pad_forward_payload_header));
            }
            for (header, path) in &provider.claim_to_headers {
                if let Some(value) = claim(&token.claims, path) {
                    append(x, header, value);
                }
            }
            tell(x, provider, &token);
            if !provider.forward {
                place.clear(x);
            }
        }
        if clear {
            handler::select_route(x);
        }
        Flow::Continue
    }

    /// Tokens that hold are told of even so.
    fn deny(&self, x: &mut Exchange, error: JwtError, accepted: &[Accepted]) -> Flow {
        self.stats.denied.inc();
        for Accepted { provider, token, .. } in accepted {
            tell(x, &self.config.providers[*provider], token);
        }
        let status = if error == JwtError::Audience { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        let text = error.to_string();
        let reply = LocalReply::new(status, "", "jwt.denied").details(details(&text));
        if self.config.strip_failure_response {
            return Flow::Answer(reply);
        }
        let original = x.parts.headers.get(X_ENVOY_ORIGINAL_PATH).and_then(|v| v.to_str().ok());
        let path = original.unwrap_or_else(|| x.target());
        let path = path.get(..MAX_REALM_PATH).unwrap_or(path);
        let mut challenge = format!("Bearer realm=\"{}://{}{path}\"", x.caller.scheme.as_str(), x.authority());
        if error != JwtError::Missing {
            challenge.push_str(", error=\"invalid_token\"");
        }
        Flow::Answer(match HeaderValue::try_from(challenge) {
            Ok(challenge) => reply.header(WWW_AUTHENTICATE, challenge).body(text),
            Err(_) => reply.body(text),
        })
    }

    /// A route names a requirement that the filter does not have.
    fn unknown_requirement(&self, wanted: &str) -> Flow {
        self.stats.denied.inc();
        let known: Vec<&str> = self.named.iter().map(|(n, _)| &**n).collect();
        let text = format!("Wrong requirement_name: {wanted}. It should be one of [{}]", known.join(","));
        let reply = LocalReply::new(StatusCode::FORBIDDEN, "", "jwt.denied").details(details(&text));
        Flow::Answer(match self.config.strip_failure_response {
            true => reply,
            false => reply.body(format!("Failed JWT authentication: {text}")),
        })
    }
}

/// One word for log fields.
fn details(text: &str) -> String {
    format!("jwt_authn_access_denied{{{}}}", text.replace(' ', "_"))
}

fn is_preflight(x: &Exchange) -> bool {
    let has = |name| x.parts.headers.get(name).is_some_and(|v: &HeaderValue| !v.is_empty());
    x.parts.method == Method::OPTIONS && has(ORIGIN) && has(http::header::ACCESS_CONTROL_REQUEST_METHOD)
}

fn append(x: &mut Exchange, header: &HeaderName, value: String) {
    if let Ok(value) = HeaderValue::try_from(value) {
        x.parts.headers.append(header.clone(), value);
    }
}

fn payload(text: &str, pad: bool) -> String {
    let missing = if pad { (4 - text.len() % 4) % 4 } else { 0 };
    let mut text = text.to_owned();
    text.extend(std::iter::repeat_n('=', missing));
    text
}

/// Puts a token's payload and header into the metadata, where the provider says so.
fn tell(x: &mut Exchange, provider: &JwtProvider, token: &Token) {
    keep(x, provider.payload_in_metadata.as_ref(), || {
        let mut claims = token.claims.clone();
        for claim in &provider.space_delimited_claims {
            if let Some(value) = claims.get_mut(&**claim)
                && let Some(text) = value.as_str()
            {
                *value = text.split(' ').filter(|w| !w.is_empty()).collect();
            }
        }
        claims
    });
    keep(x, provider.header_in_metadata.as_ref(), || token.header.clone());
}

fn keep(x: &mut Exchange, key: Option<&Name>, value: impl FnOnce() -> Value) {
    if let Some(key) = key {
        x.info.metadata.set(METADATA, key, value());
    }
}

/// A claim as a header's value; `a.b` goes into objects. Lists and objects are their JSON in Base64.
fn claim(claims: &Value, path: &str) -> Option<String> {
    let value = path.split('.').try_fold(claims, |v, key| v.get(key))?;
    match value {
        Value::String(s) => Some(s.clone()).filter(|s| !s.is_empty()),
        Value::Bool(b) => Some(b.to_string()),
        Value::Number(n) if n.is_f64() => n.as_f64().map(|f| format!("{f:.6}")),
        Value::Number(n) => Some(n.to_string()),
        Value::Null => None,
        Value::Array(_) | Value::Object(_) => Some(STANDARD.encode(value.to_string())),
    }
}
