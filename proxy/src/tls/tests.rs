//! Handshakes over loopback between this module's two sides, and against bare rustls clients where a peer must misbehave.

use std::sync::Arc;

use bytes::Bytes;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use sidemesh_config::format::TlsPart;
use sidemesh_config::matcher::string::StringMatcher;
use sidemesh_config::resource::secret::{Secret, SecretValue};
use sidemesh_config::resource::tls::{
    CommonTls, DownstreamTls, SanKind, SanMatcher, SecretRef, StaplePolicy, Tickets, TlsCertificate, TlsParams,
    TlsVersion, UpstreamTls, ValidationContext,
};
use sidemesh_config::snapshot::ByName;
use sidemesh_config::value::{DataSource, name};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Client, Error, PeerInfo, Server, Target, check, refresh_files};
use crate::io::{Io, Socket};

struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

#[derive(Clone)]
struct Leaf {
    chain: String,
    key: String,
}

#[derive(Clone, Copy, Default)]
struct Ask<'a> {
    name: &'a str,
    dns: &'a [&'a str],
    uri: &'a [&'a str],
    /// Days from now: valid from, to.
    days: Option<(i64, i64)>,
}

impl Ca {
    fn new(common_name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        Ca { issuer: CertifiedIssuer::self_signed(params, key).expect("a CA") }
    }

    fn pem(&self) -> DataSource {
        inline(&self.issuer.pem())
    }

