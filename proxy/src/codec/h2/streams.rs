//! The streams of one connection: their states (RFC 9113, section 5.1), windows and what has arrived, and how they are found.
//!
//! A stream's two directions end one by one:
//!
//! ```text
//! receiving:  Head --HEADERS--> Body --END_STREAM--> Ended        sending:  the same, with what we send
//!                                both Ended, or a failure (RST_STREAM of either side, the connection's end): closed
//! ```
//!
//! A closed stream no longer counts and is no longer found by its number; what has arrived stays until the last handle is gone.
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::task::Waker;

use bytes::Bytes;
use http::HeaderMap;
use slab::Slab;

use super::head::Head;
use super::reason::Reason;

/// Where a stream is kept. Valid as long as a handle to the stream lives.
pub(super) type Key = usize;

/// How far one direction of a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Half {
    Head,
    Body,
    Ended,
}

/// Why a stream ended before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The peer reset it.
    Reset(Reason),
    /// The peer says that it has not looked at it (GOAWAY).
    Refused,
    /// The peer broke the protocol.
    Protocol,
    /// This side reset it.
    Canceled,
    /// The connection ended.
    Closed,
    /// The socket failed.
    Io(std::io::ErrorKind),
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: u32,
    pub(super) receiving: Half,
    pub(super) sending: Half,
    pub(super) failed: Option<Cause>,
    /// What the peer still takes; below zero when it has made the window smaller.
    pub(super) send_window: i64,
    /// What the peer may still send.
    pub(super) recv_window: i64,
    /// Bytes that were read here and not given back to the peer's window yet.
    pub(super) consumed: u32,
    /// What is left of the declared length.
    pub(super) left: Option<u64>,
    /// The response to this request has no body, whatever length it declares.
    pub(super) head_only: bool,
    /// Nobody reads what arrives any more.
    pub(super) discarding: bool,
    pub(super) interim: VecDeque<Box<Head>>,
    pub(super) head: Option<Box<Head>>,
    pub(super) data: Data,
    pub(super) trailers: Option<Box<HeaderMap>>,
    pub(super) reader: Option<Waker>,
    pub(super) writer: Option<Waker>,
    /// It stands in line for the connection's window or the socket.
    pub(super) in_line: bool,
    /// The last round in which it sent something.
    pub(super) served: u32,
    pub(super) handles: u32,
}

impl Stream {
    pub(super) fn new(id: u32, send_window: u32, recv_window: u32) -> Self {
        Self {
            id,
            receiving: Half::Head,
            sending: Half::Head,
            failed: None,
            send_window: i64::from(send_window),
            recv_window: i64::from(recv_window),
            consumed: 0,
            left: None,
            head_only: false,
            discarding: false,
            interim: VecDeque::new(),
            head: None,
            data: Data::default(),
            trailers: None,
            reader: None,
            writer: None,
            in_line: false,
            served: u32::MAX,
            handles: 1,
        }
    }

    pub(super) fn is_closed(&self) -> bool {
        self.failed.is_some() || (self.sending == Half::Ended && self.receiving == Half::Ended)
    }

    pub(super) fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    pub(super) fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

/// Keeps the waker of who waits.
pub(super) fn keep(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(kept) => kept.clone_from(waker),
        None => *place = Some(waker.clone()),
    }
}

/// What has arrived and was not read. Most often it is one piece, which needs no list.
#[derive(Debug, Default)]
pub(super) struct Data {
    first: Bytes,
    more: VecDeque<Bytes>,
    pub(super) len: usize,
}

impl Data {
    pub(super) fn push(&mut self, piece: Bytes) {
        self.len += piece.len();
        if self.first.is_empty() {
            self.first = piece;
        } else {
            self.more.push_back(piece);
        }
    }

    pub(super) fn pop(&mut self) -> Option<Bytes> {
        if self.first.is_empty() {
            return None;
        }
        let next = self.more.pop_front().unwrap_or_default();
        let piece = std::mem::replace(&mut self.first, next);
        self.len -= piece.len();
        Some(piece)
    }
}

/// Numbers of streams are a good hash once they are spread.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|&byte| self.write_u32(byte.into()));
    }

    fn write_u32(&mut self, id: u32) {
        self.0 = (self.0 ^ u64::from(id)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(26);
    }
}

/// How a stream that is gone was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// By us, so that the peer may not have known when it sent something more.
    ResetHere,
    /// By its end on both sides, or by the peer.
    Ended,
}

/// How many closed streams are remembered.
const REMEMBERED: usize = 128;

/// All streams of a connection.
#[derive(Debug, Default)]
pub(super) struct Streams {
    slab: Slab<Stream>,
    /// The ones that are not closed.
    keys: HashMap<u32, Key, BuildHasherDefault<IdHasher>>,
    past: VecDeque<(u32, Past)>,
}

impl Streams {
    pub(super) fn insert(&mut self, stream: Stream) -> Key {
        let id = stream.id;
        let key = self.slab.insert(stream);
        self.keys.insert(id, key);
        key
    }

    /// The open stream of this number.
    #[inline]
    pub(super) fn find(&self, id: u32) -> Option<Key> {
        self.keys.get(&id).copied()
    }

    #[inline]
    pub(super) fn get(&mut self, key: Key) -> &mut Stream {
        &mut self.slab[key]
    }

    #[inline]
    pub(super) fn peek(&self, key: Key) -> &Stream {
        &self.slab[key]
    }

    /// The stream that was put there, if it is the same one.
    pub(super) fn same(&mut self, key: Key, id: u32) -> Option<&mut Stream> {
        self.slab.get_mut(key).filter(|stream| stream.id == id)
    }

    /// Streams that are not closed.
    pub(super) fn open(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn open_keys(&self) -> Vec<Key> {
        self.keys.values().copied().collect()
    }

    /// No longer found, but still there for its handles.
    pub(super) fn close(&mut self, key: Key, past: Past) {
        let id = self.slab[key].id;
        if self.keys.remove(&id).is_some() {
            self.remember(id, past);
        }
    }

    /// Notes how a stream was closed.
    pub(super) fn remember(&mut self, id: u32, past: Past) {
        if self.past.len() == REMEMBERED {
            self.past.pop_front();
        }
        self.past.push_back((id, past));
    }

    /// How the stream was closed, as long as that is remembered.
    pub(super) fn past(&self, id: u32) -> Option<Past> {
        self.past.iter().rev().find(|(past, _)| *past == id).map(|(_, past)| *past)
    }

    pub(super) fn remove(&mut self, key: Key) -> Stream {
        self.slab.remove(key)
    }
}
