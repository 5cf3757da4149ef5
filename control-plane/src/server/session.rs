//! One xDS stream as a pure machine, for both variants of the protocol: what was asked for, what was sent, what was
//! acknowledged, what to send next. No I/O, no clock. (xDS protocol: "xDS REST and gRPC protocol" in Envoy's docs.)
//!
//! - One response per type is in flight; changes meanwhile are sent together after its ACK or NACK.
//! - Types are answered in the order cluster, endpoint, listener, route, secret; clusters and endpoints that are gone
//!   are taken away only after the listeners and routes without them are acknowledged (make before break).
//! - State of the world: clusters and listeners always as the whole set, the other types only what changed.
//! - A client that refused something keeps what it had; the same content is not sent to it again.

use std::collections::{BTreeMap, BTreeSet};

use sidemesh_proto::type_url;

use crate::cache::{Snapshot, Versioned};
use crate::translate::TYPES;

/// Which variant the stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    StateOfTheWorld,
    Delta,
}

/// A request of either variant.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub type_url: String,
    /// Of the response that it answers; empty for a first or spontaneous request.
    pub nonce: String,
    /// The client's words when it refuses that response.
    pub error: Option<String>,
    /// State of the world: all names. Delta: names to add.
    pub subscribe: Vec<String>,
    /// Delta only.
    pub unsubscribe: Vec<String>,
    /// Delta only, first request: what the client has from an earlier stream.
    pub initial_versions: BTreeMap<String, String>,
}

/// A response of either variant.
#[derive(Debug, Clone)]
pub struct Response {
    pub type_url: String,
    pub nonce: String,
    pub version: String,
    pub revision: u64,
    pub resources: Vec<(String, Versioned)>,
    /// Delta only.
    pub removed: Vec<String>,
}

/// What a client said to a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub type_url: String,
    pub revision: u64,
    pub version: String,
    /// `Some`: refused, in the client's words.
    pub error: Option<String>,
}

/// The machine.
#[derive(Debug)]
pub struct Session {
    variant: Variant,
    snapshot: Snapshot,
    types: BTreeMap<String, TypeState>,
    next_nonce: u64,
}

#[derive(Debug, Default)]
struct TypeState {
    wildcard: bool,
    /// State of the world: names were given once, so an empty list now means "nothing".
    named_before: bool,
    names: BTreeSet<String>,
    /// What the client was told, name by name.
    sent: BTreeMap<String, Told>,
    /// To send even if unchanged.
    resend: BTreeSet<String>,
    in_flight: Option<InFlight>,
    /// The last answer was a refusal: what it has may still name resources that are gone.
    refused: bool,
    answered: bool,
}

#[derive(Debug)]
enum Told {
    Resource(Versioned),
    /// From an earlier stream; only its version is known.
    Version(String),
    /// "There is no such resource."
    Absent,
}

#[derive(Debug)]
struct InFlight {
    nonce: String,
    version: String,
    revision: u64,
}

impl Session {
    pub fn new(variant: Variant) -> Session {
        Session { variant, snapshot: Snapshot::default(), types: BTreeMap::new(), next_nonce: 0 }
    }

    /// A new snapshot; what must be sent because of it comes from `poll`.
    pub fn update(&mut self, snapshot: Snapshot) {
        self.snapshot = snapshot;
    }

    pub fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Types with something that the client was not told yet.
    pub fn untold(&self) -> Vec<String> {
        let has_more = |(type_url, state): &(&String, &TypeState)| {
            let wanted = state.wanted(&self.snapshot, type_url);
            !state.changed(&wanted).is_empty() || (is_whole(type_url) && !state.gone(&wanted).is_empty())
        };
        self.types.iter().filter(has_more).map(|(type_url, _)| type_url.clone()).collect()
    }

    /// How many resources of a type the client has been given.
    pub fn sent_count(&self, type_url: &str) -> usize {
        let present = |told: &&Told| !matches!(told, Told::Absent);
        self.types.get(type_url).map_or(0, |state| state.sent.values().filter(present).count())
    }

