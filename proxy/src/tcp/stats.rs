//! What is counted of a TCP proxy (`tcp.PREFIX.`), Envoy's names.

use crate::stats_group;

stats_group! {
    pub struct TcpStats {
        downstream_cx_total: Counter,
        downstream_cx_no_route: Counter,
        downstream_cx_tx_bytes_total: Counter,
        downstream_cx_tx_bytes_buffered: Gauge,
        downstream_cx_rx_bytes_total: Counter,
        downstream_cx_rx_bytes_buffered: Gauge,
        downstream_flow_control_paused_reading_total: Counter,
        downstream_flow_control_resumed_reading_total: Counter,
        idle_timeout: Counter,
        max_downstream_connection_duration: Counter,
        upstream_flush_total: Counter,
        upstream_flush_active: Gauge,
    }
}
