//! Slow start: a host that has just come into use gets a share that grows over the window.

use sidemesh_config::resource::cluster::SlowStart;

use crate::upstream::host::{Health, Host};

/// `weight` as the host's time in use lets it count at `now` (milliseconds on the registry's clock).
pub fn apply(config: Option<&SlowStart>, host: &Host, weight: f64, now: u64) -> f64 {
    let Some(config) = config else { return weight };
    let state = host.state();
    match state.healthy_since() {
        Some(since) if state.shown_health() == Health::Healthy => weight * factor(config, now.saturating_sub(since)),
        _ => weight,
    }
}

/// The share of the full weight after `elapsed` milliseconds.
pub fn factor(config: &SlowStart, elapsed: u64) -> f64 {
    let window = config.window.as_millis() as u64;
    if elapsed >= window {
        return 1.0;
    }
    let time = elapsed.max(1) as f64 / window as f64;
    let aggression = if config.aggression > 0.0 { config.aggression } else { 1.0 };
    time.powf(1.0 / aggression).max(config.min_weight)
}

/// Whether any of `hosts` is inside its window.
pub fn any(config: Option<&SlowStart>, hosts: &[std::rc::Rc<Host>], now: u64) -> bool {
    let Some(window) = config.map(|c| c.window.as_millis() as u64) else { return false };
    hosts.iter().any(|h| h.state().healthy_since().is_some_and(|since| now.saturating_sub(since) < window))
}
