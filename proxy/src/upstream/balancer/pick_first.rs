//! Pick first: one host takes everything, in the order given (or shuffled once); the next one while it is not usable.

use std::rc::Rc;

use super::Chance;
use super::hosts::{Group, Turn};
use crate::upstream::host::Host;

pub fn pick(group: &Group, shuffle: bool, chance: &Chance<'_>) -> Option<Rc<Host>> {
    let len = group.hosts.len();
    if !shuffle || len < 2 {
        return group.hosts.first().cloned();
    }
    let mut turn = group.turn.borrow_mut();
    if let Turn::Unset = *turn {
        *turn = Turn::Next(chance.random.below(len as u64) as usize);
    }
    match *turn {
        Turn::Next(index) => group.hosts.get(index).cloned(),
        _ => None,
    }
}
