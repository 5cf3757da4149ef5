//! Bytes of one xDS resource → its validated value.
//!
//! The name is found first, so that a refusal can name the resource. Then the support table walks the bytes; only what
//! passes is decoded into its type and validated. Pure: no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost::Message;
use sidemesh_proto::envoy::config::cluster::v3::Cluster as WireCluster;
use sidemesh_proto::envoy::config::core::v3::TypedExtensionConfig;
use sidemesh_proto::envoy::config::listener::v3::Listener as WireListener;
use sidemesh_proto::envoy::config::route::v3 as wire_route;
use sidemesh_proto::envoy::extensions::transport_sockets::tls::v3::Secret as WireSecret;
use sidemesh_proto::envoy::service::runtime::v3::Runtime as WireRuntime;
use sidemesh_proto::{google, type_url};

use crate::rejection::{Rejection, Within};
use crate::resource::cluster::{self, Cluster};
use crate::resource::endpoint::{self, LoadAssignment};
use crate::resource::http_filter::{self, HttpFilterKind};
use crate::resource::listener::{self, Listener};
use crate::resource::route::{self, RouteConfig, ScopedRoute, VirtualHost};
use crate::resource::runtime;
use crate::resource::secret::{self, Secret};
use crate::support::{self, Hint};
use crate::value::{Name, Runtime, name};
use crate::wire;

/// The kinds of xDS resources, in the order in which an update of all of them is safe to apply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    Secret,
    Runtime,
    Cluster,
    Endpoints,
    ExtensionConfig,
    Listener,
    ScopedRoute,
    Route,
    VirtualHost,
}

impl ResourceKind {
    pub const ALL: [ResourceKind; 9] = [
        ResourceKind::Secret,
        ResourceKind::Runtime,
        ResourceKind::Cluster,
        ResourceKind::Endpoints,
        ResourceKind::ExtensionConfig,
        ResourceKind::Listener,
        ResourceKind::ScopedRoute,
        ResourceKind::Route,
        ResourceKind::VirtualHost,
    ];

    pub fn type_url(self) -> &'static str {
        match self {
            ResourceKind::Secret => type_url::SECRET,
            ResourceKind::Runtime => type_url::RUNTIME,
            ResourceKind::Cluster => type_url::CLUSTER,
            ResourceKind::Endpoints => type_url::ENDPOINT,
            ResourceKind::ExtensionConfig => type_url::EXTENSION_CONFIG,
            ResourceKind::Listener => type_url::LISTENER,
            ResourceKind::ScopedRoute => type_url::SCOPED_ROUTE,
            ResourceKind::Route => type_url::ROUTE,
            ResourceKind::VirtualHost => type_url::VIRTUAL_HOST,
        }
    }

    pub fn from_type_url(url: &str) -> Option<Self> {
        let given = type_url::message_name(url);
        Self::ALL.into_iter().find(|kind| type_url::message_name(kind.type_url()) == given)
    }
}

/// One validated resource.
#[derive(Debug, Clone, PartialEq)]
pub enum Resource {
    Listener(Arc<Listener>),
    Cluster(Arc<Cluster>),
    Endpoints(Arc<LoadAssignment>),
    Route(Arc<RouteConfig>),
    ScopedRoute(Arc<ScopedRoute>),
    VirtualHost(Arc<VirtualHost>),
    Secret(Arc<Secret>),
    Runtime(Name, Arc<Runtime>),
    ExtensionConfig(Name, Arc<HttpFilterKind>),
}

impl Resource {
    pub fn kind(&self) -> ResourceKind {
        match self {
            Resource::Listener(_) => ResourceKind::Listener,
            Resource::Cluster(_) => ResourceKind::Cluster,
            Resource::Endpoints(_) => ResourceKind::Endpoints,
            Resource::Route(_) => ResourceKind::Route,
            Resource::ScopedRoute(_) => ResourceKind::ScopedRoute,
            Resource::VirtualHost(_) => ResourceKind::VirtualHost,
            Resource::Secret(_) => ResourceKind::Secret,
            Resource::Runtime(..) => ResourceKind::Runtime,
            Resource::ExtensionConfig(..) => ResourceKind::ExtensionConfig,
        }
    }

