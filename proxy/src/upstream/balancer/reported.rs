//! Client-side weighted round robin: hosts weigh what their own load reports (ORCA) say they can take.

use std::rc::Rc;

use sidemesh_config::resource::cluster::ClientSideWrr;

use super::hosts::Group;
use super::{Chance, round_robin, slow_start};
use crate::upstream::host::Host;

/// The figures of a load report that weights are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadReport {
    pub requests_per_second: f64,
    pub errors_per_second: f64,
    pub application_utilization: f64,
    pub cpu_utilization: f64,
}

impl LoadReport {
    /// Reads an `endpoint-load-metrics` header: `TEXT cpu_utilization=0.3, rps_fractional=120` or `JSON {...}`. `None` where it
    /// is of another form.
    pub fn parse(header: &str) -> Option<LoadReport> {
        let (form, rest) = header.split_once(' ')?;
        let mut report = LoadReport::default();
        match form {
            "TEXT" => {
                for (key, value) in rest.split(',').filter_map(|pair| pair.trim().split_once('=')) {
                    report.set(key.trim(), value.trim().parse().ok()?);
                }
            }
            "JSON" => {
                let value: serde_json::Value = serde_json::from_str(rest).ok()?;
                for (key, value) in value.as_object()? {
                    if let Some(number) = value.as_f64() {
                        report.set(key, number);
                    }
                }
            }
            _ => return None,
        }
        Some(report)
    }

    fn set(&mut self, key: &str, value: f64) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        match key {
            "rps_fractional" => self.requests_per_second = value,
            "eps" => self.errors_per_second = value,
            "application_utilization" => self.application_utilization = value,
            "cpu_utilization" | "cpu" => self.cpu_utilization = value,
            _ => {}
        }
    }
}

/// Requests per second over utilization, the latter raised by the share of errors. `None` where the report does not tell.
pub fn weight_of_report(config: &ClientSideWrr, report: &LoadReport) -> Option<f64> {
    let used = match report.application_utilization {
        0.0 => report.cpu_utilization,
        used => used,
    };
    if report.requests_per_second <= 0.0 || used <= 0.0 {
        return None;
    }
    let errors = report.errors_per_second / report.requests_per_second * config.error_utilization_penalty;
    Some(report.requests_per_second / (used + errors))
}

/// The next host. Hosts without a report count as the mean of those with one; without any report all count the same.
pub fn pick(group: &Group, config: &ClientSideWrr, chance: &Chance<'_>) -> Option<Rc<Host>> {
    let (blackout, expiration) =
        (config.blackout_period.as_millis() as u64, config.weight_expiration_period.as_millis() as u64);
    let reported = |host: &Host| host.state().reported_weight(chance.now, blackout, expiration);
    let known = || group.hosts.iter().filter_map(|h| reported(h));
    let mean = || match known().count() {
        0 => 1.0,
        n => known().sum::<f64>() / n as f64,
    };
    let weight = |host: &Host| {
        let base = reported(host).unwrap_or_else(mean);
        slow_start::apply(config.slow_start.as_ref(), host, base, chance.now)
    };
    round_robin::in_turn(group, true, chance, weight)
}
