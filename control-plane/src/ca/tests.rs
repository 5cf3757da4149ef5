use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use rcgen::PKCS_ED25519;

use super::token::Use;
use super::*;

const LEAF_TTL: Duration = Duration::from_secs(24 * 3600);

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("sidemesh-ca-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        Dir(path)
    }

    fn ca(&self) -> Ca {
        Ca::open(&self.0, "mesh.test", LEAF_TTL).expect("authority")
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn identity() -> Identity {
    Identity { namespace: "default".into(), service_account: "product".into() }
}

fn request(uri: Option<&str>) -> Vec<u8> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "whatever it likes");
    params.subject_alt_names.extend(uri.map(|u| SanType::URI(u.try_into().expect("uri"))));
    params.serialize_request(&key).expect("request").der().to_vec()
}

#[test]
fn the_root_is_made_once_and_only_its_owner_reads_it() {
    let dir = Dir::new("root");
    let first = dir.ca().roots();
    assert_eq!(dir.ca().roots()[0].fingerprint, first[0].fingerprint);
    for file in ["root.key", "token.key", "root.pem"] {
        let mode = std::fs::metadata(dir.0.join(file)).expect(file).permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let other = Ca::open(&dir.0, "other.test", LEAF_TTL).map(drop).expect_err("refused");
    assert!(other.to_string().contains("--trust-domain mesh.test"), "{other}");
    std::fs::write(dir.0.join("root.key"), "nonsense").expect("write");
    let broken = Ca::open(&dir.0, "mesh.test", LEAF_TTL).map(drop).expect_err("refused");
    assert!(broken.to_string().contains("root.key"), "{broken}");
}

#[test]
fn a_leaf_has_the_granted_identity_and_chains_to_the_root() {
    let dir = Dir::new("leaf");
    let ca = dir.ca();
    let signed = ca.sign(&request(None), &identity(), None).expect("signed");
    assert_eq!(signed.spiffe_id, "spiffe://mesh.test/ns/default/sa/product");
    let (_, leaf) = x509_parser::pem::parse_x509_pem(signed.chain_pem.as_bytes()).expect("pem");
    let leaf = leaf.parse_x509().expect("certificate");
    let (_, root) = x509_parser::pem::parse_x509_pem(ca.bundle_pem().as_bytes()).expect("pem");
    let root = root.parse_x509().expect("root");
    leaf.verify_signature(Some(root.public_key())).expect("signed by the root");
    let names = leaf.subject_alternative_name().expect("readable").expect("there");
    let text = format!("{:?}", names.value.general_names);
    assert!(text.contains("spiffe://mesh.test/ns/default/sa/product"), "{text}");
    assert!(!leaf.is_ca());
    let life = leaf.validity().not_after.timestamp() - leaf.validity().not_before.timestamp();
    assert_eq!(life, 24 * 3600 + 300);
    let short = ca.sign(&request(None), &identity(), Some(Duration::from_secs(60))).expect("signed");
    let left = short.not_after.duration_since(SystemTime::now()).expect("in the future");
    assert!(left <= Duration::from_secs(60));
}

#[test]
fn requests_are_checked() {
    let dir = Dir::new("requests");
    let ca = dir.ca();
    let refuse = |csr: &[u8]| ca.sign(csr, &identity(), None).map(drop).expect_err("refused").to_string();
    let good = "spiffe://mesh.test/ns/default/sa/product";
    ca.sign(&request(Some(good)), &identity(), None).expect("asks for what it gets");
    let bad = refuse(&request(Some("spiffe://mesh.test/ns/default/sa/admin")));
    assert!(bad.contains("sa/admin") && bad.contains(good), "{bad}");
    assert!(refuse(b"not a request").contains("not PKCS#10"));
    let mut altered = request(None);
    let last = altered.len() - 1;
    altered[last] ^= 1;
    assert!(refuse(&altered).contains("signature"), "{}", refuse(&altered));
    let key = KeyPair::generate_for(&PKCS_ED25519).expect("key");
    let other = CertificateParams::default().serialize_request(&key).expect("request");
    assert!(refuse(other.der()).contains("ECDSA P-256"));
}

#[test]
fn tokens_say_why_they_are_refused() {
    let dir = Dir::new("tokens");
    let ca = dir.ca();
    let tokens = ca.tokens();
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    let (token, claims) = tokens.issue(Use::Join, &identity(), now, now + hour);
    assert_eq!(tokens.verify(Use::Join, &token, now), Ok(claims.clone()));
    assert_eq!(claims.identity, identity());
    // A minute of grace for clocks that differ, not more.
    assert!(tokens.verify(Use::Join, &token, now + hour + Duration::from_secs(59)).is_ok());
    let late = tokens.verify(Use::Join, &token, now + hour + Duration::from_secs(100));
    assert_eq!(late, Err(TokenError::Expired { ago_s: 100 }));
    assert!(tokens.verify(Use::Join, &token, now - Duration::from_secs(299)).is_ok());
    assert!(matches!(tokens.verify(Use::Join, &token, now - hour), Err(TokenError::NotYet { .. })));
    assert!(matches!(tokens.verify(Use::Renew, &token, now), Err(TokenError::NotAToken { .. })));
    let renamed = token.replacen("smjoin_", "smrenew_", 1);
    assert_eq!(tokens.verify(Use::Renew, &renamed, now), Err(TokenError::Forged));
    let altered = format!("{}A", &token[..token.len() - 1]);
    let altered = if altered == token { format!("{}B", &token[..token.len() - 1]) } else { altered };
    assert_eq!(tokens.verify(Use::Join, &altered, now), Err(TokenError::Forged));
    let elsewhere = Dir::new("tokens-elsewhere");
    assert_eq!(elsewhere.ca().tokens().verify(Use::Join, &token, now), Err(TokenError::Forged));
}

#[test]
fn trust_domains_are_spiffe_names() {
    for bad in ["", "Mesh", "a/b", "a b", "spiffe://x"] {
        assert!(matches!(check_trust_domain(bad), Err(CaError::BadTrustDomain(_))), "{bad}");
    }
}
