//! Why a resource was refused: becomes the NACK text, the start-up error and `meshctl`'s output.

use std::fmt;

/// What is wrong, where, and (in `reason`) how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejection {
    pub kind: Kind,
    /// Path of the field from the resource's root, e.g. `filter_chains[0].filters[1].typed_config.route_config`.
    pub path: String,
    pub reason: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A field, filter, extension or enum value that this proxy does not implement.
    Unsupported,
    /// The value breaks a rule of the API.
    Invalid,
    /// Bytes that are no message of the expected type.
    Malformed,
}

impl Rejection {
    pub fn unsupported(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Rejection { kind: Kind::Unsupported, path: path.into(), reason: reason.into() }
    }
    pub fn invalid(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Rejection { kind: Kind::Invalid, path: path.into(), reason: reason.into() }
    }
    pub fn malformed(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Rejection { kind: Kind::Malformed, path: path.into(), reason: reason.into() }
    }
    /// Puts `prefix` (a field name, or `name[index]`) before the path: called on the way out of nested validation.
    pub fn within(mut self, prefix: &str) -> Self {
        if prefix.is_empty() {
            return self;
        }
        self.path = if self.path.is_empty() { prefix.to_owned() } else { format!("{prefix}.{}", self.path) };
        self
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            Kind::Unsupported => "not supported",
            Kind::Invalid => "invalid",
            Kind::Malformed => "malformed",
        };
        if self.path.is_empty() {
            write!(f, "{what}: {}", self.reason)
        } else {
            write!(f, "{}: {what}: {}", self.path, self.reason)
        }
    }
}

impl std::error::Error for Rejection {}

/// Adds a field name to a nested [`Rejection`].
pub trait Within<T> {
    fn within(self, field: &str) -> Result<T, Rejection>;
    fn within_index(self, field: &str, index: usize) -> Result<T, Rejection>;
}

impl<T> Within<T> for Result<T, Rejection> {
    fn within(self, field: &str) -> Result<T, Rejection> {
        self.map_err(|r| r.within(field))
    }
    fn within_index(self, field: &str, index: usize) -> Result<T, Rejection> {
        self.map_err(|r| r.within(&format!("{field}[{index}]")))
    }
}
