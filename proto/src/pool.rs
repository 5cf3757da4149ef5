//! Descriptor pools, built on demand from the embedded files and dropped by whoever asked.
//!
//! A pool of every message is large (measured in `json/tests.rs`), so a pool holds only the files that the named
//! messages need.

use prost_reflect::DescriptorPool;

pub(crate) struct File {
    start: usize,
    end: usize,
    /// Positions in [`FILES`], all before this one.
    dependencies: &'static [u16],
}

include!(concat!(env!("OUT_DIR"), "/descriptors.rs"));

static BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A pool of every message that this crate knows. For build scripts and tests: it stays as long as it is held.
pub fn descriptors() -> DescriptorPool {
    build(&vec![true; FILES.len()])
}

/// The file of a top-level message, or of the message that `name` is nested in.
fn file_of(name: &str) -> Option<usize> {
    let mut name = name;
    loop {
        if let Ok(found) = MESSAGES.binary_search_by_key(&name, |(n, _)| n) {
            return Some(usize::from(MESSAGES[found].1));
        }
        name = name.rsplit_once('.')?.0;
    }
}

/// A pool with the messages `names` and all that they need; names that are not known are left out.
pub(crate) fn with<'a>(names: impl IntoIterator<Item = &'a str>) -> DescriptorPool {
    let mut wanted = vec![false; FILES.len()];
    for name in names {
        if let Some(file) = file_of(name) {
            wanted[file] = true;
        }
    }
    // Dependencies come before their users: one pass from the end finds them all.
    for file in (0..FILES.len()).rev() {
        if wanted[file] {
            for &needed in FILES[file].dependencies {
                wanted[usize::from(needed)] = true;
            }
        }
    }
    build(&wanted)
}

fn build(wanted: &[bool]) -> DescriptorPool {
    let mut pool = DescriptorPool::new();
    for (file, _) in FILES.iter().zip(wanted).filter(|(_, wanted)| **wanted) {
        // The build script wrote these bytes: a failure is a broken build, not an input.
        if let Err(e) = pool.decode_file_descriptor_proto(&BYTES[file.start..file.end]) {
            unreachable!("embedded descriptors: {e}");
        }
    }
    pool
}
