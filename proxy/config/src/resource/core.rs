//! Parts that several resources hold: header edits, socket options, event sinks.

use std::sync::Arc;

use http::HeaderName;

use crate::format::Format;

/// `HeaderValueOption` lists and header names to remove, of one level (route, virtual host, ...), compiled.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HeaderEdits {
    pub add: Vec<HeaderEdit>,
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// One `HeaderValueOption`.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderEdit {
    pub target: HeaderTarget,
    pub value: Arc<Format>,
    pub action: AppendAction,
    pub keep_empty_value: bool,
}

/// What an edit sets: a header, or one of the request's pseudo-headers (`:path`, `:authority`/`host`, `:method`, `:scheme`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderTarget {
    Header(HeaderName),
    Path,
    Authority,
    Method,
    Scheme,
    Status,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppendAction {
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}
