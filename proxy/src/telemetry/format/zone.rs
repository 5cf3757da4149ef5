//! The machine's time zone: `TZ`, else `/etc/localtime`, as a TZif file (RFC 8536). What comes after the file's last
//! transition has that transition's offset; a file that cannot be read means UTC.

use std::path::PathBuf;
use std::sync::OnceLock;

/// The largest zone file that is read.
const MOST_BYTES: usize = 64 * 1024;

/// When an offset begins to hold, in Unix seconds, and the offset in seconds east of UTC.
type Transition = (i64, i32);

/// Seconds east of UTC at `unix`.
pub fn offset(unix: i64) -> i32 {
    static ZONE: OnceLock<Vec<Transition>> = OnceLock::new();
    let zone = ZONE.get_or_init(|| std::fs::read(file()).ok().and_then(|bytes| parse(&bytes)).unwrap_or_default());
    at(zone, unix)
}

fn at(zone: &[Transition], unix: i64) -> i32 {
    let after = zone.partition_point(|(begin, _)| *begin <= unix);
    zone.get(after.saturating_sub(1)).map_or(0, |(_, offset)| *offset)
}

fn file() -> PathBuf {
    match std::env::var("TZ") {
        Ok(zone) if !zone.is_empty() => {
            let zone = zone.trim_start_matches(':');
            PathBuf::from("/usr/share/zoneinfo").join(zone)
        }
        _ => PathBuf::from("/etc/localtime"),
    }
}

/// The second block of a version 2 file has 64-bit times; the first is skipped.
fn parse(bytes: &[u8]) -> Option<Vec<Transition>> {
    if bytes.len() > MOST_BYTES {
        return None;
    }
    let (first, version) = header(bytes)?;
    match version {
        0 => block(bytes.get(44..)?, &first, 4),
        _ => {
            let rest = bytes.get(44 + first.bytes(4)..)?;
            let (second, _) = header(rest)?;
            block(rest.get(44..)?, &second, 8)
        }
    }
}

struct Counts {
    utc: usize,
    standard: usize,
    leaps: usize,
    times: usize,
    types: usize,
    chars: usize,
}

impl Counts {
    /// The length of a block whose times have `width` bytes.
    fn bytes(&self, width: usize) -> usize {
        self.times * (width + 1) + self.types * 6 + self.chars + self.leaps * (width + 4) + self.standard + self.utc
    }
}

fn header(bytes: &[u8]) -> Option<(Counts, u8)> {
    let head = bytes.get(..44).filter(|h| h.starts_with(b"TZif"))?;
    let count = |at: usize| Some(u32::from_be_bytes(head.get(at..at + 4)?.try_into().ok()?) as usize);
    let counts = Counts {
        utc: count(20)?,
        standard: count(24)?,
        leaps: count(28)?,
        times: count(32)?,
        types: count(36)?,
        chars: count(40)?,
    };
    let sane = [counts.times, counts.types, counts.chars, counts.leaps].iter().all(|n| *n <= MOST_BYTES);
    sane.then_some((counts, head[4]))
}

fn block(bytes: &[u8], counts: &Counts, width: usize) -> Option<Vec<Transition>> {
    let (times, rest) = bytes.split_at_checked(counts.times * width)?;
    let (kinds, rest) = rest.split_at_checked(counts.times)?;
    let offset = |kind: usize| Some(i32::from_be_bytes(rest.get(kind * 6..kind * 6 + 4)?.try_into().ok()?));
    let time = |bytes: &[u8]| match width {
        8 => bytes.try_into().ok().map(i64::from_be_bytes),
        _ => bytes.try_into().ok().map(|b| i64::from(i32::from_be_bytes(b))),
    };
    let mut transitions = vec![(i64::MIN, offset(0)?)];
    for (at, kind) in times.chunks_exact(width).zip(kinds) {
        transitions.push((time(at)?, offset(usize::from(*kind))?));
    }
    Some(transitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version 1 file with one transition from UTC to an hour east of it.
    fn east_from(begin: i32) -> Vec<u8> {
        let mut file = b"TZif\0".to_vec();
        file.extend([0; 15]);
        for count in [0u32, 0, 0, 1, 2, 4] {
            file.extend(count.to_be_bytes());
        }
        file.extend(begin.to_be_bytes());
        file.push(1);
        for offset in [0i32, 3600] {
            file.extend(offset.to_be_bytes());
            file.extend([0, 0]);
        }
        file.extend(b"ABC\0");
        file
    }

    #[test]
    fn an_offset_holds_from_its_transition_on() {
        let zone = parse(&east_from(1000)).unwrap();
        assert_eq!([999, 1000, 5000].map(|t| at(&zone, t)), [0, 3600, 3600]);
    }

    #[test]
    fn what_is_no_zone_is_none() {
        let whole = east_from(0);
        assert!((0..whole.len() - 4).all(|end| parse(&whole[..end]).is_none()));
        assert_eq!(at(&[], 7), 0);
    }
}
