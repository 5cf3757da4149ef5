//! What a request must show, decided over its head, the time and the keys at hand. Nothing is changed here: what was taken is
//! told to the caller.

use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use sidemesh_config::resource::http_filter::jwt_authn::{JwtProvider, Requirement};
use sidemesh_config::value::Name;

use super::error::JwtError;
use super::keys::{KeyStore, Keys};
use super::locate::{Extractor, Found, Place};
use super::token::Token;

/// A requirement, compiled: providers by number.
#[derive(Debug)]
pub enum Node {
    Provider {
        provider: usize,
        audiences: Vec<Name>,
        extractor: Extractor,
    },
    Any(Vec<Node>),
    All(Vec<Node>),
    /// No token is no failure; with `failed`, neither is a bad one.
    Lenient {
        failed: bool,
        extractor: Extractor,
    },
}

/// Why a requirement is not met.
#[derive(Debug, PartialEq, Eq)]
pub enum Unmet {
    Error(JwtError),
    /// Not yet known: this provider's keys must be fetched first.
    Fetch(usize),
}

impl From<JwtError> for Unmet {
    fn from(error: JwtError) -> Self {
        Unmet::Error(error)
    }
}

/// A good token, whose it is and where it was.
#[derive(Debug)]
pub struct Accepted {
    pub provider: usize,
    pub token: Rc<Token>,
    pub place: Place,
}

/// One look at a request.
pub struct Pass<'a> {
    pub headers: &'a HeaderMap,
    pub query: Option<&'a str>,
    /// Seconds since the epoch.
    pub now: u64,
    pub keys: &'a KeyStore,
    /// Providers whose keys could not be fetched for this request.
    pub unreachable: &'a [usize],
    pub accepted: Vec<Accepted>,
    /// Whose tokens were bad, and why.
    pub failures: Vec<(usize, JwtError)>,
}

impl Node {
    pub fn compile(requirement: &Requirement, providers: &[Arc<JwtProvider>]) -> Self {
        let all: Vec<usize> = (0..providers.len()).collect();
        Self::compile_within(requirement, providers, &all)
    }

    /// `lenient`: the providers whose tokens a lenient requirement looks at.
    fn compile_within(requirement: &Requirement, providers: &[Arc<JwtProvider>], lenient: &[usize]) -> Self {
        let each = |list: &[Requirement]| list.iter().map(|r| Self::compile(r, providers)).collect();
        let relaxed =
            |failed| Node::Lenient { failed, extractor: Extractor::of(lenient.iter().map(|at| &*providers[*at])) };
        match requirement {
            Requirement::Provider { name, audiences } => match providers.iter().position(|p| p.name == *name) {
                Some(provider) => Node::Provider {
                    provider,
                    audiences: audiences.clone(),
                    extractor: Extractor::of([&*providers[provider]]),
                },
                // Such a configuration is refused; nothing meets this.
                None => Node::Any(Vec::new()),
            },
            Requirement::All(list) => Node::All(each(list)),
            Requirement::Any(list) => any(list, providers, lenient),
            Requirement::AllowMissing => relaxed(false),
            Requirement::AllowMissingOrFailed => relaxed(true),
        }
    }

    /// Whether the request meets the requirement.
    pub fn check(&self, pass: &mut Pass<'_>) -> Result<(), Unmet> {
        match self {
            Node::Provider { provider, audiences, extractor } => {
                let found = extractor.find(pass.headers, pass.query);
                if found.is_empty() {
                    return Err(JwtError::Missing.into());
                }
                // Every token must be good: the upstream may look at another one than we did.
                let before = pass.accepted.len();
                let outcome = found.iter().try_for_each(|f| pass.verify(f, Some(*provider), audiences));
                if outcome.is_err() {
                    pass.accepted.truncate(before);
                }
                if let Err(Unmet::Error(error)) = &outcome {
                    pass.failures.push((*provider, *error));
                }
                outcome
            }
            Node::All(all) => all.iter().try_for_each(|one| one.check(pass)),
            Node::Any(any) => check_any(any, pass),
            Node::Lenient { failed, extractor } => {
                for found in extractor.find(pass.headers, pass.query) {
                    match pass.verify(&found, None, &[]) {
                        Err(Unmet::Error(_)) if *failed => {}
                        outcome => outcome?,
                    }
                }
                Ok(())
            }
        }
    }
}

