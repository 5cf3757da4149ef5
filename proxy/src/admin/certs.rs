//! `/certs`: the certificates that the configuration in force names.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidemesh_config::resource::secret::SecretValue;
use sidemesh_config::value::DataSource;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;
use x509_parser::prelude::X509Certificate;

use super::Handle;
use super::route::Answer;
use crate::telemetry::format::Civil;

/// One entry a secret: its chain and, for trust bundles, its roots.
pub fn answer(handle: &Handle) -> Answer {
    let snapshot = handle.shared.live.load();
    let mut secrets: Vec<_> = snapshot.secrets.values().collect();
    secrets.sort_by(|a, b| a.name.cmp(&b.name));
    let entries: Vec<Value> = secrets
        .iter()
        .filter_map(|secret| match &secret.value {
            SecretValue::Certificate(c) => {
                Some(json!({"name": &*secret.name, "ca_cert": [], "cert_chain": details(&c.chain)}))
            }
            SecretValue::Validation(v) => {
                let roots = v.trusted_ca.as_ref().map(details).unwrap_or_default();
                Some(json!({"name": &*secret.name, "ca_cert": roots, "cert_chain": []}))
            }
            SecretValue::TicketKeys(_) | SecretValue::Generic(_) => None,
        })
        .collect();
    Answer::json(&json!({"certificates": entries}))
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
