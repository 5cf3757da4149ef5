//! HTTP/1 end to end: any bytes as a client's, through our server and our client, to our server again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidemesh_fuzz::relay::{Front, relay};

fuzz_target!(|data: &[u8]| relay(Front::Http1, data));
