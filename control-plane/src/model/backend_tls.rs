//! BackendTLSPolicy (Gateway API v1): TLS to endpoints of a Service that have no sidecar, and the ConfigMaps that hold
//! the authorities to trust with it.

use std::collections::BTreeMap;

use gateway_api::apis::standard::backendtlspolicies as raw;
use k8s_openapi::api::core::v1 as core;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

use super::kind::Name;
use super::strict::{Errors, FieldError, decode};

/// Where a ConfigMap has the authorities, as the Gateway API says.
const CA_KEY: &str = "ca.crt";

/// What the mesh reads of a ConfigMap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigMap {
    /// PEM; `None` when there is nothing, or something else.
    pub authorities: Option<String>,
}

pub fn config_map(body: &Value) -> Result<ConfigMap, Vec<FieldError>> {
    let raw: core::ConfigMap = decode(body)?;
    let authorities = raw.data.and_then(|mut data| data.remove(CA_KEY));
    Ok(ConfigMap { authorities: authorities.filter(|pem| are_certificates(pem)) })
}

fn are_certificates(pem: &str) -> bool {
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let Ok(der) = certificate else { return false };
        if x509_parser::parse_x509_certificate(&der).is_err() {
            return false;
        }
        count += 1;
    }
    count > 0
}

#[derive(Debug, Clone, PartialEq)]
pub struct BackendTls {
    pub name: Name,
    pub created: String,
    pub generation: i64,
    pub targets: Vec<Target>,
    /// Asked for in SNI, and expected in the certificate where `names` says nothing else.
    pub hostname: String,
    pub names: Vec<San>,
    pub trust: Trust,
}

/// A Service, or one of its ports.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// The reference as written, for the status.
    pub reference: Value,
    pub service: Name,
    pub port_name: Option<String>,
}

/// A name that the certificate may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum San {
    Dns(String),
    Uri(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// In these ConfigMaps of the policy's namespace.
    ConfigMaps(Vec<String>),
    /// The authorities of the proxy's operating system.
    System,
}

pub fn policy(name: &Name, body: &Value) -> Result<BackendTls, Vec<FieldError>> {
    let object: raw::BackendTlsPolicy = decode(body)?;
    let mut errors = Errors::default();
    let spec = object.spec;
    let references = body["spec"]["targetRefs"].as_array().cloned().unwrap_or_default();
    let mut targets = Vec::new();
    for (i, target) in spec.target_refs.iter().enumerate() {
        if target.kind != "Service" || !matches!(target.group.as_str(), "" | "core") {
            errors.push(format!("spec.targetRefs[{i}]"), "only Services can be targets: kind: Service, group: \"\"");
        }
        targets.push(Target {
            reference: references.get(i).cloned().unwrap_or(Value::Null),
            service: Name::new(name.namespace.clone(), target.name.clone()),
            port_name: target.section_name.clone(),
        });
    }
    if targets.is_empty() {
        errors.push("spec.targetRefs", "empty: name the Service that is reached over TLS");
    }
    if spec.options.is_some_and(|options| !options.is_empty()) {
        errors.push("spec.options", "there are none here: remove them");
    }
    let validation = spec.validation;
    errors.subdomain("spec.validation.hostname", &validation.hostname);
    let names = validation.subject_alt_names.iter().flatten().enumerate();
    let names = names
        .filter_map(|(i, san)| alternative_name(&format!("spec.validation.subjectAltNames[{i}]"), san, &mut errors));
    let names = names.collect();
    let trust = trust(&validation, &mut errors);
    errors.finish(BackendTls {
        name: name.clone(),
        created: body["metadata"]["creationTimestamp"].as_str().unwrap_or_default().to_owned(),
        generation: body["metadata"]["generation"].as_i64().unwrap_or(0),
        targets,
        hostname: validation.hostname,
        names,
        trust,
    })
}

fn alternative_name(
    path: &str,
    raw: &raw::BackendTlsPolicyValidationSubjectAltNames,
    errors: &mut Errors,
) -> Option<San> {
    use raw::BackendTlsPolicyValidationSubjectAltNamesType as Type;
    let found = match raw.r#type {
        Type::Hostname => raw.hostname.clone().map(San::Dns),
        Type::Uri => raw.uri.clone().map(San::Uri),
    };
    if found.is_none() {
        errors.push(path, "missing: give what type announces, hostname or uri");
    }
    found
}

fn trust(raw: &raw::BackendTlsPolicyValidation, errors: &mut Errors) -> Trust {
    let path = "spec.validation";
    let references = raw.ca_certificate_refs.as_deref().unwrap_or_default();
    match (raw.well_known_ca_certificates.as_deref(), references) {
        (Some("System"), []) => return Trust::System,
        (Some("System"), _) => errors.push(path, "give caCertificateRefs or wellKnownCACertificates, not both"),
        (Some(other), _) => {
            errors.push(format!("{path}.wellKnownCACertificates"), format!("`{other}` is not known: write System"));
        }
        (None, []) => errors.push(path, "nobody to trust: give caCertificateRefs, or wellKnownCACertificates: System"),
        (None, _) => {}
    }
    for (i, reference) in references.iter().enumerate() {
        if reference.kind != "ConfigMap" || !reference.group.is_empty() {
            let message = format!("`{}` is not supported: use a ConfigMap with the key {CA_KEY}", reference.kind);
            errors.push(format!("{path}.caCertificateRefs[{i}].kind"), message);
        }
    }
    Trust::ConfigMaps(references.iter().map(|r| r.name.clone()).collect())
}

impl BackendTls {
    /// The PEM of all authorities, or what is missing; `None` for those of the operating system.
    pub fn authorities(&self, maps: &BTreeMap<Name, std::sync::Arc<ConfigMap>>) -> Result<Option<String>, String> {
        let Trust::ConfigMaps(names) = &self.trust else { return Ok(None) };
        let mut all = String::new();
        for name in names {
            let key = Name::new(self.name.namespace.clone(), name.clone());
            let map = maps.get(&key).ok_or_else(|| format!("ConfigMap {key} does not exist"))?;
            let pem = map.authorities.as_ref();
            let pem = pem.ok_or_else(|| format!("ConfigMap {key} has no certificates at the key {CA_KEY}"))?;
            all.push_str(pem.trim_end());
            all.push('\n');
        }
        Ok(Some(all))
    }
}
