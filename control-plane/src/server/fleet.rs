//! The proxies: who is connected, what each was sent, what each said to it. Every record is tied to store revisions, so
//! that a write can be followed through the fleet (`meshctl … --wait`).
//!
//! Kept in memory: after a restart of the control plane it fills as the proxies come back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::cache::Snapshot;
use crate::server::session::{Response, Variant, Verdict};
use crate::translate::Node;

/// Pushes remembered per proxy.
const PUSH_LOG: usize = 128;
/// How long a proxy that went away is listed.
const REMEMBER: Duration = Duration::from_secs(3600);
/// Proxies that went away, remembered at most.
const MAX_GONE: usize = 10_000;

/// What is known of one type of one proxy.
#[derive(Debug, Clone, Default)]
pub struct TypeRecord {
    pub sent: Option<Mark>,
    pub acked: Option<Mark>,
    pub nacked: Option<(Mark, String)>,
    pub in_flight: bool,
    pub resources: usize,
}

#[derive(Debug, Clone)]
pub struct Mark {
    pub revision: u64,
    pub version: String,
    pub at: SystemTime,
}

#[derive(Debug, Clone)]
pub struct Proxy {
    pub node: Node,
    pub peer: String,
    pub variant: Variant,
    pub connected_at: SystemTime,
    pub disconnected_at: Option<SystemTime>,
    pub types: BTreeMap<String, TypeRecord>,
    pub snapshot: Snapshot,
    stream: u64,
    /// The model's revision that its snapshot was last made of.
    computed: u64,
    pushes: VecDeque<Push>,
}

/// Revisions `from..=to` changed this proxy's configuration, and were sent together.
#[derive(Debug, Clone)]
struct Push {
    from: u64,
    to: u64,
    at: SystemTime,
    pending: BTreeSet<String>,
    done_at: Option<SystemTime>,
    nack: Option<(String, String, SystemTime)>,
}

/// What one proxy says to one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Not told yet, or told and silent.
    Pending,
    Acked(SystemTime),
    Nacked {
        type_url: String,
        error: String,
        at: SystemTime,
    },
    /// The revision changes nothing for it.
    Unaffected,
}

#[derive(Default)]
struct Inner {
    proxies: BTreeMap<String, Proxy>,
    streams: u64,
}

pub struct Fleet {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

impl Default for Fleet {
    fn default() -> Self {
        Fleet { inner: Mutex::default(), changed: watch::channel(0).0 }
    }
}

impl Fleet {
    /// Signals every change; the number means nothing.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// A stream began. A second stream of the same node takes the record over.
    pub fn connect(&self, node: Node, peer: String, variant: Variant, now: SystemTime) -> u64 {
        let mut inner = self.lock();
        inner.streams += 1;
        let stream = inner.streams;
        let id = node.id.clone();
        let proxy = Proxy {
            node,
            peer,
            variant,
            connected_at: now,
            disconnected_at: None,
            types: BTreeMap::new(),
            snapshot: Snapshot::default(),
            stream,
            computed: 0,
            pushes: VecDeque::new(),
        };
        inner.proxies.insert(id, proxy);
        forget(&mut inner, now);
        self.tell(inner);
        stream
    }

    pub fn disconnect(&self, id: &str, stream: u64, now: SystemTime) {
        let mut inner = self.lock();
        if let Some(proxy) = owned(&mut inner, id, stream) {
            proxy.disconnected_at = Some(now);
        }
        self.tell(inner);
    }

    /// A snapshot was made for a proxy; `untold` are the types in which it differs from what the proxy was told.
    pub fn computed(&self, id: &str, stream: u64, snapshot: &Snapshot, untold: Vec<String>, now: SystemTime) {
        let mut inner = self.lock();
        let Some(proxy) = owned(&mut inner, id, stream) else { return };
        let (from, to) = (proxy.computed + 1, snapshot.revision.max(proxy.computed));
        proxy.snapshot = snapshot.clone();
        proxy.computed = to;
        if !untold.is_empty() {
            let pending = untold.into_iter().collect();
            match proxy.pushes.back_mut() {
                // The proxy asked for more within the same revision.
                Some(last) if last.to == to => {
                    last.pending.append(&mut { pending });
                    last.done_at = None;
                }
                _ => {
                    proxy.pushes.push_back(Push { from: from.min(to), to, at: now, pending, done_at: None, nack: None })
                }
            }
            if proxy.pushes.len() > PUSH_LOG {
                proxy.pushes.pop_front();
            }
        }
        self.tell(inner);
    }

    pub fn sent(&self, id: &str, stream: u64, response: &Response, count: usize, now: SystemTime) {
        let mut inner = self.lock();
        let Some(proxy) = owned(&mut inner, id, stream) else { return };
        let record = proxy.types.entry(response.type_url.clone()).or_default();
        record.sent = Some(Mark { revision: response.revision, version: response.version.clone(), at: now });
        record.in_flight = true;
        record.resources = count;
        self.tell(inner);
    }

