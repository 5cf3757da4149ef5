//! A hierarchical timer wheel: five levels of 64 slots, entries in one slab, slots as index-linked lists.
//!
//! Arm, disarm and re-arm are O(1) and touch no tokio timer, unless the new deadline is earlier than the one the driver
//! waits for. The driver is one local task per worker, started with the first entry; it ends with the last [`Timers`].
use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

/// The wheel's resolution.
pub const TICK: Duration = Duration::from_millis(8);
const TICK_NS: u32 = TICK.as_nanos() as u32;
const TICKS_PER_SECOND: u64 = 1000 / TICK.as_millis() as u64;
const BITS: u32 = 6;
const SLOTS: usize = 1 << BITS;
const LEVELS: usize = 5;
const NIL: u32 = u32::MAX;
/// The farthest deadline the wheel can hold (about 99 days); farther ones are re-armed when it comes.
const MAX_TICKS: u64 = (1 << (BITS * LEVELS as u32)) - 1;

/// The timers of one worker. Cloning shares the wheel.
#[derive(Clone)]
pub struct Timers {
    inner: Rc<RefCell<Wheel>>,
}

impl std::fmt::Debug for Timers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Timers").field("armed", &self.len()).finish()
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new()
    }
}

impl Timers {
    /// An empty wheel. The first armed timer starts its driver with `spawn_local`: use it only on a worker.
    pub fn new() -> Self {
        Self { inner: Rc::new(RefCell::new(Wheel::new(super::instant()))) }
    }

    /// Completes at `deadline`.
    pub fn until(&self, deadline: Instant) -> Sleep {
        Sleep { timers: self.inner.clone(), deadline, key: NIL }
    }

    /// Completes after `delay` from now.
    pub fn after(&self, delay: Duration) -> Sleep {
        let now = super::instant();
        // A delay that overflows the clock is one that never ends: a century stands for it.
        self.until(now.checked_add(delay).unwrap_or(now + Duration::from_secs(100 * 365 * 86_400)))
    }

    /// How many timers are armed.
    pub fn len(&self) -> usize {
        self.inner.borrow().entries.len()
    }

    /// Whether nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A future that completes at its deadline. Armed when first polled, disarmed when dropped.
pub struct Sleep {
    timers: Rc<RefCell<Wheel>>,
    deadline: Instant,
    key: u32,
}

impl std::fmt::Debug for Sleep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sleep").field("deadline", &self.deadline).finish()
    }
}

impl Sleep {
    /// When it completes.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Moves the deadline. Whoever waits must poll again to be woken at the new one.
    pub fn reset(&mut self, deadline: Instant) {
        self.disarm();
        self.deadline = deadline;
    }

    fn disarm(&mut self) {
        if self.key != NIL {
            self.timers.borrow_mut().remove(self.key);
            self.key = NIL;
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let mut wheel = this.timers.borrow_mut();
        if this.key == NIL {
            if super::instant() >= this.deadline {
                return Poll::Ready(());
            }
            this.key = wheel.insert(this.deadline, cx.waker().clone());
            if wheel.needs_driver() {
                wheel.driven = true;
                drop(wheel);
                tokio::task::spawn_local(Driver { wheel: Rc::downgrade(&this.timers), sleep: None });
            }
            return Poll::Pending;
        }
        if wheel.fired(this.key) {
            wheel.remove(this.key);
            this.key = NIL;
            return Poll::Ready(());
        }
        wheel.rewake(this.key, cx.waker());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.disarm();
    }
}

struct Entry {
    deadline: u64,
    next: u32,
    prev: u32,
    /// `level * SLOTS + slot`, or `NIL` once fired.
    home: u32,
    waker: Option<Waker>,
}

struct Wheel {
    origin: Instant,
    /// Every tick before this one has been processed.
    now: u64,
    entries: Slab<Entry>,
    heads: Vec<u32>,
    occupied: [u64; LEVELS],
    /// The tick the driver waits for. It may have nothing left to do then: waking it once for nothing is cheaper than
    /// moving its tokio timer with every request.
    target: u64,
    driver: Option<Waker>,
    driven: bool,
}

/// Whole ticks in `time` and `more` nanoseconds.
fn ticks(time: Duration, more: u32) -> u64 {
    time.as_secs() * TICKS_PER_SECOND + u64::from((time.subsec_nanos() + more) / TICK_NS)
}

impl Wheel {
    fn new(origin: Instant) -> Self {
        Self {
            origin,
            now: 0,
            entries: Slab::new(),
            heads: vec![NIL; LEVELS * SLOTS],
            occupied: [0; LEVELS],
            target: u64::MAX,
            driver: None,
            driven: false,
        }
    }

