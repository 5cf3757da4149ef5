//! Session tickets (RFC 5077, RFC 8446 4.6.1), bound to the context that issued them.
//!
//! A resumed session skips the verification of the client's certificate, so a ticket holds a digest of what the context
//! asks of clients, and is worth nothing where that differs. Keys are the process's own (they rotate), or those given.

use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;

use super::error::Error;

/// How long a ticket is good, unless `session_timeout` says otherwise: BoringSSL's two hours.
const DEFAULT_LIFETIME_SECONDS: u64 = 7200;
/// RFC 8446 4.6.1: at most seven days.
const MAX_LIFETIME_SECONDS: u64 = 604_800;
/// Envoy's key file: a name, an HMAC key, an AES key.
const KEY_BYTES: usize = 80;
const NAME_BYTES: usize = 16;
const DIGEST_BYTES: usize = 32;
const HEADER_BYTES: usize = DIGEST_BYTES + 8;

#[derive(Debug)]
pub(super) struct Tickets {
    keys: Keys,
    context: [u8; DIGEST_BYTES],
    lifetime_seconds: u64,
}

#[derive(Debug)]
enum Keys {
    Own(Arc<dyn ProducesTickets>),
    /// The first encrypts.
    Given(Vec<GivenKey>),
}

#[derive(Debug)]
struct GivenKey {
    name: [u8; NAME_BYTES],
    key: RandomizedNonceKey,
}

impl Tickets {
    /// With the keys of the process, or `given` ones of 80 bytes.
    pub(super) fn new(
        given: Option<&[Vec<u8>]>,
        context: [u8; DIGEST_BYTES],
        timeout: Option<std::time::Duration>,
    ) -> Result<Self, Error> {
        let keys = match given {
            None => Keys::Own(own_keys()?),
            Some(list) => Keys::Given(list.iter().map(|k| given_key(k)).collect::<Result<_, _>>()?),
        };
        let lifetime = timeout.map_or(DEFAULT_LIFETIME_SECONDS, |t| t.as_secs());
        Ok(Tickets { keys, context, lifetime_seconds: lifetime.min(MAX_LIFETIME_SECONDS) })
    }
}

/// One set of rotating keys for all contexts and workers.
fn own_keys() -> Result<Arc<dyn ProducesTickets>, Error> {
    static OWN: OnceLock<Arc<dyn ProducesTickets>> = OnceLock::new();
    if let Some(keys) = OWN.get() {
        return Ok(keys.clone());
    }
    let made = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    Ok(OWN.get_or_init(|| made).clone())
}

fn given_key(bytes: &[u8]) -> Result<GivenKey, Error> {
    let wrong = || Error::material("session_ticket_keys", format!("a key has {} bytes, not {KEY_BYTES}", bytes.len()));
    if bytes.len() != KEY_BYTES {
        return Err(wrong());
    }
    let (name, rest) = bytes.split_first_chunk::<NAME_BYTES>().ok_or_else(wrong)?;
    // The HMAC key is of no use to an AEAD.
    let key = RandomizedNonceKey::new(&AES_256_GCM, &rest[32..]).map_err(|_| wrong())?;
    Ok(GivenKey { name: *name, key })
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

impl ProducesTickets for Tickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(self.lifetime_seconds).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut content = Vec::with_capacity(HEADER_BYTES + plain.len());
        content.extend_from_slice(&self.context);
        content.extend_from_slice(&now().to_be_bytes());
        content.extend_from_slice(plain);
        match &self.keys {
            Keys::Own(keys) => keys.encrypt(&content),
            Keys::Given(keys) => {
                let GivenKey { name, key } = keys.first()?;
                let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut content).ok()?;
                Some([&name[..], nonce.as_ref(), &content].concat())
            }
        }
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let content = match &self.keys {
            Keys::Own(keys) => keys.decrypt(ticket)?,
            Keys::Given(keys) => {
                let (name, rest) = ticket.split_first_chunk::<NAME_BYTES>()?;
                let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
                let key = keys.iter().find(|k| &k.name == name)?;
                let mut sealed = sealed.to_vec();
                key.key.open_in_place(Nonce::from(nonce), Aad::from(name), &mut sealed).ok()?.to_vec()
            }
        };
        let (context, rest) = content.split_first_chunk::<DIGEST_BYTES>()?;
        let (issued, plain) = rest.split_first_chunk::<8>()?;
        let age = now().saturating_sub(u64::from_be_bytes(*issued));
        (context == &self.context && age <= self.lifetime_seconds).then(|| plain.to_vec())
    }
}
