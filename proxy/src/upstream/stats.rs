//! What is counted of a cluster, under Envoy's names (`cluster.NAME.…`). Every thread that counts has a shard of its own.

use super::balancer::{Picked, Via, ZoneUse};
use super::outlier::{Cause, Verdict};

crate::stats_group! {
    /// Counted by workers, per cluster.
    pub struct ClusterStats {
        upstream_cx_total: Counter,
        upstream_cx_active: Gauge,
        upstream_cx_http1_total: Counter,
        upstream_cx_http2_total: Counter,
        upstream_cx_connect_fail: Counter,
        upstream_cx_connect_timeout: Counter,
        upstream_cx_connect_attempts_exceeded: Counter,
        upstream_cx_connect_ms: Histogram,
        upstream_cx_length_ms: Histogram,
        upstream_cx_overflow: Counter,
        upstream_cx_destroy: Counter,
        upstream_cx_destroy_local: Counter,
        upstream_cx_destroy_remote: Counter,
        upstream_cx_destroy_with_active_rq: Counter,
        upstream_cx_destroy_local_with_active_rq: Counter,
        upstream_cx_destroy_remote_with_active_rq: Counter,
        upstream_cx_close_notify: Counter,
        upstream_cx_idle_timeout: Counter,
        upstream_cx_max_requests: Counter,
        upstream_cx_max_duration_reached: Counter,
        upstream_cx_none_healthy: Counter,
        upstream_cx_pool_overflow: Counter,
        upstream_cx_http3_total: Counter,
        upstream_cx_connect_with_0_rtt: Counter,
        upstream_flow_control_paused_reading_total: Counter,
        upstream_flow_control_resumed_reading_total: Counter,
        upstream_flow_control_backed_up_total: Counter,
        upstream_flow_control_drained_total: Counter,
        upstream_cx_protocol_error: Counter,
        upstream_cx_rx_bytes_total: Counter,
        upstream_cx_tx_bytes_total: Counter,
        upstream_rq_total: Counter,
        upstream_rq_active: Gauge,
        upstream_rq_pending_total: Counter,
        upstream_rq_pending_active: Gauge,
        upstream_rq_pending_overflow: Counter,
        upstream_rq_active_overflow: Counter,
        upstream_rq_pending_failure_eject: Counter,
        upstream_rq_cancelled: Counter,
        upstream_rq_maintenance_mode: Counter,
        upstream_rq_timeout: Counter,
        upstream_rq_max_duration_reached: Counter,
        upstream_rq_per_try_timeout: Counter,
        upstream_rq_per_try_idle_timeout: Counter,
        upstream_rq_rx_reset: Counter,
        upstream_rq_tx_reset: Counter,
        upstream_rq_retry: Counter,
        upstream_rq_retry_backoff_exponential: Counter,
        upstream_rq_retry_backoff_ratelimited: Counter,
        upstream_rq_retry_limit_exceeded: Counter,
        upstream_rq_retry_success: Counter,
        upstream_rq_retry_overflow: Counter,
        upstream_rq_0rtt: Counter,
        upstream_rq_drop_overload: Counter,
        upstream_rq: CodeCounters,
        /// Answers that were discarded for another attempt.
        retry_rq: CodeCounters = "retry.upstream_rq",
        upstream_rq_time: Histogram,
        /// Of requests from within the mesh, from outside, and of canary hosts.
        internal_rq: Answers = "internal.upstream_rq",
        external_rq: Answers = "external.upstream_rq",
        canary_rq: Answers = "canary.upstream_rq",
        upstream_internal_redirect_failed_total: Counter,
        upstream_internal_redirect_succeeded_total: Counter,
        retry_or_shadow_abandoned: Counter,
        lb_healthy_panic: Counter,
        lb_recalculate_zone_structures: Counter,
        lb_subsets_selected: Counter,
        lb_subsets_fallback: Counter,
        lb_subsets_fallback_panic: Counter,
        lb_zone_routing_all_directly: Counter,
        lb_zone_routing_sampled: Counter,
        lb_zone_routing_cross_zone: Counter,
        lb_zone_no_capacity_left: Counter,
        lb_zone_cluster_too_small: Counter,
        lb_local_cluster_not_ok: Counter,
        bind_errors: Counter,
        original_dst_host_invalid: Counter,
    }
}

