//! Hygiene of a request's target and authority before anything is decided by them: escaped slashes, dot segments, merged
//! slashes, host ports and trailing dots (`HttpConnectionManager.normalize_path`, `merge_slashes`,
//! `path_with_escaped_slashes_action`, `strip_*`), as RFC 3986 section 6 and Envoy have them.
//!
//! Pure functions over strings; the query is never touched. Header limits and fragments are the codecs' business.

use std::borrow::Cow;

use http::HeaderValue;
use sidemesh_config::resource::http_connection_manager::{EscapedSlashes, HttpConnectionManager};

/// What came of a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Normalized<'a> {
    Path(Cow<'a, str>),
    /// Answer 307 with this location.
    Redirect(String),
    /// Answer 400.
    Rejected,
}

/// Which steps the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathRules {
    pub normalize: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
}

impl PathRules {
    pub fn of(hcm: &HttpConnectionManager) -> Self {
        PathRules {
            normalize: hcm.normalize_path,
            merge_slashes: hcm.merge_slashes,
            escaped_slashes: hcm.escaped_slashes,
        }
    }

    /// Nothing to do, whatever the path.
    pub fn is_off(&self) -> bool {
        !self.normalize && !self.merge_slashes && self.escaped_slashes == EscapedSlashes::Keep
    }

    /// Applies the rules to `/path?query`.
    pub fn apply<'a>(&self, target: &'a str) -> Normalized<'a> {
        let (path, query) = match target.find('?') {
            Some(at) => target.split_at(at),
            None => (target, ""),
        };
        let mut path = Cow::Borrowed(path);
        let mut redirect = false;
        if self.escaped_slashes != EscapedSlashes::Keep
            && let Some(unescaped) = unescape_slashes(&path)
        {
            match self.escaped_slashes {
                EscapedSlashes::Reject => return Normalized::Rejected,
                EscapedSlashes::UnescapeAndRedirect => redirect = true,
                _ => {}
            }
            path = Cow::Owned(unescaped);
        }
        if self.normalize && needs_canonical(&path) {
            match canonical(&path) {
                Some(p) => path = Cow::Owned(p),
                None => return Normalized::Rejected,
            }
        }
        if self.merge_slashes && path.contains("//") {
            path = Cow::Owned(merge(&path));
        }
        let whole = match path {
            Cow::Borrowed(_) => Cow::Borrowed(target),
            Cow::Owned(mut p) => {
                p.push_str(query);
                Cow::Owned(p)
            }
        };
        if redirect { Normalized::Redirect(whole.into_owned()) } else { Normalized::Path(whole) }
    }
}

/// `%2F` and `%5C` decoded; `None` when there are none.
fn unescape_slashes(path: &str) -> Option<String> {
    let mut out: Option<String> = None;
    let mut from = 0;
    let bytes = path.as_bytes();
    let mut at = 0;
    while let Some(found) = memchr::memchr(b'%', &bytes[at..]) {
        let i = at + found;
        let slash = match bytes.get(i + 1..i + 3) {
            Some([b'2', b'F' | b'f']) => Some('/'),
            Some([b'5', b'C' | b'c']) => Some('\\'),
            _ => None,
        };
        at = i + 1;
        if let Some(slash) = slash {
            let out = out.get_or_insert_with(|| String::with_capacity(path.len()));
            out.push_str(&path[from..i]);
            out.push(slash);
            from = i + 3;
            at = from;
        }
    }
    let mut out = out?;
    out.push_str(&path[from..]);
    Some(out)
}

/// Whether [`canonical`] could change anything: keeps the common path free of allocation.
fn needs_canonical(path: &str) -> bool {
    let bytes = path.as_bytes();
    bytes.iter().enumerate().any(|(i, b)| match b {
        b'%' | b'\\' | b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | 0x7f..=0xff => true,
        b'.' => i > 0 && matches!(bytes[i - 1], b'/' | b'.'),
        _ => false,
    })
}

/// Dot segments resolved, backslashes turned into slashes, unreserved characters unescaped, characters that may not stand
/// in a path escaped. `None`: an invalid escape.
fn canonical(path: &str) -> Option<String> {
    let bytes = path.as_bytes();
    let mut out = String::with_capacity(path.len() + 8);
    let mut at = 0;
    while at < bytes.len() {
        let (c, len) = unit(bytes, at)?;
        match c {
            Unit::Slash => {
                out.push('/');
                at += len;
                at = skip_dot_segments(bytes, at, &mut out);
            }
            Unit::Plain(b) => {
                out.push(char::from(b));
                at += len;
            }
            Unit::Escaped(b) => {
                push_escaped(b, &mut out);
                at += len;
            }
            Unit::Keep => {
                out.push_str(&path[at..at + len]);
                at += len;
            }
        }
    }
    Some(out)
}

enum Unit {
    Slash,
    Plain(u8),
    Escaped(u8),
    Keep,
}

fn unit(bytes: &[u8], at: usize) -> Option<(Unit, usize)> {
    Some(match bytes[at] {
        b'/' | b'\\' => (Unit::Slash, 1),
        b'%' => {
            let value = hex_pair(bytes, at)?;
            match value {
                0 => return None,
                b'-' | b'.' | b'_' | b'~' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => (Unit::Plain(value), 3),
                _ => (Unit::Keep, 3),
            }
        }
        b @ (b'"' | b'<' | b'>' | b'`' | b'{' | b'}' | 0x7f..=0xff) => (Unit::Escaped(b), 1),
        b => (Unit::Plain(b), 1),
    })
}