    /// Takes in a request. A stale one (it answers an older response) changes nothing.
    pub fn request(&mut self, request: Request) -> Option<Verdict> {
        let first = !self.types.contains_key(&request.type_url);
        let state = self.types.entry(request.type_url.clone()).or_default();
        let mut verdict = None;
        if !request.nonce.is_empty() && !first {
            match state.in_flight.take_if(|f| f.nonce == request.nonce) {
                Some(done) => {
                    state.refused = request.error.is_some();
                    verdict = Some(Verdict {
                        type_url: request.type_url.clone(),
                        revision: done.revision,
                        version: done.version,
                        error: request.error.clone(),
                    });
                }
                // A late word on a response that was answered already, or on one that a newer one follows.
                None if state.in_flight.is_some() && self.variant == Variant::StateOfTheWorld => return None,
                None => {}
            }
        }
        match self.variant {
            Variant::StateOfTheWorld => state.names_are(&request, first),
            Variant::Delta => state.names_change(&request, first),
        }
        verdict
    }

    /// The responses to send now.
    pub fn poll(&mut self) -> Vec<Response> {
        let known = TYPES.iter().map(|t| (*t).to_owned());
        let others = self.types.keys().filter(|t| !TYPES.contains(&t.as_str())).cloned();
        let order: Vec<String> = known.chain(others).collect();
        let mut responses = Vec::new();
        // Clusters come first in the order, but what they may drop depends on the types behind them.
        for type_url in order {
            let hold = matches!(type_url.as_str(), type_url::CLUSTER | type_url::ENDPOINT) && self.not_settled();
            responses.extend(self.respond(&type_url, hold));
        }
        responses
    }

    /// Does the client, or will it in a moment, use listeners or routes other than the snapshot's?
    fn not_settled(&self) -> bool {
        [type_url::LISTENER, type_url::ROUTE].iter().any(|type_url| {
            let Some(state) = self.types.get(*type_url) else { return false };
            state.in_flight.is_some() || state.refused || {
                let wanted = state.wanted(&self.snapshot, type_url);
                !state.changed(&wanted).is_empty() || !state.gone(&wanted).is_empty()
            }
        })
    }

    fn respond(&mut self, type_url: &str, hold: bool) -> Option<Response> {
        let variant = self.variant;
        let state = self.types.get_mut(type_url)?;
        if state.in_flight.is_some() {
            return None;
        }
        let wanted = state.wanted(&self.snapshot, type_url);
        let changed = state.changed(&wanted);
        let gone = if hold { Vec::new() } else { state.gone(&wanted) };
        let absent = if variant == Variant::Delta { state.absent(&wanted) } else { Vec::new() };
        let whole = variant == Variant::StateOfTheWorld && is_whole(type_url);
        let known = TYPES.contains(&type_url);
        let first = !state.answered && (state.wildcard || whole || !known);
        let tell_gone = !gone.is_empty() && (whole || variant == Variant::Delta);
        if changed.is_empty() && absent.is_empty() && !tell_gone && !first {
            // Other types of the state of the world have no way to say "gone": it is forgotten here.
            gone.iter().for_each(|name| drop(state.sent.remove(name)));
            return None;
        }
        let mut resources: Vec<(String, Versioned)> = match whole {
            true => wanted.iter().map(|(n, r)| ((*n).clone(), (*r).clone())).collect(),
            false => changed.iter().filter_map(|n| wanted.get(n).map(|r| (n.clone(), (*r).clone()))).collect(),
        };
        if whole && hold {
            resources.extend(state.kept(&wanted));
        }
        let replaced: Vec<String> = changed.iter().filter(|n| state.sent.contains_key(*n)).cloned().collect();
        for (name, resource) in &resources {
            state.sent.insert(name.clone(), Told::Resource(resource.clone()));
        }
        gone.iter().for_each(|name| drop(state.sent.remove(name)));
        absent.iter().for_each(|name| drop(state.sent.insert(name.clone(), Told::Absent)));
        state.resend.clear();
        state.answered = true;
        let set = self.snapshot.get(type_url);
        let version = set.map_or_else(|| self.snapshot.revision.to_string(), |s| s.version.to_string());
        self.next_nonce += 1;
        let nonce = self.next_nonce.to_string();
        let revision = self.snapshot.revision;
        state.in_flight = Some(InFlight { nonce: nonce.clone(), version: version.clone(), revision });
        if type_url == type_url::CLUSTER {
            self.warm_again(&replaced);
        }
        let removed = if variant == Variant::Delta { gone.into_iter().chain(absent).collect() } else { Vec::new() };
        Some(Response { type_url: type_url.to_owned(), nonce, version, revision, resources, removed })
    }

