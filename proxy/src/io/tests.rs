//! Early bytes, quiet connections, pooled buffers.
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Buffers, Io, READ_BUFFER_BYTES};
use crate::codec::h1::tests::run;

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

#[test]
fn early_bytes_are_read_first() {
    run(async {
        let (mut client, accepted) = pair().await;
        let mut io = Io::from(accepted).rewind(Bytes::from_static(b"two ")).rewind(Bytes::from_static(b"one "));
        client.write_all(b"three").await.unwrap();
        client.shutdown().await.unwrap();
        assert!(!io.is_quiet());
        let mut all = String::new();
        io.read_to_string(&mut all).await.unwrap();
        // `is_quiet` has looked at the first byte: it is for connections that must not have any.
        assert_eq!(all, "ne two three");
        let (pipe, _other) = tokio::io::duplex(16);
        let mut io = Io::from(pipe).rewind(Bytes::from_static(b"x"));
        assert_eq!(io.read_u8().await.unwrap(), b'x');
    });
}

#[test]
fn an_idle_connection_is_quiet_until_the_peer_acts() {
    run(async {
        let (mut client, accepted) = pair().await;
        let mut io = Io::from(accepted);
        assert!(io.is_quiet() && io.is_quiet());
        assert_eq!(io.peer_addr(), client.local_addr().ok());
        client.write_all(b"x").await.unwrap();
        std::future::poll_fn(|cx| io.poll_readable(cx)).await.unwrap();
        assert!(!io.is_quiet());
        let (client, accepted) = pair().await;
        let mut io = Io::from(accepted);
        drop(client);
        std::future::poll_fn(|cx| io.poll_readable(cx)).await.unwrap();
        assert!(!io.is_quiet());
    });
}

#[test]
fn a_reset_is_seen_as_one() {
    run(async {
        let (mut client, accepted) = pair().await;
        let io = Io::from(accepted);
        io.reset_on_close();
        drop(io);
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn buffers_come_back_empty_and_bounded() {
    let buffers = Buffers::default();
    let mut one = buffers.take();
    let at = one.as_ptr();
    one.extend_from_slice(b"abc");
    buffers.give(one);
    let again = buffers.take();
    assert!(again.is_empty() && again.capacity() >= READ_BUFFER_BYTES && again.as_ptr() == at);
    // Content that is still referenced keeps its memory to itself.
    let mut lent = again;
    lent.extend_from_slice(b"abc");
    let held = lent.split().freeze();
    buffers.give(lent);
    let other = buffers.take();
    assert!(other.capacity() >= READ_BUFFER_BYTES);
    assert_eq!(held, "abc");
    let many: Vec<_> = (0..100).map(|_| buffers.take()).collect();
    many.into_iter().for_each(|buffer| buffers.give(buffer));
    assert_eq!(buffers.len(), 64);
    buffers.trim();
    assert!(buffers.is_empty());
}