    fn leaf(&self, ask: Ask<'_>) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, ask.name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let dns = ask.dns.iter().map(|d| SanType::DnsName((*d).try_into().expect("ascii")));
        let uri = ask.uri.iter().map(|u| SanType::URI((*u).try_into().expect("ascii")));
        params.subject_alt_names = dns.chain(uri).collect();
        let (from, to) = ask.days.unwrap_or((-1, 7));
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now + time::Duration::days(from);
        params.not_after = now + time::Duration::days(to);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a leaf");
        Leaf { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

fn inline(text: &str) -> DataSource {
    DataSource::Inline(Bytes::copy_from_slice(text.as_bytes()))
}

impl Leaf {
    fn certificate(&self) -> Arc<TlsCertificate> {
        Arc::new(TlsCertificate {
            chain: inline(&self.chain),
            key: inline(&self.key),
            ocsp_staple: None,
            password: None,
            pkcs12: false,
        })
    }
}

fn common(leaf: Option<&Leaf>, validation: Option<ValidationContext>) -> CommonTls {
    CommonTls {
        params: TlsParams { min: TlsVersion::V1_2, max: TlsVersion::V1_3, cipher_suites: vec![], ecdh_curves: vec![] },
        certificates: leaf.iter().map(|l| l.certificate()).collect(),
        certificate_secrets: vec![],
        validation: validation.map(Arc::new),
        validation_secret: None,
        alpn: vec![],
        key_log: None,
    }
}

fn down(leaf: &Leaf, validation: Option<ValidationContext>, require: bool) -> DownstreamTls {
    DownstreamTls {
        common: common(Some(leaf), validation),
        require_client_certificate: require,
        tickets: Tickets::OwnKeys,
        stateful_resumption: true,
        session_timeout: None,
        full_scan: false,
        prefer_client_ciphers: false,
        staple_policy: StaplePolicy::Lenient,
    }
}

fn up(leaf: Option<&Leaf>, validation: Option<ValidationContext>) -> UpstreamTls {
    UpstreamTls {
        common: common(leaf, validation),
        sni: Some(name("s.test")),
        auto_host_sni: false,
        auto_sni_san_validation: false,
        max_session_keys: 1,
    }
}

fn trust(ca: &Ca, sans: &[(SanKind, &str)]) -> ValidationContext {
    let matcher =
        |&(kind, value): &(SanKind, &str)| SanMatcher { kind, oid: None, matcher: StringMatcher::exact(value) };
    ValidationContext {
        trusted_ca: Some(ca.pem()),
        san_matchers: sans.iter().map(matcher).collect(),
        ..ValidationContext::default()
    }
}

fn none() -> ByName<Arc<Secret>> {
    ByName::default()
}

fn secrets(list: Vec<(&str, SecretValue)>) -> ByName<Arc<Secret>> {
    list.into_iter().map(|(n, value)| (name(n), Arc::new(Secret { name: name(n), value }))).collect()
}

type Handshake = Result<(Io, Arc<PeerInfo>), Error>;

/// One handshake and, where both sides agree, a byte each way.
async fn meet(server: &Server, client: &Client, target: Target<'_>) -> (Handshake, Handshake) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let accept = async {
        let (socket, _) = listener.accept().await.expect("accepted");
        let (mut io, peer) = server.accept(Socket::from(socket)).await?;
        // The client's last flight may still be refused by us: it sees that when it reads.
        io.write_all(b"x").await.map_err(Error::from)?;
        let mut byte = [0];
        io.read_exact(&mut byte).await.map_err(Error::from)?;
        Ok((io, peer))
    };
    let connect = async {
        let socket = TcpStream::connect(address).await.expect("connected");
        let (mut io, peer) = client.connect(Socket::from(socket), target).await?;
        let mut byte = [0];
        io.read_exact(&mut byte).await.map_err(Error::from)?;
        io.write_all(b"y").await.map_err(Error::from)?;
        io.flush().await.map_err(Error::from)?;
        Ok((io, peer))
    };
    tokio::join!(accept, connect)
}

async fn gets_in(server: &Server, client: &Client) -> bool {
    let (accepted, connected) = meet(server, client, Target::default()).await;
    accepted.is_ok() && connected.is_ok()
}

#[test]
fn a_chain_that_has_passed_is_good_until_it_ends_and_no_other_chain_is() {
    use rustls::pki_types::{CertificateDer, UnixTime, pem::PemObject};
    use rustls::server::danger::ClientCertVerifier;
    let (ca, evil) = (Ca::new("ca"), Ca::new("evil"));
    let ask = Ask { name: "good", ..Ask::default() };
    let der = |leaf: &Leaf| CertificateDer::from_pem_slice(leaf.chain.as_bytes()).expect("a certificate");
    let (good, forged) = (der(&ca.leaf(ask)), der(&evil.leaf(ask)));
    let verifier = super::verify::Verifier::new(
        &mut super::material::Reader::default(),
        Some(&trust(&ca, &[])),
        super::params::provider(&common(None, None).params),
        super::verify::Peer::Client,
    );
    let verifier = verifier.expect("usable");
    let passes = |leaf: &CertificateDer<'_>, days: i64| {
        let now = UnixTime::now().as_secs().saturating_add_signed(days * 86_400);
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        verifier.verify_client_cert(leaf, &[], at).is_ok()
    };
    let mut altered = good.to_vec();
    *altered.last_mut().expect("a signature") ^= 1;
    for _ in 0..2 {
        assert!(passes(&good, 0) && passes(&good, 6), "in date, verified or remembered");
        assert!(!passes(&good, 8), "expired since");
        assert!(!passes(&good, -2), "not valid yet");
        assert!(!passes(&forged, 0), "of another CA");
        assert!(!passes(&CertificateDer::from(altered.clone()), 0), "one bit of the signature");
    }
}

#[tokio::test]
async fn client_certificates() {
    let (ca, evil) = (Ca::new("ca"), Ca::new("evil"));
    let server = ca.leaf(Ask { name: "server", ..Ask::default() });
    let good = Ask { name: "good", uri: &["spiffe://td/good"], ..Ask::default() };
    let sans = [(SanKind::Uri, "spiffe://td/good")];
    let make = |config: DownstreamTls| Server::new(&config, &none()).expect("usable");
    let require = make(down(&server, Some(trust(&ca, &sans)), true));
    let optional = make(down(&server, Some(trust(&ca, &sans)), false));
    let plain = make(down(&server, Some(trust(&ca, &[])), false));
    let cases = [
        ("good", Some(ca.leaf(good)), [true, true, true]),
        ("wrong ca", Some(evil.leaf(good)), [false, false, false]),
        ("expired", Some(ca.leaf(Ask { days: Some((-3, -1)), ..good })), [false, false, false]),
        ("not yet", Some(ca.leaf(Ask { days: Some((1, 3)), ..good })), [false, false, false]),
        ("other san", Some(ca.leaf(Ask { uri: &["spiffe://td/other"], ..good })), [false, false, true]),
        ("no san", Some(ca.leaf(Ask { name: "nosan", ..Ask::default() })), [false, false, true]),
        ("none", None, [false, false, true]),
    ];
    for (case, leaf, expected) in cases {
        let client = Client::new(&up(leaf.as_ref(), None), &none()).expect("usable");
        for (server, expected) in [&require, &optional, &plain].into_iter().zip(expected) {
            assert_eq!(gets_in(server, &client).await, expected, "{case}");
        }
    }
}

#[tokio::test]
async fn alpn_follows_the_server_and_may_fail_to_agree() {
    let ca = Ca::new("ca");
    let mut config = down(&ca.leaf(Ask { name: "s", ..Ask::default() }), None, false);
    config.common.alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let server = Server::new(&config, &none()).expect("usable");
    let client = Client::new(&up(None, None), &none()).expect("usable");
    let cases: [(&[&[u8]], Option<&str>); 5] = [
        (&[b"h2", b"http/1.1"], Some("h2")),
        (&[b"http/1.1", b"h2"], Some("h2")),
        (&[b"http/1.1"], Some("http/1.1")),
        (&[], None),
        (&[b"foo/1"], None),
    ];
    for (offer, expected) in cases {
        let (accepted, connected) = meet(&server, &client, Target { alpn: offer, ..Target::default() }).await;
        assert_eq!(accepted.expect("accepted").1.alpn(), expected);
        assert_eq!(connected.expect("connected").1.alpn(), expected);
    }
}

#[tokio::test]
async fn versions_are_bounded() {
    let ca = Ca::new("ca");
    let leaf = ca.leaf(Ask { name: "s", ..Ask::default() });
    let bounded = |min, max| {
        let mut config = down(&leaf, None, false);
        config.common.params.min = min;
        config.common.params.max = max;
        Server::new(&config, &none()).expect("usable")
    };
    let mut old = up(None, None);
    old.common.params.max = TlsVersion::V1_2;
    let old = Client::new(&old, &none()).expect("usable");
    let new = Client::new(&up(None, None), &none()).expect("usable");
    assert!(!gets_in(&bounded(TlsVersion::V1_3, TlsVersion::V1_3), &old).await);
    assert!(gets_in(&bounded(TlsVersion::V1_3, TlsVersion::V1_3), &new).await);
    let (_, connected) = meet(&bounded(TlsVersion::V1_2, TlsVersion::V1_2), &new, Target::default()).await;
    let peer = connected.expect("connected").1;
    assert_eq!(peer.version(), "TLSv1.2");
    assert!(peer.cipher().starts_with("ECDHE-ECDSA-"), "{}", peer.cipher());
}

#[tokio::test]
async fn servers_are_verified_as_configured() {
    let (ca, evil) = (Ca::new("ca"), Ca::new("evil"));
    let server_of = |leaf: &Leaf| Server::new(&down(leaf, None, false), &none()).expect("usable");
    let leaf = ca.leaf(Ask { name: "o", dns: &["*.origin.test"], uri: &["spiffe://td/o"], ..Ask::default() });
    let good = server_of(&leaf);
    let foreign = server_of(&evil.leaf(Ask { name: "e", dns: &["origin.test"], ..Ask::default() }));
    let expired = server_of(&ca.leaf(Ask { name: "x", days: Some((-3, -1)), ..Ask::default() }));
    let client = |v: Option<ValidationContext>| Client::new(&up(None, v), &none()).expect("usable");

    assert!(gets_in(&foreign, &client(None)).await, "no context verifies nothing");
    assert!(gets_in(&good, &client(Some(trust(&ca, &[])))).await, "and no context asks for the host's name");
    assert!(gets_in(&good, &client(Some(trust(&ca, &[(SanKind::Dns, "a.origin.test")])))).await);
    assert!(!gets_in(&good, &client(Some(trust(&ca, &[(SanKind::Dns, "a.b.origin.test")])))).await);
    assert!(gets_in(&good, &client(Some(trust(&ca, &[(SanKind::Dns, "x"), (SanKind::Uri, "spiffe://td/o")])))).await);

    let reason = |(_, connected): (Handshake, Handshake)| connected.expect_err("refused").to_string();
    let failed = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed:";
    let trusting = client(Some(trust(&ca, &[])));
    let text = reason(meet(&foreign, &trusting, Target::default()).await);
    assert!(text.starts_with(failed) && text.ends_with(":TLS_error_end"), "{text}");
    let text = reason(meet(&expired, &trusting, Target::default()).await);
    assert!(text.contains("certificate has expired"), "{text}");
    let lenient = ValidationContext { allow_expired_certificate: true, ..trust(&ca, &[]) };
    assert!(gets_in(&expired, &client(Some(lenient))).await);

    let named = |san| Target { server_name: Some("a.origin.test"), san: Some(san), ..Target::default() };
    assert!(meet(&good, &trusting, named("a.origin.test")).await.1.is_ok());
    let text = reason(meet(&good, &trusting, named("other.test")).await);
    assert!(text.contains("SAN matcher, certificate SANs are ["), "{text}");
}

#[tokio::test]
async fn pins_and_untrusted() {
    let (ca, evil) = (Ca::new("ca"), Ca::new("evil"));
    let leaf = evil.leaf(Ask { name: "pinned", ..Ask::default() });
    let der = rustls_der(&leaf.chain);
    let server = Server::new(&down(&leaf, None, false), &none()).expect("usable");
    let pinned = |hash| ValidationContext { certificate_hashes: vec![hash], ..ValidationContext::default() };
    let client = |v| Client::new(&up(None, Some(v)), &none()).expect("usable");
    assert!(gets_in(&server, &client(pinned(super::verify::sha256(&der)))).await);
    assert!(!gets_in(&server, &client(pinned([0; 32]))).await);

    let lenient = ValidationContext { accept_untrusted: true, ..trust(&ca, &[]) };
    let server = Server::new(&down(&leaf, Some(lenient), false), &none()).expect("usable");
    for (issuer, validated) in [(&ca, true), (&evil, false)] {
        let leaf = issuer.leaf(Ask { name: "c", ..Ask::default() });
        let client = Client::new(&up(Some(&leaf), None), &none()).expect("usable");
        let peer = meet(&server, &client, Target::default()).await.0.expect("accepted").1;
        assert_eq!((peer.presented(), peer.validated()), (true, validated));
    }
}

fn rustls_der(pem: &str) -> Vec<u8> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM").to_vec()
}