crate::stats_group! {
    /// `cluster_manager.`, beside what is counted of CDS.
    pub struct UpdateStats {
        cluster_updated: Counter,
        cluster_updated_via_merge: Counter,
        update_merge_cancelled: Counter,
        update_out_of_merge_window: Counter,
    }
}

crate::stats_group! {
    /// Counted by the control thread, per cluster.
    pub struct MembershipStats {
        membership_total: Gauge,
        membership_healthy: Gauge,
        membership_degraded: Gauge,
        membership_excluded: Gauge,
        membership_change: Counter,
        max_host_weight: Gauge,
        update_attempt: Counter,
        update_success: Counter,
        update_failure: Counter,
        update_empty: Counter,
        update_no_rebuild: Counter,
        assignment_stale: Counter,
        assignment_timeout_received: Counter,
        assignment_use_cached: Counter,
        warming_state: Gauge,
        /// Endpoints that got the cluster's own transport socket, no `transport_socket_matches` being theirs.
        default_match_count: Counter = "default.total_match_count",
        cx_open: Gauge = "circuit_breakers.default.cx_open",
        rq_open: Gauge = "circuit_breakers.default.rq_open",
        rq_pending_open: Gauge = "circuit_breakers.default.rq_pending_open",
        rq_retry_open: Gauge = "circuit_breakers.default.rq_retry_open",
        cx_pool_open: Gauge = "circuit_breakers.default.cx_pool_open",
        high_cx_open: Gauge = "circuit_breakers.high.cx_open",
        high_rq_open: Gauge = "circuit_breakers.high.rq_open",
        high_rq_pending_open: Gauge = "circuit_breakers.high.rq_pending_open",
        high_rq_retry_open: Gauge = "circuit_breakers.high.rq_retry_open",
        high_cx_pool_open: Gauge = "circuit_breakers.high.cx_pool_open",
    }
}

crate::stats_group! {
    /// Of a cluster with health checks.
    pub struct HealthStats {
        attempt: Counter = "health_check.attempt",
        success: Counter = "health_check.success",
        failure: Counter = "health_check.failure",
        network_failure: Counter = "health_check.network_failure",
        passive_failure: Counter = "health_check.passive_failure",
        verify_cluster: Counter = "health_check.verify_cluster",
        healthy: Gauge = "health_check.healthy",
        degraded: Gauge = "health_check.degraded",
    }
}

crate::stats_group! {
    /// `track_remaining` of a priority's circuit breakers (`cluster.NAME.circuit_breakers.PRIORITY.`).
    pub struct RemainingStats {
        remaining_cx: Gauge,
        remaining_rq: Gauge,
        remaining_pending: Gauge,
        remaining_retries: Gauge,
    }
}

crate::stats_group! {
    /// Endpoints that got a transport socket by its match (`cluster.NAME.MATCH.`).
    pub struct MatchStats {
        total_match_count: Counter,
    }
}

crate::stats_group! {
    /// `track_cluster_stats.request_response_sizes`: bytes, and numbers of headers.
    pub struct SizeStats {
        upstream_rq_headers_size: Histogram,
        upstream_rq_headers_count: Histogram,
        upstream_rq_body_size: Histogram,
        upstream_rs_headers_size: Histogram,
        upstream_rs_headers_count: Histogram,
        upstream_rs_body_size: Histogram,
    }
}

crate::stats_group! {
    /// `track_cluster_stats.timeout_budgets`: percent of the time allowed that was used.
    pub struct TimeStats {
        upstream_rq_timeout_budget_percent_used: Histogram,
        upstream_rq_timeout_budget_per_try_percent_used: Histogram,
    }
}

