//! The workload's entry in the registry: made when the proxy can serve, kept by heartbeats, taken back before it drains.

use std::time::Duration;

use sidemesh_proto::sidemesh::registry::v1alpha1::registry_service_client::RegistryServiceClient;
use sidemesh_proto::sidemesh::registry::v1alpha1::{
    DeregisterRequest, HeartbeatRequest, RegisterRequest, RegisterResponse, WorkloadPort,
};
use tonic::transport::Channel;

use super::schedule::retry_delay;
use super::{Status, Workload};
use crate::clock::Random;

/// How long one call may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Heartbeats when the registry does not say how often.
const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);

/// Announces one workload.
pub struct Registration {
    client: RegistryServiceClient<Channel>,
    request: RegisterRequest,
    random: Random,
}

impl Registration {
    pub fn new(channel: Channel, node_id: &str, workload: &Workload, random: Random) -> Self {
        let ports = workload
            .inbound
            .iter()
            .map(|i| WorkloadPort {
                port: u32::from(i.port),
                endpoint_port: u32::from(i.listen.port()),
                name: String::new(),
            })
            .collect();
        let request = RegisterRequest {
            node_id: node_id.to_owned(),
            namespace: workload.namespace.clone(),
            service: workload.service.clone(),
            version: workload.version.clone(),
            labels: workload.labels.iter().cloned().collect(),
            address: workload.inbound.first().map(|i| i.listen.ip().to_string()).unwrap_or_default(),
            ports,
            service_account: workload.service_account.clone(),
            egress: workload.egress.clone(),
            ..RegisterRequest::default()
        };
        Registration { client: RegistryServiceClient::new(channel), request, random }
    }

    /// Registers and keeps the lease alive until `leave` completes, then takes the registration back.
    /// `identity` gives the credential of each registration.
    pub async fn run(mut self, identity: tokio::sync::watch::Receiver<Status>, leave: impl Future<Output = ()>) {
        tokio::pin!(leave);
        let mut lease = None;
        let mut failures = 0;
        loop {
            let wait = match self.step(&mut lease, &identity).await {
                Ok(interval) => {
                    failures = 0;
                    interval
                }
                Err(status) => {
                    failures += 1;
                    tracing::warn!(code = %status.code(), reason = status.message(), failures, "not registered with the control plane; trying again");
                    retry_delay(failures, self.random.fraction())
                }
            };
            tokio::select! {
                // Leaving comes first: a heartbeat that is due at the same moment would put the endpoint back.
                biased;
                () = &mut leave => break,
                () = tokio::time::sleep(wait) => {}
            }
        }
        if let Some(lease_id) = lease {
            self.deregister(lease_id).await;
        }
    }

    /// One call: a registration when there is no lease, else a heartbeat. Returns how long to wait for the next.
    async fn step(
        &mut self,
        lease: &mut Option<String>,
        identity: &tokio::sync::watch::Receiver<Status>,
    ) -> Result<Duration, tonic::Status> {
        if let Some(lease_id) = lease.clone() {
            let beat = HeartbeatRequest { lease_id, not_ready: false };
            return match bounded(self.client.heartbeat(beat)).await {
                Ok(answer) => Ok(interval(answer.ttl.as_ref().map(|t| divide(t, 3)))),
                Err(status) if status.code() == tonic::Code::NotFound => {
                    *lease = None;
                    Ok(Duration::ZERO)
                }
                Err(status) => Err(status),
            };
        }
        let credential = identity.borrow().svid.as_ref().map(|s| s.renewal_token.clone()).unwrap_or_default();
        let request = RegisterRequest { credential, ..self.request.clone() };
        let answer: RegisterResponse = bounded(self.client.register(request)).await?;
        *lease = Some(answer.lease_id);
        Ok(interval(answer.heartbeat_interval.as_ref().map(|t| divide(t, 1))))
    }

    async fn deregister(&mut self, lease_id: String) {
        if let Err(status) = bounded(self.client.deregister(DeregisterRequest { lease_id })).await {
            tracing::warn!(code = %status.code(), reason = status.message(), "the registration ends with its lease");
        }
    }
}

async fn bounded<T>(call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>) -> Result<T, tonic::Status> {
    match tokio::time::timeout(TIMEOUT, call).await {
        Ok(answer) => answer.map(tonic::Response::into_inner),
        Err(_) => Err(tonic::Status::deadline_exceeded(format!("no answer within {} s", TIMEOUT.as_secs()))),
    }
}

fn divide(d: &sidemesh_proto::google::Duration, by: u32) -> Duration {
    Duration::new(u64::try_from(d.seconds).unwrap_or(0), u32::try_from(d.nanos).unwrap_or(0)) / by
}

fn interval(asked: Option<Duration>) -> Duration {
    asked.filter(|d| !d.is_zero()).unwrap_or(DEFAULT_INTERVAL)
}
