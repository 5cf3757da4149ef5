//! Access-log formats: any text is a format or an error that says where; a format can always be written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidemesh_fuzz::record;
use sidemesh_proxy::telemetry::format;
use sidemesh_proxy::telemetry::stream_info::LogContext;

fuzz_target!(|text: &str| {
    match sidemesh_config::format::parse(text) {
        Ok(parsed) => {
            let info = record::stream_info();
            let line = format::to_string(&parsed, &LogContext::of(&info, info.start), "-");
            // Plain text comes out as it stands.
            if !text.contains('%') {
                assert_eq!(line, text);
            }
        }
        Err(error) => assert!(error.position <= text.len()),
    }
});
