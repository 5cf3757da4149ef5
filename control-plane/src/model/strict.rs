//! Strict decoding: what a type does not know is an error with its path, and every error has a path.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;

/// One thing wrong with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// `spec.rules[0].backendRefs[1].weight`
    pub path: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.path, self.message) }
    }
}

/// Collects errors, so that a user sees all of them at once.
#[derive(Debug, Default)]
pub struct Errors {
    list: Vec<FieldError>,
}

impl Errors {
    pub fn push(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.list.push(FieldError { path: path.into(), message: message.into() });
    }

    /// `value`, unless something was wrong.
    pub fn finish<T>(self, value: T) -> Result<T, Vec<FieldError>> {
        if self.list.is_empty() { Ok(value) } else { Err(self.list) }
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub fn into_vec(self) -> Vec<FieldError> {
        self.list
    }

    /// An RFC 1123 label: names of services, namespaces, ports.
    pub fn label(&mut self, path: impl Into<String>, text: &str) {
        if !is_label(text) {
            self.push(path, format!("`{text}` is not an RFC 1123 label: use at most 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"));
        }
    }

    /// An RFC 1123 subdomain: names of most objects.
    pub fn subdomain(&mut self, path: impl Into<String>, text: &str) {
        if text.len() > 253 || !text.split('.').all(|part| is_label(part) || is_long_label(part)) {
            self.push(path, format!("`{text}` is not an RFC 1123 subdomain: use at most 253 of a-z, 0-9, - and ., each part beginning and ending with a letter or digit"));
        }
    }

    pub fn port(&mut self, path: impl Into<String>, port: i64) -> u16 {
        match u16::try_from(port) {
            Ok(port) if port != 0 => port,
            _ => {
                self.push(path, format!("{port} is not a port: use 1 to 65535"));
                0
            }
        }
    }

    /// A duration as Gateway API writes it (GEP-2257).
    pub fn duration(&mut self, path: impl Into<String>, text: &str) -> Duration {
        match gateway_api::Duration::from_str(text) {
            Ok(duration) => Duration::new(duration.as_secs(), duration.subsec_nanos()),
            Err(_) => {
                self.push(path, format!("`{text}` is not a duration: write for example 250ms, 10s or 1h30m"));
                Duration::ZERO
            }
        }
    }

    /// A duration that must not be zero.
    pub fn positive(&mut self, path: &str, text: &str) -> Duration {
        let before = self.list.len();
        let duration = self.duration(path, text);
        if self.list.len() == before && duration.is_zero() {
            self.push(path, "must be longer than 0s");
        }
        duration
    }

    pub fn range(&mut self, path: impl Into<String>, value: i64, min: i64, max: i64) -> u32 {
        match u32::try_from(value) {
            Ok(checked) if (min..=max).contains(&value) => checked,
            _ => {
                self.push(path, format!("{value} is out of range: use {min} to {max}"));
                0
            }
        }
    }

    pub fn ip(&mut self, path: impl Into<String>, text: &str) -> Option<IpAddr> {
        let ip = text.parse().ok();
        if ip.is_none() {
            self.push(path, format!("`{text}` is not an IP address"));
        }
        ip
    }

    pub fn regex(&mut self, path: impl Into<String>, text: &str) {
        if let Err(e) = regex::Regex::new(text) {
            let reason = e.to_string();
            let last = reason.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned();
            self.push(path, format!("`{text}` is not a regular expression (RE2 syntax): {last}"));
        }
    }
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_long_label(text)
}

fn is_long_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.iter().all(|b| inner(*b)) && edge(bytes.first()) && edge(bytes.last())
}

/// Decodes `value` as `T`; fields that `T` does not have are errors.
pub fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<FieldError>> {
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let deserializer = serde_path_to_error::Deserializer::new(value, &mut track);
    let decoded = serde_ignored::deserialize(deserializer, |path| unknown.push(ignored_path(&path)));
    match decoded {
        Err(e) => {
            let path = track.path().to_string();
            let path = if path == "." { String::new() } else { path };
            Err(vec![FieldError { path, message: e.to_string() }])
        }
        Ok(decoded) => {
            let mut errors = Errors::default();
            for path in unknown.into_iter().filter(|p| p != "apiVersion" && p != "kind") {
                errors.push(path, "unknown field: check the spelling, or remove it");
            }
            errors.finish(decoded)
        }
    }
}

fn ignored_path(path: &serde_ignored::Path<'_>) -> String {
    use serde_ignored::Path;
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", ignored_path(parent)),
        Path::Map { parent, key } => match ignored_path(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            ignored_path(parent)
        }
    }
}
