//! Tokens that are wrong, used or old, and clocks that disagree.

use std::time::Duration;

use sidemesh_proto::google::Timestamp;
use sidemesh_proto::sidemesh::identity::v1alpha1::identity_service_server::{IdentityService, IdentityServiceServer};
use sidemesh_proto::sidemesh::identity::v1alpha1::{
    GetTrustBundleRequest, GetTrustBundleResponse, SignCertificateRequest, SignCertificateResponse,
};
use sidemesh_tests::control_plane::ControlPlane;
use sidemesh_tests::proxy::Proxy;
use sidemesh_tests::shop::{Instance, simple_service};
use sidemesh_tests::{background, ports};
use tonic::{Request, Response, Status};

/// A sidecar with this token in its file.
fn with_token(dir: &std::path::Path, control_plane: std::net::SocketAddr, token: &str) -> Proxy {
    let order = Instance::new("order-1", "order", "v1", &["user"]);
    let file = dir.join("join.token");
    std::fs::write(&file, token).expect("token file");
    let text = |path: std::path::PathBuf| path.display().to_string();
    let flags = ["--mesh", "--state-dir", &text(dir.join("order-state")), "--join-token-file", &text(file)];
    Proxy::spawn(dir, &order.bootstrap(control_plane), &flags)
}

#[track_caller]
fn refused(control_plane: &ControlPlane, token: &str, words: &str) {
    let dir = tempfile::tempdir().expect("temporary directory");
    let mut sidecar = with_token(dir.path(), control_plane.address, token);
    sidecar.process.wait_for_log(words);
    let ready = sidecar.admin("/ready");
    assert_eq!(ready.status, 503, "without an identity it is not ready: {ready:?}");
    sidecar.process.assert_running();
}

#[test]
fn a_wrong_token_is_refused_with_the_cure() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&[simple_service("order")]);
    refused(&control_plane, "nonsense", "meshctl token create");
    let mut forged = control_plane.token("order");
    let last = forged.pop().expect("a token");
    forged.push(if last == 'A' { 'B' } else { 'A' });
    refused(&control_plane, &forged, "not made by this control plane, or was altered");
    assert!(control_plane.metric("sidemesh_control_plane_tokens_refused_total") >= 2);
}

#[test]
fn a_token_that_was_used_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&[simple_service("order")]);
    let token = control_plane.token("order");
    let mut first = with_token(dir.path(), control_plane.address, &token);
    first.wait_ready();
    refused(&control_plane, &token, "the token was used before");
}

#[test]
fn a_token_that_is_too_old_is_refused() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &[]);
    control_plane.apply(&[simple_service("order")]);
    let token = control_plane.must(&["token", "create", "--service-account", "order", "--ttl", "1s"]);
    // Whole seconds are counted.
    std::thread::sleep(Duration::from_millis(2_100));
    refused(&control_plane, token.trim(), "the token expired");
}

/// A certificate that lives shortly is renewed at half its life: not late, and not in a hurry.
#[test]
fn a_short_life_is_no_storm_of_renewals() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let control_plane = ControlPlane::start(dir.path(), &["--leaf-ttl", "6s"]);
    control_plane.apply(&[simple_service("order")]);
    let signed = || control_plane.metric("sidemesh_control_plane_certificates_signed_total");
    let before = signed();
    let begun = std::time::Instant::now();
    let mut sidecar = with_token(dir.path(), control_plane.address, &control_plane.token("order"));
    sidecar.wait_ready();
    sidemesh_tests::wait::until_true("the certificate is renewed", || signed() >= before + 2);
    let took = begun.elapsed();
    assert!((Duration::from_millis(2_500)..Duration::from_secs(6)).contains(&took), "renewed after {took:?}");
}

/// An authority whose clock is two hours behind: what it signs has ended already.
struct Late;

#[tonic::async_trait]
impl IdentityService for Late {
    async fn sign_certificate(
        &self,
        _request: Request<SignCertificateRequest>,
    ) -> Result<Response<SignCertificateResponse>, Status> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs();
        let at = |ago: u64| Some(Timestamp { seconds: i64::try_from(now - ago).expect("small"), nanos: 0 });
        Ok(Response::new(SignCertificateResponse {
            certificate_chain_pem: "-----BEGIN CERTIFICATE-----".to_owned(),
            not_before: at(7_200),
            not_after: at(3_600),
            signed_at: at(7_200),
            ..SignCertificateResponse::default()
        }))
    }

    async fn get_trust_bundle(
        &self,
        _request: Request<GetTrustBundleRequest>,
    ) -> Result<Response<GetTrustBundleResponse>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

#[test]
fn clocks_that_disagree_are_named() {
    let dir = tempfile::tempdir().expect("temporary directory");
    let at = ports::free();
    background::spawn(tonic::transport::Server::builder().add_service(IdentityServiceServer::new(Late)).serve(at));
    let mut sidecar = with_token(dir.path(), at, "any");
    sidecar.process.wait_for_log("this machine's clock differs from the control plane's");
    sidecar.process.wait_for_log("set the clocks of both machines");
    sidecar.process.assert_running();
}
