//! Hosts that are found out rather than configured: DNS, on the control thread.

mod dns;
mod resolve;
#[cfg(test)]
mod tests;

pub use dns::run;
