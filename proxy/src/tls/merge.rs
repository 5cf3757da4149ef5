//! What a context says itself and what its secrets add, put together.

use std::sync::Arc;

use sidemesh_config::resource::secret::{Secret, SecretValue};
use sidemesh_config::resource::tls::{CommonTls, SecretRef, Tickets, TlsCertificate, ValidationContext};
use sidemesh_config::snapshot::ByName;
use sidemesh_config::value::{DataSource, Name};

use super::error::Error;

/// The secrets that a context names, found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Resolved {
    pub(super) certificates: Vec<Arc<TlsCertificate>>,
    pub(super) validation: Option<Arc<ValidationContext>>,
    pub(super) ticket_keys: Option<Vec<DataSource>>,
}

pub(super) fn resolve(
    common: &CommonTls,
    tickets: Option<&Tickets>,
    secrets: &ByName<Arc<Secret>>,
) -> Result<Resolved, Error> {
    let mut certificates = common.certificates.clone();
    for reference in &common.certificate_secrets {
        match &find(secrets, reference)?.value {
            SecretValue::Certificate(certificate) => certificates.push(certificate.clone()),
            _ => return Err(wrong(&reference.name, "tls_certificate")),
        }
    }
    let secret = match &common.validation_secret {
        None => None,
        Some(reference) => match &find(secrets, reference)?.value {
            SecretValue::Validation(validation) => Some(validation.clone()),
            _ => return Err(wrong(&reference.name, "validation_context")),
        },
    };
    let validation = match (&common.validation, secret) {
        (Some(own), Some(secret)) => Some(Arc::new(combine(own, &secret))),
        (own, secret) => own.clone().or(secret),
    };
    let ticket_keys = match tickets {
        Some(Tickets::Keys(keys)) => Some(keys.clone()),
        Some(Tickets::Secret(reference)) => match &find(secrets, reference)?.value {
            SecretValue::TicketKeys(keys) => Some(keys.clone()),
            _ => return Err(wrong(&reference.name, "session_ticket_keys")),
        },
        _ => None,
    };
    Ok(Resolved { certificates, validation, ticket_keys })
}

fn find<'a>(secrets: &'a ByName<Arc<Secret>>, reference: &SecretRef) -> Result<&'a Arc<Secret>, Error> {
    secrets.get(&reference.name).ok_or_else(|| Error::SecretMissing(reference.name.clone()))
}

fn wrong(name: &Name, expected: &'static str) -> Error {
    Error::SecretKind { name: name.clone(), expected }
}

/// `combined_validation_context`: protobuf's merge of the secret into the default context: lists are joined, a value that the
/// secret gives wins.
fn combine(own: &ValidationContext, secret: &ValidationContext) -> ValidationContext {
    let mut merged = own.clone();
    let s = secret.clone();
    merged.trusted_ca = s.trusted_ca.or(merged.trusted_ca);
    merged.system_root_certs |= s.system_root_certs;
    merged.san_matchers.extend(s.san_matchers);
    merged.spki_hashes.extend(s.spki_hashes);
    merged.certificate_hashes.extend(s.certificate_hashes);
    merged.crl = s.crl.or(merged.crl);
    merged.only_verify_leaf_crl |= s.only_verify_leaf_crl;
    merged.allow_expired_certificate |= s.allow_expired_certificate;
    merged.accept_untrusted |= s.accept_untrusted;
    merged.max_verify_depth = s.max_verify_depth.or(merged.max_verify_depth);
    merged.suppress_client_ca_list |= s.suppress_client_ca_list;
    merged
}
