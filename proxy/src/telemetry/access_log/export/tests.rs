use std::cell::RefCell;

use sidemesh_config::value::name;
use tokio::task::LocalSet;

use super::super::queue;
use super::*;

/// What came, by cluster: for each stream its messages; for each export its records.
#[derive(Default, Clone)]
struct Service {
    streams: Rc<RefCell<Vec<Vec<StreamAccessLogsMessage>>>>,
    exports: Rc<RefCell<Vec<usize>>>,
    /// Streams end after so many messages.
    patience: usize,
    refuses: bool,
}

impl LogServices for Service {
    async fn stream(
        &self,
        _: &GrpcService,
        mut messages: mpsc::Receiver<StreamAccessLogsMessage>,
    ) -> Result<(), String> {
        let at = self.streams.borrow().len();
        self.streams.borrow_mut().push(Vec::new());
        while let Some(message) = messages.recv().await {
            self.streams.borrow_mut()[at].push(message);
            if self.streams.borrow()[at].len() == self.patience {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn export(&self, _: &GrpcService, request: ExportLogsServiceRequest) -> Result<(), String> {
        if self.refuses {
            return Err("away".to_owned());
        }
        self.exports.borrow_mut().push(request.resource_logs[0].scope_logs[0].log_records.len());
        Ok(())
    }
}

fn grpc(bytes: u32) -> Arc<GrpcAccessLog> {
    Arc::new(GrpcAccessLog {
        log_name: name("l"),
        service: GrpcService { cluster: name("als"), authority: None, timeout: None, initial_metadata: Vec::new() },
        flush_interval: Duration::from_secs(1),
        buffer_bytes: bytes,
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        response_trailers: Vec::new(),
        custom_tags: Vec::new(),
        tcp: false,
    })
}

fn otel(bytes: u32) -> Arc<OpenTelemetryLog> {
    Arc::new(OpenTelemetryLog {
        log_name: name("l"),
        service: GrpcService { cluster: name("otel"), authority: None, timeout: None, initial_metadata: Vec::new() },
        flush_interval: Duration::from_secs(1),
        buffer_bytes: bytes,
        resource_attributes: Vec::new(),
        body: None,
        attributes: Vec::new(),
        disable_builtin_labels: true,
        stat_prefix: name(""),
    })
}

fn entry(log: &Arc<GrpcAccessLog>) -> Record {
    Record::Http { log: log.clone(), entry: Box::default() }
}

fn count(message: &StreamAccessLogsMessage) -> usize {
    match &message.log_entries {
        Some(LogEntries::HttpLogs(logs)) => logs.log_entry.len(),
        Some(LogEntries::TcpLogs(logs)) => logs.log_entry.len(),
        None => 0,
    }
}

fn counter(registry: &Registry, name: &str) -> u64 {
    let found = registry.read().into_iter().find(|s| s.name() == name);
    match found.map(|s| s.value) {
        Some(crate::telemetry::stats::Value::Counter(n)) => n,
        _ => 0,
    }
}

#[tokio::test(start_paused = true)]
async fn entries_go_out_in_batches_on_one_stream_that_tells_who_sends_once() {
    let service = Service { patience: usize::MAX, ..Service::default() };
    let registry = Arc::new(Registry::default());
    let (sender, records) = queue();
    let node = Node { id: "n1".to_owned(), ..Default::default() };
    LocalSet::new()
        .run_until(async {
            let running = tokio::task::spawn_local(run(records, service.clone(), node, registry.clone()));
            let log = grpc(16_384);
            assert!(sender.send(entry(&log)) && sender.send(entry(&log)));
            tokio::time::sleep(Duration::from_millis(900)).await;
            assert!(service.streams.borrow().is_empty(), "before the flush interval");
            tokio::time::sleep(Duration::from_millis(200)).await;
            // A newer copy of the same configuration uses the same stream.
            assert!(sender.send(entry(&grpc(16_384))));
            drop(sender);
            running.await.expect("the loop");
        })
        .await;
    let streams = service.streams.borrow();
    let batches: Vec<_> = streams.iter().map(|s| s.iter().map(count).collect::<Vec<_>>()).collect();
    assert_eq!(batches, [vec![2, 1]]);
    let who = streams[0][0].identifier.clone().expect("an identifier");
    assert_eq!((who.log_name, who.node.map(|n| n.id)), ("l".to_owned(), Some("n1".to_owned())));
    assert!(streams[0][1].identifier.is_none());
    assert_eq!(counter(&registry, "access_logs.grpc_access_log.logs_written"), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_service_ends_is_opened_again() {
    let service = Service { patience: 1, ..Service::default() };
    let (sender, records) = queue();
    LocalSet::new()
        .run_until(async {
            tokio::task::spawn_local(run(records, service.clone(), Node::default(), Arc::default()));
            // No buffer: every entry is a batch.
            let log = grpc(0);
            for _ in 0..2 {
                assert!(sender.send(entry(&log)));
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    let streams = service.streams.borrow();
    assert_eq!(streams.len(), 2);
    assert!(streams.iter().all(|s| s[0].identifier.is_some()));
}

#[tokio::test(start_paused = true)]
async fn records_that_a_collector_refuses_are_counted() {
    for (refuses, written, dropped) in [(false, 2, 0), (true, 0, 2)] {
        let service = Service { refuses, ..Service::default() };
        let registry = Arc::new(Registry::default());
        let (sender, records) = queue();
        let log = otel(16_384);
        for _ in 0..2 {
            assert!(sender.send(Record::OpenTelemetry { log: log.clone(), record: Box::default() }));
        }
        drop(sender);
        LocalSet::new().run_until(run(records, service.clone(), Node::default(), registry.clone())).await;
        let stat = |what| counter(&registry, &format!("access_logs.open_telemetry_access_log.{what}"));
        assert_eq!((stat("logs_written"), stat("logs_dropped")), (written, dropped));
        assert_eq!(*service.exports.borrow(), if refuses { vec![] } else { vec![2] });
    }
}
