//! HTTP/2 frames of a client, after its preface; what is a request goes on as HTTP/1.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidemesh_fuzz::relay::{Front, relay};

fuzz_target!(|data: &[u8]| relay(Front::Http2, data));
