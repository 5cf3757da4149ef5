//! What the first bytes of a connection say: a TLS ClientHello (server name, ALPN), or an HTTP request. Pure.

use sidemesh_config::value::Name;

/// A ClientHello, or an HTTP request line, longer than this is given up on (as in Envoy).
pub const MAX_INSPECTED_BYTES: usize = 16 * 1024;

const CONTENT_HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a ClientHello asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// In lower case.
    pub server_name: Option<Name>,
    pub alpn: Vec<Name>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Detected<T> {
    Found(T),
    Partial,
    Other,
}

/// Looks for a ClientHello (RFC 8446, 4.1.2), which may span several records.
pub fn client_hello(bytes: &[u8]) -> Detected<ClientHello> {
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [] => return Detected::Partial,
            [kind, ..] if *kind != CONTENT_HANDSHAKE => return Detected::Other,
            [_, major, ..] if *major != 3 => return Detected::Other,
            [_, _, _, high, low, body @ ..] => {
                let length = usize::from(u16::from_be_bytes([*high, *low]));
                if length == 0 || length > MAX_INSPECTED_BYTES + 256 {
                    return Detected::Other;
                }
                let take = length.min(body.len());
                message.extend_from_slice(&body[..take]);
                if message.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
                    return Detected::Other;
                }
                if let [_, a, b, c, hello @ ..] = message.as_slice() {
                    let wanted = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
                    if hello.len() >= wanted {
                        return read_hello(&hello[..wanted]).map_or(Detected::Other, Detected::Found);
                    }
                }
                if take < length {
                    return Detected::Partial;
                }
                rest = &body[take..];
            }
            _ => return Detected::Partial,
        }
    }
}

/// A reader over length-prefixed fields.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n)?;
        self.0 = tail;
        Some(head)
    }
    fn u8(&mut self) -> Option<usize> {
        self.take(1).map(|b| usize::from(b[0]))
    }
    fn u16(&mut self) -> Option<u16> {
        self.take(2).map(|b| u16::from_be_bytes([b[0], b[1]]))
    }
    fn vec8(&mut self) -> Option<&'a [u8]> {
        let n = self.u8()?;
        self.take(n)
    }
    fn vec16(&mut self) -> Option<&'a [u8]> {
        let n = self.u16()?;
        self.take(usize::from(n))
    }
}

fn read_hello(bytes: &[u8]) -> Option<ClientHello> {
    let mut fields = Fields(bytes);
    fields.take(2 + 32)?;
    fields.vec8()?;
    fields.vec16()?;
    fields.vec8()?;
    let mut hello = ClientHello::default();
    // A hello without extensions is an old client's.
    let Some(extensions) = fields.vec16() else { return Some(hello) };
    let mut extensions = Fields(extensions);
    while let Some(kind) = extensions.u16() {
        let content = extensions.vec16()?;
        match kind {
            EXTENSION_SERVER_NAME => hello.server_name = server_name(content),
            EXTENSION_ALPN => hello.alpn = protocols(content)?,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(content: &[u8]) -> Option<Name> {
    let mut names = Fields(Fields(content).vec16()?);
    while let Some(kind) = names.u8() {
        let name = names.vec16()?;
        if kind == 0 {
            return std::str::from_utf8(name).ok().map(|n| Name::from(n.to_ascii_lowercase()));
        }
    }
    None
}

fn protocols(content: &[u8]) -> Option<Vec<Name>> {
    let mut list = Fields(Fields(content).vec16()?);
    let mut protocols = Vec::new();
    while let Some(protocol) = list.vec8() {
        protocols.push(Name::from(String::from_utf8_lossy(protocol)));
    }
    Some(protocols)
}

/// Looks for the beginning of HTTP: which protocol, as filter chains name it (`http/1.0`, `http/1.1`, `h2c`).
pub fn http(bytes: &[u8]) -> Detected<&'static str> {
    let n = bytes.len().min(HTTP2_PREFACE.len());
    if bytes[..n] == HTTP2_PREFACE[..n] {
        return if n == HTTP2_PREFACE.len() { Detected::Found("h2c") } else { Detected::Partial };
    }
    let Some(end) = memchr::memchr(b'\n', bytes) else {
        let plausible = bytes.iter().all(|b| (0x20..0x7f).contains(b) || *b == b'\r');
        return if plausible && bytes.len() < MAX_INSPECTED_BYTES { Detected::Partial } else { Detected::Other };
    };
    let line = bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]);
    let method = line.split(|b| *b == b' ').next().unwrap_or_default();
    let is_method = !method.is_empty() && method.iter().all(|b| b.is_ascii_uppercase() || *b == b'-');
    match line {
        _ if !is_method => Detected::Other,
        _ if line.ends_with(b" HTTP/1.1") => Detected::Found("http/1.1"),
        _ if line.ends_with(b" HTTP/1.0") => Detected::Found("http/1.0"),
        _ => Detected::Other,
    }
}