    pub fn name(&self) -> &Name {
        match self {
            Resource::Listener(r) => &r.name,
            Resource::Cluster(r) => &r.name,
            Resource::Endpoints(r) => &r.cluster,
            Resource::Route(r) => &r.name,
            Resource::ScopedRoute(r) => &r.name,
            Resource::VirtualHost(r) => &r.name,
            Resource::Secret(r) => &r.name,
            Resource::Runtime(name, _) | Resource::ExtensionConfig(name, _) => name,
        }
    }
}

/// What came of one resource.
#[derive(Debug)]
pub struct Decoded {
    /// Also known of most resources that are refused.
    pub name: Option<Name>,
    pub result: Result<Resource, Rejection>,
    /// Fields that were accepted and are not acted on.
    pub hints: Vec<Hint>,
}

/// Every resource has its name in field 1.
#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

/// Decodes and validates one resource.
pub fn decode(any: &google::Any) -> Decoded {
    let mut named = Named::default();
    // Bytes that end badly may still have begun with a name.
    let _ = named.merge(any.value.as_slice());
    let found = wire::optional_name(&named.name);
    let Some(kind) = ResourceKind::from_type_url(&any.type_url) else {
        let reason = format!("`{}` is no type of resource", any.type_url);
        return Decoded { name: found, result: Err(Rejection::unsupported("", reason)), hints: Vec::new() };
    };
    match support::check(&any.type_url, &any.value) {
        Err(rejection) => Decoded { name: found, result: Err(rejection), hints: Vec::new() },
        Ok(mut hints) => {
            let result = validated(kind, &any.value, &mut hints);
            let name = result.as_ref().map_or(found, |resource| Some(resource.name().clone()));
            Decoded { name, result, hints }
        }
    }
}

fn message<T: Message + Default>(bytes: &[u8]) -> Result<T, Rejection> {
    T::decode(bytes).map_err(|e| Rejection::malformed("", e.to_string()))
}

fn validated(kind: ResourceKind, bytes: &[u8], hints: &mut Vec<Hint>) -> Result<Resource, Rejection> {
    Ok(match kind {
        ResourceKind::Listener => Resource::Listener(Arc::new(listener::parse(&message::<WireListener>(bytes)?)?)),
        ResourceKind::Cluster => {
            let wire_cluster = message::<WireCluster>(bytes)?;
            hints.extend(cluster::hint(&wire_cluster));
            Resource::Cluster(Arc::new(cluster::parse(&wire_cluster)?))
        }
        ResourceKind::Endpoints => Resource::Endpoints(Arc::new(endpoint::parse_encoded(bytes)?)),
        ResourceKind::Route => {
            let wire_config = message::<wire_route::RouteConfiguration>(bytes)?;
            wire::non_empty(&wire_config.name, "name")?;
            Resource::Route(Arc::new(route::parse(&wire_config)?))
        }
        ResourceKind::ScopedRoute => {
            let scope = message::<wire_route::ScopedRouteConfiguration>(bytes)?;
            Resource::ScopedRoute(Arc::new(route::parse_scoped(&scope)?))
        }
        ResourceKind::VirtualHost => {
            Resource::VirtualHost(Arc::new(route::parse_virtual_host(&message::<wire_route::VirtualHost>(bytes)?)?))
        }
        ResourceKind::Secret => Resource::Secret(Arc::new(secret::parse(&message::<WireSecret>(bytes)?)?)),
        ResourceKind::Runtime => {
            let runtime = message::<WireRuntime>(bytes)?;
            let entries = match &runtime.layer {
                Some(layer) => runtime::flatten(layer, "layer")?,
                None => BTreeMap::new(),
            };
            Resource::Runtime(name(&runtime.name), Arc::new(Runtime { entries }))
        }
        ResourceKind::ExtensionConfig => {
            let extension = message::<TypedExtensionConfig>(bytes)?;
            let config = wire::required(&extension.typed_config, "typed_config")?;
            let kind = http_filter::parse_kind(config).within("typed_config")?;
            Resource::ExtensionConfig(wire::non_empty(&extension.name, "name")?, Arc::new(kind))
        }
    })
}
