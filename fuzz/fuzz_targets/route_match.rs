//! A request against a route table: the fast choice and the explained choice are the same.
//!
//! Input: two bytes of length, a `RouteConfiguration` of that length, then a request as lines: method, authority, path, headers.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use sidemesh_config::matcher::{PeerCertificate, RequestView};
use sidemesh_config::resource::{Resource, decode};
use sidemesh_config::value::Runtime;
use sidemesh_proto::google::Any;
use sidemesh_proto::type_url;

fn request(text: &str) -> Option<(Method, &str, &str, HeaderMap)> {
    let mut lines = text.lines();
    let method = lines.next()?.parse().ok()?;
    let (authority, path) = (lines.next()?, lines.next()?);
    let mut headers = HeaderMap::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        headers.append(name.parse::<HeaderName>().ok()?, HeaderValue::from_str(value.trim()).ok()?);
    }
    Some((method, authority, path, headers))
}

fuzz_target!(|data: &[u8]| {
    let Some(([high, low], rest)) = data.split_first_chunk() else { return };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    let Some((table, text)) = rest.split_at_checked(length) else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Some((method, authority, path, headers)) = request(text) else { return };
    let any = Any { type_url: type_url::ROUTE.to_owned(), value: table.to_vec() };
    let Ok(Resource::Route(table)) = decode(&any).result else { return };
    let runtime = Runtime::default();
    let view = RequestView {
        method: &method,
        scheme: "http",
        authority,
        path,
        headers: &headers,
        tls: false,
        peer_certificate: PeerCertificate::Absent,
        metadata: None,
        filter_state: None,
        runtime: &runtime,
        random: 7,
    };
    let chosen = table.select(&view).map(|(_, route)| std::sync::Arc::as_ptr(route));
    let explained = table.explain(&view).route.map(|route| std::sync::Arc::as_ptr(&route));
    assert_eq!(chosen, explained);
});