/// Why `bytes` begin no TLS, in BoringSSL's words.
pub fn why_not_tls(bytes: &[u8]) -> &'static str {
    let http = [&b"GET "[..], b"POST ", b"HEAD ", b"PUT "].iter().any(|method| bytes.starts_with(method));
    if http {
        "TLS_error|error:1000009c:SSL routines:OPENSSL_internal:HTTP_REQUEST:TLS_error_end"
    } else if bytes.starts_with(b"CONNE") {
        "TLS_error|error:1000009b:SSL routines:OPENSSL_internal:HTTPS_PROXY_REQUEST:TLS_error_end"
    } else if let [CONTENT_HANDSHAKE, _, _, _, _, _, high, middle, ..] = bytes
        && (*high > 0 || *middle >= 0x40)
    {
        "TLS_error|error:10000096:SSL routines:OPENSSL_internal:EXCESSIVE_MESSAGE_SIZE:TLS_error_end"
    } else {
        "TLS_error|error:100000f7:SSL routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hello for `a.test` that offers h2, in one record.
    fn hello() -> Vec<u8> {
        let sni = [&[0, 0, 0, 11, 0, 9, 0, 0, 6][..], b"A.test"].concat();
        let alpn = [&[0, 16, 0, 5, 0, 3, 2][..], b"h2"].concat();
        let extensions = [sni, alpn].concat();
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.extend([0, 0, 2, 0x13, 1, 1, 0]);
        body.extend((extensions.len() as u16).to_be_bytes());
        body.extend(extensions);
        let mut message = vec![CLIENT_HELLO, 0];
        message.extend((body.len() as u16).to_be_bytes());
        message.extend(body);
        message
    }

    fn record(content: &[u8]) -> Vec<u8> {
        let mut record = vec![CONTENT_HANDSHAKE, 3, 1];
        record.extend((content.len() as u16).to_be_bytes());
        record.extend(content);
        record
    }

    #[test]
    fn a_client_hello_tells_name_and_protocols_however_it_is_cut() {
        let hello = hello();
        let wanted = Detected::Found(ClientHello { server_name: Some("a.test".into()), alpn: vec!["h2".into()] });
        assert_eq!(client_hello(&record(&hello)), wanted);
        let split = [record(&hello[..20]), record(&hello[20..])].concat();
        assert_eq!(client_hello(&split), wanted);
        for n in 0..split.len() - 1 {
            assert_eq!(client_hello(&split[..n]), Detected::Partial, "cut at {n}");
        }
    }

    #[test]
    fn plain_text_is_no_tls() {
        assert_eq!(client_hello(b"GET / HTTP/1.1\r\n"), Detected::Other);
        assert_eq!(client_hello(&[22, 9, 1]), Detected::Other);
    }

    #[test]
    fn what_is_no_tls_is_told_apart() {
        assert!(why_not_tls(b"GET / HTTP/1.1").contains("HTTP_REQUEST"));
        assert!(why_not_tls(b"CONNECT a:1").contains("HTTPS_PROXY_REQUEST"));
        assert!(why_not_tls(b"SSH-2.0").contains("WRONG_VERSION_NUMBER"));
        assert!(why_not_tls(b"\x16\x03\x01\x00\x05aaaaa").contains("EXCESSIVE_MESSAGE_SIZE"));
    }

    #[test]
    fn http_is_known_by_its_first_line() {
        assert_eq!(http(b"GET / HTTP/1.1\r\nhost: x"), Detected::Found("http/1.1"));
        assert_eq!(http(b"GET / HTTP/1.0\n"), Detected::Found("http/1.0"));
        assert_eq!(http(b"PRI * HTTP/2.0\r\n"), Detected::Partial);
        assert_eq!(http(HTTP2_PREFACE), Detected::Found("h2c"));
        assert_eq!(http(b"SSH-2.0-OpenSSH\r\n"), Detected::Other);
        assert_eq!(http(&[0x16, 3, 1]), Detected::Other);
        assert_eq!(http(b"GE"), Detected::Partial);
    }
}
