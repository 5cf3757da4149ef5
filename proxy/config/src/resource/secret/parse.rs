//! `tls.v3.Secret` → [`Secret`].

use std::sync::Arc;

use sidemesh_proto::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::{Secret, SecretValue};
use crate::rejection::{Rejection, Within};
use crate::resource::tls;
use crate::wire;

/// A secret of SDS or of the bootstrap.
pub fn parse(secret: &pb::Secret) -> Result<Secret, Rejection> {
    use pb::secret::Type;
    let name = wire::non_empty(&secret.name, "name")?;
    let value = match &secret.r#type {
        Some(Type::TlsCertificate(c)) => {
            SecretValue::Certificate(Arc::new(tls::certificate(c).within("tls_certificate")?))
        }
        Some(Type::ValidationContext(v)) => {
            SecretValue::Validation(Arc::new(tls::validation_context(v).within("validation_context")?))
        }
        Some(Type::SessionTicketKeys(keys)) => {
            SecretValue::TicketKeys(tls::ticket_keys(keys).within("session_ticket_keys")?)
        }
        Some(Type::GenericSecret(generic)) => SecretValue::Generic(generic_secret(generic).within("generic_secret")?),
        None => {
            let reason = "needs one of tls_certificate, validation_context, session_ticket_keys, generic_secret";
            return Err(Rejection::invalid("", reason));
        }
    };
    Ok(Secret { name, value })
}

fn generic_secret(generic: &pb::GenericSecret) -> Result<crate::value::DataSource, Rejection> {
    if !generic.secrets.is_empty() {
        return Err(Rejection::unsupported("secrets", "give one `secret`"));
    }
    wire::data_source(wire::required(&generic.secret, "secret")?, "secret")
}
