use serde_json::json;

use super::config_dump::Mask;
use super::route::{Query, state};
use crate::shutdown::Phase;

fn query(text: &str) -> Query {
    Query::new(text)
}

#[test]
fn queries_are_decoded() {
    let q = query("filter=cluster%5C.a.*&usedonly&format=json");
    assert_eq!(q.get("filter").as_deref(), Some("cluster\\.a.*"));
    assert!(q.has("usedonly") && !q.has("other"));
    assert_eq!(q.get("format").as_deref(), Some("json"));
}

#[test]
fn phases_have_envoys_words() {
    assert_eq!(
        [Phase::PreInitializing, Phase::Initializing, Phase::Live, Phase::Stopping].map(state),
        ["PRE_INITIALIZING", "INITIALIZING", "LIVE", "DRAINING"]
    );
}

#[test]
fn a_mask_keeps_types_and_what_it_names() {
    let dump = json!({"@type": "t", "list": [{"a": {"b": 1, "c": 2}, "d": 3}], "version_info": "v"});
    let kept = json!({"@type": "t", "list": [{"a": {"b": 1}}], "version_info": "v"});
    assert_eq!(Mask::new("list.a.b,version_info").apply(dump.clone()), kept);
    assert_eq!(Mask::new("list.a, list.d, version_info").apply(dump.clone()), dump);
    assert_eq!(Mask::new("other").apply(dump), json!({"@type": "t"}));
}
