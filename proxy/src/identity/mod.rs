//! The workload's own identity and its place in the mesh: certificate, renewal, registration.
//!
//! Runs on the control thread when the proxy is started with `--mesh`. The private key is made here and never leaves the
//! process except into its own state directory (mode 0600). Certificates reach the data path as secrets named
//! [`CERTIFICATE`] and [`TRUST_BUNDLE`], so that a renewal is a swap of a secret like any other. Losing the control plane
//! costs nothing until the certificate ends: the last one is kept on disk and used again after a restart.
//!
//! Source: SPIFFE X.509-SVID; `sidemesh.identity.v1alpha1`, `sidemesh.registry.v1alpha1`.

mod agent;
mod request;
mod registration;
mod schedule;
mod state;
mod workload;
#[cfg(test)]
mod tests;

pub use agent::{Agent, Status};
pub use registration::Registration;
pub use state::{Svid, SvidStore};
pub use workload::{Inbound, Workload};

use std::path::PathBuf;

/// Name of the secret that holds the workload's certificate and key.
pub const CERTIFICATE: &str = "default";
/// Name of the secret that holds the trust domain's roots.
pub const TRUST_BUNDLE: &str = "ROOTCA";

/// Why there is no (new) identity.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{}: {source}; check the path and its permissions", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error(
        "no credential: give --join-token-file (`meshctl token create` makes one) or a --state-dir that holds a certificate still in date"
    )]
    NoCredential,
    #[error("the control plane refused the {credential}: {message}")]
    Refused { credential: &'static str, message: String },
    #[error("the control plane cannot be reached: {0}")]
    Unreachable(String),
    #[error("the certificate from the control plane is unusable: {0}")]
    BadAnswer(String),
    #[error("cannot make a key and signing request: {0}")]
    Key(#[from] rcgen::Error),
    #[error("node.metadata.sidemesh: {0}")]
    Metadata(String),
}