    /// A client warms a replaced cluster with an answer to EDS that comes after it, even if nothing changed there.
    fn warm_again(&mut self, clusters: &[String]) {
        if let Some(endpoints) = self.types.get_mut(type_url::ENDPOINT) {
            let told = clusters.iter().filter(|c| endpoints.sent.contains_key(*c)).cloned();
            endpoints.resend.extend(told.collect::<Vec<_>>());
        }
    }
}

/// Types whose state-of-the-world response is always the whole set.
fn is_whole(type_url: &str) -> bool {
    matches!(type_url, type_url::CLUSTER | type_url::LISTENER)
}

impl TypeState {
    fn names_are(&mut self, request: &Request, first: bool) {
        let star = request.subscribe.iter().any(|n| n == "*");
        self.named_before |= !request.subscribe.is_empty();
        self.wildcard = star || (is_whole(&request.type_url) && !self.named_before);
        let names: BTreeSet<String> = request.subscribe.iter().filter(|n| *n != "*").cloned().collect();
        let added: Vec<String> = names.difference(&self.names).cloned().collect();
        if !first && !self.wildcard {
            // Dropped names are forgotten, so that they are sent again when they come back.
            self.sent.retain(|name, _| names.contains(name));
            // For a whole type, an answer is owed to new names even when none of them exists.
            self.answered &= added.is_empty();
        }
        self.resend.extend(added);
        self.names = names;
    }

    fn names_change(&mut self, request: &Request, first: bool) {
        if first {
            self.wildcard = is_whole(&request.type_url) && request.subscribe.is_empty();
            for (name, version) in &request.initial_versions {
                self.sent.insert(name.clone(), Told::Version(version.clone()));
            }
        }
        for name in &request.unsubscribe {
            match name.as_str() {
                "*" => {
                    self.wildcard = false;
                    let names = &self.names;
                    self.sent.retain(|name, _| names.contains(name));
                }
                name => {
                    self.names.remove(name);
                    if !self.wildcard {
                        self.sent.remove(name);
                    }
                }
            }
        }
        for name in &request.subscribe {
            if name == "*" {
                self.wildcard = true;
                continue;
            }
            self.names.insert(name.clone());
            // Subscribing again asks for the resource again, unless the client just said that it has it.
            let reported = first && request.initial_versions.contains_key(name);
            if !reported {
                self.resend.insert(name.clone());
            }
        }
    }

    fn wanted<'a>(&self, snapshot: &'a Snapshot, type_url: &str) -> BTreeMap<&'a String, &'a Versioned> {
        let Some(set) = snapshot.get(type_url) else { return BTreeMap::new() };
        set.resources.iter().filter(|(name, _)| self.wildcard || self.names.contains(*name)).collect()
    }

    fn changed(&self, wanted: &BTreeMap<&String, &Versioned>) -> Vec<String> {
        let differs = |name: &str, now: &Versioned| match self.sent.get(name) {
            None | Some(Told::Absent) => true,
            Some(Told::Resource(told)) => !now.same_as(&told.version),
            Some(Told::Version(version)) => !now.same_as(version),
        };
        let list = wanted.iter().filter(|(name, now)| self.resend.contains(name.as_str()) || differs(name, now));
        list.map(|(name, _)| (*name).clone()).collect()
    }

    fn gone(&self, wanted: &BTreeMap<&String, &Versioned>) -> Vec<String> {
        let had = self.sent.iter().filter(|(_, told)| !matches!(told, Told::Absent));
        had.map(|(name, _)| name).filter(|name| !wanted.contains_key(name)).cloned().collect()
    }

    /// Names that were asked for and do not exist, and were not told so yet.
    fn absent(&self, wanted: &BTreeMap<&String, &Versioned>) -> Vec<String> {
        let missing = self.names.iter().filter(|name| !wanted.contains_key(name));
        let untold =
            missing.filter(|n| !self.sent.contains_key(*n) || (self.resend.contains(*n) && self.told_absent(n)));
        untold.cloned().collect()
    }

    fn told_absent(&self, name: &str) -> bool {
        matches!(self.sent.get(name), Some(Told::Absent))
    }

    /// Resources that are gone but must stay for now.
    fn kept(&self, wanted: &BTreeMap<&String, &Versioned>) -> Vec<(String, Versioned)> {
        let old = self.sent.iter().filter(|(name, _)| !wanted.contains_key(name));
        old.filter_map(|(name, told)| match told {
            Told::Resource(resource) => Some((name.clone(), resource.clone())),
            Told::Version(_) | Told::Absent => None,
        })
        .collect()
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
