//! Log services: records batched on the control thread and sent to the service of their log.
//!
//! gRPC access logs go over one `StreamAccessLogs` stream per log, opened with the first batch and again when the service has
//! ended it; OpenTelemetry logs by `LogsService/Export`. A batch goes out when it is as large as the log says or its flush
//! interval has passed. A service that is slow or away costs its batches, which are counted, never a request.

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::future::{Future, pending};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use prost::Message;
use sidemesh_config::resource::access_log::{GrpcAccessLog, OpenTelemetryLog};
use sidemesh_config::value::GrpcService;
use sidemesh_proto::envoy::config::core::v3::Node;
use sidemesh_proto::envoy::data::accesslog::v3::{HttpAccessLogEntry, TcpAccessLogEntry};
use sidemesh_proto::envoy::service::accesslog::v3::StreamAccessLogsMessage;
use sidemesh_proto::envoy::service::accesslog::v3::stream_access_logs_message::{
    HttpAccessLogEntries, Identifier, LogEntries, TcpAccessLogEntries,
};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::otlp;
use super::record::{Record, RecordQueue};
use crate::stats_group;
use crate::telemetry::stats::{Registry, Scope};

/// A batch goes out at this size, whatever the log says: receivers commonly take messages of at most 4 MiB.
pub const MAX_BATCH_BYTES: usize = 1 << 20;
/// Batches that wait in an open stream at most.
pub const STREAM_BATCHES: usize = 16;
/// Exports of one log under way at most.
pub const CONCURRENT_EXPORTS: usize = 4;
/// How long the last batches may take once the workers have ended.
pub const LAST_BATCHES: Duration = Duration::from_secs(2);

stats_group! {
    /// What becomes of records (`access_logs.grpc_access_log.`, `access_logs.open_telemetry_access_log.`), Envoy's names.
    pub struct ServiceLogStats {
        logs_written: Counter,
        logs_dropped: Counter,
        streams_failed: Counter,
    }
}

/// How a log service is reached: given by the composition root.
pub trait LogServices: 'static {
    /// Sends the messages as one `StreamAccessLogs` stream; ends when they end or the service ends the stream.
    fn stream(
        &self,
        service: &GrpcService,
        messages: mpsc::Receiver<StreamAccessLogsMessage>,
    ) -> impl Future<Output = Result<(), String>>;

    /// One `LogsService/Export`.
    fn export(
        &self,
        service: &GrpcService,
        request: ExportLogsServiceRequest,
    ) -> impl Future<Output = Result<(), String>>;
}

