//! `health_check.v3.HealthCheck`: the proxy answers health checks of itself.

use std::time::Duration;

use sidemesh_proto::envoy::extensions::filters::http::health_check::v3 as pb;

use crate::matcher::header::HeaderMatcher;
use crate::matcher::parse as matcher;
use crate::rejection::Rejection;
use crate::value::{Name, name};
use crate::wire::{self, required};

#[derive(Debug, Clone, PartialEq)]
pub struct HealthCheckFilter {
    pub pass_through: bool,
    pub cache_time: Option<Duration>,
    /// Least percentage of healthy hosts per cluster.
    pub cluster_min_healthy: Vec<(Name, f64)>,
    pub headers: Vec<HeaderMatcher>,
}

pub(super) fn parse(config: &pb::HealthCheck) -> Result<HealthCheckFilter, Rejection> {
    let pass_through = required(&config.pass_through_mode, "pass_through_mode")?.value;
    if config.cache_time.is_some() && !pass_through {
        return Err(Rejection::invalid("cache_time", "is for pass_through_mode only"));
    }
    let clusters = config.cluster_min_healthy_percentages.iter();
    let mut cluster_min_healthy = clusters
        .map(|(cluster, p)| {
            Ok((name(cluster), wire::percent(p, &format!("cluster_min_healthy_percentages[{cluster}]"))?))
        })
        .collect::<Result<Vec<_>, Rejection>>()?;
    cluster_min_healthy.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(HealthCheckFilter {
        pass_through,
        cache_time: wire::optional_duration(&config.cache_time, "cache_time")?,
        cluster_min_healthy,
        headers: matcher::headers(&config.headers, "headers")?,
    })
}
