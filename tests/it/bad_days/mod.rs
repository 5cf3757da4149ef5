//! Bad days: what breaks is named, says what to do, and harms nothing else.

mod bootstrap;
mod clients;
mod control_plane_absent;
mod credentials;
mod ports_taken;
mod routes;
mod store;
mod upstreams;
