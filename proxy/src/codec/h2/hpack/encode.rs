//! From fields to a header block (RFC 7541, section 6).
//!
//! The table is searched by hash: of name and value for a field that is there whole, of the name alone for the rest. Numbers only grow,
//! entries go in the order they came: a chain of a bucket leads from newer to older ones and ends at the first that is gone, so
//! nothing is ever taken out of the index.
use std::collections::VecDeque;
use std::hash::{BuildHasher, Hash, Hasher};

use bytes::{BufMut, BytesMut};
use foldhash::fast::RandomState;
use http::{HeaderName, HeaderValue, Method, StatusCode};

use super::table::{STATIC_ENTRIES, static_name};
use super::{DEFAULT_TABLE_BYTES, ENTRY_OVERHEAD, Pseudo, huffman};

/// The largest table that is kept, whatever the peer offers.
const MAX_TABLE_BYTES: u32 = 64 * 1024;

/// The sending side of one connection's compression.
#[derive(Debug)]
pub struct Encoder {
    table: Table,
    /// What this side is willing to keep.
    most: u32,
    /// The sizes to tell before the next field: the smallest since the last block, and the one now in use.
    resized: Option<(u32, u32)>,
}

/// What may be kept of a field.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Field,
    /// Its value is in no other message: in the table it would push out what does repeat.
    Name,
    /// Its value is a secret, which must not be found out by what compresses well (section 7.1).
    Secret,
}

/// Whether, and how, a field of this name is kept.
fn keep(name: &HeaderName, value: &HeaderValue) -> Keep {
    if value.is_sensitive() {
        return Keep::Secret;
    }
    match name.as_str() {
        "authorization" | "proxy-authorization" | "cookie" | "set-cookie" => Keep::Secret,
        "age" | "content-length" | "etag" | "if-modified-since" | "if-none-match" | "last-modified" | "location" => {
            Keep::Name
        }
        "x-request-id" | "traceparent" | "x-b3-spanid" | "x-envoy-upstream-service-time" => Keep::Name,
        _ => Keep::Field,
    }
}

