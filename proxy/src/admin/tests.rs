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
