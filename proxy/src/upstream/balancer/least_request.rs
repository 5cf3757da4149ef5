//! Least request: of a few hosts drawn at random (or of all) the one with the fewest requests in flight. Where weights differ,
//! earliest deadline first with weights that shrink with the load.

use std::rc::Rc;

use sidemesh_config::resource::cluster::SlowStart;

use super::hosts::Group;
use super::{Chance, round_robin, slow_start};
use crate::upstream::host::Host;

/// The policy's figures.
#[derive(Debug, Clone, Copy)]
pub struct LeastRequest<'a> {
    pub choices: u32,
    pub bias: f64,
    pub full_scan: bool,
    pub slow_start: Option<&'a SlowStart>,
}

pub fn pick(group: &Group, policy: LeastRequest<'_>, chance: &Chance<'_>) -> Option<Rc<Host>> {
    let hosts = &group.hosts;
    if hosts.len() < 2 {
        return hosts.first().cloned();
    }
    if !group.is_even() || slow_start::any(policy.slow_start, hosts, chance.now) {
        let weight = |host: &Host| {
            let base = f64::from(host.weight());
            let active = host.state().active_requests() as f64 + 1.0;
            let weight = match policy.bias {
                0.0 => base,
                1.0 => base / active,
                bias => base / active.powf(bias),
            };
            slow_start::apply(policy.slow_start, host, weight, chance.now)
        };
        return round_robin::in_turn(group, true, chance, weight);
    }
    if policy.full_scan { least_of_all(hosts, chance) } else { least_of_some(hosts, policy.choices, chance) }
}

fn least_of_some(hosts: &[Rc<Host>], choices: u32, chance: &Chance<'_>) -> Option<Rc<Host>> {
    let mut best: Option<(u64, &Rc<Host>)> = None;
    for _ in 0..choices.max(1) {
        let host = &hosts[chance.random.below(hosts.len() as u64) as usize];
        let active = host.state().active_requests();
        if best.is_none_or(|(least, _)| active < least) {
            best = Some((active, host));
        }
    }
    best.map(|(_, host)| host.clone())
}

fn least_of_all(hosts: &[Rc<Host>], chance: &Chance<'_>) -> Option<Rc<Host>> {
    let mut best: Option<(u64, &Rc<Host>)> = None;
    let mut ties = 1;
    for host in hosts {
        let active = host.state().active_requests();
        match best {
            Some((least, _)) if active > least => {}
            Some((least, _)) if active == least => {
                // Each of the tied ones ends up chosen with the same chance.
                ties += 1;
                if chance.random.below(ties) == 0 {
                    best = Some((active, host));
                }
            }
            _ => {
                ties = 1;
                best = Some((active, host));
            }
        }
    }
    best.map(|(_, host)| host.clone())
}
