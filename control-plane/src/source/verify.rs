//! Looks at a store file before it is opened for writing, so that a damaged file is never touched.
//!
//! redb repairs a file as it opens it, which is right after a crash and wrong when the file holds something else. So
//! the bytes are first opened, repaired and checked in memory; only a file that passes is opened in place.

use std::path::Path;

use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend};

use super::StoreError;

/// A larger file than this is not read into memory; redb's own checks must do.
const VERIFY_LIMIT_BYTES: u64 = 512 * 1024 * 1024;

pub(super) fn verify(path: &Path) -> Result<(), StoreError> {
    let name = path.display().to_string();
    let unusable = |e: std::io::Error| StoreError::Unusable { path: name.clone(), reason: e.to_string() };
    let size = match std::fs::metadata(path) {
        Ok(meta) if !meta.is_file() => {
            return Err(StoreError::Unusable { path: name, reason: "is not a regular file".into() });
        }
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(unusable(e)),
    };
    if size == 0 || size > VERIFY_LIMIT_BYTES {
        return Ok(());
    }
    let bytes = std::fs::read(path).map_err(unusable)?;
    let corrupt = |reason: String| StoreError::Corrupt { path: name.clone(), reason };
    let memory = InMemoryBackend::new();
    memory.set_len(bytes.len() as u64).and_then(|()| memory.write(0, &bytes)).map_err(unusable)?;
    drop(bytes);
    // Debug builds of redb assert where release builds return the error.
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        Database::builder().set_check_integrity_on_open(true).create_with_backend(memory).map(drop)
    }));
    match opened {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(corrupt(e.to_string())),
        Err(_) => Err(corrupt("its pages do not fit together".into())),
    }
}
