//! The look at a connection's first bytes: ClientHello and HTTP. Once it has said what it sees, more bytes change nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidemesh_proxy::downstream::detect::{Detected, client_hello, http};

fuzz_target!(|data: &[u8]| {
    let whole = client_hello(data);
    let first = http(data);
    for at in [0, 1, 5, 9, data.len() / 2] {
        let Some(part) = data.get(..at) else { continue };
        if let found @ Detected::Found(_) = client_hello(part) {
            assert_eq!(found, whole);
        }
        if let found @ Detected::Found(_) = http(part) {
            assert_eq!(found, first);
        }
    }
});
