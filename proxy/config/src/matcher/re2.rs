//! RE2 syntax → the syntax of the `regex` crate, where the two read the same text differently.
//!
//! In RE2 `\d \w \s` and `\b` know ASCII only, a `{` that starts no repetition is itself, `\Q..\E` quotes, and brackets and
//! doubled operators inside a class are plain characters. What RE2 refuses is left for the compiler to refuse.

use regex::{Regex, RegexBuilder};

/// The most memory one compiled expression may take.
const MAX_COMPILED_BYTES: usize = 1 << 20;

/// Compiles an unanchored expression of RE2 syntax.
pub(crate) fn compile(source: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&translate(source)).size_limit(MAX_COMPILED_BYTES).build()
}

/// Compiles an expression of RE2 syntax that must match the whole text.
pub(super) fn compile_full(source: &str) -> Result<Regex, regex::Error> {
    // On its own first: `a)(b` must not close the group that anchors it.
    balanced(source)?;
    RegexBuilder::new(&format!("^(?:{})$", translate(source))).size_limit(MAX_COMPILED_BYTES).build()
}

fn balanced(source: &str) -> Result<(), regex::Error> {
    if source.contains(')') { compile(source).map(|_| ()) } else { Ok(()) }
}

fn translate(source: &str) -> String {
    let mut out = String::with_capacity(source.len() + 16);
    let mut rest = source;
    let mut in_class = false;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\\' => escape(after, in_class, &mut out),
            '[' if !in_class => {
                in_class = true;
                let start = class_start(after);
                out.push('[');
                out.push_str(&after[..start]);
                &after[start..]
            }
            '[' => match after.strip_prefix(':').and_then(|a| a.find(":]")) {
                Some(end) => {
                    let end = end + 3;
                    out.push('[');
                    out.push_str(&after[..end]);
                    &after[end..]
                }
                None => push(&mut out, "\\[", after),
            },
            ']' if in_class => {
                in_class = false;
                push(&mut out, "]", after)
            }
            '&' if in_class => push(&mut out, "\\&", after),
            '~' if in_class => push(&mut out, "\\~", after),
            '{' if !in_class && !is_repetition(after) => push(&mut out, "\\{", after),
            other => {
                out.push(other);
                after
            }
        };
    }
    out
}

fn push<'r>(out: &mut String, text: &str, after: &'r str) -> &'r str {
    out.push_str(text);
    after
}

/// How much of a class belongs to its start: `^` and a `]` that is a member.
fn class_start(after: &str) -> usize {
    let negated = usize::from(after.starts_with('^'));
    negated + usize::from(after[negated..].starts_with(']'))
}

/// Writes what follows a backslash; returns the rest.
fn escape<'r>(after: &'r str, in_class: bool, out: &mut String) -> &'r str {
    let Some(c) = after.chars().next() else { return push(out, "\\", after) };
    let rest = &after[c.len_utf8()..];
    let text = match c {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        's' => "[\\t\\n\\f\\r ]",
        'S' => "[^\\t\\n\\f\\r ]",
        'b' if !in_class => "(?-u:\\b)",
        '<' | '>' => return push(out, &after[..1], rest),
        'Q' => {
            let end = rest.find("\\E").unwrap_or(rest.len());
            out.push_str(&regex::escape(&rest[..end]));
            return rest.get(end + 2..).unwrap_or("");
        }
        _ => {
            out.push('\\');
            return push(out, &after[..c.len_utf8()], rest);
        }
    };
    push(out, text, rest)
}

/// `n}`, `n,}` or `n,m}`.
fn is_repetition(after: &str) -> bool {
    let Some((inner, _)) = after.split_once('}') else { return false };
    let (least, most) = inner.split_once(',').unwrap_or((inner, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !least.is_empty() && digits(least) && digits(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn full(source: &str, text: &str, expected: bool) {
        let regex = compile_full(source).expect(source);
        assert_eq!(regex.is_match(text), expected, "`{source}` on `{text}`");
    }

    #[test]
    fn perl_classes_are_ascii_and_small() {
        full(r"\d+", "12", true);
        full(r"\d+", "١", false);
        full(r"\w{1,255}", &"a".repeat(255), true);
        full(r"[\w-]{1,63}\.example", "a-b.example", true);
        full(r"[^\d]+", "12", false);
        full(r"\S+\s\S+", "a b", true);
        full(r".*\bx\b.*", "a x b", true);
    }

    #[test]
    fn brackets_braces_and_quotes_are_read_as_in_re2() {
        full(r"/users/{id}", "/users/{id}", true);
        full(r"a{2}b{1,}c{0,1}", "aabb", true);
        full(r"[[]a[&&]", "[a&", true);
        full(r"[[:alpha:]]+", "abC", true);
        full(r"[]a]+", "]a", true);
        full(r"\Qa.b\E.", "a.bx", true);
        full(r"\Qa.b\E.", "axbx", false);
        full(r"\<a\>", "<a>", true);
        full(r"[a~~b]", "~", true);
        full("é.", "éü", true);
    }

    #[test]
    fn what_does_not_compile_is_refused() {
        for bad in ["(", "a)(b", "[", r"\1", "a**b)", "(?<", r"x\"] {
            assert!(compile_full(bad).is_err(), "{bad}");
        }
    }
}
