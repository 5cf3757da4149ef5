//! Bad days: what breaks is named, says what to do, and harms nothing else.

mod ports_taken;
mod bootstrap;
mod control_plane_absent;
mod credentials;
mod store;
mod routes;
mod clients;
mod upstreams;
