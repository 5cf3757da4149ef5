//! A request's record for tests of this module.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sidemesh_config::resource::listener::Listener;
use sidemesh_config::resource::{Resource, decode};
use sidemesh_proto::json::any_from_json;

use crate::connection::ConnectionInfo;
use crate::telemetry::stream_info::{Protocol, StreamInfo};

fn listener() -> Arc<Listener> {
    let json = serde_json::json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "l",
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": 80 } },
        "filter_chains": [{ "filters": [{ "name": "e", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" } }] }],
    });
    match decode(&any_from_json(&json).expect("JSON of a listener")).result {
        Ok(Resource::Listener(listener)) => listener,
        other => panic!("no listener: {other:?}"),
    }
}

/// A request from 10.0.0.2 that started at 1.5 s past the epoch.
pub(super) fn stream_info(protocol: Option<Protocol>) -> StreamInfo {
    let listener = listener();
    let (local, remote) = (([10, 0, 0, 1], 8443).into(), ([10, 0, 0, 2], 4000).into());
    let (start, start_time) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
    let connection =
        ConnectionInfo::new(1, (start, start_time), listener.clone(), listener.chains[0].clone(), local, remote);
    StreamInfo::new(Rc::new(connection), protocol, start, start_time)
}
