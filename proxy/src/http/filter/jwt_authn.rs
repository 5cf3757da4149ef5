//! JWT authentication (`jwt_authn.v3.JwtAuthentication`): which requests need whose token, and what is passed on of it.

mod keys;
mod locate;

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use http::header::{HeaderValue, ORIGIN, WWW_AUTHENTICATE};
use http::{Method, StatusCode};
use serde_json::Value;
use sidemesh_config::resource::http_filter::FilterOverride;
use sidemesh_config::resource::http_filter::jwt_authn::{JwtAuthn as Config, JwtOverride, JwtProvider, Requirement};
use sidemesh_config::value::{Name, name};

use super::jwt::{JwtError, KeySet, Token};
use super::{Exchange, Flow};
use crate::http::handler;
use crate::http::reply::LocalReply;
use keys::KeyStore;
use locate::{Located, locate};

/// Under which name claims are kept.
const METADATA: &str = "envoy.filters.http.jwt_authn";

pub struct JwtAuthn {
    config: Arc<Config>,
    keys: KeyStore,
}

/// A provider's keys, when they are here.
enum Keys {
    Here(Rc<KeySet>),
    /// They must be fetched first.
    Away,
    Failed(JwtError),
}

impl JwtAuthn {
    pub fn new(config: Arc<Config>) -> Self {
        JwtAuthn { keys: KeyStore::new(config.providers.len()), config }
    }

    pub fn on_request(&self, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let Some(requirement) = self.requirement(x, over) else { return Flow::Continue };
        if self.config.bypass_cors_preflight && is_preflight(x) {
            x.manager.stats.jwt_authn_cors_preflight_bypassed.inc();
            return Flow::Continue;
        }
        match self.check(x, &requirement) {
            Ok(accepted) => self.accept(x, accepted),
            Err(Unmet::Fetch) => Flow::Wait,
            Err(Unmet::Error(error)) => self.deny(x, error),
        }
    }

    /// Fetches what is missing, then decides.
    pub async fn wait(&self, x: &mut Exchange, over: Option<&FilterOverride>) -> Flow {
        let Some(requirement) = self.requirement(x, over) else { return Flow::Continue };
        for (at, provider) in self.config.providers.iter().enumerate() {
            if concerns(&requirement, &provider.name) {
                self.keys.fetch(x, at, provider).await;
            }
        }
        match self.check(x, &requirement) {
            Ok(accepted) => self.accept(x, accepted),
            Err(Unmet::Fetch) => self.deny(x, JwtError::Fetch),
            Err(Unmet::Error(error)) => self.deny(x, error),
        }
    }

    /// What the request must show; `None`: nothing.
    fn requirement(&self, x: &Exchange, over: Option<&FilterOverride>) -> Option<Arc<Requirement>> {
        match over {
            Some(FilterOverride::JwtAuthn(JwtOverride::Disabled)) => return None,
            Some(FilterOverride::JwtAuthn(JwtOverride::RequirementName(wanted))) => {
                let found = self.config.requirement_map.iter().find(|(n, _)| n == wanted);
                // A name that is not there cannot be met: the request is refused, as if a token were missing.
                let unmet = || Arc::new(Requirement::Any(Vec::new()));
                return Some(found.map_or_else(unmet, |(_, r)| r.clone()));
            }
            _ => {}
        }
        let view = x.view();
        self.config.rules.iter().find(|r| r.matcher.matches(&view))?.requirement.clone()
    }

    fn check(&self, x: &Exchange, requirement: &Requirement) -> Result<Vec<Accepted>, Unmet> {
        match requirement {
            Requirement::Provider { name, audiences } => {
                let (at, provider) = self.provider(name).ok_or(Unmet::Error(JwtError::Issuer))?;
                let mut last = JwtError::Missing;
                for located in locate(x, provider) {
                    match self.verify(x, at, provider, audiences, &located) {
                        Ok(accepted) => return Ok(vec![accepted]),
                        Err(Unmet::Error(error)) => last = error,
                        Err(fetch) => return Err(fetch),
                    }
                }
                Err(Unmet::Error(last))
            }
            Requirement::Any(all) => {
                let mut worst = JwtError::Missing;
                for one in all {
                    match self.check(x, one) {
                        Ok(accepted) => return Ok(accepted),
                        Err(Unmet::Error(error)) if matches!(worst, JwtError::Missing | JwtError::Issuer) => {
                            worst = error
                        }
                        Err(Unmet::Error(_)) => {}
                        Err(fetch) => return Err(fetch),
                    }
                }
                Err(Unmet::Error(worst))
            }
            Requirement::All(all) => {
                let mut accepted = Vec::new();
                for one in all {
                    accepted.extend(self.check(x, one)?);
                }
                Ok(accepted)
            }
            Requirement::AllowMissing => self.whatever(x, true),
            Requirement::AllowMissingOrFailed => self.whatever(x, false),
        }
    }

