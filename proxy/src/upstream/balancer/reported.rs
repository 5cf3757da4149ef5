//! Client-side weighted round robin: hosts weigh what their own load reports (ORCA) say they can take.

use std::rc::Rc;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use prost::Message;
use sidemesh_config::resource::cluster::ClientSideWrr;

use super::hosts::Group;
use super::{Chance, round_robin, slow_start};
use crate::upstream::host::Host;

const REPORT: &str = "endpoint-load-metrics";
const BINARY_REPORT: &str = "endpoint-load-metrics-bin";

/// Base64 with or without padding, as gRPC's metadata has it.
const FORGIVING: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// `xds.data.orca.v3.OrcaLoadReport`, as far as weights are made of it.
#[derive(Clone, PartialEq, Message)]
struct Orca {
    #[prost(double, tag = "1")]
    cpu_utilization: f64,
    #[prost(double, tag = "6")]
    rps_fractional: f64,
    #[prost(double, tag = "7")]
    eps: f64,
    #[prost(double, tag = "9")]
    application_utilization: f64,
}

/// The figures of a load report that weights are made of.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct LoadReport {
    pub requests_per_second: f64,
    pub errors_per_second: f64,
    pub application_utilization: f64,
    pub cpu_utilization: f64,
}

impl LoadReport {
    /// The report in the headers or trailers of a response.
    pub fn of(headers: &HeaderMap) -> Option<LoadReport> {
        if let Some(binary) = headers.get(BINARY_REPORT) {
            return LoadReport::decode(binary.as_bytes());
        }
        LoadReport::parse(headers.get(REPORT)?.to_str().ok()?)
    }

    /// `OrcaLoadReport` in base64.
    fn decode(text: &[u8]) -> Option<LoadReport> {
        let bytes = FORGIVING.decode(text).ok()?;
        let wire = Orca::decode(bytes.as_slice()).ok()?;
        let mut report = LoadReport::default();
        report.set("rps_fractional", wire.rps_fractional);
        report.set("eps", wire.eps);
        report.set("application_utilization", wire.application_utilization);
        report.set("cpu_utilization", wire.cpu_utilization);
        Some(report)
    }

    /// Reads an `endpoint-load-metrics` header: `TEXT cpu_utilization=0.3, rps_fractional=120`, `JSON {...}` or `BIN` with
    /// base64. `None` where it is of another form.
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
            "BIN" => return LoadReport::decode(rest.as_bytes()),
            _ => return None,
        }
        Some(report)
    }

    fn set(&mut self, key: &str, value: f64) {
        if !value.is_finite() || value < 0.0 {
            return;
        }
        match key {
            "rps_fractional" | "rpsFractional" => self.requests_per_second = value,
            "eps" => self.errors_per_second = value,
            "application_utilization" | "applicationUtilization" => self.application_utilization = value,
            "cpu_utilization" | "cpuUtilization" | "cpu" => self.cpu_utilization = value,
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
