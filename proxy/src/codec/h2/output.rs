//! What is to be written: frames are appended, and leave together when a turn of the connection ends.
//!
//! Small pieces are copied behind each other into one of the worker's buffers, which is lent while something waits in it. A large piece is kept as
//! it is, and goes out by a vectored write. Frames that wait are counted, for the bounds against a peer that does not read.
use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};

use super::frame;
use crate::io::Buffers;

/// Pieces from this size on are not copied.
const LARGE: usize = 4096;

/// The waiting bytes of one connection.
pub(super) struct Output {
    buffers: Buffers,
    /// Goes out before `tail`.
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    /// Bytes in all.
    len: usize,
    /// Frames since the last mark.
    recent: Frames,
    /// Frames that waited when the socket was full, by how many bytes have to be written until they have left.
    marks: VecDeque<(usize, Frames)>,
    /// All of them.
    waiting: Frames,
}

/// How many frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Frames {
    pub(super) all: u32,
    /// PING, SETTINGS and RST_STREAM.
    pub(super) control: u32,
}

impl Output {
    pub(super) fn new(buffers: Buffers) -> Self {
        Self {
            buffers,
            pieces: VecDeque::new(),
            tail: BytesMut::new(),
            len: 0,
            recent: Frames::default(),
            marks: VecDeque::new(),
            waiting: Frames::default(),
        }
    }

    /// Has `write` append `all` frames, `control` of which answer the peer.
    #[inline]
    pub(super) fn append<R>(&mut self, frames: Frames, write: impl FnOnce(&mut BytesMut) -> R) -> R {
        if self.tail.capacity() == 0 {
            self.tail = self.buffers.take();
        }
        let before = self.tail.len();
        let result = write(&mut self.tail);
        self.len += self.tail.len() - before;
        for count in [&mut self.recent, &mut self.waiting] {
            count.all += frames.all;
            count.control += frames.control;
        }
        result
    }

    /// Appends a DATA frame.
    pub(super) fn data(&mut self, stream: u32, flags: u8, data: Bytes) {
        let large = data.len() >= LARGE;
        self.append(Frames { all: 1, control: 0 }, |tail| {
            frame::put_head(frame::kind::DATA, flags, stream, data.len(), tail);
            if !large {
                tail.extend_from_slice(&data);
            }
        });
        if large {
            self.len += data.len();
            self.pieces.push_back(self.tail.split().freeze());
            self.pieces.push_back(data);
        }
    }

    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Frames that wait.
    pub(super) fn frames(&self) -> Frames {
        self.waiting
    }

    /// What is to be written next; how many of `slices` are filled.
    pub(super) fn next_slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let all = self.pieces.iter().map(|piece| &piece[..]).chain([&self.tail[..]]);
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(all.filter(|piece| !piece.is_empty())) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }

    /// So many bytes were written.
    pub(super) fn handle_written(&mut self, written: usize) {
        self.len -= written;
        if self.len == 0 {
            self.pieces.clear();
            self.marks.clear();
            (self.recent, self.waiting) = Default::default();
            self.buffers.give(std::mem::take(&mut self.tail));
            return;
        }
        let mut rest = written;
        while let Some(first) = self.pieces.front_mut() {
            if rest < first.len() {
                first.advance(rest);
                rest = 0;
                break;
            }
            rest -= first.len();
            self.pieces.pop_front();
        }
        self.tail.advance(rest);
        self.count_written(written);
    }

    /// Some, but not all of it left.
    fn count_written(&mut self, mut written: usize) {
        while let Some((bytes, frames)) = self.marks.front_mut() {
            if *bytes > written {
                *bytes -= written;
                return;
            }
            written -= *bytes;
            self.waiting.all -= frames.all;
            self.waiting.control -= frames.control;
            self.marks.pop_front();
        }
    }

    /// The socket is full: what waits now is counted apart from what will be appended later.
    pub(super) fn handle_full(&mut self) {
        if self.recent.all == 0 {
            return;
        }
        let marked: usize = self.marks.iter().map(|(bytes, _)| bytes).sum();
        self.marks.push_back((self.len - marked, std::mem::take(&mut self.recent)));
    }
}
