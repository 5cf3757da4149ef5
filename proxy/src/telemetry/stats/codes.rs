//! Response counts by status class and by status.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Histogram, Visit};

/// Distinct statuses kept apart; what comes after them is counted in its class alone.
const SLOTS: usize = 12;

/// `<prefix>_completed`, and of the classes and statuses seen `<prefix>_2xx` and `<prefix>_200`. One writer.
#[derive(Debug, Default)]
pub struct CodeCounters {
    classes: [AtomicU64; 5],
    completed: AtomicU64,
    codes: [AtomicU16; SLOTS],
    counts: [AtomicU64; SLOTS],
}

const CLASS_NAMES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

impl CodeCounters {
    /// Counts one answer. The calling thread must be the only writer.
    pub fn record(&self, status: u16) {
        bump(&self.completed);
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            bump(class);
        }
        for (code, count) in self.codes.iter().zip(&self.counts) {
            let held = code.load(Relaxed);
            if held == 0 {
                code.store(status, Relaxed);
            } else if held != status {
                continue;
            }
            bump(count);
            return;
        }
    }

    pub(super) fn each(&self, prefix: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        let completed = self.completed.load(Relaxed);
        if completed == 0 {
            return;
        }
        each(&format!("{prefix}_completed"), Visit::Counter(completed));
        for (name, class) in CLASS_NAMES.iter().zip(&self.classes).filter(|(_, c)| c.load(Relaxed) > 0) {
            each(&format!("{prefix}_{name}"), Visit::Counter(class.load(Relaxed)));
        }
        for (code, count) in self.codes.iter().zip(&self.counts) {
            let code = code.load(Relaxed);
            if code != 0 {
                each(&format!("{prefix}_{code}"), Visit::Counter(count.load(Relaxed)));
            }
        }
    }
}

/// `<prefix>_1xx` … `<prefix>_5xx` and `<prefix>_completed`. One writer.
#[derive(Debug, Default)]
pub struct ClassCounters {
    classes: [AtomicU64; 5],
    completed: AtomicU64,
}

impl ClassCounters {
    /// Counts one answer. The calling thread must be the only writer.
    pub fn record(&self, status: u16) {
        bump(&self.completed);
        if let Some(class) = self.classes.get(usize::from(status / 100).wrapping_sub(1)) {
            bump(class);
        }
    }

    pub(super) fn each(&self, prefix: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        for (name, class) in CLASS_NAMES.iter().zip(&self.classes) {
            each(&format!("{prefix}_{name}"), Visit::Counter(class.load(Relaxed)));
        }
        each(&format!("{prefix}_completed"), Visit::Counter(self.completed.load(Relaxed)));
    }
}

/// Answers and how long they took (`<prefix>_2xx`, `<prefix>_time`), made with the first one: for parts that are mostly not
/// there. One writer.
#[derive(Debug, Default)]
pub struct Answers(OnceLock<Box<(CodeCounters, Histogram)>>);

impl Answers {
    /// Counts one answer. The calling thread must be the only writer.
    pub fn record(&self, status: u16, took: Option<Duration>) {
        let (codes, time) = &**self.0.get_or_init(Box::default);
        codes.record(status);
        if let Some(took) = took {
            time.record_duration(took);
        }
    }

    pub(super) fn each(&self, prefix: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        let Some(held) = self.0.get() else { return };
        held.0.each(prefix, each);
        each(&format!("{prefix}_time"), Visit::Histogram(&held.1));
    }
}

fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}
