//! Small values that many resources share.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// A name of a resource, cluster, header-free label: cheap to clone, compared by content.
pub type Name = Arc<str>;

/// Makes a [`Name`].
pub fn name(s: &str) -> Name {
    Arc::from(s)
}

/// `envoy.type.v3.FractionalPercent`: `numerator` out of `denominator` (100, 10 000 or 1 000 000).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fraction {
    pub numerator: u32,
    pub denominator: u32,
}

impl Fraction {
    pub const ALWAYS: Fraction = Fraction { numerator: 100, denominator: 100 };
    pub const NEVER: Fraction = Fraction { numerator: 0, denominator: 100 };

    pub const fn percent(numerator: u32) -> Self {
        Fraction { numerator, denominator: 100 }
    }

    /// Whether every draw falls inside.
    pub const fn is_always(&self) -> bool {
        self.numerator >= self.denominator
    }

    /// Whether the draw `random` (any 64 random bits) falls inside the fraction.
    pub fn hit(&self, random: u64) -> bool {
        random % u64::from(self.denominator) < u64::from(self.numerator)
    }
}

/// `core.v3.RuntimeFractionalPercent`: a fraction that a runtime layer may override by `key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeFraction {
    pub key: Option<Name>,
    pub default: Fraction,
}

impl RuntimeFraction {
    pub fn always() -> Self {
        RuntimeFraction { key: None, default: Fraction::ALWAYS }
    }

    /// The fraction in force under `runtime`.
    pub fn value(&self, runtime: &Runtime) -> Fraction {
        match &self.key {
            Some(key) => runtime.fraction(key).unwrap_or(self.default),
            None => self.default,
        }
    }
}

/// Texts under names that filters leave for filters, matchers and logs; of a name that is set again the last is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterState(Vec<(Name, StateValue)>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StateValue {
    pub text: Name,
    /// A hash policy may read it.
    pub hashable: bool,
}

impl FilterState {
    pub fn get(&self, key: &str) -> Option<&Name> {
        self.value(key).map(|value| &value.text)
    }

    pub fn value(&self, key: &str) -> Option<&StateValue> {
        self.0.iter().find(|(k, _)| &**k == key).map(|(_, value)| value)
    }

    pub fn set(&mut self, key: Name, value: StateValue) {
        match self.0.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = value,
            None => self.0.push((key, value)),
        }
    }
}

/// Runtime layers (`layered_runtime`, RTDS) flattened: the last layer that names a key wins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Runtime {
    pub entries: std::collections::BTreeMap<Name, RuntimeValue>,
}

/// One runtime value as its layer spelled it.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeValue {
    Bool(bool),
    Number(f64),
    Text(Name),
    Fraction(Fraction),
}

impl Runtime {
    pub fn fraction(&self, key: &str) -> Option<Fraction> {
        match self.entries.get(key)? {
            RuntimeValue::Fraction(f) => Some(*f),
            RuntimeValue::Number(n) => Some(Fraction::percent(n.clamp(0.0, 100.0) as u32)),
            RuntimeValue::Text(t) => t.parse::<f64>().ok().map(|n| Fraction::percent(n.clamp(0.0, 100.0) as u32)),
            RuntimeValue::Bool(_) => None,
        }
    }

    pub fn number(&self, key: &str) -> Option<f64> {
        match self.entries.get(key)? {
            RuntimeValue::Number(n) => Some(*n),
            RuntimeValue::Text(t) => t.parse().ok(),
            _ => None,
        }
    }

    pub fn boolean(&self, key: &str) -> Option<bool> {
        match self.entries.get(key)? {
            RuntimeValue::Bool(b) => Some(*b),
            RuntimeValue::Text(t) => t.parse().ok(),
            _ => None,
        }
    }
}