crate::stats_group! {
    /// Counted by whoever ejects, per cluster with outlier detection.
    pub struct OutlierStats {
        ejections_active: Gauge = "outlier_detection.ejections_active",
        ejections_overflow: Counter = "outlier_detection.ejections_overflow",
        ejections_enforced_total: Counter = "outlier_detection.ejections_enforced_total",
        ejections_total: Counter = "outlier_detection.ejections_total",
        enforced_5xx: Counter = "outlier_detection.ejections_enforced_consecutive_5xx",
        detected_5xx: Counter = "outlier_detection.ejections_detected_consecutive_5xx",
        /// Under the names that Envoy keeps for older dashboards.
        old_5xx: Counter = "outlier_detection.ejections_consecutive_5xx",
        old_rate: Counter = "outlier_detection.ejections_success_rate",
        enforced_gateway: Counter = "outlier_detection.ejections_enforced_consecutive_gateway_failure",
        detected_gateway: Counter = "outlier_detection.ejections_detected_consecutive_gateway_failure",
        enforced_local: Counter = "outlier_detection.ejections_enforced_consecutive_local_origin_failure",
        detected_local: Counter = "outlier_detection.ejections_detected_consecutive_local_origin_failure",
        enforced_rate: Counter = "outlier_detection.ejections_enforced_success_rate",
        detected_rate: Counter = "outlier_detection.ejections_detected_success_rate",
        enforced_rate_local: Counter = "outlier_detection.ejections_enforced_local_origin_success_rate",
        detected_rate_local: Counter = "outlier_detection.ejections_detected_local_origin_success_rate",
        enforced_percentage: Counter = "outlier_detection.ejections_enforced_failure_percentage",
        detected_percentage: Counter = "outlier_detection.ejections_detected_failure_percentage",
        enforced_percentage_local: Counter = "outlier_detection.ejections_enforced_local_origin_failure_percentage",
        detected_percentage_local: Counter = "outlier_detection.ejections_detected_local_origin_failure_percentage",
    }
}

impl ClusterStats {
    /// Counts what was unusual about choosing a host.
    pub fn record_pick(&self, picked: &Picked) {
        if picked.panic {
            self.lb_healthy_panic.inc();
        }
        match picked.subset {
            Some(Via::Criteria) => self.lb_subsets_selected.inc(),
            Some(Via::Fallback) if picked.host.is_some() => self.lb_subsets_fallback.inc(),
            Some(Via::Panic) if picked.host.is_some() => self.lb_subsets_fallback_panic.inc(),
            _ => {}
        }
        match picked.zone {
            None => {}
            Some(ZoneUse::AllDirectly) => self.lb_zone_routing_all_directly.inc(),
            Some(ZoneUse::Sampled) => self.lb_zone_routing_sampled.inc(),
            Some(ZoneUse::CrossZone) => self.lb_zone_routing_cross_zone.inc(),
            Some(ZoneUse::NoCapacityLeft) => self.lb_zone_no_capacity_left.inc(),
            Some(ZoneUse::TooSmall) => self.lb_zone_cluster_too_small.inc(),
            Some(ZoneUse::LocalClusterNotOk) => self.lb_local_cluster_not_ok.inc(),
        }
    }
}

impl OutlierStats {
    /// Counts what was decided about a host.
    pub fn record(&self, verdict: Verdict) {
        let (cause, enforced) = match verdict {
            Verdict::Nothing => return,
            Verdict::Ejected(cause) => (cause, true),
            Verdict::Spared(cause) | Verdict::Overflow(cause) => (cause, false),
        };
        let (on, seen) = match cause {
            Cause::Consecutive5xx => (&self.enforced_5xx, &self.detected_5xx),
            Cause::ConsecutiveGateway => (&self.enforced_gateway, &self.detected_gateway),
            Cause::ConsecutiveLocal => (&self.enforced_local, &self.detected_local),
            Cause::SuccessRate => (&self.enforced_rate, &self.detected_rate),
            Cause::SuccessRateLocal => (&self.enforced_rate_local, &self.detected_rate_local),
            Cause::FailurePercentage => (&self.enforced_percentage, &self.detected_percentage),
            Cause::FailurePercentageLocal => (&self.enforced_percentage_local, &self.detected_percentage_local),
        };
        seen.inc();
        match cause {
            Cause::Consecutive5xx => self.old_5xx.inc(),
            Cause::SuccessRate => self.old_rate.inc(),
            _ => {}
        }
        if let Verdict::Overflow(_) = verdict {
            return self.ejections_overflow.inc();
        }
        if matches!(cause, Cause::Consecutive5xx | Cause::SuccessRate) {
            self.ejections_total.inc();
        }
        if enforced {
            on.inc();
            self.ejections_enforced_total.inc();
            self.ejections_active.inc();
        }
    }
}
