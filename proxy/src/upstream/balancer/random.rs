//! Random: any host, whatever its weight.

use std::rc::Rc;

use super::Chance;
use super::hosts::Group;
use crate::upstream::host::Host;

pub fn pick(group: &Group, chance: &Chance<'_>) -> Option<Rc<Host>> {
    let index = chance.random.below(group.hosts.len() as u64) as usize;
    group.hosts.get(index).cloned()
}