/// Batches and sends until every [`RecordSender`](super::RecordSender) is gone; then sends what is left, within [`LAST_BATCHES`].
pub async fn run(mut queue: RecordQueue, services: impl LogServices, node: Node, registry: Arc<Registry>) {
    let mut shipper = Shipper {
        services: Rc::new(services),
        node,
        registry,
        stats: HashMap::new(),
        outlets: Vec::new(),
        tasks: JoinSet::new(),
    };
    let end = queue.end();
    loop {
        tokio::select! {
            () = end.notified() => queue.0.close(),
            record = queue.0.recv() => match record {
                Some(record) => shipper.take(record),
                None => break,
            },
            () = until(shipper.next_due()) => shipper.flush(|due| due <= Instant::now()),
            Some(_) = shipper.tasks.join_next(), if !shipper.tasks.is_empty() => {}
        }
    }
    shipper.flush(|_| true);
    // Streams end when their senders are gone.
    shipper.outlets.clear();
    let rest = async { while shipper.tasks.join_next().await.is_some() {} };
    if timeout(LAST_BATCHES, rest).await.is_err() {
        tracing::warn!("a log service did not take the last records within {LAST_BATCHES:?}; they are lost");
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

struct Shipper<S> {
    services: Rc<S>,
    node: Node,
    registry: Arc<Registry>,
    stats: HashMap<Scope, Arc<ServiceLogStats>>,
    outlets: Vec<Outlet>,
    tasks: JoinSet<()>,
}

/// One log: what is batched for it, and its way out.
struct Outlet {
    log: Log,
    batch: Batch,
    bytes: usize,
    /// When the batch must go out; `None` while it is empty.
    due: Option<Instant>,
    stats: Arc<ServiceLogStats>,
}

enum Log {
    Grpc { log: Arc<GrpcAccessLog>, stream: Option<mpsc::Sender<StreamAccessLogsMessage>> },
    OpenTelemetry { log: Arc<OpenTelemetryLog>, exports: Arc<Semaphore> },
}

enum Batch {
    Http(Vec<HttpAccessLogEntry>),
    Tcp(Vec<TcpAccessLogEntry>),
    OpenTelemetry(Vec<LogRecord>),
}

impl Log {
    /// Whether it is the record's log: the same configuration, perhaps in a newer copy, which takes the older one's place.
    fn is_of(&mut self, record: &Record) -> bool {
        match (self, record) {
            (Log::Grpc { log, .. }, Record::Http { log: wanted, .. } | Record::Tcp { log: wanted, .. }) => {
                same(log, wanted)
            }
            (Log::OpenTelemetry { log, .. }, Record::OpenTelemetry { log: wanted, .. }) => same(log, wanted),
            _ => false,
        }
    }

    fn limits(&self) -> (u32, Duration) {
        match self {
            Log::Grpc { log, .. } => (log.buffer_bytes, log.flush_interval),
            Log::OpenTelemetry { log, .. } => (log.buffer_bytes, log.flush_interval),
        }
    }

    /// Nobody but this module holds its configuration any more.
    fn is_gone(&self) -> bool {
        match self {
            Log::Grpc { log, .. } => Arc::strong_count(log) == 1,
            Log::OpenTelemetry { log, .. } => Arc::strong_count(log) == 1,
        }
    }

    fn scope(&self) -> Scope {
        match self {
            Log::Grpc { .. } => Scope::Fixed("access_logs.grpc_access_log"),
            Log::OpenTelemetry { log, .. } if log.stat_prefix.is_empty() => {
                Scope::Fixed("access_logs.open_telemetry_access_log")
            }
            Log::OpenTelemetry { log, .. } => Scope::Filter(
                format!("access_logs.open_telemetry_access_log.{}", log.stat_prefix.trim_end_matches('.'))
                    .as_str()
                    .into(),
            ),
        }
    }
}

fn same<T: PartialEq>(have: &mut Arc<T>, wanted: &Arc<T>) -> bool {
    if Arc::ptr_eq(have, wanted) {
        return true;
    }
    let equal = **have == **wanted;
    if equal {
        *have = wanted.clone();
    }
    equal
}

impl Batch {
    fn of(record: &Record) -> Self {
        match record {
            Record::Http { .. } => Batch::Http(Vec::new()),
            Record::Tcp { .. } => Batch::Tcp(Vec::new()),
            Record::OpenTelemetry { .. } => Batch::OpenTelemetry(Vec::new()),
        }
    }

    fn len(&self) -> usize {
        match self {
            Batch::Http(entries) => entries.len(),
            Batch::Tcp(entries) => entries.len(),
            Batch::OpenTelemetry(records) => records.len(),
        }
    }

    /// Adds the record; its size on the wire.
    fn push(&mut self, record: Record) -> usize {
        match (self, record) {
            (Batch::Http(entries), Record::Http { entry, .. }) => {
                entries.push(*entry);
                entries.last().map_or(0, Message::encoded_len)
            }
            (Batch::Tcp(entries), Record::Tcp { entry, .. }) => {
                entries.push(*entry);
                entries.last().map_or(0, Message::encoded_len)
            }
            (Batch::OpenTelemetry(records), Record::OpenTelemetry { record, .. }) => {
                records.push(*record);
                records.last().map_or(0, Message::encoded_len)
            }
            // An outlet's log says which kind its records are of.
            _ => 0,
        }
    }

    /// What is in it; it is empty afterwards.
    fn take(&mut self) -> Batch {
        match self {
            Batch::Http(entries) => Batch::Http(std::mem::take(entries)),
            Batch::Tcp(entries) => Batch::Tcp(std::mem::take(entries)),
            Batch::OpenTelemetry(records) => Batch::OpenTelemetry(std::mem::take(records)),
        }
    }
}

impl<S: LogServices> Shipper<S> {
    fn take(&mut self, record: Record) {
        let at = match self.outlets.iter_mut().position(|o| o.log.is_of(&record)) {
            Some(at) => at,
            None => self.open(&record),
        };
        let outlet = &mut self.outlets[at];
        outlet.bytes += outlet.batch.push(record);
        let (most, interval) = outlet.log.limits();
        outlet.due.get_or_insert_with(|| Instant::now() + interval);
        if outlet.bytes >= (most as usize).min(MAX_BATCH_BYTES) {
            self.ship(at);
        }
    }

    /// A new outlet; those whose configuration is gone leave.
    fn open(&mut self, record: &Record) -> usize {
        self.outlets.retain(|o| o.due.is_some() || !o.log.is_gone());
        let log = match record {
            Record::Http { log, .. } | Record::Tcp { log, .. } => Log::Grpc { log: log.clone(), stream: None },
            Record::OpenTelemetry { log, .. } => {
                Log::OpenTelemetry { log: log.clone(), exports: Arc::new(Semaphore::new(CONCURRENT_EXPORTS)) }
            }
        };
        let scope = log.scope();
        let make = || self.registry.shard::<ServiceLogStats>(scope.clone());
        let stats = self.stats.entry(scope.clone()).or_insert_with(make).clone();
        self.outlets.push(Outlet { log, batch: Batch::of(record), bytes: 0, due: None, stats });
        self.outlets.len() - 1
    }

    fn next_due(&self) -> Option<Instant> {
        self.outlets.iter().filter_map(|o| o.due).min()
    }

    fn flush(&mut self, is_due: impl Fn(Instant) -> bool) {
        for at in 0..self.outlets.len() {
            if self.outlets[at].due.is_some_and(&is_due) {
                self.ship(at);
            }
        }
    }

    fn ship(&mut self, at: usize) {
        let Shipper { services, node, outlets, tasks, .. } = self;
        let Outlet { log, batch, bytes, due, stats } = &mut outlets[at];
        (*bytes, *due) = (0, None);
        let count = batch.len() as u64;
        let taken = match log {
            Log::Grpc { log, stream } => {
                let entries = match batch.take() {
                    Batch::Http(log_entry) => LogEntries::HttpLogs(HttpAccessLogEntries { log_entry }),
                    Batch::Tcp(log_entry) => LogEntries::TcpLogs(TcpAccessLogEntries { log_entry }),
                    Batch::OpenTelemetry(_) => return,
                };
                let mut message = StreamAccessLogsMessage { identifier: None, log_entries: Some(entries) };
                let open = stream.take().filter(|s| !s.is_closed()).unwrap_or_else(|| {
                    // Who sends is told once a stream.
                    message.identifier =
                        Some(Identifier { node: Some(node.clone()), log_name: log.log_name.to_string() });
                    let (sender, messages) = mpsc::channel(STREAM_BATCHES);
                    tasks.spawn_local(stream_to(services.clone(), log.clone(), messages, stats.clone()));
                    sender
                });
                let taken = open.try_send(message).is_ok();
                *stream = Some(open);
                if taken {
                    stats.logs_written.add(count);
                }
                taken
            }
            Log::OpenTelemetry { log, exports } => {
                let Batch::OpenTelemetry(records) = batch.take() else { return };
                match exports.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let request = otlp::request(log, node, records);
                        let (services, log, stats) = (services.clone(), log.clone(), stats.clone());
                        tasks.spawn_local(async move {
                            export_to(&*services, &log, request, count, &stats).await;
                            drop(permit);
                        });
                        true
                    }
                    Err(_) => false,
                }
            }
        };
        if !taken {
            stats.logs_dropped.add(count);
        }
    }
}

async fn stream_to<S: LogServices>(
    services: Rc<S>,
    log: Arc<GrpcAccessLog>,
    messages: mpsc::Receiver<StreamAccessLogsMessage>,
    stats: Arc<ServiceLogStats>,
) {
    if let Err(reason) = services.stream(&log.service, messages).await {
        stats.streams_failed.inc();
        tracing::debug!(log = %log.log_name, cluster = %log.service.cluster, %reason, "the access log stream has failed");
    }
}

async fn export_to<S: LogServices>(
    services: &S,
    log: &OpenTelemetryLog,
    request: ExportLogsServiceRequest,
    count: u64,
    stats: &ServiceLogStats,
) {
    match services.export(&log.service, request).await {
        Ok(()) => stats.logs_written.add(count),
        Err(reason) => {
            stats.logs_dropped.add(count);
            tracing::debug!(log = %log.log_name, cluster = %log.service.cluster, %reason, "log records not taken by the collector");
        }
    }
}
