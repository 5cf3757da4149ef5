//! MeshService: the control plane itself, its authority, join tokens.

use std::time::SystemTime;

use sidemesh_proto::sidemesh::admin::v1alpha1 as api;
use sidemesh_proto::sidemesh::admin::v1alpha1::mesh_service_server::MeshService;
use tonic::{Request, Response, Status};

use crate::ca::token::{self, Identity, Use};
use crate::model::strict::Errors;
use crate::server::context::{Context, invalid, span, span_of, time};
use crate::server::health;

/// The service.
pub struct MeshInfo {
    context: Context,
}

impl MeshInfo {
    pub fn new(context: Context) -> MeshInfo {
        MeshInfo { context }
    }
}

#[tonic::async_trait]
impl MeshService for MeshInfo {
    async fn get_version(
        &self,
        _request: Request<api::GetVersionRequest>,
    ) -> Result<Response<api::GetVersionResponse>, Status> {
        Ok(Response::new(api::GetVersionResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: time(self.context.started),
            revision: self.context.store.revision(),
        }))
    }

    async fn get_health(
        &self,
        _request: Request<api::GetHealthRequest>,
    ) -> Result<Response<api::GetHealthResponse>, Status> {
        let parts = health::parts(&self.context);
        Ok(Response::new(api::GetHealthResponse {
            ready: parts.iter().all(|p| p.problem.is_none()),
            parts: parts
                .into_iter()
                .map(|p| api::HealthPart {
                    name: p.name.to_owned(),
                    ok: p.problem.is_none(),
                    message: p.problem.unwrap_or(p.state),
                })
                .collect(),
        }))
    }

    async fn get_ca_status(
        &self,
        _request: Request<api::GetCaStatusRequest>,
    ) -> Result<Response<api::GetCaStatusResponse>, Status> {
        let ca = &self.context.ca;
        let roots = ca.roots().into_iter().map(|root| api::Root {
            subject: root.subject,
            not_before: time(root.not_before),
            not_after: time(root.not_after),
            fingerprint: root.fingerprint,
            pem: root.pem,
        });
        Ok(Response::new(api::GetCaStatusResponse {
            trust_domain: ca.trust_domain().to_owned(),
            leaf_ttl: span(ca.leaf_ttl()),
            roots: roots.collect(),
            certificates_signed: ca.signed(),
            now: time(SystemTime::now()),
        }))
    }

    async fn create_token(
        &self,
        request: Request<api::CreateTokenRequest>,
    ) -> Result<Response<api::CreateTokenResponse>, Status> {
        let request = request.into_inner();
        let namespace = if request.namespace.is_empty() { "default".to_owned() } else { request.namespace };
        let mut errors = Errors::default();
        errors.label("namespace", &namespace);
        errors.subdomain("service_account", &request.service_account);
        let ttl = span_of("ttl", request.ttl)?.unwrap_or(token::DEFAULT_TTL);
        if ttl.as_secs() == 0 || ttl > token::MAX_TTL {
            errors
                .push("ttl", format!("{} s is out of range: use 1 s to {} s", ttl.as_secs(), token::MAX_TTL.as_secs()));
        }
        if !errors.is_empty() {
            let list = errors.into_vec();
            let lines: Vec<String> = list.iter().map(ToString::to_string).collect();
            return Err(invalid(None, &list, &lines.join("\n")));
        }
        let identity = Identity { namespace, service_account: request.service_account };
        let now = SystemTime::now();
        let (token, _) = self.context.ca.tokens().issue(Use::Join, &identity, now, now + ttl);
        let spiffe_id = self.context.ca.spiffe_id(&identity);
        tracing::info!(spiffe_id, ttl_s = ttl.as_secs(), "join token made");
        Ok(Response::new(api::CreateTokenResponse { token, spiffe_id, expires_at: time(now + ttl) }))
    }
}
