use std::time::{Duration, UNIX_EPOCH};

use super::*;

#[test]
fn civil_time_knows_leap_years() {
    let t = Civil::of(UNIX_EPOCH + Duration::new(1_709_208_000, 123_456_789));
    assert_eq!(t.iso_millis(), "2024-02-29T12:00:00.123Z");
    assert_eq!((t.weekday, t.yearday), (4, 60));
    assert_eq!(Civil::of(UNIX_EPOCH).iso_millis(), "1970-01-01T00:00:00.000Z");
}

#[test]
fn strftime_has_envoys_fractions() {
    let t = Civil::of(UNIX_EPOCH + Duration::new(1_709_208_000, 123_456_789));
    assert_eq!(strftime("%Y/%m/%dT%H:%M:%S%z %s", &t), "2024/02/29T12:00:00+0000 1709208000");
    assert_eq!(strftime("%3f %6f %f %1f", &t), "123 123456 123456789 1");
    assert_eq!(strftime("%a %b %e %Q %", &t), "Thu Feb 29 %Q %");
    assert_eq!(strftime("%FT%T%Ez %E3S %E*S %E2f", &t), "2024-02-29T12:00:00+00:00 00.123 00.123456789 12");
}

#[test]
fn truncation_keeps_characters_whole() {
    assert_eq!(truncated("añb", Some(2)), "a");
    assert_eq!(truncated("añb", Some(3)), "añ");
    assert_eq!(truncated("abc", None), "abc");
}
