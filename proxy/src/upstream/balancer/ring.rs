//! Ring hash (ketama), hash for hash Envoy's ring.

use sidemesh_config::resource::cluster::HashFunction;

use crate::upstream::hash;

/// Points on the ring, in order: hash and index of the host.
#[derive(Debug, Default)]
pub struct Ring {
    points: Vec<(u64, u32)>,
}

impl Ring {
    /// Gives each host (its hash key and its share of the whole) points in proportion to its share. The host with the least share
    /// gets a whole number, so that `min` holds, unless `max` would be exceeded.
    pub fn new(hosts: &[(String, f64)], min: u64, max: u64, function: HashFunction) -> Ring {
        let least = hosts.iter().map(|(_, share)| *share).fold(1.0, f64::min);
        if hosts.is_empty() || least <= 0.0 {
            return Ring::default();
        }
        let scale = ((least * min as f64).ceil() / least).min(max as f64);
        let mut points = Vec::with_capacity(scale.ceil() as usize);
        let (mut current, mut target) = (0.0, 0.0);
        let mut key = String::new();
        for (index, (host, share)) in hosts.iter().enumerate() {
            target += scale * share;
            let mut i = 0u64;
            while current < target {
                use std::fmt::Write;
                key.clear();
                // Writing to a String cannot fail.
                let _ = write!(key, "{host}_{i}");
                let hash = match function {
                    HashFunction::XxHash => hash::of(key.as_bytes()),
                    HashFunction::Murmur2 => hash::murmur2(key.as_bytes()),
                };
                points.push((hash, index as u32));
                i += 1;
                current += 1.0;
            }
        }
        points.sort_unstable_by_key(|(hash, _)| *hash);
        Ring { points }
    }

    /// The host at or after `hash`; a repeated `attempt` takes the point that many further on.
    pub fn pick(&self, hash: u64, attempt: u32) -> Option<usize> {
        let at = self.points.partition_point(|(point, _)| *point < hash) + attempt as usize;
        let at = at.checked_rem(self.points.len())?;
        Some(self.points[at].1 as usize)
    }
}