impl Encoder {
    /// With a table of at most `most` bytes.
    pub fn new(most: u32) -> Self {
        let most = most.min(MAX_TABLE_BYTES);
        let size = most.min(DEFAULT_TABLE_BYTES);
        let resized = (size < DEFAULT_TABLE_BYTES).then_some((size, size));
        Self { table: Table::new(size as usize), most, resized }
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE.
    pub fn set_limit(&mut self, limit: u32) {
        let size = limit.min(self.most);
        if size as usize == self.table.limit {
            return;
        }
        let least = self.resized.map_or(size, |(least, _)| least.min(size));
        self.resized = Some((least, size));
        self.table.resize(size as usize);
    }

    /// To be called before the fields of a block.
    pub fn begin(&mut self, out: &mut BytesMut) {
        if let Some((least, size)) = self.resized.take() {
            if least < size {
                put_integer(0b0010_0000, 5, least, out);
            }
            put_integer(0b0010_0000, 5, size, out);
        }
    }

    pub fn method(&mut self, method: &Method, out: &mut BytesMut) {
        match *method {
            Method::GET => out.put_u8(0x82),
            Method::POST => out.put_u8(0x83),
            _ => self.pseudo(Pseudo::Method, method.as_str().as_bytes(), out),
        }
    }

    pub fn scheme(&mut self, https: bool, out: &mut BytesMut) {
        out.put_u8(if https { 0x87 } else { 0x86 });
    }

    /// Paths are many: they are not kept.
    pub fn path(&mut self, path: &[u8], out: &mut BytesMut) {
        if path == b"/" {
            return out.put_u8(0x84);
        }
        put_integer(0, 4, 4, out);
        put_string(path, out);
    }

    pub fn status(&mut self, status: StatusCode, out: &mut BytesMut) {
        let index = match status.as_u16() {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => return self.pseudo(Pseudo::Status, status.as_str().as_bytes(), out),
        };
        out.put_u8(0x80 | index);
    }

    pub fn pseudo(&mut self, name: Pseudo, value: &[u8], out: &mut BytesMut) {
        let static_name = match name {
            Pseudo::Authority => Some(1),
            Pseudo::Method => Some(2),
            Pseudo::Path => Some(4),
            Pseudo::Scheme => Some(6),
            Pseudo::Status => Some(8),
            Pseudo::Protocol => None,
        };
        let name = Key::Pseudo(name);
        let hashes = self.table.hashes(name, value);
        match self.table.find(name, value, hashes.1) {
            Some(index) => put_integer(0b1000_0000, 7, index, out),
            None => self.insert(name, value, hashes, static_name, out),
        }
    }

    pub fn header(&mut self, name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
        let keep = keep(name, value);
        let key = Key::Header(name);
        if keep == Keep::Field {
            let hashes = self.table.hashes(key, value.as_bytes());
            if let Some(index) = self.table.find(key, value.as_bytes(), hashes.1) {
                return put_integer(0b1000_0000, 7, index, out);
            }
            return self.insert(key, value.as_bytes(), hashes, static_name(name.as_str()), out);
        }
        let (pattern, secret) = if keep == Keep::Secret { (0b0001_0000, true) } else { (0, false) };
        if let Some(index) = static_name(name.as_str()) {
            put_integer(pattern, 4, index, out);
            return put_plain(value.as_bytes(), out);
        }
        let hashes = self.table.hashes(key, b"");
        let index = self.table.find_name(key, hashes.0);
        match index {
            Some(index) => put_integer(pattern, 4, index, out),
            // A name that will be back is kept, with this value beside it.
            None if !secret => return self.insert(key, value.as_bytes(), hashes, None, out),
            None => {
                out.put_u8(pattern);
                put_string(name.as_str().as_bytes(), out);
            }
        }
        put_plain(value.as_bytes(), out);
    }

    /// Sends a field for the table, if it is worth a place there.
    fn insert(&mut self, name: Key<'_>, value: &[u8], hashes: (u64, u64), index: Option<u32>, out: &mut BytesMut) {
        let size = name.as_bytes().len() + value.len() + ENTRY_OVERHEAD;
        let kept = size <= self.table.limit / 4 * 3;
        let (pattern, bits) = if kept { (0b0100_0000, 6) } else { (0, 4) };
        match index.or_else(|| self.table.find_name(name, hashes.0)) {
            Some(index) => put_integer(pattern, bits, index, out),
            None => {
                out.put_u8(pattern);
                put_string(name.as_bytes(), out);
            }
        }
        put_string(value, out);
        if kept {
            self.table.insert(name.stored(), value, size, hashes);
        }
    }
}

/// A name to look for.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Key<'a> {
    Pseudo(Pseudo),
    Header(&'a HeaderName),
}

impl<'a> Key<'a> {
    fn as_bytes(self) -> &'a [u8] {
        match self {
            Self::Pseudo(name) => name.as_str().as_bytes(),
            Self::Header(name) => name.as_str().as_bytes(),
        }
    }

    fn stored(self) -> Stored {
        match self {
            Self::Pseudo(name) => Stored::Pseudo(name),
            Self::Header(name) => Stored::Header(name.clone()),
        }
    }
}

/// What the peer was told to remember.
#[derive(Debug)]
struct Table {
    entries: VecDeque<Entry>,
    /// The number of the oldest entry there is; numbers begin at 1.
    oldest: u32,
    bytes: usize,
    limit: usize,
    hasher: RandomState,
    /// By the hash of name and value, and by that of the name: the newest entry's number. Made with the first entry.
    index: Vec<[u32; 2]>,
}

/// A name that is kept.
#[derive(Debug)]
enum Stored {
    Pseudo(Pseudo),
    Header(HeaderName),
}

#[derive(Debug)]
struct Entry {
    name: Stored,
    value: Box<[u8]>,
    size: u32,
    /// The next older entries of both chains.
    older: [u32; 2],
}

impl Entry {
    fn key(&self) -> Key<'_> {
        match &self.name {
            Stored::Pseudo(name) => Key::Pseudo(*name),
            Stored::Header(name) => Key::Header(name),
        }
    }
}

/// Which chain.
const WHOLE: usize = 0;
const NAME: usize = 1;

impl Table {
    fn new(limit: usize) -> Self {
        let hasher = RandomState::default();
        Self { entries: VecDeque::new(), oldest: 1, bytes: 0, limit, hasher, index: Vec::new() }
    }

