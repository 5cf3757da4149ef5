//! What TLS has encoded and the socket has not taken yet.
use std::io;

/// What is encoded and not written yet: between `start` and `end`.
#[derive(Default)]
pub(super) struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

/// Why something could not be encoded.
pub(super) enum Short {
    Room(usize),
    Of(&'static str),
}

impl Outgoing {
    pub(super) fn waits(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    pub(super) fn written(&mut self, n: usize) {
        self.start += n;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Appends what `encode` puts into the room it is given: `room` bytes at least, or as many as it then asks for.
    pub(super) fn append(
        &mut self,
        room: usize,
        mut encode: impl FnMut(&mut [u8]) -> Result<usize, Short>,
    ) -> io::Result<()> {
        let outcome = match encode(self.room(room)) {
            Err(Short::Room(needed)) => encode(self.room(needed)),
            other => other,
        };
        match outcome {
            Ok(n) => {
                self.end += n;
                Ok(())
            }
            Err(Short::Of(what)) => Err(io::Error::other(format!("out of {what}"))),
            Err(Short::Room(needed)) => Err(io::Error::other(format!("TLS asks for {needed} bytes and more"))),
        }
    }

    /// Bytes stay as they are between uses, so that room is made once.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.bytes.len() < self.end + bytes {
            self.bytes.resize(self.end + bytes, 0);
        }
        &mut self.bytes[self.end..]
    }
}
