//! SDS for a foreign Envoy that brought a join token: the one case in which a key is made here and sent. Our own proxy
//! makes its key itself and asks `IdentityService`; for it, and for nodes without a token, nothing is served.
//!
//! The token belongs to the node id that first showed it, so that the same Envoy may connect again.

use std::time::{Duration, SystemTime};

use prost::Name as _;
use sidemesh_proto::envoy::config::core::v3 as core;
use sidemesh_proto::envoy::extensions::transport_sockets::tls::v3 as tls;
use sidemesh_proto::{google, type_url};

use crate::ca::token::{Identity, Use};
use crate::server::context::{Context, Counters};
use crate::translate::{Node, Resource, Resources, SECRET_CERTIFICATE, SECRET_ROOTS};

/// The secrets of one stream; empty for most.
#[derive(Default)]
pub struct Secrets {
    current: Option<Current>,
}

struct Current {
    identity: Identity,
    resources: Vec<(&'static str, Resource)>,
    renew_at: SystemTime,
}

impl Secrets {
    /// Checks the node's token, if it has one. A bad token costs the secrets, not the stream: an Envoy that has its
    /// certificate still gets its routes.
    pub async fn open(context: &Context, node: &Node) -> Secrets {
        let mut secrets = Secrets::default();
        let Some(token) = &node.join_token else { return secrets };
        match claim(context, node, token).await {
            Ok(identity) => secrets.issue(context, identity),
            Err(reason) => {
                Counters::add(&context.counters.tokens_refused);
                tracing::warn!(node = node.id, "no secrets for this node: {reason}");
            }
        }
        secrets
    }

    pub fn renew(&mut self, context: &Context, node: &Node) {
        if let Some(current) = self.current.take() {
            tracing::info!(node = node.id, "certificate renewed");
            self.issue(context, current.identity);
        }
    }

    /// Time until the certificate should be renewed.
    pub fn renew_in(&self) -> Option<Duration> {
        let current = self.current.as_ref()?;
        Some(current.renew_at.duration_since(SystemTime::now()).unwrap_or_default())
    }

    pub fn add_to(&self, resources: &mut Resources) {
        for (name, resource) in self.current.iter().flat_map(|c| &c.resources) {
            resources.entry(type_url::SECRET).or_default().insert((*name).to_owned(), resource.clone());
        }
    }

    fn issue(&mut self, context: &Context, identity: Identity) {
        let (signed, key) = match context.ca.issue_with_key(&identity, &[]) {
            Ok(issued) => issued,
            Err(e) => return tracing::error!("{e}"),
        };
        let certificate = tls::TlsCertificate {
            certificate_chain: inline(&signed.chain_pem),
            private_key: inline(&key),
            ..Default::default()
        };
        let roots =
            tls::CertificateValidationContext { trusted_ca: inline(context.ca.bundle_pem()), ..Default::default() };
        let resources = vec![
            secret(SECRET_CERTIFICATE, tls::secret::Type::TlsCertificate(certificate)),
            secret(SECRET_ROOTS, tls::secret::Type::ValidationContext(roots)),
        ];
        let renew_at = SystemTime::now() + context.ca.leaf_ttl() / 2;
        self.current = Some(Current { identity, resources, renew_at });
    }
}

async fn claim(context: &Context, node: &Node, token: &str) -> Result<Identity, String> {
    let tokens = context.ca.tokens();
    let claims = tokens.verify_origin(Use::Join, token).map_err(|e| e.to_string())?;
    let (id, node_id) = (claims.id.clone(), node.id.clone());
    let known = context.blocking(move |store| store.is_bound(&id, &node_id)).await;
    if !known.map_err(|e| e.message().to_owned())? {
        tokens.verify(Use::Join, token, SystemTime::now()).map_err(|e| e.to_string())?;
        let (id, node_id, expires) = (claims.id, node.id.clone(), claims.expires_unix_s);
        let bound = context.blocking(move |store| store.bind_token(&id, &node_id, expires)).await;
        if !bound.map_err(|e| e.message().to_owned())? {
            return Err(crate::ca::TokenError::Used.to_string());
        }
    }
    Ok(claims.identity)
}

fn inline(text: &str) -> Option<core::DataSource> {
    let specifier = core::data_source::Specifier::InlineString(text.to_owned());
    Some(core::DataSource { specifier: Some(specifier), ..Default::default() })
}

fn secret(name: &'static str, kind: tls::secret::Type) -> (&'static str, Resource) {
    let secret = tls::Secret { name: name.to_owned(), r#type: Some(kind) };
    let any = google::Any { type_url: tls::Secret::type_url(), value: prost::Message::encode_to_vec(&secret) };
    (name, Resource::new(any))
}
