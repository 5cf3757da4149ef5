//! Access logs: one line a request, filtered and formatted in the worker, written by a thread of its own.
//!
//! A worker appends lines to a buffer per file and hands whole buffers over a bounded queue, so that a slow disk never
//! holds a request up. A full queue drops the buffer and counts it (`access_log.lines_dropped`): the bound is
//! [`writer::QUEUED_BUFFERS`] buffers. Logs that go to a service (gRPC, OpenTelemetry) are records in a queue of their own,
//! sent by the control thread: see [`export`].

mod entry;
pub mod export;
mod filter;
mod line;
mod otlp;
mod record;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod writer;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use sidemesh_config::resource::access_log::{AccessLog, AccessLogSink, LogFormat};
use sidemesh_config::value::Runtime;
use tokio::sync::Notify;

pub use filter::admits;
pub use record::{QUEUED_RECORDS, Record, RecordQueue, RecordSender, queue};
pub use writer::{FLUSH_INTERVAL, Target, Writer};

use super::stream_info::LogContext;
use crate::stats_group;

stats_group! {
    /// What becomes of log lines (`access_log.`).
    pub struct AccessLogStats {
        lines_written: Counter,
        lines_dropped: Counter,
        flushed_by_timer: Counter,
        /// Records for log services that found no room in their queue.
        records_dropped: Counter,
    }
}

/// A worker's side of all access logs.
pub struct Logger {
    writer: Writer,
    /// `None`: nobody sends to log services.
    records: Option<RecordSender>,
    stats: Arc<AccessLogStats>,
    buffers: RefCell<Vec<(Target, Vec<u8>)>>,
    /// Begin of the present interval, and lines that went out at once in it.
    interval: Cell<(Option<Instant>, u32)>,
    waiting: Notify,
}

/// Bytes after which a buffer is handed over without waiting for the timer.
const FLUSH_BYTES: usize = 32 * 1024;

/// Lines of one interval that go out at once; a worker that logs more hands them over together.
const AT_ONCE: u32 = 256;

impl Logger {
    /// Without log services: records for them are dropped and counted.
    pub fn new(writer: Writer, stats: Arc<AccessLogStats>) -> Rc<Self> {
        Self::make(writer, None, stats)
    }

    /// With log services behind `records`.
    pub fn with_services(writer: Writer, stats: Arc<AccessLogStats>, records: RecordSender) -> Rc<Self> {
        Self::make(writer, Some(records), stats)
    }

    fn make(writer: Writer, records: Option<RecordSender>, stats: Arc<AccessLogStats>) -> Rc<Self> {
        let (buffers, interval, waiting) = (RefCell::default(), Cell::default(), Notify::new());
        Rc::new(Logger { writer, records, stats, buffers, interval, waiting })
    }

    /// Writes the request to each log whose filter admits it. `random` feeds runtime filters.
    pub fn log(&self, logs: &[Arc<AccessLog>], ctx: &LogContext<'_>, runtime: &Runtime, random: u64) {
        for log in logs {
            if log.filter.as_ref().is_some_and(|f| !admits(f, ctx, runtime, random)) {
                continue;
            }
            match &log.sink {
                AccessLogSink::File { path, format } => self.append(&Target::File(path.clone()), format, ctx),
                AccessLogSink::Stdout(format) => self.append(&Target::Stdout, format, ctx),
                AccessLogSink::Stderr(format) => self.append(&Target::Stderr, format, ctx),
                AccessLogSink::Grpc(log) => self.send(Record::grpc(log, ctx)),
                AccessLogSink::OpenTelemetry(log) => self.send(Record::open_telemetry(log, ctx)),
            }
        }
    }

    fn send(&self, record: Record) {
        if !self.records.as_ref().is_some_and(|r| r.send(record)) {
            self.stats.records_dropped.inc();
        }
    }

    fn append(&self, target: &Target, format: &LogFormat, ctx: &LogContext<'_>) {
        let mut buffers = self.buffers.borrow_mut();
        let at = match buffers.iter().position(|(t, _)| t == target) {
            Some(at) => at,
            None => {
                buffers.push((target.clone(), Vec::new()));
                buffers.len() - 1
            }
        };
        let buffer = &mut buffers[at].1;
        let alone = buffer.is_empty();
        line::append(format, ctx, buffer);
        self.stats.lines_written.inc();
        if (alone && self.goes_at_once(ctx.now)) || buffer.len() >= FLUSH_BYTES {
            let bytes = std::mem::take(buffer);
            self.hand_over(target, bytes);
        } else {
            self.waiting.notify_one();
        }
    }

    /// The first lines of an interval do not wait for its end: a quiet log is written as it happens, and lines of several
    /// workers stand in their order.
    fn goes_at_once(&self, now: Instant) -> bool {
        let (begin, lines) = match self.interval.get() {
            (Some(begin), lines) if now.saturating_duration_since(begin) < FLUSH_INTERVAL => (begin, lines + 1),
            _ => (now, 1),
        };
        self.interval.set((Some(begin), lines));
        lines <= AT_ONCE
    }

    fn hand_over(&self, target: &Target, bytes: Vec<u8>) {
        let lines = bytes.iter().filter(|b| **b == b'\n').count() as u64;
        if !self.writer.write(target.clone(), bytes) {
            self.stats.lines_dropped.add(lines);
        }
    }

    /// Hands lines over that have waited for [`FLUSH_INTERVAL`]; sleeps while there are none. Dropping it ends it.
    pub async fn keep_flushing(&self) {
        loop {
            self.waiting.notified().await;
            tokio::time::sleep(FLUSH_INTERVAL).await;
            self.flush();
        }
    }

    /// Hands over whatever is buffered: also called when the worker ends.
    pub fn flush(&self) {
        let mut buffers = self.buffers.borrow_mut();
        for (target, buffer) in buffers.iter_mut().filter(|(_, b)| !b.is_empty()) {
            self.stats.flushed_by_timer.inc();
            self.hand_over(target, std::mem::take(buffer));
        }
    }
}
