//! The record of a request that was answered, as formats read it.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use sidemesh_config::resource::{Resource, decode};
use sidemesh_proto::json::any_from_json;
use sidemesh_proxy::codec::Protocol;
use sidemesh_proxy::connection::ConnectionInfo;
use sidemesh_proxy::telemetry::stream_info::StreamInfo;

/// A request from 10.0.0.2 to 10.0.0.1.
pub fn stream_info() -> StreamInfo {
    let json = json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
        "name": "l",
        "address": { "socket_address": { "address": "10.0.0.1", "port_value": 80 } },
        "filter_chains": [{ "filters": [{ "name": "echo", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo" } }] }],
    });
    let any = any_from_json(&json).expect("JSON of a listener");
    let Ok(Resource::Listener(listener)) = decode(&any).result else { panic!("a listener is no listener") };
    let (local, remote) = (([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 4000).into());
    let (start, start_time) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
    let connection = ConnectionInfo::new(1, (start, start_time), listener.clone(), listener.chains[0].clone(), local, remote);
    let mut info = StreamInfo::new(Rc::new(connection), Some(Protocol::Http11), start, start_time);
    info.status = 200;
    info
}
