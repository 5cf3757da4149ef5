//! Steady traffic to the shop, and what came of it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::StatusCode;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::admin;

/// Clients at work, each with a pause between its requests.
const CLIENTS: usize = 4;
const PAUSE: Duration = Duration::from_millis(20);

/// What happened to the requests of a while.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    pub ok: u64,
    pub failed: u64,
    /// Answers by product version and by instance.
    pub versions: BTreeMap<String, u64>,
    pub instances: BTreeMap<String, u64>,
    pub last_failure: String,
}

impl Tally {
    fn count(&mut self, result: Result<(StatusCode, String), String>) {
        match result {
            Ok((StatusCode::OK, body)) => {
                self.ok += 1;
                let answer: Value = serde_json::from_str(&body).unwrap_or_default();
                let word = |key: &str| answer["product"][key].as_str().unwrap_or("?").to_owned();
                *self.versions.entry(word("version")).or_default() += 1;
                *self.instances.entry(word("instance")).or_default() += 1;
            }
            Ok((status, body)) => self.fail(format!("{status}: {}", body.trim())),
            Err(error) => self.fail(error),
        }
    }

    fn fail(&mut self, why: String) {
        self.failed += 1;
        self.last_failure = why;
    }

    /// Percent of the answers that came from a version.
    pub fn share(&self, version: &str) -> f64 {
        if self.ok == 0 { 0.0 } else { *self.versions.get(version).unwrap_or(&0) as f64 * 100.0 / self.ok as f64 }
    }
}

/// Traffic until dropped.
pub struct Load {
    tally: Arc<Mutex<Tally>>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    pub fn start(order: SocketAddr) -> Load {
        let tally = Arc::new(Mutex::new(Tally::default()));
        let client = |_| {
            let tally = tally.clone();
            tokio::spawn(async move {
                loop {
                    let result = admin::get(order, "/orders/ada/teapot").await;
                    tally.lock().unwrap_or_else(PoisonError::into_inner).count(result);
                    tokio::time::sleep(PAUSE).await;
                }
            })
        };
        let clients = (0..CLIENTS).map(client).collect();
        Load { tally, clients }
    }

    /// What happened since the last call.
    pub fn take(&self) -> Tally {
        std::mem::take(&mut self.tally.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets traffic flow until `requests` more were answered, and tells what came of them.
    pub async fn observe(&self, requests: u64) -> Tally {
        self.take();
        loop {
            tokio::time::sleep(PAUSE).await;
            let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
            if tally.ok + tally.failed >= requests {
                break;
            }
        }
        self.take()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        for client in &self.clients {
            client.abort();
        }
    }
}
