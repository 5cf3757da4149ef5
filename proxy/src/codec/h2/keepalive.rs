//! `connection_keepalive`: PING at intervals, and the verdict when no answer comes.
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use super::Keepalive;
use super::session::Session;
use crate::clock::Sleep;
use crate::codec::Local;

/// What our pings carry.
const PAYLOAD: [u8; 8] = *b"sidemesh";

/// The pings of one connection.
pub(super) struct Pinger {
    settings: Keepalive,
    local: Local,
    sleep: Sleep,
    waiting: bool,
}

impl Pinger {
    pub(super) fn new(settings: Keepalive, local: &Local) -> Self {
        let sleep = local.timers.after(interval(&settings, local));
        Self { settings, local: local.clone(), sleep, waiting: false }
    }

    /// Ready when the peer is dead.
    pub(super) fn poll_dead(&mut self, session: &mut Session, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting && session.is_answered() {
                self.waiting = false;
                self.sleep = self.local.timers.after(interval(&self.settings, &self.local));
            }
            if Pin::new(&mut self.sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waiting {
                return Poll::Ready(());
            }
            session.send_ping(PAYLOAD);
            self.waiting = true;
            self.sleep = self.local.timers.after(self.settings.timeout);
        }
    }
}

fn interval(settings: &Keepalive, local: &Local) -> Duration {
    settings.interval.mul_f64(1.0 + settings.jitter_percent.clamp(0.0, 1000.0) / 100.0 * local.random.fraction())
}