    /// Any provider's token, if there is one; `strict`: it must be good then.
    fn whatever(&self, x: &Exchange, strict: bool) -> Result<Vec<Accepted>, Unmet> {
        let mut error = None;
        for (at, provider) in self.config.providers.iter().enumerate() {
            for located in locate(x, provider) {
                match self.verify(x, at, provider, &[], &located) {
                    Ok(accepted) => return Ok(vec![accepted]),
                    Err(Unmet::Error(e)) => {
                        if !matches!(error, Some(e) if e != JwtError::Issuer) {
                            error = Some(e);
                        }
                    }
                    Err(fetch) => return Err(fetch),
                }
            }
        }
        match error {
            Some(error) if strict => Err(Unmet::Error(error)),
            _ => Ok(Vec::new()),
        }
    }

    fn provider(&self, wanted: &str) -> Option<(usize, &Arc<JwtProvider>)> {
        self.config.providers.iter().enumerate().find(|(_, p)| &*p.name == wanted)
    }

    fn verify(
        &self,
        x: &Exchange,
        at: usize,
        provider: &Arc<JwtProvider>,
        audiences: &[Name],
        located: &Located,
    ) -> Result<Accepted, Unmet> {
        let token = Token::parse(&located.token)?;
        let now = x.manager.worker.local.clock.system().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        claims_hold(provider, audiences, &token, now.as_secs() as i64)?;
        let keys = match self.keys.get(x, at, provider) {
            Keys::Here(keys) => keys,
            Keys::Away => return Err(Unmet::Fetch),
            Keys::Failed(error) => return Err(Unmet::Error(error)),
        };
        token.verify(&keys)?;
        Ok(Accepted {
            provider: provider.clone(),
            payload: token.payload.to_owned(),
            claims: token.claims.clone(),
            header: token.header.clone(),
            located: located.clone(),
        })
    }

    /// Passes on what the configuration says, and takes the token away unless it is forwarded.
    fn accept(&self, x: &mut Exchange, all: Vec<Accepted>) -> Flow {
        x.manager.stats.jwt_authn_allowed.inc();
        let mut clear = false;
        for accepted in all {
            let provider = accepted.provider.clone();
            clear |= provider.clear_route_cache;
            forward_payload(x, &provider, &accepted);
            for (header, path) in &provider.claim_to_headers {
                if let Some(value) = claim(&accepted.claims, path).and_then(|v| HeaderValue::try_from(v).ok()) {
                    x.parts.headers.insert(header.clone(), value);
                }
            }
            let mut keep = |key: &Option<Name>, value: &Value| {
                if let Some(key) = key {
                    let all =
                        x.info.metadata.0.entry(name(METADATA)).or_insert_with(|| Value::Object(Default::default()));
                    if let Some(object) = all.as_object_mut() {
                        object.insert(key.to_string(), value.clone());
                    }
                }
            };
            keep(&provider.payload_in_metadata, &accepted.claims);
            keep(&provider.header_in_metadata, &accepted.header);
            if !provider.forward {
                accepted.located.take_away(x);
            }
        }
        if clear {
            handler::select_route(x);
        }
        Flow::Continue
    }

    fn deny(&self, x: &Exchange, error: JwtError) -> Flow {
        x.manager.stats.jwt_authn_denied.inc();
        let status = if error == JwtError::Audience { StatusCode::FORBIDDEN } else { StatusCode::UNAUTHORIZED };
        let details = format!("jwt_authn_access_denied{{{}}}", error.to_string().replace(' ', "_"));
        let mut reply = LocalReply::new(status, "", "jwt.denied").details(details);
        if self.config.strip_failure_response {
            return Flow::Answer(reply);
        }
        let mut challenge = format!("Bearer realm=\"{}://{}{}\"", x.caller.scheme.as_str(), x.authority(), x.target());
        if error != JwtError::Missing {
            challenge.push_str(", error=\"invalid_token\"");
        }
        if let Ok(challenge) = HeaderValue::try_from(challenge) {
            reply = reply.header(WWW_AUTHENTICATE, challenge);
        }
        Flow::Answer(reply.body(error.to_string()))
    }
}

