//! Header edits of routes, virtual hosts, tables and filters (`HeaderValueOption` lists): evaluation and order.
//!
//! Within one level removals come first, then overwrites, then additions; every format sees the headers as they were before
//! the level. Levels run from the most specific to the least, or the other way round with
//! `most_specific_header_mutations_wins`.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use sidemesh_config::resource::core::{AppendAction, HeaderEdit, HeaderEdits, HeaderTarget};
use smallvec::SmallVec;

use crate::codec::repeated;
use crate::telemetry::format;
use crate::telemetry::stream_info::LogContext;

/// An evaluated edit.
#[derive(Debug, Clone)]
pub struct Evaluated {
    pub target: HeaderTarget,
    pub value: HeaderValue,
    pub overwrite: bool,
}

/// What one level comes down to, evaluated before anything is changed.
pub type Changes = SmallVec<[Evaluated; 4]>;

/// A `set-cookie` value of a cookie for clients to send back: for the session where `ttl` is zero. `None`: its parts make no header value.
pub fn set_cookie<T: AsRef<str>>(
    name: &str,
    value: &str,
    ttl: Duration,
    path: &str,
    attributes: &[(T, T)],
) -> Option<HeaderValue> {
    let mut text = format!("{name}=\"{value}\"");
    if !ttl.is_zero() {
        text += &format!("; Max-Age={}", ttl.as_secs());
    }
    if !path.is_empty() {
        text += &format!("; Path={path}");
    }
    for (key, value) in attributes {
        let (key, value) = (key.as_ref(), value.as_ref());
        text += &if value.is_empty() { format!("; {key}") } else { format!("; {key}={value}") };
    }
    text += "; HttpOnly";
    HeaderValue::try_from(text).ok()
}

/// A number as a header's value; small ones, such as most times in milliseconds, take no memory.
pub fn number(n: u64) -> HeaderValue {
    /// All numbers of two digits, one behind the other.
    const PAIRS: &str = "\
        00010203040506070809101112131415161718192021222324252627282930313233343536373839404142434445464748495051525354\
        5556575859606162636465666768697071727374757677787980818283848586878889909192939495969798\
        99";
    if n >= 100 {
        return HeaderValue::from(n);
    }
    let pair = &PAIRS[2 * n as usize..][..2];
    HeaderValue::from_static(if n < 10 { &pair[1..] } else { pair })
}

/// A value that seldom changes, kept with the number it was made of.
#[derive(Debug, Default)]
pub struct Kept {
    of: Cell<u64>,
    value: RefCell<Option<HeaderValue>>,
}

impl Kept {
    /// The value for `of`: the last one, or what `make` makes of it.
    pub fn value(&self, of: u64, make: impl FnOnce(u64) -> HeaderValue) -> HeaderValue {
        let mut value = self.value.borrow_mut();
        match &*value {
            Some(value) if self.of.get() == of => value.clone(),
            _ => {
                self.of.set(of);
                value.insert(make(of)).clone()
            }
        }
    }
}

/// Evaluates the additions of a level against the headers as they are.
pub fn evaluate(edits: &[HeaderEdit], headers: &HeaderMap, ctx: &LogContext<'_>, out: &mut Changes) {
    for edit in edits {
        if let Some(change) = evaluate_one(edit, headers, ctx) {
            out.push(change);
        }
    }
}

/// Evaluates one edit; `None` when it changes nothing.
pub fn evaluate_one(edit: &HeaderEdit, headers: &HeaderMap, ctx: &LogContext<'_>) -> Option<Evaluated> {
    let present = match &edit.target {
        HeaderTarget::Header(name) => headers.contains_key(name),
        HeaderTarget::Path
        | HeaderTarget::Authority
        | HeaderTarget::Method
        | HeaderTarget::Scheme
        | HeaderTarget::Status => true,
    };
    let overwrite = match edit.action {
        AppendAction::AppendIfExistsOrAdd => false,
        AppendAction::AddIfAbsent if present => return None,
        AppendAction::AddIfAbsent => false,
        AppendAction::OverwriteIfExists if !present => return None,
        AppendAction::OverwriteIfExists | AppendAction::OverwriteIfExistsOrAdd => true,
    };
    let value = match edit.value.as_static() {
        Some(text) => HeaderValue::from_str(text).ok()?,
        None => HeaderValue::try_from(format::to_string(&edit.value, ctx, "")).ok()?,
    };
    if value.is_empty() && !edit.keep_empty_value {
        return None;
    }
    Some(Evaluated { target: edit.target.clone(), value, overwrite })
}

/// Removes a header and, for a trailing `*`-less name, all its values.
pub fn remove(headers: &mut HeaderMap, names: &[HeaderName]) {
    for name in names {
        headers.remove(name);
    }
}

/// Applies evaluated changes to headers; changes of pseudo-headers are returned for the caller.
pub fn apply(changes: Changes, headers: &mut HeaderMap) -> SmallVec<[Evaluated; 1]> {
    let mut pseudo = SmallVec::new();
    let (overwrites, additions): (Changes, Changes) = changes.into_iter().partition(|c| c.overwrite);
    for change in overwrites.into_iter().chain(additions) {
        match &change.target {
            HeaderTarget::Header(name) if change.overwrite => {
                headers.insert(name.clone(), change.value);
            }
            HeaderTarget::Header(name) => {
                repeated::add(headers, name, change.value);
            }
            HeaderTarget::Authority => {
                headers.insert(HOST, change.value);
            }
            _ => pseudo.push(change),
        }
    }
    pseudo
}

/// The levels in the order they are applied.
pub fn in_order(most_specific_wins: bool, levels: [Option<&HeaderEdits>; 3]) -> impl Iterator<Item = &HeaderEdits> {
    let mut order: SmallVec<[&HeaderEdits; 3]> = levels.into_iter().flatten().filter(|e| !e.is_empty()).collect();
    if most_specific_wins {
        order.reverse();
    }
    order.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn level(name: &'static str) -> HeaderEdits {
        HeaderEdits { add: vec![], remove: vec![HeaderName::from_static(name)] }
    }

    #[test]
    fn levels_run_most_specific_first_unless_it_shall_win() {
        let (route, vhost, table) = (level("r"), level("v"), level("t"));
        let order = |wins| -> Vec<String> {
            in_order(wins, [Some(&route), Some(&vhost), Some(&table)]).map(|e| e.remove[0].to_string()).collect()
        };
        assert_eq!(order(false), ["r", "v", "t"]);
        assert_eq!(order(true), ["t", "v", "r"]);
    }

    #[test]
    fn numbers_are_written_out() {
        assert!((0..1100).all(|n| number(n) == n.to_string()));
        let kept = Kept::default();
        assert!([0, 0, 7, 7, 0].iter().all(|&n| kept.value(n, HeaderValue::from) == n.to_string()));
    }

    #[test]
    fn overwrites_come_before_additions() {
        let name = HeaderName::from_static("x-a");
        let change = |value: &'static str, overwrite| Evaluated {
            target: HeaderTarget::Header(name.clone()),
            value: HeaderValue::from_static(value),
            overwrite,
        };
        let mut headers = HeaderMap::new();
        headers.insert(name.clone(), HeaderValue::from_static("old"));
        apply(Changes::from_iter([change("add", false), change("set", true)]), &mut headers);
        let all: Vec<_> = headers.get_all(&name).iter().map(|v| v.to_str().unwrap_or("")).collect();
        assert_eq!(all, ["set", "add"]);
    }
}
