//! Counters of a connection manager (`http.<stat_prefix>.`), under Envoy's names.

use crate::stats_group;

stats_group! {
    pub struct HttpStats {
        downstream_cx_total: Counter,
        downstream_cx_active: Gauge,
        downstream_cx_http1_total: Counter,
        downstream_cx_http1_active: Gauge,
        downstream_cx_http2_total: Counter,
        downstream_cx_http2_active: Gauge,
        downstream_cx_ssl_total: Counter,
        downstream_cx_ssl_active: Gauge,
        downstream_cx_destroy: Counter,
        downstream_cx_destroy_remote: Counter,
        downstream_cx_destroy_local: Counter,
        downstream_cx_destroy_active_rq: Counter,
        downstream_cx_destroy_remote_active_rq: Counter,
        downstream_cx_destroy_local_active_rq: Counter,
        downstream_cx_protocol_error: Counter,
        downstream_cx_idle_timeout: Counter,
        downstream_cx_max_duration_reached: Counter,
        downstream_cx_drain_close: Counter,
        downstream_cx_upgrades_total: Counter,
        downstream_cx_upgrades_active: Gauge,
        downstream_cx_length_ms: Histogram,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_tx_bytes_total: Counter,
        downstream_rq_total: Counter,
        downstream_rq_active: Gauge,
        downstream_rq_http1_total: Counter,
        downstream_rq_http2_total: Counter,
        downstream_rq: ClassCounters,
        downstream_rq_time: Histogram,
        downstream_rq_rx_reset: Counter,
        downstream_rq_tx_reset: Counter,
        downstream_rq_too_large: Counter,
        downstream_rq_timeout: Counter,
        downstream_rq_header_timeout: Counter,
        downstream_rq_idle_timeout: Counter,
        downstream_rq_max_duration_reached: Counter,
        downstream_rq_non_relative_path: Counter,
        downstream_rq_failed_path_normalization: Counter,
        downstream_rq_rejected_via_ip_detection: Counter,
        downstream_rq_response_before_rq_complete: Counter,
        downstream_rq_ws_on_non_ws_route: Counter,
        no_route: Counter,
        no_cluster: Counter,
        rq_total: Counter,
        rq_direct_response: Counter,
        rq_redirect: Counter,
        rq_retry_skipped_request_not_complete: Counter,
        rq_reset_after_downstream_response_started: Counter,
        passthrough_internal_redirect_bad_location: Counter,
        passthrough_internal_redirect_unsafe_scheme: Counter,
        passthrough_internal_redirect_too_many_redirects: Counter,
        passthrough_internal_redirect_no_route: Counter,
        rs_too_large: Counter,
        tracing_random_sampling: Counter = "tracing.random_sampling",
        tracing_client_enabled: Counter = "tracing.client_enabled",
        tracing_service_forced: Counter = "tracing.service_forced",
        tracing_not_traceable: Counter = "tracing.not_traceable",
        tracing_health_check: Counter = "tracing.health_check",
    }
}

stats_group! {
    /// The same manager's answers, per listener (`listener.<address>.http.<stat_prefix>.`).
    pub struct ListenerHttpStats {
        downstream_rq: ClassCounters,
    }
}
