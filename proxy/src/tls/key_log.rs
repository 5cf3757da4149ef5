//! `key_log`: session secrets in NSS format, for connections between certain addresses. For debugging only.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

use sidemesh_config::resource::tls::KeyLog as Config;
use sidemesh_config::value::Cidr;

use super::error::Error;

/// The file. rustls writes to it through its trait.
#[derive(Debug)]
pub(super) struct KeyLog {
    file: Mutex<File>,
}

impl KeyLog {
    pub(super) fn open(config: &Config) -> Result<Self, Error> {
        let file = OpenOptions::new().create(true).append(true).open(&config.path);
        let file = file.map_err(|e| Error::material("key_log.path", format!("{}: {e}", config.path.display())))?;
        Ok(KeyLog { file: Mutex::new(file) })
    }
}

impl rustls::KeyLog for KeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            tracing::warn!(%error, "the TLS key log cannot be written");
        }
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |n: u8| char::from(DIGITS[usize::from(n)]);
    bytes.iter().flat_map(|b| [digit(b >> 4), digit(b & 15)]).collect()
}

/// Whether a connection between these ends is logged; no ranges are all addresses.
pub(super) fn applies(config: &Config, local: Option<SocketAddr>, remote: Option<SocketAddr>) -> bool {
    let within = |ranges: &[Cidr], address: Option<IpAddr>| {
        ranges.is_empty() || address.is_some_and(|a| ranges.iter().any(|r| r.contains(a)))
    };
    within(&config.local, local.map(|a| a.ip())) && within(&config.remote, remote.map(|a| a.ip()))
}
