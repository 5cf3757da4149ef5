//! `server.*`: what the process tells of itself, brought up to date once a second; certificate files are looked at as often,
//! and the control thread's freed memory is given back. What only the start needed goes with the first look after it.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::certificates::Certificates;
use super::{memory, text};
use crate::shutdown::Phase;
use crate::stats_group;
use crate::telemetry::stats::Scope;
use crate::tls;
use crate::worker::Shared;

const EVERY: Duration = Duration::from_secs(1);
/// Days until a certificate runs out are counted anew after so many looks.
const LOOKS_PER_COUNT: u64 = 60;

stats_group! {
    pub struct ServerStats {
        live: Gauge,
        state: Gauge,
        uptime: Gauge,
        concurrency: Gauge,
        memory_allocated: Gauge,
        memory_heap_size: Gauge,
        total_connections: Gauge,
        parent_connections: Gauge,
        hot_restart_epoch: Gauge,
    }
}

stats_group! {
    /// `runtime.`
    pub struct RuntimeStats {
        num_keys: Gauge,
        num_layers: Gauge,
        admin_overrides_active: Gauge,
        deprecated_feature_seen_since_process_start: Gauge,
        deprecated_feature_use: Counter,
        load_error: Counter,
        load_success: Counter,
        override_dir_exists: Counter,
        override_dir_not_exists: Counter,
    }
}

pub(super) fn start(shared: &Shared, started: Instant, workers: usize, certificates: Rc<RefCell<Certificates>>) {
    let stats = shared.stats.shard::<ServerStats>(Scope::Server);
    stats.concurrency.set(workers as i64);
    let runtime = shared.stats.shard::<RuntimeStats>(Scope::Fixed("runtime"));
    // The layers of the bootstrap.
    runtime.load_success.inc();
    runtime.override_dir_not_exists.inc();
    runtime.admin_overrides_active.set(0);
    runtime.deprecated_feature_seen_since_process_start.set(0);
    let shared = shared.clone();
    tokio::task::spawn_local(async move {
        let mut phases = shared.shutdown.subscribe();
        let (mut starting, mut looks) = (true, 0u64);
        loop {
            let phase = *phases.borrow_and_update();
            if starting && phase == Phase::Live {
                starting = false;
                text::forget();
            }
            stats.live.set(i64::from(phase == Phase::Live && !shared.shutdown.is_health_failed()));
            stats.state.set(state(phase));
            stats.uptime.set(started.elapsed().as_secs() as i64);
            stats.total_connections.set(shared.shutdown.connections() as i64);
            let snapshot = shared.live.load();
            runtime.num_keys.set(snapshot.runtime.entries.len() as i64);
            runtime.num_layers.set(snapshot.runtime_layers.len() as i64);
            drop(snapshot);
            let resident = resident_bytes();
            stats.memory_allocated.set(resident);
            stats.memory_heap_size.set(resident);
            looks += 1;
            if tls::refresh_files() > 0 || looks % LOOKS_PER_COUNT == 0 {
                certificates.borrow().show();
            }
            memory::give_back();
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                // The sender lives as long as `shared`.
                _ = phases.changed() => {}
            }
        }
    });
}

/// Envoy's numbers: LIVE, DRAINING, PRE_INITIALIZING, INITIALIZING.
fn state(phase: Phase) -> i64 {
    match phase {
        Phase::Live => 0,
        Phase::Stopping | Phase::Exit => 1,
        Phase::PreInitializing => 2,
        Phase::Initializing => 3,
    }
}

/// Resident memory; zero where the kernel does not say.
fn resident_bytes() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|n| n.parse::<i64>().ok());
    kib.unwrap_or(0) * 1024
}
