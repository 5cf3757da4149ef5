//! Connection to the control plane's admin API, and failures as the user reads them.

use std::process::ExitCode;

use sidemesh_proto::sidemesh::admin::v1alpha1::mesh_service_client::MeshServiceClient;
use sidemesh_proto::sidemesh::admin::v1alpha1::proxy_service_client::ProxyServiceClient;
use sidemesh_proto::sidemesh::admin::v1alpha1::resource_service_client::ResourceServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;

use crate::dial;

/// Where the control plane is, what it asks for, and the namespace to assume.
#[derive(Clone)]
pub struct Server {
    pub url: String,
    pub namespace: String,
    /// PEM of the authorities that may have signed the control plane's certificate.
    pub ca: Option<Vec<u8>>,
    pub token: Option<String>,
}

/// Objects as large as a whole configuration dump pass; more is a mistake.
const MAX_MESSAGE: usize = 64 << 20;

type Api = InterceptedService<Channel, Bearer>;
pub type Resources = ResourceServiceClient<Api>;

impl Server {
    /// On this machine, run by this user: nothing is asked for.
    pub fn local(address: std::net::SocketAddr) -> Server {
        Server { url: format!("http://{address}"), namespace: "default".to_owned(), ca: None, token: None }
    }

    async fn api(&self) -> Result<(Channel, Bearer), Failure> {
        let bearer = match &self.token {
            None => Bearer(None),
            Some(token) => Bearer(Some(
                format!("Bearer {token}")
                    .parse()
                    .map_err(|_| Failure::Usage("the token holds characters that no token has".to_owned()))?,
            )),
        };
        Ok((dial::channel(self).await?, bearer))
    }

    pub async fn resources(&self) -> Result<Resources, Failure> {
        let (channel, bearer) = self.api().await?;
        Ok(ResourceServiceClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_MESSAGE))
    }

    pub async fn proxies(&self) -> Result<ProxyServiceClient<Api>, Failure> {
        let (channel, bearer) = self.api().await?;
        Ok(ProxyServiceClient::with_interceptor(channel, bearer).max_decoding_message_size(MAX_MESSAGE))
    }

    pub async fn mesh(&self) -> Result<MeshServiceClient<Api>, Failure> {
        let (channel, bearer) = self.api().await?;
        Ok(MeshServiceClient::with_interceptor(channel, bearer))
    }
}

/// Shows the token, when there is one.
#[derive(Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
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
            // The words of the library, not of a control plane: the connection itself failed.
            _ if std::error::Error::source(&status).is_some() => {
                let cause = dial::root_cause(&status);
                Failure::Failed(format!(
                    "the connection failed: {cause}; is --server the control plane's gRPC port, and https where it has --tls?"
                ))
            }
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
