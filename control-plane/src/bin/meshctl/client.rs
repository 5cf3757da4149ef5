//! Connection to the control plane's admin API, and failures as the user reads them.

use std::process::ExitCode;
use std::time::Duration;

use sidemesh_proto::sidemesh::admin::v1alpha1::mesh_service_client::MeshServiceClient;
use sidemesh_proto::sidemesh::admin::v1alpha1::proxy_service_client::ProxyServiceClient;
use sidemesh_proto::sidemesh::admin::v1alpha1::resource_service_client::ResourceServiceClient;
use tonic::transport::{Channel, Endpoint};

/// Where the control plane is, and the namespace to assume.
pub struct Server {
    pub url: String,
    pub namespace: String,
}

/// Objects as large as a whole configuration dump pass; more is a mistake.
const MAX_MESSAGE: usize = 64 << 20;

impl Server {
    pub async fn channel(&self) -> Result<Channel, Failure> {
        let endpoint = Endpoint::from_shared(self.url.clone())
            .map_err(|e| Failure::Usage(format!("--server {}: {e}; write it as http://HOST:PORT", self.url)))?;
        endpoint.connect_timeout(Duration::from_secs(5)).connect().await.map_err(|e| {
            let cause = std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string);
            Failure::Unreachable { url: self.url.clone(), cause }
        })
    }

    pub async fn resources(&self) -> Result<ResourceServiceClient<Channel>, Failure> {
        Ok(ResourceServiceClient::new(self.channel().await?).max_decoding_message_size(MAX_MESSAGE))
    }

    pub async fn proxies(&self) -> Result<ProxyServiceClient<Channel>, Failure> {
        Ok(ProxyServiceClient::new(self.channel().await?).max_decoding_message_size(MAX_MESSAGE))
    }

    pub async fn mesh(&self) -> Result<MeshServiceClient<Channel>, Failure> {
        Ok(MeshServiceClient::new(self.channel().await?))
    }
}

/// Why a command ended without doing what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line or a document is wrong.
    #[error("{0}")]
    Usage(String),
    #[error(
        "no control plane at {url}: {cause}; start one (`meshctl up`) or name another with --server or SIDEMESH_SERVER"
    )]
    Unreachable { url: String, cause: String },
    /// The control plane's own words.
    #[error("{0}")]
    Refused(String),
    #[error("not found: {0}")]
    NotFound(String),
    #[error("{0}")]
    Failed(String),
    /// Somebody else changed the object between reading and writing.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    NotAcknowledged(String),
}

impl Failure {
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Failure::Usage(_) | Failure::Refused(_) => ExitCode::from(2),
            Failure::NotAcknowledged(_) => ExitCode::from(3),
            Failure::Unreachable { .. } | Failure::NotFound(_) | Failure::Conflict(_) | Failure::Failed(_) => {
                ExitCode::FAILURE
            }
        }
    }
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        use tonic::Code;
        let message = status.message().to_owned();
        match status.code() {
            Code::InvalidArgument => Failure::Refused(message),
            Code::NotFound => Failure::NotFound(message),
            Code::Aborted => Failure::Conflict(message),
            code if message.is_empty() => Failure::Failed(code.to_string()),
            _ => Failure::Failed(message),
        }
    }
}

/// Who writes, for the history: `user@host command`.
pub fn actor(command: &str) -> String {
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).unwrap_or_else(|_| "unknown".to_owned());
    let host =
        nix::unistd::gethostname().ok().and_then(|h| h.into_string().ok()).unwrap_or_else(|| "unknown".to_owned());
    format!("{user}@{host} meshctl {command}")
}
