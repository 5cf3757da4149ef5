//! The goodbye of a downstream connection.
//!
//! Closing a socket with unread bytes makes the kernel send a reset, which can destroy the last response (or GOAWAY) on its way.
//! So this half is ended, and what the client still sends is read and dropped, for a while and up to a bound.
use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWrite;

use super::{Local, poll_fill};
use crate::clock::Elapsed;
use crate::io::Io;

/// Bytes a client may still send before the connection is cut.
const LINGER_BYTES: usize = 1024 * 1024;

/// Ends our half, and waits for the client to end its own.
pub(super) async fn linger(io: &RefCell<Io>, local: &Local, limit: Duration) {
    let mut buffer = local.buffers.take();
    let mut dropped = 0;
    let goodbye = poll_fn(|cx| poll_goodbye(&mut io.borrow_mut(), &mut buffer, &mut dropped, cx));
    // Either way the connection is dropped next.
    let _: Result<(), Elapsed> = local.timers.timeout(limit, goodbye).await;
    local.buffers.give(buffer);
}

fn poll_goodbye(io: &mut Io, buffer: &mut BytesMut, dropped: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
    if ready!(Pin::new(&mut *io).poll_shutdown(cx)).is_err() {
        return Poll::Ready(());
    }
    while *dropped < LINGER_BYTES {
        buffer.clear();
        match ready!(poll_fill(io, buffer, cx)) {
            Ok(0) | Err(_) => break,
            Ok(n) => *dropped += n,
        }
    }
    Poll::Ready(())
}
