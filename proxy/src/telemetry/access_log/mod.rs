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
    /// When lines were last handed over: the first line after a pause goes out at once.
    handed_over: Cell<Option<Instant>>,
    waiting: Notify,
}

/// Bytes after which a buffer is handed over without waiting for the timer.
const FLUSH_BYTES: usize = 32 * 1024;

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
        let (buffers, handed_over, waiting) = (RefCell::default(), Cell::default(), Notify::new());
        Rc::new(Logger { writer, records, stats, buffers, handed_over, waiting })
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
        line::append(format, ctx, buffer);
        self.stats.lines_written.inc();
        let quiet = self.handed_over.get().is_none_or(|at| ctx.now.saturating_duration_since(at) >= FLUSH_INTERVAL);
        if quiet || buffer.len() >= FLUSH_BYTES {
            self.handed_over.set(Some(ctx.now));
            let bytes = std::mem::take(buffer);
            self.hand_over(target, bytes);
        } else {
            self.waiting.notify_one();
        }
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
