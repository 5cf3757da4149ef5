//! Secrets on disk: mode 0600, written whole or not at all.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::CaError;

const SECRET_BYTES: usize = 32;

pub(super) fn bad(path: &Path, reason: &str) -> CaError {
    CaError::File { path: path.display().to_string(), reason: reason.to_owned() }
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> CaError + '_ {
    move |e| bad(path, &e.to_string())
}

pub(super) fn make_dir(path: &Path) -> Result<(), CaError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io(path))
}

/// Writes beside, syncs, renames: a crash leaves the old file or the new one.
pub(super) fn write_secret(path: &Path, content: &[u8]) -> Result<(), CaError> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        fs::File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(io(path))
}

pub(super) fn read_text(path: &Path) -> Result<String, CaError> {
    fs::read_to_string(path).map_err(io(path))
}

/// A random secret, made at the first call.
pub(super) fn secret_of(path: &Path) -> Result<Vec<u8>, CaError> {
    if !path.exists() {
        let mut secret = [0u8; SECRET_BYTES];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| CaError::Sign("no random numbers".into()))?;
        write_secret(path, &secret)?;
    }
    let secret = fs::read(path).map_err(io(path))?;
    if secret.len() != SECRET_BYTES {
        return Err(bad(
            path,
            &format!("{} bytes, not {SECRET_BYTES}: restore it, or remove it to void all tokens", secret.len()),
        ));
    }
    Ok(secret)
}
