//! Earliest deadline first: picks entries in proportion to their weights, evenly interleaved.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The schedule over entries `0..n`.
#[derive(Debug, Default, Clone)]
pub struct Edf {
    now: f64,
    order: u64,
    queue: BinaryHeap<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    deadline: f64,
    /// Ties go to who was added first.
    order: u64,
    index: usize,
}

impl Edf {
    /// A schedule of the weights above zero, `skip` picks into its course, so that workers do not all start with the same host.
    pub fn new(weights: impl IntoIterator<Item = f64>, skip: u64) -> Self {
        let mut edf = Edf::default();
        let mut kept = Vec::new();
        for (index, weight) in weights.into_iter().enumerate() {
            if weight > 0.0 {
                edf.add(index, weight);
            }
            kept.push(weight);
        }
        for _ in 0..skip.checked_rem(kept.len() as u64).unwrap_or(0) {
            edf.pick(|index| kept[index]);
        }
        edf
    }

    fn add(&mut self, index: usize, weight: f64) {
        self.queue.push(Entry { deadline: self.now + 1.0 / weight, order: self.order, index });
        self.order += 1;
    }

    /// The next entry. It is scheduled again with the weight it has now.
    pub fn pick(&mut self, weight_of: impl Fn(usize) -> f64) -> Option<usize> {
        let next = self.queue.pop()?;
        self.now = next.deadline;
        self.add(next.index, weight_of(next.index).max(f64::MIN_POSITIVE));
        Some(next.index)
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives its greatest: the earliest deadline.
        other.deadline.total_cmp(&self.deadline).then_with(|| other.order.cmp(&self.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}