    fn needs_driver(&self) -> bool {
        !self.driven
    }

    /// The tick now, rounded down.
    fn tick_of(&self, at: Instant) -> u64 {
        ticks(at.saturating_duration_since(self.origin), 0)
    }

    fn instant_of(&self, tick: u64) -> Instant {
        self.origin + Duration::from_millis(tick * TICK.as_millis() as u64)
    }

    fn insert(&mut self, deadline: Instant, waker: Waker) -> u32 {
        if self.entries.is_empty() {
            // Nothing to cascade: skip the quiet time in one step.
            self.now = self.now.max(self.tick_of(super::instant()));
        }
        let ticks = ticks(deadline.saturating_duration_since(self.origin), TICK_NS - 1);
        let entry = Entry { deadline: ticks.max(self.now + 1), next: NIL, prev: NIL, home: NIL, waker: Some(waker) };
        let due = entry.deadline;
        let key = self.entries.insert(entry) as u32;
        self.link(key);
        if due < self.target
            && let Some(driver) = self.driver.take()
        {
            driver.wake();
        }
        key
    }

    /// Puts an unlinked entry into the slot where its deadline belongs as seen from `self.now`.
    fn link(&mut self, key: u32) {
        let deadline = self.entries[key as usize].deadline;
        let at = deadline.clamp(self.now, self.now + MAX_TICKS);
        let differing = at ^ self.now;
        let level = if differing == 0 { 0 } else { ((63 - differing.leading_zeros()) / BITS) as usize };
        let level = level.min(LEVELS - 1);
        let slot = ((at >> (BITS * level as u32)) as usize) & (SLOTS - 1);
        let home = level * SLOTS + slot;
        let head = self.heads[home];
        if head != NIL {
            self.entries[head as usize].prev = key;
        }
        let entry = &mut self.entries[key as usize];
        entry.next = head;
        entry.prev = NIL;
        entry.home = home as u32;
        self.heads[home] = key;
        self.occupied[level] |= 1 << slot;
    }

    fn unlink(&mut self, key: u32) {
        let (home, next, prev) = {
            let e = &self.entries[key as usize];
            (e.home, e.next, e.prev)
        };
        if home == NIL {
            return;
        }
        if next != NIL {
            self.entries[next as usize].prev = prev;
        }
        if prev != NIL {
            self.entries[prev as usize].next = next;
        } else {
            self.heads[home as usize] = next;
            if next == NIL {
                self.occupied[home as usize / SLOTS] &= !(1 << (home as usize % SLOTS));
            }
        }
    }

    fn remove(&mut self, key: u32) {
        self.unlink(key);
        self.entries.remove(key as usize);
    }

    fn fired(&self, key: u32) -> bool {
        self.entries[key as usize].home == NIL
    }

    fn rewake(&mut self, key: u32, waker: &Waker) {
        match &mut self.entries[key as usize].waker {
            Some(old) if old.will_wake(waker) => {}
            slot => *slot = Some(waker.clone()),
        }
    }

    /// The next tick at which some slot must be looked at: the exact deadline on level 0, the slot's start above.
    fn next_due(&self) -> Option<u64> {
        let mut best: Option<u64> = None;
        for level in 0..LEVELS {
            if self.occupied[level] == 0 {
                continue;
            }
            let shift = BITS * level as u32;
            let here = ((self.now >> shift) as usize & (SLOTS - 1)) as u32;
            // Above level 0 the slot "here" has been cascaded: what is in it now belongs to the next round, and comes last.
            let first = u32::from(level > 0);
            let ahead = u64::from(self.occupied[level].rotate_right(here + first).trailing_zeros() + first);
            let due = ((self.now >> shift) + ahead) << shift;
            let due = due.max(self.now);
            best = Some(best.map_or(due, |b| b.min(due)));
        }
        best
    }

