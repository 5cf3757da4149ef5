//! `buffer.v3.Buffer`: whole request bodies up to a limit, 413 beyond it.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    pub max_request_bytes: u32,
}