/// Why a requirement is not met yet.
enum Unmet {
    Error(JwtError),
    Fetch,
}

impl From<JwtError> for Unmet {
    fn from(error: JwtError) -> Self {
        Unmet::Error(error)
    }
}

/// A token that was taken.
struct Accepted {
    provider: Arc<JwtProvider>,
    payload: String,
    claims: Value,
    header: Value,
    located: Located,
}

fn is_preflight(x: &Exchange) -> bool {
    let has = |name| x.parts.headers.get(name).is_some_and(|v: &HeaderValue| !v.is_empty());
    x.parts.method == Method::OPTIONS && has(ORIGIN) && has(http::header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether a requirement may ask for the provider's keys.
fn concerns(requirement: &Requirement, provider: &str) -> bool {
    match requirement {
        Requirement::Provider { name, .. } => &**name == provider,
        Requirement::Any(all) | Requirement::All(all) => all.iter().any(|r| concerns(r, provider)),
        Requirement::AllowMissing | Requirement::AllowMissingOrFailed => true,
    }
}

/// Issuer, subject, times, audiences.
fn claims_hold(provider: &JwtProvider, audiences: &[Name], token: &Token<'_>, now: i64) -> Result<(), JwtError> {
    if !provider.issuer.is_empty() && token.text("iss") != Some(&provider.issuer) {
        return Err(JwtError::Issuer);
    }
    if let Some(subjects) = &provider.subjects
        && !token.text("sub").is_some_and(|s| subjects.is_match(s))
    {
        return Err(JwtError::Subject);
    }
    let skew = provider.clock_skew.as_secs() as i64;
    let expires = token.seconds("exp");
    if token.seconds("nbf").is_some_and(|nbf| nbf > now + skew) {
        return Err(JwtError::NotYetValid);
    }
    if expires.is_some_and(|exp| exp + skew < now) {
        return Err(JwtError::Expired);
    }
    if provider.require_expiration && expires.is_none() {
        return Err(JwtError::NoExpiration);
    }
    if let Some(longest) = provider.max_lifetime {
        let from = token.seconds("iat").or_else(|| token.seconds("nbf")).unwrap_or(now);
        if expires.is_none_or(|exp| exp - from > longest.as_secs() as i64) {
            return Err(JwtError::Lifetime);
        }
    }
    let wanted = if audiences.is_empty() { &provider.audiences } else { audiences };
    // `https://service/` and `http://service` name the same audience.
    let plain = |a: &str| {
        let a = a.strip_prefix("https://").or_else(|| a.strip_prefix("http://")).unwrap_or(a);
        a.strip_suffix('/').unwrap_or(a).to_owned()
    };
    if !wanted.is_empty() && !token.audiences().iter().any(|a| wanted.iter().any(|w| plain(w) == plain(a))) {
        return Err(JwtError::Audience);
    }
    Ok(())
}

fn forward_payload(x: &mut Exchange, provider: &JwtProvider, accepted: &Accepted) {
    let Some(header) = &provider.forward_payload_header else { return };
    let mut text = accepted.payload.clone();
    if provider.pad_forward_payload_header {
        text.extend(std::iter::repeat_n('=', (4 - text.len() % 4) % 4));
    }
    if let Ok(value) = HeaderValue::try_from(text) {
        x.parts.headers.insert(header.clone(), value);
    }
}

/// A claim as a header's value; `a.b` goes into objects.
fn claim(claims: &Value, path: &str) -> Option<String> {
    let direct = claims.get(path);
    let value = direct.or_else(|| path.split('.').try_fold(claims, |v, key| v.get(key)))?;
    Some(match value {
        Value::String(s) => s.clone(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::Null => return None,
        other => {
            use base64::Engine;
            base64::engine::general_purpose::STANDARD.encode(other.to_string())
        }
    })
}
