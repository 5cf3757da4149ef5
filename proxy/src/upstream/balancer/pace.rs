//! Work over many hosts in slices, so that a worker serves requests in between.

use std::future::Future;

/// Hosts between two pauses: some hundred microseconds of work where nothing is in the cache.
const SLICE: u32 = 512;

/// Where a loop over hosts pauses.
#[derive(Debug)]
pub struct Pace {
    /// `None`: never.
    left: Option<u32>,
}

impl Pace {
    /// Pauses after each slice. For a task of the worker's.
    pub fn sliced() -> Self {
        Pace { left: Some(SLICE) }
    }

    /// One more host is done.
    #[inline]
    pub async fn step(&mut self) {
        if let Some(left) = &mut self.left {
            *left -= 1;
            if *left == 0 {
                *left = SLICE;
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Does the work of `work` at once: with the pace it is given, it never pauses.
pub fn at_once<T, F: Future<Output = T>>(work: impl FnOnce(Pace) -> F) -> T {
    let mut future = std::pin::pin!(work(Pace { left: None }));
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    loop {
        if let std::task::Poll::Ready(done) = future.as_mut().poll(&mut cx) {
            return done;
        }
    }
}
