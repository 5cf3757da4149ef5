//! Cookies of a request (RFC 6265, section 4.2), as the cookie matchers and the hash policy read them.

use http::HeaderMap;
use http::header::COOKIE;

/// The value of the first cookie called `name`, without the double quotes it may stand in.
pub fn cookie<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|v| v.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim_start().split_once('='));
    let (_, value) = pairs.find(|(n, _)| *n == name)?;
    let value = value.trim_end();
    Some(value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).unwrap_or(value))
}