    pub fn answered(&self, id: &str, stream: u64, verdict: &Verdict, now: SystemTime) {
        let mut inner = self.lock();
        let Some(proxy) = owned(&mut inner, id, stream) else { return };
        let mark = Mark { revision: verdict.revision, version: verdict.version.clone(), at: now };
        let record = proxy.types.entry(verdict.type_url.clone()).or_default();
        record.in_flight = false;
        match &verdict.error {
            None => {
                record.acked = Some(mark);
                record.nacked = None;
            }
            Some(error) => record.nacked = Some((mark, error.clone())),
        }
        for push in proxy.pushes.iter_mut().filter(|p| p.to <= verdict.revision) {
            if !push.pending.contains(&verdict.type_url) {
                continue;
            }
            match &verdict.error {
                None => {
                    push.pending.remove(&verdict.type_url);
                    if push.pending.is_empty() {
                        push.done_at = Some(now);
                    }
                }
                Some(error) => push.nack = Some((verdict.type_url.clone(), error.clone(), now)),
            }
        }
        self.tell(inner);
    }

    /// A type that a proxy subscribed to, before anything is sent.
    pub fn subscribed(&self, id: &str, stream: u64, type_url: &str) {
        let mut inner = self.lock();
        if let Some(proxy) = owned(&mut inner, id, stream) {
            proxy.types.entry(type_url.to_owned()).or_default();
        }
    }

    /// A proxy came back with resources that are still right: nothing has to be sent, and it has accepted them.
    pub fn in_sync(&self, id: &str, stream: u64, type_url: &str, count: usize, now: SystemTime) {
        let mut inner = self.lock();
        let Some(proxy) = owned(&mut inner, id, stream) else { return };
        let Some(version) = proxy.snapshot.get(type_url).map(|set| set.version.to_string()) else { return };
        let mark = Mark { revision: proxy.computed, version, at: now };
        let record = proxy.types.entry(type_url.to_owned()).or_default();
        if record.sent.is_none() {
            record.sent = Some(mark.clone());
            record.acked = Some(mark);
            record.resources = count;
        }
    }

    pub fn list(&self) -> Vec<Proxy> {
        self.lock().proxies.values().cloned().collect()
    }

    pub fn get(&self, id: &str) -> Option<Proxy> {
        self.lock().proxies.get(id).cloned()
    }

    pub fn connected(&self) -> usize {
        self.lock().proxies.values().filter(|p| p.disconnected_at.is_none()).count()
    }

    /// What every connected proxy says to `revision`, with the time from `written` to its word.
    pub fn answers(&self, revision: u64, written: Option<SystemTime>) -> Vec<(String, Answer, Option<Duration>)> {
        let inner = self.lock();
        let connected = inner.proxies.values().filter(|p| p.disconnected_at.is_none());
        connected
            .map(|proxy| {
                let (answer, pushed) = proxy.answer(revision);
                let at = match &answer {
                    Answer::Acked(at) | Answer::Nacked { at, .. } => Some(*at),
                    Answer::Pending | Answer::Unaffected => None,
                };
                let start = written.or(pushed);
                let elapsed = at.zip(start).map(|(at, start)| at.duration_since(start).unwrap_or_default());
                (proxy.node.id.clone(), answer, elapsed)
            })
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change is made whole before the lock is let go.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, inner: MutexGuard<'_, Inner>) {
        drop(inner);
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

impl Proxy {
    fn answer(&self, revision: u64) -> (Answer, Option<SystemTime>) {
        if self.computed < revision {
            return (Answer::Pending, None);
        }
        let Some(push) = self.pushes.iter().find(|p| p.to >= revision).filter(|p| p.from <= revision) else {
            return (Answer::Unaffected, None);
        };
        let answer = match (&push.nack, push.done_at) {
            (Some((type_url, error, at)), _) => {
                Answer::Nacked { type_url: type_url.clone(), error: error.clone(), at: *at }
            }
            (None, Some(at)) => Answer::Acked(at),
            (None, None) => Answer::Pending,
        };
        (answer, Some(push.at))
    }
}

fn owned<'a>(inner: &'a mut Inner, id: &str, stream: u64) -> Option<&'a mut Proxy> {
    inner.proxies.get_mut(id).filter(|p| p.stream == stream)
}

fn forget(inner: &mut Inner, now: SystemTime) {
    let old = |p: &Proxy| p.disconnected_at.is_some_and(|at| now.duration_since(at).unwrap_or_default() > REMEMBER);
    inner.proxies.retain(|_, proxy| !old(proxy));
    let mut gone: Vec<(SystemTime, String)> =
        inner.proxies.iter().filter_map(|(id, p)| p.disconnected_at.map(|at| (at, id.clone()))).collect();
    if gone.len() > MAX_GONE {
        gone.sort();
        for (_, id) in gone.iter().take(gone.len() - MAX_GONE) {
            inner.proxies.remove(id);
        }
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
