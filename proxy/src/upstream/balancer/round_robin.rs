//! Round robin: in turn where weights are even, earliest deadline first where they are not (or while hosts start slowly).

use std::rc::Rc;

use super::Chance;
use super::edf::Edf;
use super::hosts::{Group, Turn};
use super::slow_start;
use crate::upstream::host::Host;
use sidemesh_config::resource::cluster::SlowStart;

/// The next host of `group`.
pub fn pick(group: &Group, slow: Option<&SlowStart>, chance: &Chance<'_>) -> Option<Rc<Host>> {
    let weight = |host: &Host| slow_start::apply(slow, host, f64::from(host.weight()), chance.now);
    in_turn(group, slow.is_some(), chance, weight)
}

/// The next host by `weight`; `varies` says that it may differ between hosts of the same configured weight.
pub(super) fn in_turn(
    group: &Group,
    varies: bool,
    chance: &Chance<'_>,
    weight: impl Fn(&Host) -> f64,
) -> Option<Rc<Host>> {
    let hosts = &group.hosts;
    if hosts.len() < 2 {
        return hosts.first().cloned();
    }
    let mut turn = group.turn.borrow_mut();
    if let Turn::Unset = *turn {
        let start = chance.random.next_u64();
        *turn = if varies || !group.is_even() {
            Turn::Weighted(Edf::new(hosts.iter().map(|h| weight(h)), start))
        } else {
            Turn::Next((start % hosts.len() as u64) as usize)
        };
    }
    let index = match &mut *turn {
        Turn::Unset => return None,
        Turn::Next(next) => {
            let index = *next % hosts.len();
            *next = index + 1;
            index
        }
        Turn::Weighted(edf) => edf.pick(|index| weight(&hosts[index]))?,
    };
    hosts.get(index).cloned()
}
