//! Micro benchmarks as instruction counts: what one operation of the request's and of the update's way costs.
//!
//! A case is run by this program in a process of its own under `valgrind --tool=callgrind`, once with N and once with 2 N
//! operations; the difference divided by N is the cost of one, so that start-up and preparation do not count. Nothing in a case
//! depends on time, chance or a socket. What is left are the compiler, the C library and the processor's features: the
//! baseline names them, and is compared with a run in the same surroundings only.

mod balance;
mod baseline;
mod codec;
mod config;
pub mod counted;
mod request;

use std::path::Path;

/// One benchmark.
pub struct Case {
    /// `<area>/<what>`.
    pub name: &'static str,
    /// N: operations of the shorter run. Tables differ from process to process, by the seeds of their hashes: the more there is to
    /// prepare, the more operations it takes until that does not show.
    pub operations: u32,
    /// Prepares, and then does so many operations.
    pub run: fn(u32),
}

/// All of them.
fn cases() -> Vec<Case> {
    [request::CASES, balance::CASES, config::CASES, codec::CASES].into_iter().flatten().map(Case::copy).collect()
}

impl Case {
    const fn new(name: &'static str, operations: u32, run: fn(u32)) -> Case {
        Case { name, operations, run }
    }

    fn copy(&self) -> Case {
        Case { name: self.name, operations: self.operations, run: self.run }
    }
}

/// Runs one case in this process: what callgrind counts.
pub fn run_case(name: &str, operations: u32) -> Result<(), String> {
    let case = cases().into_iter().find(|c| c.name == name).ok_or_else(|| format!("there is no case {name}"))?;
    (case.run)(operations);
    Ok(())
}

/// Runs every case in this process, as often as it is counted.
pub fn run_all() {
    for case in cases() {
        (case.run)(case.operations);
    }
}

/// Counts all cases whose names contain `only`, and compares them with the baseline or writes it.
pub fn run(baseline: &Path, only: Option<&str>, update: bool) -> Result<(), String> {
    if !counted::is_there() {
        return counted::not_run("micro benchmarks");
    }
    let wanted: Vec<Case> = cases().into_iter().filter(|c| only.is_none_or(|only| c.name.contains(only))).collect();
    let counts = counted::all(&wanted)?;
    match update {
        true => baseline::write(baseline, &counts),
        false => baseline::compare(baseline, &counts, only.is_none()),
    }
}
