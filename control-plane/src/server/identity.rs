//! IdentityService: certificates for tokens.

use std::time::SystemTime;

use sidemesh_proto::sidemesh::identity::v1alpha1 as api;
use sidemesh_proto::sidemesh::identity::v1alpha1::identity_service_server::IdentityService;
use tonic::{Request, Response, Status};

use crate::ca::CaError;
use crate::ca::kubernetes::{ServiceAccountError, ServiceAccounts, is_jwt};
use crate::ca::token::{Identity, TokenError, Use, unix_s};
use crate::server::context::{Context, Counters, span_of, time};

/// The service.
pub struct Identities {
    context: Context,
    /// With them, the tokens of Kubernetes' pods are taken for join tokens.
    service_accounts: Option<ServiceAccounts>,
}

impl Identities {
    pub fn new(context: Context, service_accounts: Option<ServiceAccounts>) -> Identities {
        Identities { context, service_accounts }
    }

    /// What the credential grants. The use of a join token is on disk before this returns.
    async fn redeem(&self, credential: Option<api::sign_certificate_request::Credential>) -> Result<Identity, Status> {
        use api::sign_certificate_request::Credential;
        let tokens = self.context.ca.tokens();
        let now = SystemTime::now();
        match credential {
            None => Err(Status::unauthenticated(
                "no credential: send a join token (`meshctl token create`) or a renewal token",
            )),
            Some(Credential::RenewalToken(token)) => {
                tokens.verify(Use::Renew, &token, now).map(|claims| claims.identity).map_err(|e| self.refuse(&e))
            }
            Some(Credential::JoinToken(token)) if is_jwt(token.trim()) => self.service_account(&token, now),
            Some(Credential::JoinToken(token)) => {
                let claims = tokens.verify(Use::Join, &token, now).map_err(|e| self.refuse(&e))?;
                let (id, expires) = (claims.id.clone(), claims.expires_unix_s);
                // Remembered a little longer than it could be accepted.
                let keep = expires + 600;
                let fresh = self.context.blocking(move |store| store.use_token(&id, keep, unix_s(now))).await?;
                if fresh { Ok(claims.identity) } else { Err(self.refuse(&TokenError::Used)) }
            }
        }
    }

    fn service_account(&self, token: &str, now: SystemTime) -> Result<Identity, Status> {
        let Some(accounts) = &self.service_accounts else {
            return Err(Status::unauthenticated(
                "service-account tokens of Kubernetes are taken only with --kubernetes-keys: start the control plane with it",
            ));
        };
        accounts.verify(token, now).map_err(|e| {
            Counters::add(&self.context.counters.tokens_refused);
            match e {
                ServiceAccountError::Keys { .. } => Status::unavailable(e.to_string()),
                _ => Status::unauthenticated(e.to_string()),
            }
        })
    }

    fn refuse(&self, e: &TokenError) -> Status {
        Counters::add(&self.context.counters.tokens_refused);
        match e {
            TokenError::OtherTrustDomain { .. } => Status::failed_precondition(e.to_string()),
            _ => Status::unauthenticated(e.to_string()),
        }
    }
}

#[tonic::async_trait]
impl IdentityService for Identities {
    async fn sign_certificate(
        &self,
        request: Request<api::SignCertificateRequest>,
    ) -> Result<Response<api::SignCertificateResponse>, Status> {
        let request = request.into_inner();
        let ttl = span_of("ttl", request.ttl)?;
        let identity = self.redeem(request.credential).await?;
        let ca = self.context.ca.clone();
        let signed = ca.sign(&request.csr_der, &identity, ttl).map_err(|e| match e {
            CaError::BadRequest(_) | CaError::OtherIdentity { .. } => Status::invalid_argument(e.to_string()),
            _ => Status::internal(e.to_string()),
        })?;
        let now = SystemTime::now();
        let (renewal_token, _) = ca.tokens().issue(Use::Renew, &identity, now, signed.not_after);
        let lifetime = signed.not_after.duration_since(now).unwrap_or_default();
        tracing::info!(spiffe_id = signed.spiffe_id, lifetime_s = lifetime.as_secs(), "certificate signed");
        Ok(Response::new(api::SignCertificateResponse {
            certificate_chain_pem: signed.chain_pem,
            trust_bundle_pem: ca.bundle_pem().to_owned(),
            spiffe_id: signed.spiffe_id,
            not_before: time(signed.not_before),
            not_after: time(signed.not_after),
            renewal_token,
            renew_at: time(now + lifetime / 2),
            signed_at: time(now),
        }))
    }

    async fn get_trust_bundle(
        &self,
        _request: Request<api::GetTrustBundleRequest>,
    ) -> Result<Response<api::GetTrustBundleResponse>, Status> {
        Ok(Response::new(api::GetTrustBundleResponse {
            trust_domain: self.context.ca.trust_domain().to_owned(),
            trust_bundle_pem: self.context.ca.bundle_pem().to_owned(),
        }))
    }
}
