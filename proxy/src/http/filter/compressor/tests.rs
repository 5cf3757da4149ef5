use super::{Choice, choose};

#[test]
fn the_best_liked_coding_is_chosen() {
    let all = ["gzip", "br", "zstd"];
    for (accepted, chosen) in [
        ("gzip", Choice::Coding("gzip")),
        ("gzip;q=0.5, br;q=0.9, zstd;q=0.1", Choice::Coding("br")),
        ("zstd, br, gzip", Choice::Coding("gzip")),
        ("*", Choice::Any("gzip")),
        ("gzip;q=0, *", Choice::Any("br")),
        ("identity, gzip;q=0.2", Choice::Identity),
        ("identity;q=0.1, gzip;q=0.2", Choice::Coding("gzip")),
        ("GZIP", Choice::Nothing),
        ("deflate", Choice::Nothing),
        ("*;q=0", Choice::Nothing),
        ("gzip;q=many", Choice::Nothing),
    ] {
        assert_eq!(choose(accepted, &all), chosen, "{accepted}");
    }
    assert_eq!(choose("gzip", &[]), Choice::Nothing);
}
