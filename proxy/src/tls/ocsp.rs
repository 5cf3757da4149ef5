//! Stapled OCSP responses (RFC 6960): which certificate one is for and until when it is good, and what the staple policy makes of it.
//!
//! A response is passed on as it is; its signature is the client's to verify.

use std::sync::Arc;

use rustls::sign::CertifiedKey;
use sidemesh_config::resource::tls::StaplePolicy;
use x509_parser::certificate::X509Certificate;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const GENERALIZED_TIME: u8 = 0x18;
const CONTEXT_0: u8 = 0xa0;
/// id-pe-tlsfeature (RFC 7633) and the feature `status_request` in it.
const TLS_FEATURE: &str = "1.3.6.1.5.5.7.1.24";
const STATUS_REQUEST: &[u8] = &[INTEGER, 1, 5];

/// What the first answer of a response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Response {
    /// Of the certificate, without leading zeros.
    pub(super) serial: Vec<u8>,
    /// Unix seconds; a response that does not say is held to be over.
    pub(super) next_update: Option<i64>,
}

/// A response with the certificate's key without it.
#[derive(Debug)]
pub(super) struct Staple {
    pub(super) response: Response,
    pub(super) without: Arc<CertifiedKey>,
}

/// What the policy makes of a certificate's staple at one handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Staple,
    NoStaple,
    /// The certificate must not be used.
    Fail,
}

/// `must_staple`: the certificate itself asks for a staple.
pub(super) fn judge(policy: StaplePolicy, must_staple: bool, staple: Option<&Staple>, now: i64) -> Verdict {
    let is_good = staple.is_some_and(|s| s.response.next_update.is_some_and(|end| end > now));
    match policy {
        _ if is_good => Verdict::Staple,
        StaplePolicy::Must => Verdict::Fail,
        _ if must_staple => Verdict::Fail,
        StaplePolicy::Strict if staple.is_some() => Verdict::Fail,
        StaplePolicy::Strict | StaplePolicy::Lenient => Verdict::NoStaple,
    }
}

/// Whether the certificate says that it is worth nothing without a staple.
pub(super) fn must_staple(certificate: &X509Certificate<'_>) -> bool {
    let feature = certificate.extensions().iter().find(|e| e.oid.to_id_string() == TLS_FEATURE);
    feature.is_some_and(|e| e.value.windows(STATUS_REQUEST.len()).any(|w| w == STATUS_REQUEST))
}

/// Reads a DER `OCSPResponse`; `None` for one that is malformed or reports an error of the responder.
pub(super) fn parse(der: &[u8]) -> Option<Response> {
    let mut response = Der(Der(der).expect(SEQUENCE)?);
    let (_, status) = response.next()?;
    if status != [0] {
        return None;
    }
    let mut bytes = Der(Der(response.expect(CONTEXT_0)?).expect(SEQUENCE)?);
    bytes.next()?;
    let mut basic = Der(Der(bytes.expect(OCTET_STRING)?).expect(SEQUENCE)?);
    let mut data = Der(basic.expect(SEQUENCE)?);
    if data.peek() == Some(CONTEXT_0) {
        data.next()?;
    }
    let _responder = data.next()?;
    data.expect(GENERALIZED_TIME)?;
    let mut single = Der(Der(data.expect(SEQUENCE)?).expect(SEQUENCE)?);
    let mut id = Der(single.expect(SEQUENCE)?);
    id.expect(SEQUENCE)?;
    id.expect(OCTET_STRING)?;
    id.expect(OCTET_STRING)?;
    let serial = significant(id.expect(INTEGER)?).to_vec();
    let _status = single.next()?;
    single.expect(GENERALIZED_TIME)?;
    let next_update = match single.peek() {
        Some(CONTEXT_0) => Some(time(Der(single.expect(CONTEXT_0)?).expect(GENERALIZED_TIME)?)?),
        _ => None,
    };
    Some(Response { serial, next_update })
}

/// A number without the zeros that stand before it.
pub(super) fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    &number[zeros..]
}

/// `YYYYMMDDHHMMSSZ` in Unix seconds.
fn time(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let format = time::macros::format_description!("[year][month][day][hour][minute][second]Z");
    let at = time::PrimitiveDateTime::parse(text, format).ok()?;
    Some(at.assume_utc().unix_timestamp())
}

/// A reader over the elements of a DER value.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: its tag and content.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let [tag, first, rest @ ..] = self.0 else { return None };
        let (length, rest) = match first {
            0..=0x7f => (usize::from(*first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |n, b| n << 8 | usize::from(*b)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }

    fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

#[cfg(test)]
mod tests;
