//! What is counted of a listener (`listener.ADDRESS.`), Envoy's names.

use crate::stats_group;

stats_group! {
    pub struct ListenerStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_length_ms: Histogram,
        downstream_cx_overflow: Counter,
        downstream_cx_transport_socket_connect_timeout: Counter,
        downstream_pre_cx_active: Gauge,
        downstream_pre_cx_timeout: Counter,
        downstream_listener_filter_error: Counter,
        downstream_listener_filter_remote_close: Counter,
        downstream_global_cx_overflow: Counter,
        no_filter_chain_match: Counter,
        ssl_handshake: Counter = "ssl.handshake",
        ssl_connection_error: Counter = "ssl.connection_error",
        ssl_no_certificate: Counter = "ssl.no_certificate",
        proxy_v1_found: Counter = "proxy_proto.versions.v1.found",
        proxy_v1_disallowed: Counter = "proxy_proto.versions.v1.disallowed",
        proxy_v1_error: Counter = "proxy_proto.versions.v1.error",
        proxy_v2_found: Counter = "proxy_proto.versions.v2.found",
        proxy_v2_disallowed: Counter = "proxy_proto.versions.v2.disallowed",
        proxy_v2_error: Counter = "proxy_proto.versions.v2.error",
        proxy_not_found_allowed: Counter = "proxy_proto.not_found_allowed",
        proxy_not_found_disallowed: Counter = "proxy_proto.not_found_disallowed",
    }
}

stats_group! {
    /// `listener_manager.`: what is on its way out. Listeners are counted by the first worker alone.
    pub struct DrainStats {
        total_listeners_draining: Gauge,
        total_filter_chains_draining: Gauge,
    }
}

stats_group! {
    /// `tls_inspector.`
    pub struct TlsInspectorStats {
        client_hello_too_large: Counter,
        tls_found: Counter,
        tls_not_found: Counter,
        alpn_found: Counter,
        alpn_not_found: Counter,
        sni_found: Counter,
        sni_not_found: Counter,
    }
}

stats_group! {
    /// `http_inspector.`
    pub struct HttpInspectorStats {
        read_error: Counter,
        http10_found: Counter,
        http11_found: Counter,
        http2_found: Counter,
        http_not_found: Counter,
    }
}
