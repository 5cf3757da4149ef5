//! A start-up file, as text and as encoded message: a value or an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidemesh_config::bootstrap::Bootstrap;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        let yaml = Bootstrap::parse(text, "bootstrap.yaml");
        // JSON is a part of YAML: what one reads, the other must read alike.
        if let Ok(json) = Bootstrap::parse(text, "bootstrap.json") {
            assert_eq!(Ok(json), yaml);
        }
    }
    let _ = Bootstrap::decode(data);
});
