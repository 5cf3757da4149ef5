//! Records for log services: built by the worker when such a log is configured, queued for the control thread.
//!
//! The queue is one for the process and bounded ([`QUEUED_RECORDS`]): a record that does not fit is dropped and counted, no
//! request waits for a log service.

use std::sync::Arc;

use opentelemetry_proto::tonic::logs::v1::LogRecord;
use sidemesh_config::resource::access_log::{GrpcAccessLog, OpenTelemetryLog};
use sidemesh_proto::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};
use tokio::sync::{Notify, mpsc};

use super::{entry, otlp};
use crate::telemetry::stream_info::LogContext;

/// Records of all workers that wait for the control thread at most.
pub const QUEUED_RECORDS: usize = 8192;

/// One request or connection, for one log.
#[derive(Debug)]
pub enum Record {
    Http { log: Arc<GrpcAccessLog>, entry: Box<HttpAccessLogEntry> },
    Tcp { log: Arc<GrpcAccessLog>, entry: Box<TcpAccessLogEntry> },
    OpenTelemetry { log: Arc<OpenTelemetryLog>, record: Box<LogRecord> },
}

impl Record {
    pub(super) fn grpc(log: &Arc<GrpcAccessLog>, ctx: &LogContext<'_>) -> Self {
        match log.tcp {
            true => Record::Tcp { log: log.clone(), entry: Box::new(entry::tcp(log, ctx)) },
            false => Record::Http { log: log.clone(), entry: Box::new(entry::http(log, ctx)) },
        }
    }

    pub(super) fn open_telemetry(log: &Arc<OpenTelemetryLog>, ctx: &LogContext<'_>) -> Self {
        Record::OpenTelemetry { log: log.clone(), record: Box::new(otlp::record(log, ctx)) }
    }
}

/// A worker's end of the queue.
#[derive(Debug, Clone)]
pub struct RecordSender(mpsc::Sender<Record>);

/// The control thread's end.
#[derive(Debug)]
pub struct RecordQueue(pub(super) mpsc::Receiver<Record>, pub(super) Arc<Notify>);

impl RecordQueue {
    /// Notifying it ends the queue: what is in it is still taken, and nothing more, whoever still holds a sender.
    pub fn end(&self) -> Arc<Notify> {
        self.1.clone()
    }
}

pub fn queue() -> (RecordSender, RecordQueue) {
    let (sender, receiver) = mpsc::channel(QUEUED_RECORDS);
    (RecordSender(sender), RecordQueue(receiver, Arc::default()))
}

impl RecordSender {
    /// `false` when the queue is full: the record is dropped, the caller counts it.
    pub fn send(&self, record: Record) -> bool {
        self.0.try_send(record).is_ok()
    }
}
