//! Response counts by status class and by status.

use std::sync::atomic::{AtomicU16, AtomicU64, Ordering::Relaxed};

use super::Visit;

/// Distinct statuses kept apart; what comes after them is counted in its class alone.
const SLOTS: usize = 12;

/// `<prefix>_1xx` … `<prefix>_5xx`, `<prefix>_completed`, and `<prefix>_200`-like counters of the statuses seen.
/// One writer.
#[derive(Debug, Default)]
pub struct CodeCounters {
    classes: [AtomicU64; 5],
    completed: AtomicU64,
    codes: [AtomicU16; SLOTS],
    counts: [AtomicU64; SLOTS],
}

/// As [`CodeCounters`], but nothing is shown before it has been counted once.
#[derive(Debug, Default)]
pub struct SeenCodes(CodeCounters);

impl SeenCodes {
    /// Counts one answer. The calling thread must be the only writer.
    pub fn record(&self, status: u16) {
        self.0.record(status);
    }

    pub(super) fn each(&self, prefix: &str, each: &mut dyn FnMut(&str, Visit<'_>)) {
        self.0.each(prefix, &mut |name, value| match value {
            Visit::Counter(0) => {}
            value => each(name, value),
        });
    }
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
        for (name, class) in CLASS_NAMES.iter().zip(&self.classes) {
            each(&format!("{prefix}_{name}"), Visit::Counter(class.load(Relaxed)));
        }
        each(&format!("{prefix}_completed"), Visit::Counter(self.completed.load(Relaxed)));
        for (code, count) in self.codes.iter().zip(&self.counts) {
            let code = code.load(Relaxed);
            if code != 0 {
                each(&format!("{prefix}_{code}"), Visit::Counter(count.load(Relaxed)));
            }
        }
    }
}

fn bump(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed).wrapping_add(1), Relaxed);
}