/// Consumes `.` and `..` segments that start at `at` (just behind a slash already in `out`).
fn skip_dot_segments(bytes: &[u8], mut at: usize, out: &mut String) -> usize {
    loop {
        let (dots, end) = dots_at(bytes, at);
        let closes = matches!(bytes.get(end), None | Some(b'/' | b'\\'));
        if !closes || dots == 0 || dots > 2 {
            return at;
        }
        if dots == 2 {
            out.pop();
            while out.pop().is_some_and(|c| c != '/') {}
            out.push('/');
        }
        if end == bytes.len() {
            return end;
        }
        at = end + 1;
    }
}

/// Counts dots (also `%2e`) from `at`; returns where they end.
fn dots_at(bytes: &[u8], mut at: usize) -> (usize, usize) {
    let mut dots = 0;
    loop {
        match bytes.get(at) {
            Some(b'.') => at += 1,
            Some(b'%') if hex_pair(bytes, at) == Some(b'.') => at += 3,
            _ => return (dots, at),
        }
        dots += 1;
    }
}

fn hex_pair(bytes: &[u8], at: usize) -> Option<u8> {
    let digit = |i: usize| bytes.get(i).and_then(|b| char::from(*b).to_digit(16));
    Some((digit(at + 1)? * 16 + digit(at + 2)?) as u8)
}

fn push_escaped(byte: u8, out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    out.push('%');
    out.push(char::from(HEX[usize::from(byte >> 4)]));
    out.push(char::from(HEX[usize::from(byte & 15)]));
}

fn merge(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

/// What is done to the `host` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HostRules {
    pub strip_any_port: bool,
    /// Strip the port when it is this one.
    pub strip_port: Option<u16>,
    pub strip_trailing_dot: bool,
}

impl HostRules {
    pub fn is_off(&self) -> bool {
        *self == HostRules::default()
    }

    /// The new host, when it changes.
    pub fn apply(&self, host: &str) -> Option<HeaderValue> {
        let (mut name, port) = split_port(host);
        let strip = port.filter(|p| !p.is_empty()).is_some_and(|p| {
            self.strip_any_port || self.strip_port.is_some_and(|own| p.parse::<u16>().ok() == Some(own))
        });
        let dot = self.strip_trailing_dot && name.ends_with('.');
        if !strip && !dot {
            return None;
        }
        if dot {
            name = &name[..name.len() - 1];
        }
        match port {
            Some(port) if !strip => HeaderValue::try_from(format!("{name}:{port}")).ok(),
            _ => HeaderValue::from_str(name).ok(),
        }
    }
}

/// Splits `host:port`; an IPv6 literal keeps its brackets.
pub fn split_port(host: &str) -> (&str, Option<&str>) {
    match host.rfind(':') {
        Some(at) if host[at + 1..].bytes().all(|b| b.is_ascii_digit()) && !host[..at].is_empty() => {
            if host.starts_with('[') && !host[..at].ends_with(']') || !host.starts_with('[') && host[..at].contains(':')
            {
                return (host, None);
            }
            (&host[..at], Some(&host[at + 1..]))
        }
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(escaped_slashes: EscapedSlashes, merge_slashes: bool, target: &str) -> String {
        let rules = PathRules { normalize: true, merge_slashes, escaped_slashes };
        match rules.apply(target) {
            Normalized::Path(p) => p.into_owned(),
            Normalized::Redirect(p) => format!("307 {p}"),
            Normalized::Rejected => "400".to_owned(),
        }
    }

    #[test]
    fn paths_come_out_as_envoy_makes_them() {
        let keep = |t: &str| path(EscapedSlashes::Keep, false, t);
        assert_eq!(keep("/x/../admin"), "/admin");
        assert_eq!(keep("/x/%2e%2e/admin"), "/admin");
        assert_eq!(keep("/./a//b"), "/a//b");
        assert_eq!(keep("/../up"), "/up");
        assert_eq!(keep("/a\\b"), "/a/b");
        assert_eq!(keep("/%41?x=/../y"), "/A?x=/../y");
        assert_eq!(keep("/a%2Fb%5cc"), "/a%2Fb%5cc");
        assert_eq!(keep("/x/..%2fadmin"), "/x/..%2fadmin");
        assert_eq!(keep("/a/.."), "/");
        assert_eq!(keep("/a/..."), "/a/...");
        assert_eq!(keep("/a/.hidden/..b"), "/a/.hidden/..b");
        assert_eq!(keep("/a%zz"), "400");
        assert_eq!(path(EscapedSlashes::Keep, true, "//admin"), "/admin");
        assert_eq!(path(EscapedSlashes::Reject, false, "/a%2Fb"), "400");
        assert_eq!(path(EscapedSlashes::UnescapeAndRedirect, false, "/x/..%2fadmin?q"), "307 /admin?q");
        assert_eq!(path(EscapedSlashes::UnescapeAndForward, false, "/a%2Fb%5cc"), "/a/b/c");
    }

    #[test]
    fn hosts_lose_what_is_configured() {
        let any = HostRules { strip_any_port: true, ..HostRules::default() };
        let own = HostRules { strip_port: Some(8080), ..HostRules::default() };
        let dot = HostRules { strip_trailing_dot: true, ..HostRules::default() };
        let show = |v: Option<HeaderValue>| v.map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned());
        assert_eq!(show(any.apply("a.test:81")).as_deref(), Some("a.test"));
        assert_eq!(show(any.apply("[::1]:81")).as_deref(), Some("[::1]"));
        assert_eq!(show(any.apply("::1")), None);
        assert_eq!(show(own.apply("a.test:81")), None);
        assert_eq!(show(own.apply("a.test:8080")).as_deref(), Some("a.test"));
        assert_eq!(show(dot.apply("a.test.")).as_deref(), Some("a.test"));
        assert_eq!(show(dot.apply("a.test.:80")).as_deref(), Some("a.test:80"));
    }
}
