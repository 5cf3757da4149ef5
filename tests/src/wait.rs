//! Waiting for a condition, never for a time.

use std::time::{Duration, Instant};

/// Machines are slow and busy: this long for what usually takes moments.
pub const PATIENCE: Duration = Duration::from_secs(30);

const STEP: Duration = Duration::from_millis(20);

/// Asks until there is an answer, and fails with the last refusal when that takes too long.
#[track_caller]
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(why) if Instant::now() > deadline => {
                panic!("waited {} s for this: {what}; the last answer: {why}", PATIENCE.as_secs())
            }
            Err(_) => std::thread::sleep(STEP),
        }
    }
}

/// Waits until `holds`.
#[track_caller]
pub fn until_true(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || if holds() { Ok(()) } else { Err("no".to_owned()) });
}
