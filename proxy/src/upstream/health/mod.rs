//! Active health checks: one task per host on the control thread, over the codecs that carry requests.
//!
//! [`machine`] decides (pure), [`probe`] asks the host, [`log`] writes the event log. The task ends with the host's membership.

mod log;
mod machine;
mod probe;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use sidemesh_config::resource::cluster::{HealthCheck, HealthChecker, HttpHealthCheck};
use sidemesh_config::resource::endpoint::Endpoint;
use sidemesh_config::resource::tls::{UpstreamTls, UpstreamTransport};
use sidemesh_config::value::{Address, Locality};

use super::control::{Context, Task};
use super::host::{HostState, flag};
use super::shared::SharedCluster;
use super::stats::HealthStats;
use super::transport::{Settings, layers};
use crate::tls;
use machine::{Found, Machine, Transition};
use probe::{Kept, Probe};

/// Runs the checks of a cluster's hosts until dropped. Completes never.
pub async fn run(context: Rc<Context>, shared: Arc<SharedCluster>, check: Arc<HealthCheck>, stats: Arc<HealthStats>) {
    let mut changed = shared.subscribe();
    let mut tasks: HashMap<Address, (Arc<Endpoint>, Task)> = HashMap::new();
    let settings = Rc::new(Settings::new(&shared.entry().cluster));
    let round = Rc::new(Round::default());
    loop {
        changed.mark_unchanged();
        let members = shared.members();
        let mut known = std::mem::take(&mut tasks);
        for (locality, endpoint, state) in members.iter().filter(|(_, e, _)| !e.disable_active_health_check) {
            let task = match known.remove(&state.address) {
                Some((old, task)) if old == *endpoint => task,
                _ => {
                    let host = Checked {
                        context: context.clone(),
                        shared: shared.clone(),
                        check: check.clone(),
                        stats: stats.clone(),
                        settings: settings.clone(),
                        endpoint: endpoint.clone(),
                        locality: locality.locality.clone(),
                        state: state.clone(),
                        round: round.clone(),
                    };
                    round.begin();
                    Task::spawn(host.run())
                }
            };
            tasks.insert(state.address.clone(), (endpoint.clone(), task));
        }
        drop(known);
        // Before discovery has answered, a round over no hosts says nothing.
        if tasks.is_empty() && shared.is_discovered() {
            shared.health_round_done();
        }
        if changed.changed().await.is_err() {
            return;
        }
    }
}

/// Counts the hosts whose first check is not in.
#[derive(Default)]
struct Round {
    open: Cell<usize>,
}

impl Round {
    fn begin(&self) {
        self.open.set(self.open.get() + 1);
    }
    fn end(&self, shared: &SharedCluster) {
        self.open.set(self.open.get().saturating_sub(1));
        if self.open.get() == 0 {
            shared.health_round_done();
        }
    }
}

/// A TLS client and the version of the secrets it was made with.
type Made = Option<(u64, Option<Rc<tls::Client>>)>;

/// One host under check.
struct Checked {
    context: Rc<Context>,
    shared: Arc<SharedCluster>,
    check: Arc<HealthCheck>,
    stats: Arc<HealthStats>,
    settings: Rc<Settings>,
    endpoint: Arc<Endpoint>,
    locality: Locality,
    state: Arc<HostState>,
    round: Rc<Round>,
}

/// Ends a host's part in the first round also when its task is dropped before.
struct FirstCheck<'a>(&'a Checked, bool);

impl FirstCheck<'_> {
    fn done(&mut self) {
        if !std::mem::replace(&mut self.1, true) {
            self.0.round.end(&self.0.shared);
        }
    }
}

impl Drop for FirstCheck<'_> {
    fn drop(&mut self) {
        self.done();
    }
}

