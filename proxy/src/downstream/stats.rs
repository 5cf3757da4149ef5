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
        downstream_cx_overload_reject: Counter,
        extension_config_missing: Counter,
        network_extension_config_missing: Counter,
        secrets_not_ready: LazyCounter = "server_ssl_socket_factory.downstream_context_secrets_not_ready",
    }
}

stats_group! {
    /// `listener.ADDRESS.worker_N.`
    pub struct WorkerConnectionStats {
        downstream_cx_active: Gauge,
        downstream_cx_total: Counter,
    }
}

stats_group! {
    /// `proxy_proto.[PREFIX.]`
    pub struct ProxyProtocolStats {
        v1_found: Counter = "versions.v1.found",
        v1_disallowed: Counter = "versions.v1.disallowed",
        v1_error: Counter = "versions.v1.error",
        v2_found: Counter = "versions.v2.found",
        v2_disallowed: Counter = "versions.v2.disallowed",
        v2_error: Counter = "versions.v2.error",
        not_found_allowed: Counter,
        not_found_disallowed: Counter,
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
