//! The way from the root to a value; becomes text only for an error.

use super::JsonError;

#[derive(Clone, Copy, Default)]
pub(super) struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
    pub(super) depth: usize,
}

#[derive(Clone, Copy, Default)]
enum Step<'a> {
    #[default]
    Root,
    Field(&'a str),
    Index(usize),
}

impl Path<'_> {
    pub(super) fn field<'a>(&'a self, name: &'a str) -> Path<'a> {
        Path { parent: Some(self), step: Step::Field(name), depth: self.depth + 1 }
    }

    pub(super) fn index(&self, index: usize) -> Path<'_> {
        Path { parent: Some(self), step: Step::Index(index), depth: self.depth }
    }

    pub(super) fn error(&self, reason: impl Into<String>) -> JsonError {
        JsonError::new(self.text(), reason)
    }

    fn text(&self) -> String {
        let before = self.parent.map(Path::text).unwrap_or_default();
        match self.step {
            Step::Root => before,
            Step::Field(name) if before.is_empty() => name.to_owned(),
            Step::Field(name) => format!("{before}.{name}"),
            Step::Index(index) => format!("{before}[{index}]"),
        }
    }
}
