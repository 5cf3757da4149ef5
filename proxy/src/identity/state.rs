//! The certificate, its key and the renewal token, in memory and in the state directory.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::{Value, json};
use sidemesh_config::resource::secret::{Secret, SecretValue};
use sidemesh_config::resource::tls::{TlsCertificate, ValidationContext};
use sidemesh_config::value::{DataSource, name};

use super::{CERTIFICATE, Error, TRUST_BUNDLE};

/// An X.509-SVID with everything needed to use and renew it.
#[derive(Clone, PartialEq, Eq)]
pub struct Svid {
    pub spiffe_id: String,
    pub chain_pem: String,
    pub key_pem: String,
    pub bundle_pem: String,
    pub renewal_token: String,
    /// When this proxy got it.
    pub issued: SystemTime,
    pub not_after: SystemTime,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl Svid {
    /// The two secrets the data path uses.
    pub fn secrets(&self) -> Vec<Secret> {
        let inline = |pem: &str| DataSource::Inline(Bytes::copy_from_slice(pem.as_bytes()));
        let certificate =
            TlsCertificate { chain: inline(&self.chain_pem), key: inline(&self.key_pem), ocsp_staple: None, password: None, pkcs12: false };
        let validation =
            ValidationContext { trusted_ca: Some(inline(&self.bundle_pem)), ..ValidationContext::default() };
        vec![
            Secret { name: name(CERTIFICATE), value: SecretValue::Certificate(Arc::new(certificate)) },
            Secret { name: name(TRUST_BUNDLE), value: SecretValue::Validation(Arc::new(validation)) },
        ]
    }
}

/// The file that survives a restart.
#[derive(Debug, Clone)]
pub struct SvidStore {
    path: PathBuf,
}

impl SvidStore {
    /// In `dir`, which is made (mode 0700) when it is missing.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        let at = |source| Error::File { path: dir.to_owned(), source };
        if !dir.exists() {
            fs::create_dir_all(dir).map_err(at)?;
            fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700)).map_err(at)?;
        }
        Ok(SvidStore { path: dir.join("svid.json") })
    }

    /// What an earlier run left; `None` when there is nothing. A file that cannot be read as one is an error and stays.
    pub fn load(&self) -> Result<Option<Svid>, Error> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(Error::File { path: self.path.clone(), source }),
        };
        let broken =
            |what: &str| Error::File { path: self.path.clone(), source: std::io::Error::other(what.to_owned()) };
        let value: Value = serde_json::from_str(&text).map_err(|e| broken(&e.to_string()))?;
        let field = |key: &str| value[key].as_str().map(str::to_owned).ok_or_else(|| broken(&format!("no {key}")));
        let moment = |key: &str| {
            value[key].as_u64().map(|s| UNIX_EPOCH + Duration::from_secs(s)).ok_or_else(|| broken(&format!("no {key}")))
        };
        Ok(Some(Svid {
            spiffe_id: field("spiffe_id")?,
            chain_pem: field("chain")?,
            key_pem: field("key")?,
            bundle_pem: field("bundle")?,
            renewal_token: field("renewal_token")?,
            issued: moment("issued")?,
            not_after: moment("not_after")?,
        }))
    }

    /// Written beside the old file and moved into place, mode 0600.
    pub fn save(&self, svid: &Svid) -> Result<(), Error> {
        let seconds = |t: SystemTime| t.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let value = json!({
            "spiffe_id": svid.spiffe_id, "chain": svid.chain_pem, "key": svid.key_pem, "bundle": svid.bundle_pem,
            "renewal_token": svid.renewal_token, "issued": seconds(svid.issued), "not_after": seconds(svid.not_after),
        });
        let temporary = self.path.with_extension("new");
        let write = || {
            let mut file =
                fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(value.to_string().as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, &self.path)
        };
        write().map_err(|source| Error::File { path: self.path.clone(), source })
    }
}
