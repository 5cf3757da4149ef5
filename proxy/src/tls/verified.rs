//! Chains that have passed verification, remembered so that the next handshake with the same certificates need not check
//! their signatures again. A workload's peers present the same certificates all day.
//!
//! What is remembered is that every certificate of one exact chain (by the SHA-256 of all its bytes) was signed by the next
//! and the last by a trusted CA, for as long as all of them are in date: a hit says what a new verification would say
//! (RFC 5280 section 6). The proof that the peer holds the key is the handshake's own signature, which is always checked, and so
//! are names and pins. One memory belongs to one verifier, so that other CAs never see it; it is not asked where revocation
//! lists or a tolerance for expired certificates make time matter in other ways. Chains that fail are not remembered.
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::{Mutex, PoisonError};

use aws_lc_rs::digest;
use rustls::pki_types::{CertificateDer, UnixTime};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

/// Chains kept; only such as a trusted CA has signed get in. When it is full, it is emptied.
const MAX_CHAINS: usize = 4096;

/// Identifies one chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct ChainId([u8; 32]);

/// When a chain was found good, and from when to when it stays so.
#[derive(Debug, Default)]
pub(super) struct Verified {
    /// Unix seconds. Locked once per full handshake.
    chains: Mutex<HashMap<ChainId, RangeInclusive<i64>>>,
}

impl ChainId {
    pub(super) fn of(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        for der in std::iter::once(leaf).chain(intermediates) {
            // DER tells its own length; the length before it makes the boundary certain for what is no DER.
            context.update(&der.len().to_be_bytes());
            context.update(der);
        }
        let mut id = [0; 32];
        id.copy_from_slice(context.finish().as_ref());
        ChainId(id)
    }
}

impl Verified {
    pub(super) fn holds(&self, chain: ChainId, now: UnixTime) -> bool {
        let now = seconds(now);
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        match chains.get(&chain) {
            Some(valid) if valid.contains(&now) => true,
            Some(_) => {
                chains.remove(&chain);
                false
            }
            None => false,
        }
    }

    /// The chain has passed; `anchor`: the validity of the CA at its end, where that is known. A certificate among them that
    /// cannot be read leaves the chain unknown.
    pub(super) fn keep(
        &self,
        id: ChainId,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        anchor: Option<(i64, i64)>,
    ) {
        let (mut from, mut to) = anchor.unwrap_or((i64::MIN, i64::MAX));
        for der in std::iter::once(leaf).chain(intermediates) {
            let Ok((_, certificate)) = X509Certificate::from_der(der) else { return };
            from = from.max(certificate.validity().not_before.timestamp());
            to = to.min(certificate.validity().not_after.timestamp());
        }
        let mut chains = self.chains.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= MAX_CHAINS {
            chains.clear();
        }
        chains.insert(id, from..=to);
    }
}

fn seconds(time: UnixTime) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}
