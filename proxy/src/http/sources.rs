//! Bodies that configuration names by [`DataSource`]: inline text, or a file that is read once per worker.

use std::cell::RefCell;
use std::collections::HashMap;
use std::path::PathBuf;

use bytes::Bytes;
use sidemesh_config::value::DataSource;

/// The largest file that is taken as a body.
pub const MAX_FILE_BYTES: u64 = 1 << 20;

#[derive(Default)]
pub struct Sources {
    files: RefCell<HashMap<PathBuf, Option<Bytes>>>,
}

impl Sources {
    /// The bytes; `None` when the file or variable cannot be read.
    pub fn bytes(&self, source: &DataSource) -> Option<Bytes> {
        match source {
            DataSource::Inline(bytes) => Some(bytes.clone()),
            DataSource::EnvironmentVariable(name) => std::env::var(&**name).ok().map(Bytes::from),
            DataSource::File { path, .. } => {
                let mut files = self.files.borrow_mut();
                if let Some(known) = files.get(path) {
                    return known.clone();
                }
                let small = std::fs::metadata(path).is_ok_and(|m| m.len() <= MAX_FILE_BYTES);
                let read = if small { std::fs::read(path).ok().map(Bytes::from) } else { None };
                if read.is_none() {
                    tracing::warn!(path = %path.display(), "cannot read the body of a local answer (at most 1 MiB); it is left empty");
                }
                files.insert(path.clone(), read.clone());
                read
            }
        }
    }

    pub fn text(&self, source: &DataSource) -> Option<String> {
        self.bytes(source).map(|b| String::from_utf8_lossy(&b).into_owned())
    }
}
