//! Bounds on what a connection and a request keep while they wait. A future is as large as the largest of its ways, and is there
//! for as long as its connection: a rare way that grows is to be boxed, not paid for by all.

use std::rc::Rc;

use http::Request;

use super::exchange::Exchange;
use super::{Connection, ConnectionManager, forward};
use crate::codec::h1::server as h1;
use crate::codec::h2::server as h2;
use crate::codec::{Body, Drain, Handler, Local, RequestMeta};
use crate::connection::ConnectionInfo;
use crate::io::Io;

/// The size of the future that `make` would make.
fn size_of_future<A, F: Future>(_make: impl FnOnce(A) -> F) -> usize {
    size_of::<F>()
}

#[track_caller]
fn assert_at_most(what: &str, size: usize, bound: usize) {
    assert!(size <= bound, "{what}: {size} bytes, more than {bound}");
    // A bound far above would hold nothing.
    assert!(size * 2 > bound, "{what}: {size} bytes; lower the bound of {bound}");
}

#[test]
fn what_a_connection_keeps() {
    type Parts = (Rc<ConnectionManager>, Io, Rc<ConnectionInfo>, Drain);
    let size = size_of_future(|(manager, io, info, drain): Parts| manager.serve(io, info, drain));
    assert_at_most("an HTTP connection, with what either protocol needs", size, 1_024);
    let size = size_of_future(|(io, local, connection): (Io, Local, &'static Connection)| {
        h1::serve(io, Rc::new(h1::Settings::default()), local, connection, Drain::never())
    });
    assert_at_most("HTTP/1, between requests", size, 704);
    let size = size_of_future(|(io, local, connection): (Io, Local, &'static Connection)| {
        h2::serve(io, h2::Settings::default(), local, connection, Drain::never())
    });
    assert_at_most("HTTP/2, but for its box", size, 512);
}

#[test]
fn what_a_request_keeps() {
    let handle = |(connection, request, meta): (&'static Connection, Request<Body>, RequestMeta)| {
        connection.handle(request, meta)
    };
    assert_at_most(
        "a request's stages: moved into its stream's or its connection's box",
        size_of_future(handle),
        2_560,
    );
    let forward = |(x, config): (&'static mut Exchange, &'static _)| forward::forward(x, config);
    assert_at_most("the request loop: attempts, retries, time-outs", size_of_future(forward), 2_432);
    assert_at_most("an exchange: what the stages know of a request, in its own box", size_of::<Exchange>(), 2_176);
}
