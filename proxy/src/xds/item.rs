//! A resource as it comes: bare, in an envelope, or as a heartbeat.

use std::sync::Arc;

use prost::Message;
use sidemesh_config::resource::route::ScopedRoute;
use sidemesh_config::resource::{self, Resource};
use sidemesh_config::value::Name;
use sidemesh_proto::envoy::service::discovery::v3 as discovery;
use sidemesh_proto::google::Any;

/// `type_url` of a resource in its envelope (state of the world with a time to live).
const ENVELOPE: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// A resource as it came.
pub(super) struct Item {
    /// Given beside the resource (delta) or in its envelope.
    pub(super) name: String,
    pub(super) version: String,
    /// `None`: a heartbeat, which only renews the time to live.
    pub(super) any: Option<Any>,
    pub(super) ttl: Option<std::time::Duration>,
}

impl Item {
    pub(super) fn resource_name(&self) -> Name {
        match &self.any {
            Some(any) if self.name.is_empty() => resource_name(any).into(),
            _ => self.name.as_str().into(),
        }
    }

    /// The valid scoped route that it is.
    pub(super) fn scoped_route(&self) -> Option<Arc<ScopedRoute>> {
        match resource::decode(self.any.as_ref()?).result {
            Ok(Resource::ScopedRoute(scope)) => Some(scope),
            _ => None,
        }
    }
}

/// Takes a state-of-the-world resource out of its envelope, if it has one.
pub(super) fn unwrap(any: Any, version: &str) -> Item {
    if any.type_url == ENVELOPE
        && let Ok(resource) = discovery::Resource::decode(any.value.as_slice())
    {
        return Item { version: version.to_owned(), ..envelope(resource) };
    }
    Item { name: String::new(), version: version.to_owned(), any: Some(any), ttl: None }
}

pub(super) fn envelope(resource: discovery::Resource) -> Item {
    let ttl = resource.ttl.and_then(|d| sidemesh_config::wire::duration(&d, "ttl").ok());
    Item { name: resource.name, version: resource.version, any: resource.resource, ttl }
}

/// The name of a resource: field 1 of every kind, readable even where the rest is not valid.
fn resource_name(any: &Any) -> String {
    #[derive(Clone, PartialEq, prost::Message)]
    struct Named {
        #[prost(string, tag = "1")]
        name: String,
    }
    Named::decode(any.value.as_slice()).map(|n| n.name).unwrap_or_default()
}
