//! Configuration from management servers and files: streams in, snapshots out.
//!
//! ```text
//! stream | filesystem -> channel/subscription -> apply (decode, check) -> assemble (warm, link) -> Host::publish -> ACK | NACK
//!                             ^------------------ cascade: what else is needed ------------------'
//! ```
//!
//! All of it runs on the control thread, in one task that owns all state ([`Manager`]); streams and file watchers are
//! tasks that only carry messages. It knows no stage of the request's way: what must happen outside (binding ports, putting a
//! snapshot in force) is asked of the [`Host`].

mod apply;
pub mod assemble;
pub mod cascade;
mod channel;
mod filesystem;
mod hosts;
mod item;
mod leaf;
mod manager;
pub mod runtime;
mod saved;
mod scopes;
pub mod state;
mod stats;
mod stream;
pub mod subscription;

use sidemesh_config::resource::ResourceKind;

pub use manager::{Host, Manager, Setup, StartError};
pub use saved::{Saved, StateDirError};
pub use stats::{ClusterManagerStats, ListenerManagerStats};
pub use stream::Connect;

/// The order in which kinds are asked for and applied: make before break.
const ORDER: [ResourceKind; 9] = [
    ResourceKind::Runtime,
    ResourceKind::Cluster,
    ResourceKind::Endpoints,
    ResourceKind::Secret,
    ResourceKind::Listener,
    ResourceKind::ScopedRoute,
    ResourceKind::Route,
    ResourceKind::VirtualHost,
    ResourceKind::ExtensionConfig,
];
