//! Every decoder of xDS resources. The first byte chooses the type, the rest is the encoded message.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sidemesh_config::resource::{ResourceKind, decode};
use sidemesh_proto::google::Any;

fuzz_target!(|data: &[u8]| {
    let Some((choice, value)) = data.split_first() else { return };
    let kind = ResourceKind::ALL[usize::from(*choice) % ResourceKind::ALL.len()];
    let any = Any { type_url: kind.type_url().to_owned(), value: value.to_vec() };
    let decoded = decode(&any);
    match decoded.result {
        Ok(resource) => assert_eq!(resource.kind(), kind),
        // The words that go into a NACK.
        Err(rejection) => assert!(!rejection.to_string().is_empty()),
    }
    // What `config_dump` shows.
    let _ = sidemesh_proto::json::any_to_json(&any);
});
