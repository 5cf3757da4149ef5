//! Keeps the workload's certificate in date.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use sidemesh_config::resource::secret::Secret;
use sidemesh_proto::sidemesh::identity::v1alpha1::sign_certificate_request::Credential;
use tokio::sync::watch;
use tonic::transport::Channel;

use super::schedule::{renewal_delay, retry_delay};
use super::{Error, Svid, SvidStore, request};
use crate::clock::Random;

/// Between two certificates there is at least this, whatever their dates say.
const RENEWAL_PAUSE: Duration = Duration::from_millis(500);

/// What the agent knows, for readiness, `/certs` and the registration.
#[derive(Debug, Clone, Default)]
pub struct Status {
    pub svid: Option<Svid>,
    /// Certificates got since the start.
    pub issued: u64,
    /// Why the last attempt failed; empty when it did not.
    pub last_error: String,
}

/// The renewal loop's parts. Dropping the future of [`Agent::run`] ends it; nothing is left behind.
pub struct Agent {
    channel: Channel,
    store: Option<SvidStore>,
    join_token_file: Option<PathBuf>,
    random: Random,
    status: watch::Sender<Status>,
}

impl Agent {
    /// `store`: where the certificate survives a restart. Without it a join token is needed at each start.
    pub fn new(channel: Channel, store: Option<SvidStore>, join_token_file: Option<PathBuf>, random: Random) -> Self {
        Agent { channel, store, join_token_file, random, status: watch::Sender::default() }
    }

    /// Tells of every change.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Gets, publishes and renews the certificate for ever. `publish` puts the secrets into the configuration.
    pub async fn run(self, publish: impl Fn(Vec<Secret>)) {
        if let Some(svid) = self.cached() {
            publish(svid.secrets());
            self.status.send_modify(|s| s.svid = Some(svid));
        }
        let mut failures = 0;
        loop {
            let svid = self.status.borrow().svid.clone();
            let wait = match &svid {
                Some(svid) if failures == 0 => {
                    renewal_delay(svid.issued, svid.not_after, SystemTime::now(), self.random.fraction())
                        .max(RENEWAL_PAUSE)
                }
                _ if failures == 0 => Duration::ZERO,
                _ => retry_delay(failures, self.random.fraction()),
            };
            tokio::time::sleep(wait).await;
            match self.issue(svid.as_ref()).await {
                Ok(svid) => {
                    failures = 0;
                    publish(svid.secrets());
                    tracing::info!(spiffe_id = %svid.spiffe_id, "certificate issued");
                    self.status.send_modify(|s| {
                        *s = Status { svid: Some(svid), issued: s.issued + 1, last_error: String::new() };
                    });
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, failures, "no new certificate; trying again");
                    self.status.send_modify(|s| s.last_error = error.to_string());
                }
            }
        }
    }

    /// The certificate of an earlier run, when it is still in date.
    fn cached(&self) -> Option<Svid> {
        match self.store.as_ref()?.load() {
            Ok(svid) => svid.filter(|s| s.not_after > SystemTime::now()),
            Err(error) => {
                tracing::warn!(%error, "the kept certificate is not used");
                None
            }
        }
    }

    async fn issue(&self, current: Option<&Svid>) -> Result<Svid, Error> {
        let credential = match current.filter(|s| s.not_after > SystemTime::now()) {
            Some(svid) => Credential::RenewalToken(svid.renewal_token.clone()),
            None => Credential::JoinToken(self.join_token()?),
        };
        let svid = request::sign(self.channel.clone(), credential).await?;
        if let Some(store) = &self.store
            && let Err(error) = store.save(&svid)
        {
            tracing::warn!(%error, "the certificate is not kept for the next start");
        }
        Ok(svid)
    }

    fn join_token(&self) -> Result<String, Error> {
        let path = self.join_token_file.as_ref().ok_or(Error::NoCredential)?;
        let text = std::fs::read_to_string(path).map_err(|source| Error::File { path: path.clone(), source })?;
        Ok(text.trim().to_owned())
    }
}
