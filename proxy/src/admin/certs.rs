//! `/certs`: the certificates that the configuration in force names.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidemesh_config::resource::secret::SecretValue;
use sidemesh_config::resource::tls::{CommonTls, DownstreamTransport, UpstreamTransport};
use sidemesh_config::snapshot::Snapshot;
use sidemesh_config::value::{DataSource, Name};
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use super::Handle;
use super::route::Answer;
use crate::telemetry::format::Civil;

/// One entry a TLS context: its chains and its roots, given in it or by secrets. Listeners first, then clusters; then the
/// secrets that no context names.
pub fn answer(handle: &Handle) -> Answer {
    let snapshot = handle.shared.live.load();
    let mut listeners: Vec<_> = snapshot.listeners.values().collect();
    listeners.sort_by(|a, b| a.name.cmp(&b.name));
    let chains = listeners.iter().flat_map(|l| l.chains.iter().chain(&l.default_chain));
    let downstream = chains.filter_map(|chain| match &chain.transport {
        DownstreamTransport::Tls(context) => Some(&context.common),
        _ => None,
    });
    let mut clusters: Vec<_> = snapshot.clusters.values().collect();
    clusters.sort_by(|a, b| a.cluster.name.cmp(&b.cluster.name));
    let upstream = clusters.iter().filter_map(|entry| match &entry.cluster.transport {
        UpstreamTransport::Tls(context) => Some(&context.common),
        _ => None,
    });
    let mut named = BTreeSet::new();
    let mut entries: Vec<Value> =
        downstream.chain(upstream).map(|common| context(common, &snapshot, &mut named)).collect();
    let mut secrets: Vec<_> = snapshot.secrets.values().filter(|s| !named.contains(&s.name)).collect();
    secrets.sort_by(|a, b| a.name.cmp(&b.name));
    for secret in secrets {
        let (roots, chain) = parts(&secret.value);
        if !roots.is_empty() || !chain.is_empty() {
            entries.push(json!({"name": &*secret.name, "ca_cert": roots, "cert_chain": chain}));
        }
    }
    Answer::json(&json!({"certificates": entries}))
}

fn context(common: &CommonTls, snapshot: &Snapshot, named: &mut BTreeSet<Name>) -> Value {
    let mut roots: Vec<Value> =
        common.validation.iter().filter_map(|v| v.trusted_ca.as_ref()).flat_map(details).collect();
    let mut chain: Vec<Value> = common.certificates.iter().flat_map(|c| details(&c.chain)).collect();
    for secret in common.certificate_secrets.iter().chain(&common.validation_secret) {
        named.insert(secret.name.clone());
        if let Some(secret) = snapshot.secrets.get(&secret.name) {
            let (its_roots, its_chain) = parts(&secret.value);
            roots.extend(its_roots);
            chain.extend(its_chain);
        }
    }
    json!({"ca_cert": roots, "cert_chain": chain})
}

/// A secret's roots and its chain.
fn parts(secret: &SecretValue) -> (Vec<Value>, Vec<Value>) {
    match secret {
        SecretValue::Certificate(c) => (Vec::new(), details(&c.chain)),
        SecretValue::Validation(v) => (v.trusted_ca.as_ref().map(details).unwrap_or_default(), Vec::new()),
        SecretValue::TicketKeys(_) | SecretValue::Generic(_) => (Vec::new(), Vec::new()),
    }
}

fn details(source: &DataSource) -> Vec<Value> {
    let (path, bytes) = match source {
        DataSource::Inline(bytes) => ("<inline>".to_owned(), bytes.to_vec()),
        DataSource::File { path, .. } => (path.display().to_string(), std::fs::read(path).unwrap_or_default()),
        DataSource::EnvironmentVariable(name) => {
            (format!("<{name}>"), std::env::var(&**name).unwrap_or_default().into_bytes())
        }
    };
    Pem::iter_from_buffer(&bytes).filter_map(|pem| one(&path, &pem.ok()?.parse_x509().ok()?)).collect()
}

fn one(path: &str, certificate: &X509Certificate<'_>) -> Option<Value> {
    let validity = certificate.validity();
    let time = |seconds: i64| {
        Civil::of(UNIX_EPOCH + std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0))).iso_millis()
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let left = u64::try_from(validity.not_after.timestamp()).unwrap_or(0).saturating_sub(now);
    let names: Vec<Value> = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|san| san.value.general_names.iter().filter_map(alternative_name).collect())
        .unwrap_or_default();
    Some(json!({
        "path": path,
        "serial_number": format!("{:x}", certificate.serial),
        "subject_alt_names": names,
        "days_until_expiration": (left / 86_400).to_string(),
        "valid_from": time(validity.not_before.timestamp()),
        "expiration_time": time(validity.not_after.timestamp()),
    }))
}

fn alternative_name(name: &GeneralName<'_>) -> Option<Value> {
    match name {
        GeneralName::URI(uri) => Some(json!({"uri": uri})),
        GeneralName::DNSName(dns) => Some(json!({"dns": dns})),
        GeneralName::IPAddress(bytes) => {
            let ip = match <[u8; 4]>::try_from(*bytes) {
                Ok(v4) => std::net::IpAddr::from(v4),
                Err(_) => std::net::IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?),
            };
            Some(json!({"ip_address": ip.to_string()}))
        }
        _ => None,
    }
}
