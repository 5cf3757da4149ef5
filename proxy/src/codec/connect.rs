//! An HTTP exchange as a byte stream: what is written becomes the request's body, what is read is the response's. The other way round
//! from [`super::Tunnel`]: here the proxy is the client that asked for the tunnel.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes};
use http_body::{Body as HttpBody, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::body::{Body, Error};

/// What was written and the request has not taken yet: one chunk, so that a slow upstream slows the writer.
#[derive(Default)]
struct Pipe {
    chunk: Option<Bytes>,
    state: State,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The writer has ended its half.
    Ended,
    /// The request is over, or was given up: nobody reads.
    Abandoned,
}

/// The writing end, before there is a response.
pub struct Upload(Rc<RefCell<Pipe>>);

/// The body of the request.
struct Request(Rc<RefCell<Pipe>>);

/// Both directions.
pub struct Connected {
    upload: Upload,
    response: Body,
    read: Bytes,
}

impl Upload {
    /// The writing end and the body to send.
    pub fn new() -> (Self, Body) {
        let pipe = Rc::new(RefCell::new(Pipe::default()));
        (Upload(pipe.clone()), Body::boxed(Request(pipe)))
    }

    /// The stream, once the response's head is there.
    pub fn connected(self, response: Body) -> Connected {
        Connected { upload: self, response, read: Bytes::new() }
    }
}

impl Drop for Upload {
    /// A writer that goes away without ending its half has not sent all: the request breaks off.
    fn drop(&mut self) {
        let mut pipe = self.0.borrow_mut();
        if pipe.state == State::Open {
            pipe.state = State::Abandoned;
        }
        pipe.reader.take().inspect(Waker::wake_by_ref);
    }
}

impl HttpBody for Request {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let mut pipe = self.0.borrow_mut();
        if let Some(chunk) = pipe.chunk.take() {
            pipe.writer.take().inspect(Waker::wake_by_ref);
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        match pipe.state {
            State::Ended => Poll::Ready(None),
            State::Abandoned => Poll::Ready(Some(Err(Error::Canceled))),
            State::Open => {
                pipe.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut pipe = self.0.borrow_mut();
        pipe.state = State::Abandoned;
        pipe.writer.take().inspect(Waker::wake_by_ref);
    }
}

impl AsyncWrite for Connected {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut pipe = self.upload.0.borrow_mut();
        if pipe.state != State::Open {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if pipe.chunk.is_some() {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        pipe.chunk = Some(Bytes::copy_from_slice(bytes));
        pipe.reader.take().inspect(Waker::wake_by_ref);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.upload.0.borrow_mut();
        if pipe.state == State::Open {
            pipe.state = State::Ended;
            pipe.reader.take().inspect(Waker::wake_by_ref);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Connected {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.read.is_empty() {
            match ready!(self.response.poll_next(cx)) {
                // Trailers say nothing to a byte stream.
                Some(Ok(frame)) => self.read = frame.into_data().unwrap_or_default(),
                // The end of an HTTP/1 tunnel, which has no other.
                Some(Err(Error::Io(io::ErrorKind::UnexpectedEof))) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error.to_string()))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let n = self.read.len().min(buf.remaining());
        buf.put_slice(&self.read[..n]);
        self.read.advance(n);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn next(body: &mut Body) -> Option<Bytes> {
        let frame = std::future::poll_fn(|cx| body.poll_next(cx)).await?;
        Some(frame.expect("no failure").into_data().expect("data"))
    }

    #[tokio::test]
    async fn writes_become_the_request_and_the_response_is_read() {
        let (upload, mut request) = Upload::new();
        let mut stream = upload.connected(Body::full("answer"));
        stream.write_all(b"one").await.expect("room");
        assert!(tokio::time::timeout(std::time::Duration::ZERO, stream.write_all(b"two")).await.is_err(), "no room");
        assert_eq!(next(&mut request).await.as_deref(), Some(&b"one"[..]));
        stream.write_all(b"two").await.expect("room again");
        stream.shutdown().await.expect("an end");
        assert_eq!(next(&mut request).await.as_deref(), Some(&b"two"[..]));
        assert_eq!(next(&mut request).await, None, "the half that was ended");
        let mut all = String::new();
        stream.read_to_string(&mut all).await.expect("an answer");
        assert_eq!(all, "answer");
    }

    #[tokio::test]
    async fn an_end_that_goes_away_is_noticed_by_the_other() {
        let (upload, request) = Upload::new();
        let mut stream = upload.connected(Body::empty());
        drop(request);
        let error = stream.write_all(b"x").await.expect_err("nobody reads");
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let (upload, mut request) = Upload::new();
        drop(upload);
        let end = std::future::poll_fn(|cx| request.poll_next(cx)).await;
        assert!(matches!(end, Some(Err(Error::Canceled))), "not all was sent");
    }
}
