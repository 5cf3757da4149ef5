//! One signing request to the control plane.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sidemesh_proto::google::Timestamp;
use sidemesh_proto::sidemesh::identity::v1alpha1::identity_service_client::IdentityServiceClient;
use sidemesh_proto::sidemesh::identity::v1alpha1::sign_certificate_request::Credential;
use sidemesh_proto::sidemesh::identity::v1alpha1::{SignCertificateRequest, SignCertificateResponse};
use tonic::transport::Channel;

use super::{Error, Svid};

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Makes a fresh key, asks for a certificate, checks the answer.
pub(super) async fn sign(channel: Channel, credential: Credential) -> Result<Svid, Error> {
    let kind = match &credential {
        Credential::JoinToken(_) => "join token",
        Credential::RenewalToken(_) => "renewal token",
    };
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let csr = rcgen::CertificateParams::default().serialize_request(&key)?;
    let request = SignCertificateRequest { csr_der: csr.der().to_vec(), credential: Some(credential), ttl: None };
    let answer = tokio::time::timeout(TIMEOUT, IdentityServiceClient::new(channel).sign_certificate(request))
        .await
        .map_err(|_| Error::Unreachable(format!("no answer within {} s", TIMEOUT.as_secs())))?
        .map_err(|status| explain(kind, &status))?
        .into_inner();
    accept(answer, key.serialize_pem())
}

fn explain(credential: &'static str, status: &tonic::Status) -> Error {
    use tonic::Code;
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::FailedPrecondition => {
            Error::Refused { credential, message: status.message().to_owned() }
        }
        _ => Error::Unreachable(format!("{}: {}", status.code(), status.message())),
    }
}

fn accept(answer: SignCertificateResponse, key_pem: String) -> Result<Svid, Error> {
    let missing = |what: &str| Error::BadAnswer(format!("{what} is missing"));
    if answer.certificate_chain_pem.is_empty() {
        return Err(missing("the chain"));
    }
    let now = SystemTime::now();
    if let Some(signed) = answer.signed_at.as_ref().and_then(moment) {
        warn_of_skew(signed, now);
    }
    Ok(Svid {
        spiffe_id: answer.spiffe_id,
        chain_pem: answer.certificate_chain_pem,
        key_pem,
        bundle_pem: answer.trust_bundle_pem,
        renewal_token: answer.renewal_token,
        // The certificate is dated back for clocks that differ; its life, which is renewed at half, begins now.
        issued: now,
        not_after: answer.not_after.as_ref().and_then(moment).filter(|t| *t > now).ok_or_else(|| {
            Error::BadAnswer("it is out of date on this machine's clock: set the clocks of both machines".to_owned())
        })?,
    })
}

fn warn_of_skew(signed: SystemTime, now: SystemTime) {
    let skew = now.duration_since(signed).unwrap_or_else(|e| e.duration());
    if skew > Duration::from_secs(30) {
        tracing::warn!(
            seconds = skew.as_secs(),
            "this machine's clock differs from the control plane's: certificates may be refused; set the clocks"
        );
    }
}

fn moment(t: &Timestamp) -> Option<SystemTime> {
    let seconds = u64::try_from(t.seconds).ok()?;
    Some(UNIX_EPOCH + Duration::new(seconds, u32::try_from(t.nanos).ok()?))
}
