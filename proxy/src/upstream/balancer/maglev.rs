//! Maglev, entry for entry Envoy's table (Eisenbud et al., NSDI 2016, section 3.4).

use crate::upstream::hash;

/// The lookup table: hash modulo its size gives a host's index.
#[derive(Debug, Default)]
pub struct Table {
    slots: Vec<u32>,
}

struct Entry {
    index: u32,
    offset: u64,
    skip: u64,
    weight: f64,
    target: f64,
    next: u64,
}

const FREE: u32 = u32::MAX;

impl Table {
    /// A table of `size` (a prime) for hosts given by hash key and share of the whole.
    pub fn new(hosts: &[(String, f64)], size: u64) -> Table {
        let most = hosts.iter().map(|(_, share)| *share).fold(0.0, f64::max);
        if most <= 0.0 || size < 2 {
            return Table::default();
        }
        // In the order of the keys: the table must not depend on the order in which hosts are listed.
        let mut order: Vec<usize> = (0..hosts.len()).filter(|i| hosts[*i].1 > 0.0).collect();
        order.sort_by(|a, b| hosts[*a].0.cmp(&hosts[*b].0));
        let mut entries: Vec<Entry> = order
            .into_iter()
            .map(|index| {
                let key = hosts[index].0.as_bytes();
                Entry {
                    index: index as u32,
                    offset: hash::seeded(key, 0) % size,
                    skip: hash::seeded(key, 1) % (size - 1) + 1,
                    weight: hosts[index].1,
                    target: 0.0,
                    next: 0,
                }
            })
            .collect();
        Table { slots: fill(&mut entries, size, most) }
    }

    /// The host for `hash`; a repeated `attempt` looks elsewhere.
    pub fn pick(&self, hash: u64, attempt: u32) -> Option<usize> {
        let hash = if attempt == 0 { hash } else { hash ^ (u64::MAX - u64::from(attempt) + 1) };
        let slot = hash.checked_rem(self.slots.len() as u64)?;
        Some(self.slots[slot as usize] as usize)
    }
}

fn fill(entries: &mut [Entry], size: u64, most: f64) -> Vec<u32> {
    let mut slots = vec![FREE; size as usize];
    let mut filled = 0;
    let mut round = 0.0;
    while filled < size {
        round += 1.0;
        for entry in entries.iter_mut() {
            if filled == size {
                break;
            }
            // The heaviest host has its turn in every round, one of a third of its weight in every third.
            if round * entry.weight < entry.target {
                continue;
            }
            entry.target += most;
            loop {
                // Reduced before it is multiplied: `next` stays below `size` until the table is full.
                let slot = ((u128::from(entry.offset) + u128::from(entry.skip) * u128::from(entry.next))
                    % u128::from(size)) as usize;
                entry.next += 1;
                if slots[slot] == FREE {
                    slots[slot] = entry.index;
                    break;
                }
            }
            filled += 1;
        }
    }
    slots
}
