//! `--mesh`: this proxy's identity and its place in the registry.

use std::rc::Rc;

use sidemesh_config::bootstrap::Bootstrap;
use tokio::sync::oneshot;

use super::Error;
use super::args::Args;
use crate::clock::Random;
use crate::identity::{Agent, Registration, SvidStore, Workload};
use crate::shutdown::Phase;
use crate::worker::Shared;
use crate::xds::{Connect, Manager};

/// The registration of a running proxy.
pub(super) struct Member {
    leave: oneshot::Sender<()>,
    gone: tokio::task::JoinHandle<()>,
}

impl Member {
    /// Takes the registration back.
    pub(super) async fn leave(self) {
        // Nobody to tell: the task has ended by itself.
        let _ = self.leave.send(());
        if let Err(error) = self.gone.await {
            tracing::error!(%error, "the registration task failed");
        }
    }
}

pub(super) fn start(
    args: &Args,
    bootstrap: &Bootstrap,
    shared: &Shared,
    manager: &Manager,
    connect: &Rc<Connect>,
) -> Result<Option<Member>, Error> {
    if !args.mesh {
        return Ok(None);
    }
    let workload = Workload::from_metadata(&bootstrap.node.metadata).map_err(|e| Error::Config(e.to_string()))?;
    let workload = workload
        .ok_or_else(|| Error::Config("--mesh: node.metadata.sidemesh is missing in the bootstrap".to_owned()))?;
    let ads = bootstrap.dynamic.ads.as_ref().and_then(|ads| ads.services.first());
    let service = ads
        .ok_or_else(|| Error::Config("--mesh: dynamic_resources.ads_config is missing in the bootstrap".to_owned()))?
        .clone();
    let store = args.state_dir.as_deref().map(SvidStore::open).transpose().map_err(|e| Error::Start(e.to_string()))?;
    let (connect, shared, publish) = (connect.clone(), shared.clone(), manager.secrets());
    let join_token_file = args.join_token_file.clone();
    let (leave, leaving) = oneshot::channel();
    let gone = tokio::task::spawn_local(async move {
        // The cluster of the management server is in force once the first snapshot is published.
        let mut generations = shared.live.subscribe();
        let channel = loop {
            match connect(&service) {
                Ok(channel) => break channel,
                Err(reason) => tracing::debug!(%reason, "mesh: waiting for the management server's cluster"),
            }
            if generations.changed().await.is_err() {
                return;
            }
        };
        let random = Random::from_entropy();
        let agent = Agent::new(channel.clone(), store, join_token_file, random.clone());
        let status = agent.status();
        let agent = tokio_util::task::AbortOnDropHandle::new(tokio::task::spawn_local(agent.run(publish)));
        if workload.inbound.is_empty() {
            tracing::info!("mesh: no inbound ports, so there is nothing to register");
            // A workload that only calls others. An error says that the process is ending without a word.
            let _ = leaving.await;
        } else {
            let registration = Registration::new(channel, &shared.node.id, &workload, random);
            announce(&shared, status, registration, leaving).await;
        }
        drop(agent);
    });
    Ok(Some(Member { leave, gone }))
}

/// Registers when the proxy can serve, until it leaves.
async fn announce(
    shared: &Shared,
    mut status: tokio::sync::watch::Receiver<crate::identity::Status>,
    registration: Registration,
    mut leaving: oneshot::Receiver<()>,
) {
    let mut phases = shared.shutdown.subscribe();
    let ready = async {
        // Both senders outlive the waiting.
        let _ = phases.wait_for(|phase| *phase >= Phase::Live).await;
        let _ = status.wait_for(|status| status.svid.is_some()).await;
    };
    tokio::select! {
        () = ready => {}
        _ = &mut leaving => return,
    }
    let leave = async move {
        let _ = leaving.await;
    };
    registration.run(status, leave).await;
}
