//! The network side: ADS, our own gRPC APIs, metrics and health. Glue around pure parts (`session`, `lease`,
//! `selector`) and shared records (`fleet`).

pub mod accept;
pub mod admin;
pub mod ads;
pub mod context;
pub mod fleet;
pub mod guard;
pub mod health;
pub mod identity;
pub mod lease;
mod local_user;
pub mod meshinfo;
pub mod objects;
pub mod proxies;
pub mod registry;
pub mod secrets;
pub mod selector;
pub mod session;
pub mod world;

#[cfg(test)]
mod tests;