impl Checked {
    async fn run(self) {
        let mut first = FirstCheck(&self, false);
        let random = self.context.local.random.clone();
        let initial = self.check.initial_jitter.as_millis() as u64;
        if initial > 0 {
            tokio::time::sleep(Duration::from_millis(random.below(initial))).await;
        }
        let mut machine = Machine::default();
        let mut client = None;
        let kept = Rc::new(Kept::default());
        loop {
            let probe = self.probe(&mut client, &kept);
            self.stats.attempt.inc();
            let found = probe.run().await;
            let step = self.apply(&mut machine, found);
            first.done();
            let traffic = self.shared.has_traffic();
            let healthy = matches!(found, Found::Healthy { .. });
            let pause = Machine::pause(&self.check, healthy, step, traffic, |bound| random.below(bound + 1));
            tokio::time::sleep(pause).await;
        }
    }

    fn probe(&self, client: &mut Made, kept: &Rc<Kept>) -> Probe {
        let config = self.shared.entry().cluster.clone();
        let (_, inner) = layers(config.transport_for(&self.endpoint));
        let tls = match inner {
            UpstreamTransport::Tls(context) => self.client(context, client),
            _ => None,
        };
        Probe {
            config,
            check: self.check.clone(),
            endpoint: self.endpoint.clone(),
            address: self.state.address.clone(),
            client: tls,
            local: self.context.local.clone(),
            registry: self.context.registry().clone(),
            settings: self.settings.clone(),
            kept: kept.clone(),
        }
    }

    /// The TLS side, made anew when secrets have changed.
    fn client(&self, context: &Arc<UpstreamTls>, made: &mut Made) -> Option<Rc<tls::Client>> {
        let secrets = self.context.secrets_version();
        match made {
            Some((version, client)) if *version == secrets => client.clone(),
            _ => {
                let own = self.context.for_checks(context, &self.check);
                let client = tls::Client::new(&own, &self.context.secrets()).map(Rc::new).ok();
                *made = Some((secrets, client.clone()));
                client
            }
        }
    }

    /// Whether the check had an answer whose service name was looked at.
    fn compares_names(&self, found: Found) -> bool {
        let HealthChecker::Http(http) = &self.check.checker else { return false };
        let answered = match found {
            Found::Healthy { .. } => true,
            Found::Unhealthy { status, .. } => is_expected(http, status),
            _ => false,
        };
        http.service_name.is_some() && answered
    }

    fn apply(&self, machine: &mut Machine, found: Found) -> Transition {
        let step = machine.handle(&self.check, &self.state, found);
        if self.compares_names(found) {
            self.stats.verify_cluster.inc();
        }
        match found {
            Found::Healthy { .. } => self.stats.success.inc(),
            Found::Network | Found::Timeout => {
                self.stats.failure.inc();
                self.stats.network_failure.inc();
            }
            _ => self.stats.failure.inc(),
        }
        let (cluster, address) = (&self.shared.name, &self.state.address);
        let log = log::Log { config: &self.check, cluster, address, locality: &self.locality };
        log.write(found, step, self.context.local.clock.system());
        let now = self.context.local.clock.now();
        if step.became_healthy {
            self.state.set_healthy_since(self.shared.millis(now));
        }
        let uneject =
            self.shared.entry().cluster.outlier.as_ref().is_some_and(|o| o.successful_active_health_check_uneject_host);
        let mut changed = step.flags_changed;
        if uneject
            && matches!(found, Found::Healthy { .. })
            && self.shared.detector.uneject(&self.state, self.shared.millis(now))
        {
            self.context.count_return(&self.shared, &self.state);
            changed = true;
        }
        if self.state.flags() & flag::PENDING_REMOVAL != 0 && self.state.flags() & flag::FAILED_ACTIVE_HC != 0 {
            // Discovery had let it go, only its health kept it.
            self.shared.drop_unnamed(now);
        } else if changed {
            self.shared.touch_health(self.shared.millis(now));
        }
        step.transition
    }
}

/// Whether an answer with `status` is a healthy one.
fn is_expected(check: &HttpHealthCheck, status: u16) -> bool {
    match check.expected_statuses.as_slice() {
        [] => status == 200,
        ranges => ranges.iter().any(|r| r.contains(&status)),
    }
}
