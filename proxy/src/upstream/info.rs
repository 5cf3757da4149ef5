//! What an attempt tells of itself while it goes on: it survives an attempt that is cancelled half-way.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::codec::Protocol;
use crate::tls::PeerInfo;

/// A record of one attempt, filled as it goes.
#[derive(Debug, Default)]
pub struct AttemptInfo {
    pub connect_start: Cell<Option<Instant>>,
    /// The connection is made, TLS included.
    pub connect_end: Cell<Option<Instant>>,
    /// A connection is there, new or reused.
    pub pool_ready: Cell<Option<Instant>>,
    /// The request's head is handed over.
    pub sent_start: Cell<Option<Instant>>,
    pub response_head: Cell<Option<Instant>>,
    connection: OnceCell<Rc<ConnectionFacts>>,
    failure: RefCell<Option<Rc<str>>>,
}

/// What stays the same for a connection's whole life.
#[derive(Debug)]
pub struct ConnectionFacts {
    pub id: u64,
    pub local: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    /// `None` for TCP.
    pub protocol: Option<Protocol>,
    pub tls: Option<Arc<PeerInfo>>,
}

impl AttemptInfo {
    /// The connection the attempt went over.
    pub fn connection(&self) -> Option<&Rc<ConnectionFacts>> {
        self.connection.get()
    }

    pub(super) fn set_connection(&self, facts: &Rc<ConnectionFacts>) {
        // One attempt has one connection: a second call would tell the same.
        let _ = self.connection.set(facts.clone());
    }

    /// Why the transport failed.
    pub fn failure(&self) -> Option<Rc<str>> {
        self.failure.borrow().clone()
    }

    pub(super) fn set_failure(&self, text: Rc<str>) {
        *self.failure.borrow_mut() = Some(text);
    }

    /// The attempt used a connection that was open before.
    pub fn reused(&self) -> bool {
        self.pool_ready.get().is_some() && self.connect_start.get().is_none()
    }
}