#[tokio::test]
async fn the_peer_is_described() {
    let ca = Ca::new("ca");
    let server = ca.leaf(Ask { name: "server", uri: &["spiffe://td/server"], ..Ask::default() });
    let client = ca.leaf(Ask { name: "cli, Inc", dns: &["cli.test"], uri: &["spiffe://td/cli"], ..Ask::default() });
    let accept = Server::new(&down(&server, Some(trust(&ca, &[])), true), &none()).expect("usable");
    let connect = Client::new(&up(Some(&client), None), &none()).expect("usable");
    let (accepted, connected) = meet(&accept, &connect, Target::default()).await;
    let peer = accepted.expect("accepted").1;
    let part = |p| peer.part(p).map(|v| v.into_owned()).unwrap_or_default();
    assert_eq!(part(TlsPart::Version), "TLSv1.3");
    assert!(part(TlsPart::Cipher).starts_with("TLS_"));
    assert_eq!(part(TlsPart::PeerSubject), "CN=cli\\, Inc");
    assert_eq!(part(TlsPart::PeerIssuer), "CN=ca");
    assert_eq!(part(TlsPart::PeerUriSan), "spiffe://td/cli");
    assert_eq!(part(TlsPart::PeerDnsSan), "cli.test");
    assert_eq!(part(TlsPart::LocalUriSan), "spiffe://td/server");
    assert_eq!(part(TlsPart::PeerFingerprint256).len(), 64);
    assert_eq!(part(TlsPart::PeerFingerprint1).len(), 40);
    assert!(part(TlsPart::PeerCert).starts_with("-----BEGIN%20CERTIFICATE-----%0A"));
    assert!(part(TlsPart::PeerCertValidTo).ends_with(".000Z"));
    assert!(!part(TlsPart::PeerSerial).is_empty() && peer.part(TlsPart::SessionId).is_none());
    assert!(peer.validated());
    assert_eq!(peer.server_name(), Some("s.test"));
    let host = connected.expect("connected").1;
    assert_eq!((host.subject(), host.local_uri_sans()), ("CN=server", &["spiffe://td/cli".to_owned()][..]));
}

