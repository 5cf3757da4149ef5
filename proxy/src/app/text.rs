//! The pages of the program that only its start needed, given back.
//!
//! A start reads flags, YAML and configuration: code that lies all over the program, and that is not needed again until the
//! configuration changes. The kernel maps 64 KiB around each page that is touched, so half of the program becomes resident though
//! little of it ran. [`forget`] unmaps the program's code: what is still needed comes back with its next instruction, from the
//! page cache, for about a microsecond per 64 KiB; what is not stays away. It changes nothing but what is resident, does nothing
//! where `/proc` does not tell the mappings, and is called when the process falls quiet after its start, never while it serves.
//!
//! One of the two places of the project that need `unsafe`: no crate offers `madvise` on the program's own mappings safely.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{NonNull, with_exposed_provenance_mut};

use nix::sys::mman::{MmapAdvise, madvise};

/// Unmaps the code of the running program.
pub(super) fn forget() {
    let Ok(program) = std::env::current_exe() else { return };
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for line in maps.lines() {
        let Some(code) = Mapping::parse(line).filter(|m| m.is_code_of(&program.to_string_lossy())) else { continue };
        let Some(start) = NonNull::new(with_exposed_provenance_mut::<c_void>(code.start)) else { continue };
        // SAFETY: the range is a mapping of the program's file that is private, executable and not writable. Position-independent
        // code has no relocations in it, and nothing makes it writable: each of its pages is as it is in the file, and is read
        // from there again when it is next needed. No data lies in it.
        let advised = unsafe { madvise(start, code.end - code.start, MmapAdvise::MADV_DONTNEED) };
        if let Err(error) = advised {
            tracing::debug!(%error, "the program's pages stay resident");
        }
    }
}

/// A line of `/proc/self/maps`: `start-end permissions offset device inode path`.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    start: usize,
    end: usize,
    permissions: &'a str,
    path: &'a str,
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let path = fields.nth(3)?.trim_start();
        let number = |text| usize::from_str_radix(text, 16).ok();
        let (start, end) = (number(start)?, number(end)?);
        (start < end).then_some(Self { start, end, permissions, path })
    }

    fn is_code_of(&self, program: &str) -> bool {
        self.permissions == "r-xp" && self.path == program
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_programs_own_code_is_meant() {
        let code = "55d0c8a5e000-55d0c968f000 r-xp 0045c000 fe:00 131 /opt/side mesh/proxy";
        let mapping = Mapping::parse(code).expect("a mapping");
        assert_eq!((mapping.start, mapping.end), (0x55d0c8a5e000, 0x55d0c968f000));
        assert!(mapping.is_code_of("/opt/side mesh/proxy"));
        assert!(!mapping.is_code_of("/opt/side"));
        for other in [
            "55d0c8a5e000-55d0c968f000 r--p 0045c000 fe:00 131 /opt/side mesh/proxy",
            "55d0c8a5e000-55d0c968f000 rw-p 0045c000 fe:00 131 /opt/side mesh/proxy",
            "7f0000000000-7f0000001000 r-xp 00000000 fe:00 99                 /lib/libc.so.6",
            "7fffc1fc8000-7fffc1fe9000 rw-p 00000000 00:00 0                          [stack]",
        ] {
            assert!(!Mapping::parse(other).expect("a mapping").is_code_of("/opt/side mesh/proxy"), "{other}");
        }
        assert_eq!(Mapping::parse("7ffd0000-7ffe0000 r-xp 0 00:00 0"), None);
        assert_eq!(Mapping::parse(""), None);
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        let sum = |n: u64| (0..n).fold(0u64, |a, b| a.wrapping_mul(31).wrapping_add(b));
        let before = sum(1000);
        forget();
        assert_eq!(sum(1000), before);
    }
}
