//! Real programs from elsewhere in the mesh. A test whose program is missing says so and passes; with
//! `SIDEMESH_REQUIRE_ALL=1` it fails.

mod envoy;
mod go_control_plane;
mod grpc_xds;
mod prometheus;
