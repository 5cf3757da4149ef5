//! Wire types of Sidemesh: Envoy's xDS v3 API, our own APIs, and the protobuf-JSON mapping over both.
//!
//! No logic lives here: nothing validates, nothing defaults. Envoy's messages come from `envoy-types`; ours are compiled
//! from `proto/sidemesh/`. Well-known types are the same Rust types in both.
#![forbid(unsafe_code)]

pub mod json;
pub mod type_url;
pub mod wire;

pub use envoy_types::pb::google::{protobuf as google, rpc};
pub use envoy_types::pb::opentelemetry;
pub use envoy_types::pb::{envoy, xds};
pub use prost;

/// Our own APIs: `sidemesh::<package>::v1`.
#[allow(clippy::all, unreachable_pub, missing_docs, rust_2018_idioms)]
mod own {
    include!(concat!(env!("OUT_DIR"), "/sidemesh.rs"));
}
pub use own::sidemesh;
/// What of `xds.type.matcher.v3` the crate `envoy-types` lacks.
pub use own::xds::r#type::matcher::v3 as custom_matcher;

/// Descriptors of our own APIs with all imports: an encoded `FileDescriptorSet` for gRPC server reflection.
pub const SIDEMESH_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/sidemesh_descriptors.bin"));

/// Packs a message into an `Any` under its `type.googleapis.com` URL.
pub fn pack<T: prost::Name>(message: &T) -> google::Any {
    google::Any { type_url: T::type_url(), value: message.encode_to_vec() }
}
