//! How a message spelled its header names and its reason phrase, for `preserve_case`: names are lower-cased when a head is read
//! (HTTP/2 knows no other form), so the spelling travels beside it, as an extension of the message.
use std::sync::Arc;

use bytes::Bytes;
use http::Extensions;

use super::HeaderCase;

/// What is to be written as it came.
#[derive(Clone, Debug)]
pub(crate) struct Spelling {
    /// Names that are not all in lower case.
    names: Arc<[Box<str>]>,
    reason: Option<Bytes>,
    own_proper: bool,
}

/// Keeps the spelling of a head with its message, where the configuration asks for it.
pub(crate) fn keep<'a>(
    case: HeaderCase,
    fields: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    reason: Option<&str>,
    extensions: &mut Extensions,
) {
    let HeaderCase::Preserve { reason: keeps_reason, own_proper } = case else { return };
    let names = fields.filter_map(|(name, _)| std::str::from_utf8(name).ok());
    let names = names.filter(|name| name.bytes().any(|b| b.is_ascii_uppercase()));
    let reason = reason.filter(|_| keeps_reason).map(|text| Bytes::copy_from_slice(text.as_bytes()));
    extensions.insert(Spelling { names: names.map(Box::from).collect(), reason, own_proper });
}

/// How one message's names are written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a> {
    case: HeaderCase,
    spelling: Option<&'a Spelling>,
}

impl<'a> Names<'a> {
    /// The message's own spelling goes before the connection's rule.
    pub(crate) fn of(case: HeaderCase, extensions: &'a Extensions) -> Self {
        let spelling = if extensions.is_empty() { None } else { extensions.get::<Spelling>() };
        let case = match spelling {
            Some(spelling) if spelling.own_proper => HeaderCase::ProperWords,
            Some(_) => HeaderCase::Lower,
            None => case,
        };
        Names { case, spelling }
    }

    /// Whether names are written as the headers keep them, in lower case.
    pub(crate) fn are_as_kept(&self) -> bool {
        self.spelling.is_none() && !matches!(self.case, HeaderCase::ProperWords)
    }

    /// The name as the message spelled it; else by the rule that is returned.
    pub(crate) fn spelled(&self, name: &str) -> Result<&'a str, HeaderCase> {
        let names = self.spelling.map_or(&[][..], |s| &s.names);
        names.iter().find(|own| own.eq_ignore_ascii_case(name)).map(|own| &**own).ok_or(self.case)
    }

    pub(crate) fn reason(&self) -> Option<&'a [u8]> {
        self.spelling?.reason.as_deref()
    }
}

impl From<HeaderCase> for Names<'_> {
    fn from(case: HeaderCase) -> Self {
        Names { case, spelling: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_out_as_they_came() {
        let fields = [(&b"X-fOO"[..], &b"1"[..]), (b"plain", b"2")];
        let mut extensions = Extensions::new();
        keep(
            HeaderCase::Preserve { reason: true, own_proper: false },
            fields.into_iter(),
            Some("Fine"),
            &mut extensions,
        );
        let names = Names::of(HeaderCase::Lower, &extensions);
        assert_eq!(names.spelled("x-foo"), Ok("X-fOO"));
        assert_eq!(names.spelled("plain"), Err(HeaderCase::Lower));
        assert_eq!(names.reason(), Some(&b"Fine"[..]));
        keep(
            HeaderCase::Preserve { reason: false, own_proper: true },
            fields.into_iter(),
            Some("Fine"),
            &mut extensions,
        );
        let names = Names::of(HeaderCase::Lower, &extensions);
        assert_eq!((names.spelled("x-own"), names.reason()), (Err(HeaderCase::ProperWords), None));
    }

    #[test]
    fn nothing_is_kept_unasked() {
        let mut extensions = Extensions::new();
        keep(HeaderCase::ProperWords, [(&b"X"[..], &b"1"[..])].into_iter(), None, &mut extensions);
        assert!(extensions.is_empty());
    }
}
