//! The kinds of objects that the control plane accepts, and how they are named.

use std::fmt;

/// One accepted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Namespace,
    ConfigMap,
    Service,
    EndpointSlice,
    HttpRoute,
    GrpcRoute,
    TcpRoute,
    ReferenceGrant,
    BackendTlsPolicy,
    TrafficPolicy,
    Workload,
    MeshConfig,
}

/// What kubectl calls a kind.
#[derive(Debug)]
pub struct Names {
    pub kind: Kind,
    /// As it is stored and printed.
    pub api_version: &'static str,
    /// Other versions with the same fields, accepted and stored as the one above.
    pub also: &'static [&'static str],
    pub name: &'static str,
    pub plural: &'static str,
    pub short: &'static [&'static str],
    pub namespaced: bool,
}

/// Every kind, in the order in which a file of many should be applied.
pub const KINDS: [Names; 12] = [
    Names {
        kind: Kind::Namespace,
        api_version: "v1",
        also: &[],
        name: "Namespace",
        plural: "namespaces",
        short: &["ns"],
        namespaced: false,
    },
    Names {
        kind: Kind::MeshConfig,
        api_version: "sidemesh.dev/v1alpha1",
        also: &[],
        name: "MeshConfig",
        plural: "meshconfigs",
        short: &["mc"],
        namespaced: false,
    },
    Names {
        kind: Kind::Service,
        api_version: "v1",
        also: &[],
        name: "Service",
        plural: "services",
        short: &["svc"],
        namespaced: true,
    },
    Names {
        kind: Kind::EndpointSlice,
        api_version: "discovery.k8s.io/v1",
        also: &[],
        name: "EndpointSlice",
        plural: "endpointslices",
        short: &["eps"],
        namespaced: true,
    },
    Names {
        kind: Kind::Workload,
        api_version: "sidemesh.dev/v1alpha1",
        also: &[],
        name: "Workload",
        plural: "workloads",
        short: &["wl"],
        namespaced: true,
    },
    Names {
        kind: Kind::TrafficPolicy,
        api_version: "sidemesh.dev/v1alpha1",
        also: &[],
        name: "TrafficPolicy",
        plural: "trafficpolicies",
        short: &["tp"],
        namespaced: true,
    },
    Names {
        kind: Kind::ConfigMap,
        api_version: "v1",
        also: &[],
        name: "ConfigMap",
        plural: "configmaps",
        short: &["cm"],
        namespaced: true,
    },
    Names {
        kind: Kind::ReferenceGrant,
        api_version: "gateway.networking.k8s.io/v1",
        also: &["gateway.networking.k8s.io/v1beta1"],
        name: "ReferenceGrant",
        plural: "referencegrants",
        short: &["refgrant"],
        namespaced: true,
    },
    Names {
        kind: Kind::BackendTlsPolicy,
        api_version: "gateway.networking.k8s.io/v1",
        also: &["gateway.networking.k8s.io/v1alpha3"],
        name: "BackendTLSPolicy",
        plural: "backendtlspolicies",
        short: &["btlspolicy"],
        namespaced: true,
    },
    Names {
        kind: Kind::HttpRoute,
        api_version: "gateway.networking.k8s.io/v1",
        also: &["gateway.networking.k8s.io/v1beta1"],
        name: "HTTPRoute",
        plural: "httproutes",
        short: &["hr"],
        namespaced: true,
    },
    Names {
        kind: Kind::GrpcRoute,
        api_version: "gateway.networking.k8s.io/v1",
        also: &["gateway.networking.k8s.io/v1alpha2"],
        name: "GRPCRoute",
        plural: "grpcroutes",
        short: &["gr"],
        namespaced: true,
    },
    Names {
        kind: Kind::TcpRoute,
        api_version: "gateway.networking.k8s.io/v1alpha2",
        also: &["gateway.networking.k8s.io/v1"],
        name: "TCPRoute",
        plural: "tcproutes",
        short: &["tr"],
        namespaced: true,
    },
];

impl Names {
    pub fn serves(&self, api_version: &str) -> bool {
        self.api_version == api_version || self.also.contains(&api_version)
    }
}

impl Kind {
    pub fn names(self) -> &'static Names {
        match KINDS.iter().find(|n| n.kind == self) {
            Some(names) => names,
            None => &KINDS[0],
        }
    }

    /// Finds a kind by its name, plural or short name, in any case.
    pub fn parse(text: &str) -> Option<Kind> {
        let text = text.to_ascii_lowercase();
        let singular_or_short =
            |n: &&Names| n.name.to_ascii_lowercase() == text || n.plural == text || n.short.contains(&text.as_str());
        KINDS.iter().find(singular_or_short).map(|n| n.kind)
    }

    /// A route of the Gateway API.
    pub fn is_route(self) -> bool {
        matches!(self, Kind::HttpRoute | Kind::GrpcRoute | Kind::TcpRoute)
    }

    /// "Namespace, MeshConfig, …": for error messages.
    pub fn all() -> String {
        KINDS.iter().map(|n| n.name).collect::<Vec<_>>().join(", ")
    }
}

/// Namespace and name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub namespace: String,
    pub name: String,
}

impl Name {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Name {
        Name { namespace: namespace.into(), name: name.into() }
    }
}

/// `name.namespace`, as in listener and cluster names.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.name, self.namespace)
    }
}

/// An object's place in the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    /// Empty namespace for cluster-scoped kinds.
    pub name: Name,
}

impl Key {
    pub fn new(kind: Kind, namespace: &str, name: &str) -> Key {
        let namespace = match (kind.names().namespaced, namespace) {
            (false, _) => "",
            (true, "") => "default",
            (true, given) => given,
        };
        Key { kind, name: Name::new(namespace, name) }
    }

    /// `Kind/namespace/name`.
    pub fn raw(&self) -> String {
        self.to_string()
    }

    pub fn from_raw(raw: &str) -> Option<Key> {
        let mut parts = raw.splitn(3, '/');
        let kind = Kind::parse(parts.next()?)?;
        Some(Key { kind, name: Name::new(parts.next()?, parts.next()?) })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind.names().name, self.name.namespace, self.name.name)
    }
}