/// Lenient members come last and look at the tokens of the others' providers; one of them is enough.
fn any(list: &[Requirement], providers: &[Arc<JwtProvider>], lenient: &[usize]) -> Node {
    let is_lenient = |r: &&Requirement| matches!(r, Requirement::AllowMissing | Requirement::AllowMissingOrFailed);
    let named = list.iter().filter_map(|r| match r {
        Requirement::Provider { name, .. } => providers.iter().position(|p| p.name == *name),
        _ => None,
    });
    let named: Vec<usize> = named.collect();
    let strict = list.iter().filter(|r| !is_lenient(r)).map(|r| Node::compile(r, providers));
    let mut nodes: Vec<Node> = strict.collect();
    let most_lenient =
        list.iter().find(|r| matches!(r, Requirement::AllowMissingOrFailed)).or_else(|| list.iter().find(is_lenient));
    if let Some(requirement) = most_lenient {
        let looked_at = if named.is_empty() { lenient } else { &named };
        nodes.push(Node::compile_within(requirement, providers, looked_at));
    }
    Node::Any(nodes)
}

fn check_any(any: &[Node], pass: &mut Pass<'_>) -> Result<(), Unmet> {
    // What says most of the request: a bad token, before a foreign one, before none.
    let mut error = JwtError::Missing;
    for node in any {
        let before = pass.accepted.len();
        match node.check(pass) {
            Ok(()) => return Ok(()),
            Err(Unmet::Error(e)) => {
                pass.accepted.truncate(before);
                if error == JwtError::Missing || (error == JwtError::Issuer && e != JwtError::Missing) {
                    error = e;
                }
            }
            Err(fetch) => return Err(fetch),
        }
    }
    Err(error.into())
}

impl Pass<'_> {
    /// Verifies one token, for one provider or the one that its issuer names.
    fn verify(&mut self, found: &Found<'_>, provider: Option<usize>, audiences: &[Name]) -> Result<(), Unmet> {
        let keys = self.keys;
        let cached = provider.and_then(|at| keys.cached(at, &found.token));
        let token = match &cached {
            Some((token, _)) => token.clone(),
            None => Rc::new(Token::parse(&found.token)?),
        };
        if !found.may_be_of(token.issuer()) {
            return Err(JwtError::Issuer.into());
        }
        let at = provider.or_else(|| by_issuer(keys.providers(), token.issuer())).ok_or(JwtError::Issuer)?;
        let config = &keys.providers()[at];
        claims_hold(config, audiences, &token, self.now)?;
        let known = keys.get(at);
        if matches!(known, Keys::Here(_)) {
            keys.count(cached.is_some());
        }
        match known {
            // Verified before, by these very keys.
            Keys::Here(set) if cached.is_some_and(|(_, by)| Arc::ptr_eq(&by, &set)) => {}
            Keys::Here(set) => {
                set.verify(&token)?;
                keys.remember(at, &found.token, &token, &set);
            }
            Keys::Failed(error) => return Err(error.into()),
            Keys::Away if self.unreachable.contains(&at) => return Err(JwtError::Fetch.into()),
            Keys::Away => return Err(Unmet::Fetch(at)),
        }
        self.accepted.push(Accepted { provider: at, token, place: found.place.clone() });
        Ok(())
    }
}

/// The first provider of the issuer, else the first that takes any.
fn by_issuer(providers: &[Arc<JwtProvider>], issuer: &str) -> Option<usize> {
    let of = |wanted: &str| providers.iter().position(|p| *p.issuer == *wanted);
    of(issuer).or_else(|| of(""))
}

/// Times, lifetime, audiences, subject.
fn claims_hold(provider: &JwtProvider, audiences: &[Name], token: &Token, now: u64) -> Result<(), JwtError> {
    let skew = provider.clock_skew.as_secs();
    if token.not_before.is_some_and(|nbf| now.saturating_add(skew) < nbf) {
        return Err(JwtError::NotYetValid);
    }
    if token.expires.is_some_and(|exp| now > exp.saturating_add(skew)) {
        return Err(JwtError::Expired);
    }
    if provider.require_expiration && token.expires.is_none() {
        return Err(JwtError::Verification);
    }
    if let Some(longest) = provider.max_lifetime
        && token.expires.is_none_or(|exp| exp.saturating_sub(now) >= longest.as_secs().max(1))
    {
        return Err(JwtError::Verification);
    }
    let wanted = if audiences.is_empty() { &provider.audiences } else { audiences };
    if !wanted.is_empty() && !token.audiences().any(|a| wanted.iter().any(|w| plain(w) == plain(a))) {
        return Err(JwtError::Audience);
    }
    if provider.subjects.as_ref().is_some_and(|subjects| !subjects.is_match(token.subject())) {
        return Err(JwtError::Verification);
    }
    Ok(())
}

/// `https://service/` and `http://service` name the same audience.
fn plain(audience: &str) -> &str {
    let bare = audience.strip_prefix("https://").or_else(|| audience.strip_prefix("http://")).unwrap_or(audience);
    bare.strip_suffix('/').unwrap_or(bare)
}
