//! A start-up file, as text and as encoded message: a value or an error, never a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidemesh_config::bootstrap::Bootstrap;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data) {
        for file in ["bootstrap.yaml", "bootstrap.json"] {
            if let Err(error) = Bootstrap::parse(text, file) {
                assert!(error.to_string().starts_with(file));
            }
        }
    }
    let _ = Bootstrap::decode(data);
});
