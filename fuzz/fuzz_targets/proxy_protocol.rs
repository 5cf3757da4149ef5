//! The PROXY protocol header. What is read of a header does not depend on what follows it, and a part of a header is no other.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidemesh_proxy::downstream::proxy_protocol::{Parsed, parse};

fuzz_target!(|data: &[u8]| {
    let whole = parse(data);
    if let Ok(Parsed::Header(header)) = &whole {
        assert!(header.length <= data.len());
        assert_eq!(parse(&data[..header.length]), whole);
        assert_eq!(parse(&data[..header.length - 1]), Ok(Parsed::Partial));
    }
});
