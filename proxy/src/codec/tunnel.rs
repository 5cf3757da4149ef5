//! A raw stream as the response body of a CONNECT request that is terminated here: what the client sends goes to the stream, what
//! the stream sends is the response body.
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::body::{Body, Error};
use crate::io::{Buffers, Io, READ_BUFFER_BYTES};

/// Both directions, driven by whoever polls the response body.
pub struct Tunnel {
    io: Io,
    request: Option<Body>,
    pending: Bytes,
    buffers: Buffers,
    read: BytesMut,
    unflushed: bool,
}

impl Tunnel {
    /// Connects `io` with the body of the request. `Body::from(tunnel)` is the response's.
    pub fn new(io: Io, request: Body, buffers: Buffers) -> Self {
        let read = buffers.take();
        Self { io, request: Some(request), pending: Bytes::new(), buffers, read, unflushed: false }
    }

    /// Copies towards the stream until one side cannot go on. A client that has ended its half ends the stream's.
    fn poll_upload(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        loop {
            while !self.pending.is_empty() {
                let n = ready!(Pin::new(&mut self.io).poll_write(cx, &self.pending)).map_err(io_error)?;
                if n == 0 {
                    return Poll::Ready(Err(Error::Closed));
                }
                self.pending.advance(n);
                self.unflushed = true;
            }
            let Some(request) = &mut self.request else {
                return Pin::new(&mut self.io).poll_shutdown(cx).map_err(io_error);
            };
            match request.poll_next(cx) {
                Poll::Ready(Some(frame)) => self.pending = frame?.into_data().unwrap_or_default(),
                Poll::Ready(None) => self.request = None,
                Poll::Pending => {
                    if self.unflushed {
                        ready!(Pin::new(&mut self.io).poll_flush(cx)).map_err(io_error)?;
                        self.unflushed = false;
                    }
                    return Poll::Pending;
                }
            }
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if let Poll::Ready(Err(error)) = self.poll_upload(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        self.read.reserve(READ_BUFFER_BYTES / 2);
        match ready!(super::poll_fill(&mut self.io, &mut self.read, cx)) {
            Ok(0) => Poll::Ready(None),
            Ok(_) => Poll::Ready(Some(Ok(Frame::data(self.read.split().freeze())))),
            Err(error) => Poll::Ready(Some(Err(io_error(error)))),
        }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.buffers.give(std::mem::take(&mut self.read));
    }
}

fn io_error(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => Error::Closed,
        kind => Error::Io(kind),
    }
}
