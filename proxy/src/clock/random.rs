//! A small fast generator (wyrand) for balancing, jitter and sampling. Not for secrets.
use std::cell::Cell;
use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

/// The random numbers of one worker. Cloning shares the sequence.
#[derive(Clone, Debug)]
pub struct Random {
    state: Rc<Cell<u64>>,
}

impl Random {
    /// The same seed gives the same sequence.
    pub fn seeded(seed: u64) -> Self {
        Self { state: Rc::new(Cell::new(seed)) }
    }

    /// Seeded from the operating system (through the standard library's hash keys).
    pub fn from_entropy() -> Self {
        Self::seeded(std::collections::hash_map::RandomState::new().build_hasher().finish())
    }

    /// 64 uniform bits.
    #[inline]
    pub fn next_u64(&self) -> u64 {
        let state = self.state.get().wrapping_add(0xa076_1d64_78bd_642f);
        self.state.set(state);
        let product = u128::from(state) * u128::from(state ^ 0xe703_7ed1_a0b4_28db);
        ((product >> 64) ^ product) as u64
    }

    /// Uniform in `0..bound`; 0 when `bound` is 0.
    #[inline]
    pub fn below(&self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Uniform in `[0, 1)`.
    #[inline]
    pub fn fraction(&self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True in `numerator` of `denominator` cases.
    #[inline]
    pub fn chance(&self, numerator: u64, denominator: u64) -> bool {
        self.below(denominator) < numerator
    }
}