#[tokio::test]
async fn a_rotated_secret_serves_new_handshakes() {
    let ca = Ca::new("ca");
    let leaves = ["one", "two"].map(|n| ca.leaf(Ask { name: n, ..Ask::default() }));
    let mut config = down(&leaves[0], None, false);
    config.common.certificates.clear();
    config.common.certificate_secrets = vec![SecretRef { name: name("cert"), source: None }];
    match Server::new(&config, &none()) {
        Err(error) => assert!(error.is_not_ready(), "{error}"),
        Ok(_) => panic!("the secret has not arrived"),
    }
    let client = Client::new(&up(None, None), &none()).expect("usable");
    let mut open = Vec::new();
    for (leaf, subject) in leaves.iter().zip(["CN=one", "CN=two"]) {
        let secrets = secrets(vec![("cert", SecretValue::Certificate(leaf.certificate()))]);
        let server = Server::new(&config, &secrets).expect("usable");
        let (accepted, connected) = meet(&server, &client, Target::default()).await;
        let (io, peer) = connected.expect("connected");
        assert_eq!(peer.subject(), subject);
        open.push((accepted.expect("accepted").0, io));
    }
    for (mut server, mut client) in open {
        server.write_all(b"z").await.expect("still open");
        let mut byte = [0];
        client.read_exact(&mut byte).await.expect("still open");
    }
}