/// `core.v3.DataSource`: bytes given here, or where the proxy reads them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DataSource {
    Inline(Bytes),
    /// A file; `watched_directory` (if set) is watched for replacement instead of the file's own directory.
    File {
        path: PathBuf,
        watched_directory: Option<PathBuf>,
    },
    EnvironmentVariable(Name),
}

/// `core.v3.ConfigSource`: where a resource that is named here comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct ConfigSource {
    pub origin: ConfigOrigin,
    /// How long warming waits for the first answer; zero waits for ever. Default 15 s.
    pub initial_fetch_timeout: Duration,
}

#[derive(Debug, Clone, PartialEq)]
pub enum ConfigOrigin {
    Ads,
    /// The server that sent the resource which holds this source.
    Own,
    /// A stream of its own (`api_config_source`).
    Grpc(Arc<GrpcSource>),
    Path {
        path: PathBuf,
        watched_directory: Option<PathBuf>,
    },
}

/// `core.v3.ApiConfigSource` with a gRPC api type.
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcSource {
    pub delta: bool,
    pub services: Vec<GrpcService>,
    pub set_node_on_first_message_only: bool,
}

/// `core.v3.GrpcService` with the `envoy_grpc` target (a cluster of this proxy).
#[derive(Debug, Clone, PartialEq)]
pub struct GrpcService {
    pub cluster: Name,
    pub authority: Option<Name>,
    /// Default: none given.
    pub timeout: Option<Duration>,
    pub initial_metadata: Vec<(http::HeaderName, Name)>,
}

/// `core.v3.Metadata`: `filter_metadata`, by filter name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(pub std::collections::BTreeMap<Name, serde_json::Value>);

impl Metadata {
    /// The value at `path` below `filter` (`[a, b]` is `filter_metadata[filter].a.b`).
    pub fn get(&self, filter: &str, path: &[Name]) -> Option<&serde_json::Value> {
        let mut v = self.0.get(filter)?;
        for key in path {
            v = v.as_object()?.get(&**key)?;
        }
        Some(v)
    }

    /// Adds the fields of `object` to those of `filter`; fields of the same name are replaced.
    pub fn merge(&mut self, filter: &str, object: serde_json::Map<String, serde_json::Value>) {
        match self.0.get_mut(filter).and_then(serde_json::Value::as_object_mut) {
            Some(fields) => fields.extend(object),
            None => {
                self.0.insert(filter.into(), serde_json::Value::Object(object));
            }
        }
    }

    /// Sets one field of `filter`.
    pub fn set(&mut self, filter: &str, field: &str, value: serde_json::Value) {
        self.merge(filter, serde_json::Map::from_iter([(field.to_owned(), value)]));
    }
}

/// `core.v3.Locality`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    pub region: Label,
    pub zone: Label,
    pub sub_zone: Label,
}

/// An owned label that defaults to empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Label(pub Name);

impl Default for Label {
    fn default() -> Self {
        Label(Arc::from(""))
    }
}

impl From<&str> for Label {
    fn from(s: &str) -> Self {
        Label(Arc::from(s))
    }
}

impl std::ops::Deref for Label {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// An IP range, `core.v3.CidrRange`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    pub address: IpAddr,
    pub prefix_len: u8,
}

impl Cidr {
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.prefix_len.min(32));
                shift == 32 || u32::from(net) >> shift == u32::from(ip) >> shift
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.prefix_len.min(128));
                shift == 128 || u128::from(net) >> shift == u128::from(ip) >> shift
            }
            _ => false,
        }
    }
}

/// `core.v3.Address` as an endpoint or bind address.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    Socket(SocketAddr),
    /// A host name that a DNS cluster resolves.
    Dns {
        host: Name,
        port: u16,
    },
    Pipe(PathBuf),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Address::Socket(a) => a.fmt(f),
            Address::Dns { host, port } => write!(f, "{host}:{port}"),
            Address::Pipe(p) => p.display().fmt(f),
        }
    }
}

/// `core.v3.BackoffStrategy` and the like: exponential, fully jittered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}