    /// Moves to `tick`: fires what is due (by taking wakers into `due`) and cascades the slots it passes.
    fn advance(&mut self, tick: u64, due: &mut Vec<Waker>) {
        while let Some(next) = self.next_due() {
            if next > tick {
                break;
            }
            self.now = next;
            for level in (0..LEVELS).rev() {
                let shift = BITS * level as u32;
                if level > 0 && next & ((1 << shift) - 1) != 0 {
                    continue;
                }
                self.empty_slot(level * SLOTS + ((next >> shift) as usize & (SLOTS - 1)), due);
            }
        }
        self.now = self.now.max(tick);
    }

    fn empty_slot(&mut self, home: usize, due: &mut Vec<Waker>) {
        let mut key = std::mem::replace(&mut self.heads[home], NIL);
        self.occupied[home / SLOTS] &= !(1 << (home % SLOTS));
        while key != NIL {
            let entry = &mut self.entries[key as usize];
            let next = entry.next;
            if entry.deadline <= self.now {
                entry.home = NIL;
                due.extend(entry.waker.take());
            } else {
                self.link(key);
            }
            key = next;
        }
    }
}

/// Waits for the earliest slot, fires it, and so on.
struct Driver {
    wheel: Weak<RefCell<Wheel>>,
    sleep: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let Some(wheel) = this.wheel.upgrade() else { return Poll::Ready(()) };
        let mut due = Vec::new();
        loop {
            let mut w = wheel.borrow_mut();
            let now = w.tick_of(tokio::time::Instant::now().into_std());
            w.advance(now, &mut due);
            if !due.is_empty() {
                drop(w);
                due.drain(..).for_each(Waker::wake);
                continue;
            }
            w.driver = Some(cx.waker().clone());
            let Some(next) = w.next_due() else {
                w.target = u64::MAX;
                return Poll::Pending;
            };
            w.target = next;
            let at = tokio::time::Instant::from_std(w.instant_of(next));
            drop(w);
            let sleep = this.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
            sleep.as_mut().reset(at);
            if sleep.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::clock::Random;

    #[derive(Default)]
    struct Flag(AtomicBool);

    impl Wake for Flag {
        fn wake(self: Arc<Self>) {
            assert!(!self.0.swap(true, Ordering::Relaxed), "woken twice");
        }
    }

    /// Timers from milliseconds to weeks, some disarmed, in steps of every size: each fires with the first step that reaches it.
    #[test]
    fn every_deadline_at_its_step() {
        for seed in 0..20 {
            let random = Random::seeded(seed);
            let origin = tokio::time::Instant::now().into_std();
            let mut wheel = Wheel::new(origin);
            let mut armed: Vec<(u64, u32, Arc<Flag>)> = Vec::new();
            let mut tick = 0;
            for _ in 0..400 {
                for _ in 0..random.below(6) {
                    let flag = Arc::<Flag>::default();
                    let at = tick + 1 + (random.next_u64() >> (34 + random.below(30)));
                    let key = wheel.insert(wheel.instant_of(at), flag.clone().into());
                    armed.push((at, key, flag));
                }
                if !armed.is_empty() && random.chance(1, 3) {
                    let (_, key, _) = armed.swap_remove(random.below(armed.len() as u64) as usize);
                    wheel.remove(key);
                }
                tick += random.next_u64() >> (40 + random.below(24));
                let mut due = Vec::new();
                wheel.advance(tick, &mut due);
                due.into_iter().for_each(Waker::wake);
                armed.retain(|(at, key, flag)| {
                    let fired = flag.0.load(Ordering::Relaxed);
                    assert_eq!((fired, wheel.fired(*key)), (*at <= tick, *at <= tick), "due at {at}, now {tick}");
                    if fired {
                        wheel.remove(*key);
                    }
                    !fired
                });
                assert!(wheel.next_due().is_none_or(|due| due > tick));
            }
            assert_eq!(wheel.entries.len(), armed.len());
        }
    }
}