#[tokio::test]
async fn a_combined_context_takes_its_ca_from_the_secret() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let server = a.leaf(Ask { name: "server", ..Ask::default() });
    let rules = ValidationContext { trusted_ca: None, ..trust(&a, &[(SanKind::Uri, "spiffe://td/x")]) };
    let mut config = down(&server, Some(rules), true);
    config.common.validation_secret = Some(SecretRef { name: name("roots"), source: None });
    let with = |ca: &Ca| {
        let roots = ValidationContext { trusted_ca: Some(ca.pem()), ..ValidationContext::default() };
        Server::new(&config, &secrets(vec![("roots", SecretValue::Validation(Arc::new(roots)))])).expect("usable")
    };
    let client = |ca: &Ca, uri: &str| {
        let leaf = ca.leaf(Ask { name: "c", uri: &[uri], ..Ask::default() });
        Client::new(&up(Some(&leaf), None), &none()).expect("usable")
    };
    let (la, lb, lc) = (client(&a, "spiffe://td/x"), client(&b, "spiffe://td/x"), client(&b, "spiffe://td/y"));
    let (before, after) = (with(&a), with(&b));
    for (client, expected) in [(&la, [true, false]), (&lb, [false, true]), (&lc, [false, false])] {
        assert_eq!([gets_in(&before, client).await, gets_in(&after, client).await], expected);
    }
}

#[tokio::test]
async fn sessions_resume_only_under_the_same_rules() {
    let (a, b) = (Ca::new("a"), Ca::new("b"));
    let server = a.leaf(Ask { name: "server", ..Ask::default() });
    let leaf = a.leaf(Ask { name: "c", ..Ask::default() });
    let client = Client::new(&up(Some(&leaf), None), &none()).expect("usable");
    let trusting = |ca: &Ca| Server::new(&down(&server, Some(trust(ca, &[])), true), &none()).expect("usable");
    let kind = |accepted: Handshake| {
        let (io, peer) = accepted.expect("accepted");
        assert_eq!(peer.subject(), "CN=c", "a resumed session knows its peer");
        io.tls_session().expect("TLS").handshake_kind()
    };
    let first = trusting(&a);
    assert_eq!(kind(meet(&first, &client, Target::default()).await.0), Some(rustls::HandshakeKind::Full));
    assert_eq!(kind(meet(&first, &client, Target::default()).await.0), Some(rustls::HandshakeKind::Resumed));
    let (accepted, _) = meet(&trusting(&b), &client, Target::default()).await;
    assert!(accepted.is_err(), "another CA does not take the ticket for a certificate");
}

