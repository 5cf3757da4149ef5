//! What happens inside a handshake and rustls does not tell afterwards: the peer's signature.
//!
//! rustls asks a verifier that many connections share; what it is asked is noted for the handshake whose future is being
//! polled, on the thread that polls it.

use std::cell::Cell;
use std::pin::pin;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};
use std::task::Poll;

use rustls::{CommonState, HandshakeKind, NamedGroup, SignatureScheme};

thread_local! {
    static SIGNED: Cell<Option<SignatureScheme>> = const { Cell::new(None) };
}

/// The peer has signed with this; called by the verifier.
pub(super) fn signed(scheme: SignatureScheme) {
    SIGNED.set(Some(scheme));
}

/// Runs a handshake; returns with it what its peer signed with.
pub(super) async fn watch<T>(handshake: impl Future<Output = T>) -> (T, Option<SignatureScheme>) {
    let mut handshake = pin!(handshake);
    let mut seen = None;
    let done = std::future::poll_fn(|cx| {
        SIGNED.set(None);
        let done = handshake.as_mut().poll(cx);
        seen = SIGNED.take().or(seen);
        match done {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    (done, seen)
}

/// What the last full handshake of a context settled on: a session that goes on was made by one.
#[derive(Debug, Default)]
pub(super) struct Settled {
    scheme: AtomicU16,
    group: AtomicU16,
}

impl Settled {
    /// Signature and key exchange of a session, in BoringSSL's names; empty where there is none.
    pub(super) fn note(&self, session: &CommonState, scheme: Option<SignatureScheme>) -> (&'static str, &'static str) {
        let mut scheme = scheme.map(u16::from);
        let mut group = session.negotiated_key_exchange_group().map(|g| u16::from(g.name()));
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            let known = |settled: &AtomicU16| Some(settled.load(Relaxed)).filter(|n| *n != 0);
            scheme = scheme.or_else(|| known(&self.scheme).filter(|_| session.peer_certificates().is_some()));
            group = group.or_else(|| known(&self.group));
        } else {
            self.scheme.store(scheme.unwrap_or(0), Relaxed);
            self.group.store(group.unwrap_or(0), Relaxed);
        }
        (
            scheme.map_or("", |n| scheme_name(SignatureScheme::from(n))),
            group.map_or("", |n| group_name(NamedGroup::from(n))),
        )
    }
}

fn group_name(group: NamedGroup) -> &'static str {
    match group {
        NamedGroup::X25519 => "X25519",
        NamedGroup::secp256r1 => "P-256",
        NamedGroup::secp384r1 => "P-384",
        NamedGroup::secp521r1 => "P-521",
        NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        _ => "",
    }
}

fn scheme_name(scheme: SignatureScheme) -> &'static str {
    match scheme {
        SignatureScheme::RSA_PKCS1_SHA1 => "rsa_pkcs1_sha1",
        SignatureScheme::RSA_PKCS1_SHA256 => "rsa_pkcs1_sha256",
        SignatureScheme::RSA_PKCS1_SHA384 => "rsa_pkcs1_sha384",
        SignatureScheme::RSA_PKCS1_SHA512 => "rsa_pkcs1_sha512",
        SignatureScheme::RSA_PSS_SHA256 => "rsa_pss_rsae_sha256",
        SignatureScheme::RSA_PSS_SHA384 => "rsa_pss_rsae_sha384",
        SignatureScheme::RSA_PSS_SHA512 => "rsa_pss_rsae_sha512",
        SignatureScheme::ECDSA_SHA1_Legacy => "ecdsa_sha1",
        SignatureScheme::ECDSA_NISTP256_SHA256 => "ecdsa_secp256r1_sha256",
        SignatureScheme::ECDSA_NISTP384_SHA384 => "ecdsa_secp384r1_sha384",
        SignatureScheme::ECDSA_NISTP521_SHA512 => "ecdsa_secp521r1_sha512",
        SignatureScheme::ED25519 => "ed25519",
        _ => "",
    }
}
