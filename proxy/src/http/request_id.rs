//! `x-request-id`: made for requests that have none (or come from outside), with the trace decision packed into the UUID's
//! version digit as Envoy's UUID extension does.

use http::header::{HeaderMap, HeaderValue};
use sidemesh_config::resource::http_connection_manager::HttpConnectionManager;

use super::forwarded::Caller;
use super::names::X_REQUEST_ID;
use crate::clock::Random;
use crate::telemetry::trace::Reason;

/// The digit that tells why a request is traced.
fn digit(reason: Reason) -> u8 {
    match reason {
        Reason::NotTraced => b'4',
        Reason::Sampled => b'9',
        Reason::Forced => b'a',
        Reason::Client => b'b',
    }
}

/// Where the version digit stands.
const REASON_AT: usize = 14;

/// Sets the id where the configuration wants one.
pub fn apply(headers: &mut HeaderMap, hcm: &HttpConnectionManager, caller: &Caller, random: &Random) {
    if !hcm.generate_request_id {
        return;
    }
    let replace = caller.edge && !hcm.preserve_external_request_id;
    if !replace && caller.identified && headers.contains_key(X_REQUEST_ID) {
        return;
    }
    headers.insert(X_REQUEST_ID, fresh(random));
}

/// Packs the trace decision into an id that is a UUID.
pub fn pack(headers: &mut HeaderMap, reason: Reason) {
    let Some(id) = headers.get(X_REQUEST_ID) else { return };
    let bytes = id.as_bytes();
    if bytes.len() != 36 || bytes[REASON_AT] == digit(reason) {
        return;
    }
    let mut packed = [0u8; 36];
    packed.copy_from_slice(bytes);
    packed[REASON_AT] = digit(reason);
    if let Ok(value) = HeaderValue::from_bytes(&packed) {
        headers.insert(X_REQUEST_ID, value);
    }
}

/// The reason an id carries, when it is a UUID of ours.
pub fn reason(headers: &HeaderMap) -> Option<Reason> {
    let bytes = headers.get(X_REQUEST_ID)?.as_bytes();
    match (bytes.len(), bytes.get(REASON_AT)?) {
        (36, b'9') => Some(Reason::Sampled),
        (36, b'a') => Some(Reason::Forced),
        (36, b'b') => Some(Reason::Client),
        (36, b'4') => Some(Reason::NotTraced),
        _ => None,
    }
}

/// A random UUID, version 4.
fn fresh(random: &Random) -> HeaderValue {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    /// Where each byte's two digits stand.
    const AT: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];
    let bits = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
    let mut bytes = bits.to_be_bytes();
    bytes[6] = 0x40 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    let mut text = [b'-'; 36];
    for (byte, at) in bytes.into_iter().zip(AT) {
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_uuids_and_carry_the_reason() {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, fresh(&Random::seeded(7)));
        let id = headers[X_REQUEST_ID].to_str().unwrap_or("").to_owned();
        assert_eq!((id.len(), id.matches('-').count()), (36, 4));
        assert_eq!(reason(&headers), Some(Reason::NotTraced));
        pack(&mut headers, Reason::Sampled);
        assert_eq!(reason(&headers), Some(Reason::Sampled));
    }

    #[test]
    fn foreign_ids_are_left_alone() {
        let mut headers = HeaderMap::new();
        headers.insert(X_REQUEST_ID, HeaderValue::from_static("mine-123"));
        pack(&mut headers, Reason::Sampled);
        assert_eq!(headers[X_REQUEST_ID], "mine-123");
    }
}
