//! New connections with mutual TLS, full and resumed: how many a proxy takes per second of its CPU.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::{Value, json};
use sidemesh_tests::{ports, proxy};

use crate::peers::Peer;

/// A CA and one certificate for both sides (P-256).
pub struct Pki {
    ca: rcgen::Certificate,
    leaf: rcgen::Certificate,
    key: KeyPair,
}

impl Pki {
    pub fn new() -> Pki {
        // Nothing in these parameters can fail.
        let ca_key = KeyPair::generate().expect("a key");
        let mut ca = CertificateParams::new(Vec::new()).expect("parameters");
        ca.distinguished_name.push(DnType::CommonName, "bench CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_certificate = ca.self_signed(&ca_key).expect("a certificate");
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let key = KeyPair::generate().expect("a key");
        let mut leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        leaf.distinguished_name.push(DnType::CommonName, "bench");
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let leaf = leaf.signed_by(&key, &issuer).expect("a certificate");
        Pki { ca: ca_certificate, leaf, key }
    }

    fn context(&self) -> Value {
        let text = |pem: String| json!({"inline_string": pem});
        json!({
            "tls_certificates": [{"certificate_chain": text(self.leaf.pem()), "private_key": text(self.key.serialize_pem())}],
            "validation_context": {"trusted_ca": text(self.ca.pem())},
            "alpn_protocols": ["h2", "http/1.1"],
        })
    }

    /// The transport socket of a listener that asks for a client certificate.
    pub fn downstream(&self) -> Value {
        let context = json!({"common_tls_context": self.context(), "require_client_certificate": true});
        let typed = proxy::typed("envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", context);
        json!({"name": "envoy.transport_sockets.tls", "typed_config": typed})
    }

    /// The transport socket of a cluster behind such a listener.
    pub fn upstream(&self) -> Value {
        let context = json!({"common_tls_context": self.context(), "sni": "localhost"});
        let typed = proxy::typed("envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext", context);
        json!({"name": "envoy.transport_sockets.tls", "typed_config": typed})
    }

    /// The certificate with its key, and the CA, as files in `dir`.
    pub fn files(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let (own, ca) = (dir.join("own.pem"), dir.join("ca.pem"));
        std::fs::write(&own, self.leaf.pem() + &self.key.serialize_pem()).expect("a certificate file");
        std::fs::write(&ca, self.ca.pem()).expect("a CA file");
        (own, ca)
    }

    /// A client that resumes its sessions, or never does. Key exchange by X25519, which every peer has.
    pub fn client(&self, resumes: bool) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.der().clone()).expect("a CA");
        let chain: Vec<CertificateDer<'static>> = vec![self.leaf.der().clone()];
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("a key");
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        let builder = ClientConfig::builder_with_provider(Arc::new(provider));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let mut config = builder.with_root_certificates(roots).with_client_auth_cert(chain, key).expect("a client");
        config.resumption = if resumes { Resumption::in_memory_sessions(16) } else { Resumption::disabled() };
        Arc::new(config)
    }
}

/// The name in the certificate.
pub fn server_name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

/// Connections per CPU second.
#[derive(Debug)]
pub struct Outcome {
    pub full: f64,
    pub resumed: f64,
}

/// Opens `connections` of each kind, one after the other; each carries one request that the proxy answers by itself.
pub fn run(peer: &Peer, connections: u32) -> Result<Outcome, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (pki, entry) = (Pki::new(), ports::free());
    let mut listener = proxy::http_listener("entry", entry, &proxy::always(200, "ok"), &json!({}));
    listener["filter_chains"][0]["transport_socket"] = pki.downstream();
    let running = peer.start(dir.path(), &proxy::fixed(&[listener], &[]));
    let rate = |resumes: bool| {
        let config = pki.client(resumes);
        let connect = |n: u32| -> std::io::Result<u32> { (0..n).map(|_| connection(entry, &config)).sum() };
        let describe = |e: std::io::Error| format!("{}: {e}", peer.name);
        connect(connections / 10).map_err(describe)?;
        let before = running.cpu();
        let resumed = connect(connections).map_err(describe)?;
        std::thread::sleep(Duration::from_millis(50));
        let expected = if resumes { connections } else { 0 };
        if resumed != expected {
            return Err(format!("{}: {resumed} of {connections} connections resumed, not {expected}", peer.name));
        }
        Ok(f64::from(connections) / (running.cpu() - before).as_secs_f64())
    };
    Ok(Outcome { full: rate(false)?, resumed: rate(true)? })
}

/// One connection with one request; 1 when it resumed a session.
fn connection(entry: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<u32> {
    let session = ClientConnection::new(config.clone(), server_name()).map_err(std::io::Error::other)?;
    let stream = TcpStream::connect(entry)?;
    stream.set_nodelay(true)?;
    let mut stream = StreamOwned::new(session, stream);
    stream.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let mut buffer = [0; 4096];
    if stream.read(&mut buffer)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let resumed = stream.conn.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok(u32::from(resumed))
}
