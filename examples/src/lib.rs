//! The demo shop's three services: plain HTTP/1.1 programs that know nothing of a mesh.
//!
//! `order` is made of what `user` and `product` say; it calls both at the addresses it is given (its sidecar's) and passes
//! the tracing headers on, as any service in a mesh has to. `product` can be told to fail, so that the mesh has something
//! to do. Not here: storage, authentication, anything a shop would need besides being called.
#![forbid(unsafe_code)]

pub mod call;
pub mod order;
pub mod product;
pub mod serve;
pub mod user;
