//! Virtual-host choice by authority: exact, then the longest `*suffix`, then the longest `prefix*`, then `*`.
//!
//! Case of ASCII letters does not count. A lookup costs one hash per distinct length of a wildcard, however many hosts there
//! are.

use std::borrow::Cow;
use std::collections::HashMap;

use foldhash::fast::RandomState;

type Hosts = HashMap<Box<str>, usize, RandomState>;

/// Domains → position of the virtual host that claims them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DomainIndex {
    exact: Hosts,
    /// By length of the literal part, longest first.
    suffixes: Vec<(usize, Hosts)>,
    prefixes: Vec<(usize, Hosts)>,
    any: Option<usize>,
}

/// Why a domain could not be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DomainError {
    #[error("domain `{0}` is claimed twice; a domain may appear once in a route table")]
    Duplicate(String),
    #[error("domain `{0}` has a wildcard inside; `*` may stand alone, first or last")]
    Wildcard(String),
    #[error("a domain must not be empty")]
    Empty,
}

impl DomainIndex {
    /// Claims `domain` for the virtual host at `host`.
    pub fn insert(&mut self, domain: &str, host: usize) -> Result<(), DomainError> {
        let lower = domain.to_ascii_lowercase();
        if lower == "*" {
            return match self.any.replace(host) {
                None => Ok(()),
                Some(_) => Err(DomainError::Duplicate(lower)),
            };
        }
        let (map, literal) = match (lower.strip_prefix('*'), lower.strip_suffix('*')) {
            _ if lower.is_empty() => return Err(DomainError::Empty),
            (Some(suffix), _) => (of_length(&mut self.suffixes, suffix.len()), suffix),
            (None, Some(prefix)) => (of_length(&mut self.prefixes, prefix.len()), prefix),
            (None, None) => (&mut self.exact, lower.as_str()),
        };
        if literal.contains('*') {
            return Err(DomainError::Wildcard(lower));
        }
        match map.insert(literal.into(), host) {
            None => Ok(()),
            Some(_) => Err(DomainError::Duplicate(lower)),
        }
    }

    /// The position of the virtual host for `authority`, port included as it was sent.
    pub fn find(&self, authority: &str) -> Option<usize> {
        let host = lower_case(authority);
        if let Some(at) = self.exact.get(&*host) {
            return Some(*at);
        }
        let tail = |length: usize| host.len().checked_sub(length).and_then(|start| host.get(start..));
        wildcard(&self.suffixes, &host, tail)
            .or_else(|| wildcard(&self.prefixes, &host, |length| host.get(..length)))
            .or(self.any)
    }

    /// As [`find`](Self::find), without the port of the authority (`ignore_port_in_host_matching`).
    pub fn find_without_port(&self, authority: &str) -> Option<usize> {
        self.find(without_port(authority))
    }

    pub fn is_empty(&self) -> bool {
        self.any.is_none() && self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty()
    }
}

/// The host of an authority: `[::1]:80` → `[::1]`, `a:80` → `a`.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, _)) if !host.is_empty() => {
            // A bare IPv6 address has colons of its own: only `[...]` may carry a port then.
            if host.contains(':') && !host.ends_with(']') { authority } else { host }
        }
        _ => authority,
    }
}

/// A wildcard stands for at least one character.
fn wildcard<'h>(tables: &[(usize, Hosts)], host: &str, part: impl Fn(usize) -> Option<&'h str>) -> Option<usize> {
    tables
        .iter()
        .filter(|(length, _)| *length < host.len())
        .find_map(|(length, hosts)| part(*length).and_then(|literal| hosts.get(literal).copied()))
}

fn of_length(tables: &mut Vec<(usize, Hosts)>, length: usize) -> &mut Hosts {
    let at = match tables.binary_search_by(|(l, _)| length.cmp(l)) {
        Ok(at) => at,
        Err(at) => {
            tables.insert(at, (length, Hosts::default()));
            at
        }
    };
    &mut tables[at].1
}

fn lower_case(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}