    /// Of the name, and of both.
    #[inline]
    fn hashes(&self, name: Key<'_>, value: &[u8]) -> (u64, u64) {
        let mut hasher = self.hasher.build_hasher();
        name.hash(&mut hasher);
        let of_name = hasher.finish();
        hasher.write(value);
        (of_name, hasher.finish())
    }

    /// The number under which the peer knows the field.
    #[inline]
    fn find(&self, name: Key<'_>, value: &[u8], hash: u64) -> Option<u32> {
        self.search(WHOLE, hash, |entry| *entry.value == *value && entry.key() == name)
    }

    #[inline]
    fn find_name(&self, name: Key<'_>, hash: u64) -> Option<u32> {
        self.search(NAME, hash, |entry| entry.key() == name)
    }

    #[inline]
    fn search(&self, which: usize, hash: u64, found: impl Fn(&Entry) -> bool) -> Option<u32> {
        let bucket = (hash as usize) & self.index.len().wrapping_sub(1);
        let mut number = self.index.get(bucket)?[which];
        loop {
            let place = number.checked_sub(self.oldest)?;
            let entry = self.entries.get(place as usize)?;
            if found(entry) {
                // The newest entry has the first number after the static table's.
                return Some((STATIC_ENTRIES + self.entries.len()) as u32 - place);
            }
            number = entry.older[which];
        }
    }

    fn insert(&mut self, name: Stored, value: &[u8], size: usize, hashes: (u64, u64)) {
        self.shrink_to(self.limit - size);
        if self.index.is_empty() || self.oldest > u32::MAX / 2 {
            self.reindex();
        }
        let number = self.oldest + self.entries.len() as u32;
        let mask = self.index.len() - 1;
        let (whole, by_name) = (hashes.1 as usize & mask, hashes.0 as usize & mask);
        let older = [self.index[whole][WHOLE], self.index[by_name][NAME]];
        self.index[whole][WHOLE] = number;
        self.index[by_name][NAME] = number;
        self.entries.push_back(Entry { name, value: value.into(), size: size as u32, older });
        self.bytes += size;
    }

    fn resize(&mut self, limit: usize) {
        self.limit = limit;
        self.shrink_to(limit);
        self.reindex();
    }

    fn shrink_to(&mut self, limit: usize) {
        while self.bytes > limit {
            let Some(entry) = self.entries.pop_front() else { return };
            self.bytes -= entry.size as usize;
            self.oldest += 1;
        }
    }

    /// Makes the index anew, for the table's size, and numbers from 1 on.
    fn reindex(&mut self) {
        let buckets = (self.limit / ENTRY_OVERHEAD / 2).next_power_of_two();
        self.index = vec![[0; 2]; buckets];
        self.oldest = 1;
        for at in 0..self.entries.len() {
            let entry = &self.entries[at];
            let (by_name, whole) = self.hashes(entry.key(), &entry.value);
            let buckets = [whole as usize & (buckets - 1), by_name as usize & (buckets - 1)];
            for which in [WHOLE, NAME] {
                let newest = &mut self.index[buckets[which]][which];
                self.entries[at].older[which] = std::mem::replace(newest, at as u32 + 1);
            }
        }
    }
}

/// A number (section 5.1), after the high bits of its first byte.
#[inline]
fn put_integer(pattern: u8, bits: u32, number: u32, out: &mut BytesMut) {
    let most = (1 << bits) - 1;
    if number < most {
        return out.extend_from_slice(&[pattern | number as u8]);
    }
    put_long_integer(pattern | most as u8, number - most, out);
}

fn put_long_integer(first: u8, mut rest: u32, out: &mut BytesMut) {
    out.put_u8(first);
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

/// A string, as short as it gets (section 5.2).
fn put_string(text: &[u8], out: &mut BytesMut) {
    let len = huffman::encoded_len(text);
    if len >= text.len() {
        return put_plain(text, out);
    }
    put_integer(0b1000_0000, 7, len as u32, out);
    huffman::encode(text, out);
}

/// A string as it is: for values that are seen once, which no code of bytes is worth the work on both ends.
#[inline]
fn put_plain(text: &[u8], out: &mut BytesMut) {
    put_integer(0, 7, text.len() as u32, out);
    out.extend_from_slice(text);
}
