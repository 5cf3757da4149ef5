//! The request's way: finding its route, editing its headers, writing its log line.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};
use sidemesh_config::format::{self as formats, DEFAULT_ACCESS_LOG};
use sidemesh_config::matcher::{PeerCertificate, RequestView};
use sidemesh_config::resource::Resource;
use sidemesh_config::resource::access_log::JsonFormat;
use sidemesh_config::resource::core::{AppendAction, HeaderEdit, HeaderTarget};
use sidemesh_config::resource::route::RouteConfig;
use sidemesh_config::value::Runtime;
use sidemesh_proxy::codec::Protocol;
use sidemesh_proxy::connection::ConnectionInfo;
use sidemesh_proxy::http::headers;
use sidemesh_proxy::http::route;
use sidemesh_proxy::telemetry::format;
use sidemesh_proxy::telemetry::stream_info::{LogContext, StreamInfo};

use super::Case;
use super::config::resource;

pub const CASES: &[Case] = &[
    Case::new("route/prefix_of_10", 10_000, |n| {
        select(&table(prefixes(10)), |i| format!("/service-{:05}/item", i % 10), n)
    }),
    Case::new("route/prefix_of_10000", 50_000, |n| {
        select(&table(prefixes(10_000)), |i| format!("/service-{:05}/item", i * 77), n)
    }),
    Case::new("route/exact_of_10000", 50_000, |n| {
        select(&table(exact(10_000)), |i| format!("/service-{:05}", i * 77), n)
    }),
    Case::new("route/regex_of_10", 10_000, |n| select(&table(regexes(10)), |i| format!("/v{}/items/12345", i % 10), n)),
    Case::new("route/header_match", 10_000, |n| select(&table(by_header()), |_| "/".to_owned(), n)),
    Case::new("headers/evaluate_and_apply", 2000, edit_headers),
    Case::new("access_log/default_line", 1000, default_line),
    Case::new("access_log/json_line", 1000, json_line),
];

fn to(matcher: Value) -> Value {
    json!({"match": matcher, "route": {"cluster": "c"}})
}

fn prefixes(n: u32) -> Value {
    (0..n).map(|i| to(json!({"prefix": format!("/service-{i:05}/")}))).collect()
}

fn exact(n: u32) -> Value {
    (0..n).map(|i| to(json!({"path": format!("/service-{i:05}")}))).collect()
}

fn regexes(n: u32) -> Value {
    (0..n).map(|i| to(json!({"safe_regex": {"regex": format!("/v{i}/items/[0-9]+")}}))).collect()
}

fn by_header() -> Value {
    let with =
        |value: &str| to(json!({"prefix": "/", "headers": [{"name": "x-tenant", "string_match": {"exact": value}}]}));
    json!([with("one"), with("two"), with("three"), to(json!({"prefix": "/"}))])
}

fn table(routes: Value) -> Arc<RouteConfig> {
    let value = json!({
        "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "t",
        "virtual_hosts": [
            {"name": "other", "domains": ["*.example.org"], "routes": [to(json!({"prefix": "/"}))]},
            {"name": "ours", "domains": ["shop.example.com", "shop"], "routes": routes},
        ],
    });
    match resource(&value) {
        Resource::Route(table) => table,
        other => panic!("{other:?} is no route table"),
    }
}

fn request_headers() -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in [
        ("host", "shop.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64)"),
        ("accept", "*/*"),
        ("x-tenant", "three"),
        ("x-request-id", "6f1f4d7e-3a51-4a5b-9d07-6c1d9c1f0f11"),
        ("x-forwarded-for", "10.0.0.2"),
    ] {
        map.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    map
}

