//! What is counted of TLS handshakes, of a listener and of a cluster alike (`….ssl.`, Envoy's names).

use sidemesh_config::format::TlsPart;

use crate::stats_group;
use crate::tls::{Error, Failure, PeerInfo};

stats_group! {
    pub struct TlsStats {
        connection_error: Counter = "ssl.connection_error",
        handshake: Counter = "ssl.handshake",
        session_reused: Counter = "ssl.session_reused",
        no_certificate: Counter = "ssl.no_certificate",
        fail_verify_no_cert: Counter = "ssl.fail_verify_no_cert",
        fail_verify_error: Counter = "ssl.fail_verify_error",
        fail_verify_san: Counter = "ssl.fail_verify_san",
        fail_verify_cert_hash: Counter = "ssl.fail_verify_cert_hash",
        ciphers: Named = "ssl.ciphers",
        sigalgs: Named = "ssl.sigalgs",
        curves: Named = "ssl.curves",
        versions: Named = "ssl.versions",
        /// Of a cluster: its secrets were not there.
        not_ready: LazyCounter = "client_ssl_socket_factory.upstream_context_secrets_not_ready",
    }
}

impl TlsStats {
    /// A handshake is over.
    pub fn completed(&self, peer: &PeerInfo) {
        self.handshake.inc();
        for (counts, part) in
            [(&self.ciphers, TlsPart::Cipher), (&self.curves, TlsPart::Group), (&self.versions, TlsPart::Version)]
        {
            if let Some(name) = peer.part(part) {
                counts.inc(&name);
            }
        }
        if !peer.signature().is_empty() {
            self.sigalgs.inc(peer.signature());
        }
        if let Some(failure) = peer.untrusted() {
            self.count(failure);
        }
        if peer.resumed() {
            self.session_reused.inc();
        }
        if !peer.presented() {
            self.no_certificate.inc();
        }
    }

    /// A handshake failed.
    pub fn failed(&self, error: &Error) {
        self.count(error.failure());
    }

    fn count(&self, failure: Failure) {
        match failure {
            Failure::NoCertificate => self.fail_verify_no_cert.inc(),
            Failure::Chain => self.fail_verify_error.inc(),
            Failure::San => self.fail_verify_san.inc(),
            Failure::Pin => self.fail_verify_cert_hash.inc(),
            Failure::Connection => self.connection_error.inc(),
            Failure::Left => {}
        }
    }
}
