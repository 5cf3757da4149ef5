//! gRPC channels to collectors and log services, one per service, and what the configuration adds to calls on them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use sidemesh_config::value::{GrpcService, Name};
use tonic::transport::Channel;

use crate::xds::Connect;

/// Cluster and authority.
type Key = (Name, Option<Name>);

pub(super) struct Channels {
    connect: Rc<Connect>,
    /// A channel reconnects by itself.
    open: RefCell<HashMap<Key, Channel>>,
}

impl Channels {
    pub(super) fn new(connect: Rc<Connect>) -> Self {
        Channels { connect, open: RefCell::default() }
    }

    pub(super) fn to(&self, service: &GrpcService) -> Result<Channel, String> {
        let key = (service.cluster.clone(), service.authority.clone());
        if let Some(channel) = self.open.borrow().get(&key) {
            return Ok(channel.clone());
        }
        let channel = (self.connect)(service)?;
        self.open.borrow_mut().insert(key, channel.clone());
        Ok(channel)
    }
}

/// A call with the service's initial metadata.
pub(super) fn call<T>(service: &GrpcService, message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    for (name, value) in &service.initial_metadata {
        let key = tonic::metadata::MetadataKey::from_bytes(name.as_str().as_bytes());
        if let (Ok(key), Ok(value)) = (key, value.parse()) {
            request.metadata_mut().insert(key, value);
        }
    }
    request
}
