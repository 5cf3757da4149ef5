//! Memory that is not needed any more goes back to the system.
//!
//! The allocator (mimalloc) gives freed pages back a second after they were freed, but looks for such pages only when another page is
//! freed: a process that has fallen quiet after a burst would keep the burst's memory for good. [`give_back`] makes it look.

use std::hint::black_box;
use std::time::Duration;

use crate::io::Buffers;

/// How often each thread looks.
pub(super) const EVERY: Duration = Duration::from_secs(1);

/// Larger than what the allocator keeps in pages of several objects: such a block is a page of its own, freed at once.
const PAGE_OF_ITS_OWN: usize = 1024 * 1024;

/// Transparent huge pages round every corner of a small heap up to 2 MiB: a proxy with little to hold does without. Where the
/// kernel has none there is nothing to turn off.
pub(super) fn avoid_huge_pages() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "transparent huge pages stay on");
    }
}

/// Lets the allocator return what was freed a second ago or earlier. The block is reserved and never touched: a few hundred
/// nanoseconds, and one system call when there is something to return.
pub(super) fn give_back() {
    drop(black_box(Vec::<u8>::with_capacity(PAGE_OF_ITS_OWN)));
}

/// A worker's housekeeping: read buffers that a second of traffic did not need, then what the allocator holds.
pub(super) async fn keep(buffers: Buffers) {
    loop {
        tokio::time::sleep(EVERY).await;
        buffers.trim();
        give_back();
    }
}
