//! When active checks change a host's health, and when the next one is due. Pure.

use std::time::Duration;

use sidemesh_config::resource::cluster::HealthCheck;

use crate::upstream::host::{HostState, flag};

/// What a check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    Healthy {
        degraded: bool,
    },
    /// The host answered, and not as expected: out at once.
    Unhealthy {
        excluded: bool,
        /// Of the HTTP answer; zero where there is none.
        status: u16,
    },
    /// The host answered with a status that counts towards the threshold.
    Retriable {
        status: u16,
    },
    /// No connection, or it broke off.
    Network,
    Timeout,
}

/// What became of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    Unchanged,
    /// On its way: the threshold has not been reached.
    Pending,
    Changed,
}

/// The record of one host's checks.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    healthy: u32,
    unhealthy: u32,
    first: bool,
}

impl Default for Machine {
    fn default() -> Self {
        Machine { healthy: 0, unhealthy: 0, first: true }
    }
}

/// What a check led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    pub transition: Transition,
    /// It was the host's first check.
    pub first: bool,
    /// Any flag of the host is different now.
    pub flags_changed: bool,
    /// The host has just become healthy: it starts (slowly, where that is asked for) from now.
    pub became_healthy: bool,
}

impl Machine {
    /// Takes up what a check found, and sets the host's flags.
    pub fn handle(&mut self, config: &HealthCheck, host: &HostState, found: Found) -> Step {
        let first = std::mem::replace(&mut self.first, false);
        let was_failed = host.flags() & flag::FAILED_ACTIVE_HC != 0;
        let pending_cleared = host.change_flags(0, flag::PENDING_ACTIVE_HC);
        let (transition, changed) = match found {
            Found::Healthy { degraded } => self.pass(config, host, was_failed, first, degraded),
            failed => self.fail(config, host, was_failed, failed),
        };
        Step {
            transition,
            first,
            flags_changed: pending_cleared || changed,
            became_healthy: transition == Transition::Changed && was_failed,
        }
    }

    fn pass(
        &mut self,
        config: &HealthCheck,
        host: &HostState,
        was_failed: bool,
        first: bool,
        degraded: bool,
    ) -> (Transition, bool) {
        self.unhealthy = 0;
        let (set, clear) = if degraded { (flag::DEGRADED_ACTIVE_HC, 0) } else { (0, flag::DEGRADED_ACTIVE_HC) };
        let mut changed = host.change_flags(set, clear);
        let mut transition = if changed { Transition::Changed } else { Transition::Unchanged };
        if was_failed {
            self.healthy += 1;
            // The very first check decides alone, so that starting is quick.
            if first || self.healthy >= config.healthy_threshold {
                self.healthy = 0;
                let over = flag::FAILED_ACTIVE_HC | flag::ACTIVE_HC_TIMEOUT | flag::EXCLUDED_IMMEDIATE_HC;
                changed |= host.change_flags(0, over);
                transition = Transition::Changed;
            } else {
                transition = Transition::Pending;
            }
        }
        (transition, changed)
    }

    fn fail(&mut self, config: &HealthCheck, host: &HostState, was_failed: bool, found: Found) -> (Transition, bool) {
        self.healthy = 0;
        let timeout = if found == Found::Timeout { flag::ACTIVE_HC_TIMEOUT } else { 0 };
        if was_failed {
            let changed = host.change_flags(timeout, flag::ACTIVE_HC_TIMEOUT & !timeout);
            return (Transition::Unchanged, changed);
        }
        self.unhealthy += 1;
        let at_once = matches!(found, Found::Unhealthy { .. });
        if !at_once && self.unhealthy < config.unhealthy_threshold {
            return (Transition::Pending, false);
        }
        self.unhealthy = 0;
        let excluded =
            if matches!(found, Found::Unhealthy { excluded: true, .. }) { flag::EXCLUDED_IMMEDIATE_HC } else { 0 };
        let changed = host.change_flags(flag::FAILED_ACTIVE_HC | timeout | excluded, 0);
        (Transition::Changed, changed)
    }

    /// The pause before the next check. `traffic`: the cluster has had connections; `random` draws from 0 to its argument.
    pub fn pause(
        config: &HealthCheck,
        healthy: bool,
        transition: Transition,
        traffic: bool,
        random: impl Fn(u64) -> u64,
    ) -> Duration {
        let pending = transition == Transition::Pending;
        let base = match (traffic, healthy, pending) {
            (false, true, _) => config.no_traffic_healthy_interval,
            (false, false, _) => config.no_traffic_interval,
            (true, true, false) => config.interval,
            (true, true, true) => config.healthy_edge_interval,
            (true, false, false) => config.unhealthy_interval,
            (true, false, true) => config.unhealthy_edge_interval,
        };
        let share = base.as_millis() as u64 * u64::from(config.interval_jitter_percent) / 100;
        let jitter = random(share) + random(config.interval_jitter.as_millis() as u64);
        (base + Duration::from_millis(jitter)).max(MIN_PAUSE)
    }
}

/// Checks of one host are never closer together.
const MIN_PAUSE: Duration = Duration::from_millis(1);