#[tokio::test]
async fn contexts_are_shared_and_files_are_watched() {
    let ca = Ca::new("ca");
    let leaves = ["one", "two"].map(|n| ca.leaf(Ask { name: n, ..Ask::default() }));
    let folder = std::env::temp_dir().join(format!("sidemesh-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let (chain, key) = (folder.join("c.pem"), folder.join("k.pem"));
    let write = |leaf: &Leaf| {
        std::fs::write(&chain, &leaf.chain).expect("written");
        std::fs::write(&key, &leaf.key).expect("written");
    };
    write(&leaves[0]);
    let file = |path: &std::path::Path| DataSource::File { path: path.to_owned(), watched_directory: None };
    let mut config = down(&leaves[0], None, false);
    config.common.certificates = vec![Arc::new(TlsCertificate {
        chain: file(&chain),
        key: file(&key),
        ocsp_staple: None,
        password: None,
        pkcs12: false,
    })];
    let server = Server::new(&config, &none()).expect("usable");
    let client = Client::new(&up(None, None), &none()).expect("usable");
    let subject = async || meet(&server, &client, Target::default()).await.1.expect("connected").1.subject().to_owned();
    assert_eq!(subject().await, "CN=one");

    std::fs::write(&chain, &leaves[1].chain).expect("written");
    refresh_files();
    assert_eq!(subject().await, "CN=one", "half of a pair changes nothing");
    write(&leaves[1]);
    assert!(refresh_files() >= 1);
    assert_eq!(subject().await, "CN=two", "the handle that was there before serves it");
    std::fs::remove_dir_all(&folder).expect("removed");
}

#[test]
fn material_that_cannot_be_used_is_refused() {
    let ca = Ca::new("ca");
    let leaves = ["one", "two"].map(|n| ca.leaf(Ask { name: n, ..Ask::default() }));
    let refused = |value: SecretValue, expected: &str| {
        let secret = Arc::new(Secret { name: name("s"), value });
        let rejection = check(&sidemesh_config::resource::Resource::Secret(secret)).expect_err("refused");
        assert_eq!(rejection.to_string(), expected);
    };
    let mixed = TlsCertificate {
        chain: inline(&leaves[0].chain),
        key: inline(&leaves[1].key),
        ocsp_staple: None,
        password: None,
        pkcs12: false,
    };
    refused(
        SecretValue::Certificate(Arc::new(mixed)),
        "tls_certificate.private_key: invalid: is not the key of the certificate",
    );
    let nothing = ValidationContext { trusted_ca: Some(inline("x")), ..ValidationContext::default() };
    refused(
        SecretValue::Validation(Arc::new(nothing)),
        "validation_context.trusted_ca: invalid: holds no certificate in PEM",
    );
    refused(
        SecretValue::TicketKeys(vec![inline("short")]),
        "session_ticket_keys.keys[0].session_ticket_keys: invalid: a key has 5 bytes, not 80",
    );
}

#[tokio::test]
async fn revoked_certificates_are_refused() {
    let ca = Ca::new("ca");
    let server = ca.leaf(Ask { name: "server", ..Ask::default() });
    let (good, bad) = (ca.leaf(Ask { name: "good", ..Ask::default() }), ca.leaf(Ask { name: "bad", ..Ask::default() }));
    let serial = super::Certificate::parse(&rustls_der(&bad.chain)).expect("parsed").serial;
    let bytes: Vec<u8> =
        (0..serial.len()).step_by(2).map(|i| u8::from_str_radix(&serial[i..i + 2], 16).expect("hex")).collect();
    let now = time::OffsetDateTime::now_utc();
    let list = rcgen::CertificateRevocationListParams {
        this_update: now - time::Duration::days(1),
        next_update: now + time::Duration::days(1),
        crl_number: rcgen::SerialNumber::from(1u64),
        issuing_distribution_point: None,
        revoked_certs: vec![rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from_slice(&bytes),
            revocation_time: now - time::Duration::days(1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let crl = list.signed_by(&ca.issuer).expect("signed").pem().expect("PEM");
    let rules = ValidationContext { crl: Some(inline(&crl)), ..trust(&ca, &[]) };
    let server = Server::new(&down(&server, Some(rules), true), &none()).expect("usable");
    for (leaf, expected) in [(good, true), (bad, false)] {
        let client = Client::new(&up(Some(&leaf), None), &none()).expect("usable");
        assert_eq!(gets_in(&server, &client).await, expected);
    }
}

#[tokio::test]
async fn plain_text_is_refused() {
    let ca = Ca::new("ca");
    let server = Server::new(&down(&ca.leaf(Ask::default()), None, false), &none()).expect("usable");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let mut plain = TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    let (socket, _) = listener.accept().await.expect("accepted");
    let error = server.accept(Socket::from(socket)).await.expect_err("no TLS");
    assert!(error.to_string().contains("WRONG_VERSION_NUMBER"), "{error}");
}