/// Requests for many paths: how far one of them is from its place in a table differs from process to process.
fn select(table: &Arc<RouteConfig>, path: impl Fn(u32) -> String, n: u32) {
    let (headers, runtime) = (request_headers(), Runtime::default());
    let paths: Vec<String> = (0..100).map(path).collect();
    let view = |path| RequestView {
        method: &Method::GET,
        scheme: "http",
        authority: "shop.example.com",
        path,
        headers: &headers,
        tls: false,
        peer_certificate: PeerCertificate::Absent,
        metadata: None,
        filter_state: None,
        runtime: &runtime,
        random: 7,
    };
    assert!(
        paths.iter().all(|path| route::select(table.clone(), &view(path), false).route.is_some()),
        "a path has no route"
    );
    for path in paths.iter().cycle().take(n as usize) {
        black_box(route::select(black_box(table.clone()), &view(black_box(path)), false));
    }
}

fn edit_headers(n: u32) {
    let edit = |name: &'static str, text: &str, action| HeaderEdit {
        target: HeaderTarget::Header(HeaderName::from_static(name)),
        value: Arc::new(formats::parse(text).expect("a format")),
        action,
        keep_empty_value: false,
    };
    let edits = [
        edit("x-fixed", "a constant value", AppendAction::OverwriteIfExistsOrAdd),
        edit("x-client", "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", AppendAction::AppendIfExistsOrAdd),
        edit("x-agent", "%REQ(user-agent)%", AppendAction::AddIfAbsent),
    ];
    let removed = [HeaderName::from_static("x-tenant"), HeaderName::from_static("x-not-there")];
    let (info, headers) = (stream_info(), request_headers());
    let ctx = LogContext::of(&info, info.start);
    for _ in 0..n {
        let mut edited = black_box(&headers).clone();
        let mut changes = headers::Changes::new();
        headers::evaluate(black_box(&edits), &edited, &ctx, &mut changes);
        headers::remove(&mut edited, &removed);
        black_box(headers::apply(changes, &mut edited));
        black_box(edited);
    }
}

fn default_line(n: u32) {
    let format = formats::parse(DEFAULT_ACCESS_LOG).expect("the default format");
    let info = stream_info();
    let ctx = LogContext::of(&info, info.start + Duration::from_micros(1234));
    let mut line = String::new();
    for _ in 0..n {
        line.clear();
        format::render(black_box(&format), black_box(&ctx), "-", &mut line);
        black_box(&line);
    }
}

fn json_line(n: u32) {
    let text = |text: &str| JsonFormat::Value(Arc::new(formats::parse(text).expect("a format")));
    let fields = [
        ("status", "%RESPONSE_CODE%"),
        ("took", "%DURATION%"),
        ("who", "%DOWNSTREAM_REMOTE_ADDRESS%"),
        ("start", "%START_TIME%"),
    ];
    let format = JsonFormat::Object(fields.into_iter().map(|(k, v)| (k.to_owned(), text(v))).collect());
    let info = stream_info();
    let ctx = LogContext::of(&info, info.start + Duration::from_micros(1234));
    let mut line = String::new();
    for _ in 0..n {
        line.clear();
        format::render_json(black_box(&format), black_box(&ctx), false, &mut line);
        black_box(&line);
    }
}

/// A request from 10.0.0.2 to 10.0.0.1 that was answered with 200.
fn stream_info() -> StreamInfo {
    let value = json!({
        "@type": "type.googleapis.com/envoy.config.listener.v3.Listener", "name": "l",
        "address": {"socket_address": {"address": "10.0.0.1", "port_value": 80}},
        "filter_chains": [{"filters": [{"name": "echo", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo"}}]}],
    });
    let Resource::Listener(listener) = resource(&value) else { panic!("a listener is no listener") };
    let (local, remote) = (([10, 0, 0, 1], 80).into(), ([10, 0, 0, 2], 4000).into());
    let (start, start_time) = (Instant::now(), SystemTime::UNIX_EPOCH + Duration::from_millis(1500));
    let chain = listener.chains[0].clone();
    let connection = ConnectionInfo::new(1, (start, start_time), listener, chain, local, remote);
    let mut info = StreamInfo::new(Rc::new(connection), Some(Protocol::Http11), start, start_time);
    info.status = 200;
    info
}
