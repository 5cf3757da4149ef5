//! Where objects are kept: one file, one growing revision, changes to watch.
//!
//! Every write is one transaction: checked against what it expects, given the next revision, synced to disk, and only
//! then acknowledged and announced. A process killed at any moment loses nothing that it acknowledged. The store knows
//! keys and JSON bodies; what they mean is `model`'s business.

mod store;
#[cfg(test)]
mod tests;
mod verify;

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;

pub use store::{HISTORY_LIMIT, Store, WATCH_QUEUE};

/// `Kind/namespace/name`; cluster-scoped kinds have an empty namespace.
pub type RawKey = String;

/// What a write must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    Any,
    Absent,
    Exists,
    /// Exactly this revision of the object.
    Revision(u64),
}

/// One object to put or delete.
#[derive(Debug, Clone)]
pub struct Write {
    pub key: RawKey,
    /// `None` deletes. The store sets `metadata.resourceVersion`.
    pub body: Option<Value>,
    pub expect: Expect,
    /// Status writes are not worth a version of their own in the history.
    pub history: bool,
}

/// One object as it is stored.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    pub key: RawKey,
    pub revision: u64,
    pub body: Arc<Value>,
}

/// One change, as watchers see it.
#[derive(Debug, Clone)]
pub struct Change {
    pub key: RawKey,
    /// `None`: deleted.
    pub now: Option<Arc<Value>>,
    /// `None`: created.
    pub before: Option<Arc<Value>>,
}

/// One acknowledged transaction.
#[derive(Debug, Clone)]
pub struct Commit {
    pub revision: u64,
    pub at: SystemTime,
    pub changes: Vec<Change>,
}

/// One kept version of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    pub revision: u64,
    pub at_unix_ms: u64,
    pub actor: String,
    /// `None`: this version deleted the object.
    pub body: Option<Value>,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "store {path}: the file is damaged ({reason}); it is left as it is: move it away and restore a copy, or start with an empty --data-dir"
    )]
    Corrupt { path: String, reason: String },
    #[error("store {path}: already open in another process; stop that one, or choose another --data-dir")]
    Locked { path: String },
    #[error("store {path}: {reason}; make the directory exist and be writable, or choose another --data-dir")]
    Unusable { path: String, reason: String },
    #[error("store {path}: no space left on the disk; nothing was written: free some space and try again")]
    DiskFull { path: String },
    #[error("store {path}: {reason}; nothing was written: the next write opens the file again")]
    Failed { path: String, reason: String },
    #[error("{key}: somebody else changed it meanwhile (now at revision {actual}, expected {expected}); read it again")]
    Conflict { key: RawKey, expected: u64, actual: u64 },
    #[error("{key}: already exists at revision {actual}")]
    Exists { key: RawKey, actual: u64 },
    #[error("{key}: does not exist")]
    Missing { key: RawKey },
    #[error("{key}: {size} bytes are more than an object may have ({limit})")]
    TooLarge { key: RawKey, size: usize, limit: usize },
    #[error("changes since revision {from} are no longer kept (oldest: {oldest}); list again and watch from there")]
    Compacted { from: u64, oldest: u64 },
}

impl StoreError {
    /// True when the file itself is in trouble, as opposed to a refused write.
    pub fn is_storage(&self) -> bool {
        matches!(
            self,
            StoreError::Corrupt { .. }
                | StoreError::Locked { .. }
                | StoreError::Unusable { .. }
                | StoreError::DiskFull { .. }
                | StoreError::Failed { .. }
        )
    }
}
