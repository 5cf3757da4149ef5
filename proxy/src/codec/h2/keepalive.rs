//! `connection_keepalive`: PING at intervals, and the verdict when no answer comes.
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};

use super::Keepalive;
use crate::clock::Sleep;
use crate::codec::Local;

/// The pings of one connection.
pub(super) struct Pinger {
    pings: PingPong,
    settings: Keepalive,
    local: Local,
    sleep: Sleep,
    waiting: bool,
}

impl Pinger {
    pub(super) fn new(pings: PingPong, settings: Keepalive, local: &Local) -> Self {
        let sleep = local.timers.after(interval(&settings, local));
        Self { pings, settings, local: local.clone(), sleep, waiting: false }
    }

    /// Ready when the peer is dead.
    pub(super) fn poll_dead(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.waiting {
                match self.pings.poll_pong(cx) {
                    Poll::Ready(Ok(_)) => {
                        self.waiting = false;
                        self.sleep = self.local.timers.after(interval(&self.settings, &self.local));
                        continue;
                    }
                    // The connection is over: its own future says so.
                    Poll::Ready(Err(_)) => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
            if Pin::new(&mut self.sleep).poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.waiting {
                return Poll::Ready(());
            }
            if self.pings.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.waiting = true;
            self.sleep = self.local.timers.after(self.settings.timeout);
        }
    }
}

fn interval(settings: &Keepalive, local: &Local) -> Duration {
    settings.interval.mul_f64(1.0 + settings.jitter_percent.clamp(0.0, 1000.0) / 100.0 * local.random.fraction())
}
