//! `health_check.v3.HealthCheck`: the proxy answers health checks of itself.

use std::time::Duration;

use crate::matcher::header::HeaderMatcher;
use crate::value::Name;

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheckFilter {
    pub pass_through: bool,
    pub cache_time: Option<Duration>,
    /// Least percentage of healthy hosts per cluster.
    pub cluster_min_healthy: Vec<(Name, f64)>,
    pub headers: Vec<HeaderMatcher>,
}
