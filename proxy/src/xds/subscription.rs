//! The subscription to one resource type on one stream: names, versions, nonces, ACK and NACK. Pure: no socket, no clock.
//!
//! `handle_*` tells the machine what happened, [`Subscription::next_request`] says what is to be sent (ask until `None`).
//! Both variants of the protocol ("xDS REST and gRPC protocol", sections *ACK/NACK and resource type instance version*
//! and *Incremental xDS*) share it. What the resources mean is not its business.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use sidemesh_config::value::Name;

/// Which variant of the protocol the stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    StateOfTheWorld,
    Delta,
}

/// One request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    StateOfTheWorld {
        names: Vec<String>,
        /// Of the last response accepted, also of an earlier stream.
        version: String,
        nonce: String,
        error: Option<String>,
    },
    Delta {
        subscribe: Vec<String>,
        unsubscribe: Vec<String>,
        /// Only on the first request of a stream.
        initial_versions: BTreeMap<String, String>,
        nonce: String,
        error: Option<String>,
    },
}

/// The answer that a response is owed.
#[derive(Debug)]
struct Answer {
    nonce: String,
    error: Option<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Subscription {
    variant: Variant,
    /// Everything the server has (LDS and CDS without names).
    wildcard: bool,
    names: BTreeSet<Name>,
    /// What the server has been told on this stream; `None` before the first request.
    told: Option<BTreeSet<Name>>,
    /// State of the world: version of the last accepted response.
    version: String,
    /// State of the world: nonce of the last response on this stream.
    nonce: String,
    /// Delta: versions of the resources held.
    versions: BTreeMap<Name, String>,
    answers: VecDeque<Answer>,
}

impl Subscription {
    pub fn new(variant: Variant, wildcard: bool) -> Self {
        Subscription {
            variant,
            wildcard,
            names: BTreeSet::new(),
            told: None,
            version: String::new(),
            nonce: String::new(),
            versions: BTreeMap::new(),
            answers: VecDeque::new(),
        }
    }

    /// The names wanted from now on; returns those that were not wanted before. Versions of what is no longer wanted are forgotten.
    pub fn set_names(&mut self, names: BTreeSet<Name>) -> Vec<Name> {
        if self.wildcard || names == self.names {
            return Vec::new();
        }
        self.versions.retain(|name, _| names.contains(name));
        let fresh = names.difference(&self.names).cloned().collect();
        self.names = names;
        fresh
    }

    /// What is asked for; the empty name stands for everything.
    pub fn asked(&self) -> Vec<Name> {
        if self.wildcard { vec![Name::from("")] } else { self.names.iter().cloned().collect() }
    }

    /// Resources are held at these versions though this subscription never brought them.
    pub fn hold(&mut self, versions: impl IntoIterator<Item = (Name, String)>) {
        self.versions.extend(versions);
    }

    /// The stream broke, or a new one begins: what was said on the old one does not count, what is held does.
    pub fn handle_new_stream(&mut self) {
        self.told = None;
        self.nonce.clear();
        self.answers.clear();
    }

    /// A state-of-the-world response was applied (`error`: in part or not at all).
    pub fn handle_response(&mut self, nonce: &str, version: &str, error: Option<String>) {
        if error.is_none() {
            version.clone_into(&mut self.version);
        }
        nonce.clone_into(&mut self.nonce);
        self.answers.push_back(Answer { nonce: nonce.to_owned(), error });
    }

    /// A delta response was applied; `accepted` are the resources now held at a version, `removed` those that are gone.
    pub fn handle_delta<'a>(
        &mut self,
        nonce: &str,
        accepted: impl IntoIterator<Item = (&'a str, &'a str)>,
        removed: impl IntoIterator<Item = &'a str>,
        error: Option<String>,
    ) {
        for name in removed {
            self.versions.remove(name);
        }
        for (name, version) in accepted {
            if self.wildcard || self.names.contains(name) {
                self.versions.insert(Name::from(name), version.to_owned());
            }
        }
        self.answers.push_back(Answer { nonce: nonce.to_owned(), error });
    }

    /// What is to be sent now, if anything.
    pub fn next_request(&mut self) -> Option<Request> {
        match self.variant {
            Variant::StateOfTheWorld => self.next_state_of_the_world(),
            Variant::Delta => self.next_delta(),
        }
    }

    fn next_state_of_the_world(&mut self) -> Option<Request> {
        let (nonce, error) = match &self.told {
            // Nothing is asked for by asking for no names.
            None if !self.wildcard && self.names.is_empty() => return None,
            None => (String::new(), None),
            Some(told) => match self.answers.pop_front() {
                Some(answer) => (answer.nonce, answer.error),
                None if *told != self.names => (self.nonce.clone(), None),
                None => return None,
            },
        };
        self.told = Some(self.names.clone());
        Some(Request::StateOfTheWorld { names: texts(&self.names), version: self.version.clone(), nonce, error })
    }

    fn next_delta(&mut self) -> Option<Request> {
        let Some(told) = &self.told else {
            if !self.wildcard && self.names.is_empty() {
                return None;
            }
            self.told = Some(self.names.clone());
            return Some(Request::Delta {
                subscribe: texts(&self.names),
                unsubscribe: Vec::new(),
                initial_versions: self.versions.iter().map(|(n, v)| (n.to_string(), v.clone())).collect(),
                nonce: String::new(),
                error: None,
            });
        };
        let subscribe: Vec<_> = self.names.difference(told).map(|n| n.to_string()).collect();
        let unsubscribe: Vec<_> = told.difference(&self.names).map(|n| n.to_string()).collect();
        let answer = self.answers.pop_front();
        if answer.is_none() && subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        let (nonce, error) = answer.map_or_else(Default::default, |a| (a.nonce, a.error));
        self.told = Some(self.names.clone());
        Some(Request::Delta { subscribe, unsubscribe, initial_versions: BTreeMap::new(), nonce, error })
    }
}

fn texts(names: &BTreeSet<Name>) -> Vec<String> {
    names.iter().map(|n| n.to_string()).collect()
}

#[cfg(test)]
mod tests;
