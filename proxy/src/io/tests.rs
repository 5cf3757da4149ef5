//! Early bytes, quiet connections, pooled buffers.
use std::io::IoSlice;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Buffers, Greeted, Io, READ_BUFFER_BYTES, Socket, Tls};
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
    // What was in use since the last time is kept, what was not is freed.
    buffers.trim();
    let some: Vec<_> = (0..10).map(|_| buffers.take()).collect();
    some.into_iter().for_each(|buffer| buffers.give(buffer));
    buffers.trim();
    assert_eq!(buffers.len(), 10);
    buffers.trim();
    assert!(buffers.is_empty());
}

/// Configurations of both ends, TLS 1.3 or 1.2.
fn tls_configs(new: bool) -> (Arc<rustls::ClientConfig>, Arc<rustls::ServerConfig>) {
    let key = rcgen::generate_simple_self_signed(vec!["h.test".to_owned()]).unwrap();
    let der = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = [if new { &rustls::version::TLS13 } else { &rustls::version::TLS12 }];
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], der)
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(client), Arc::new(server))
}

async fn accept(socket: Socket, config: Arc<rustls::ServerConfig>) -> std::io::Result<Io> {
    Ok(Io::from(Greeted::read(socket).await?.accept(config).await?))
}

async fn connect(socket: Socket, config: Arc<rustls::ClientConfig>) -> std::io::Result<Io> {
    let name = rustls::pki_types::ServerName::try_from("h.test").unwrap();
    Ok(Io::from(Tls::connect(socket, config, name).await?))
}

/// A connection through TLS, over sockets that had early bytes.
async fn tls_pair() -> (Io, Io) {
    let (client, server) = tls_configs(true);
    let (near, mut far) = pair().await;
    let mut early = [0; 5];
    let accepted = async {
        far.read_exact(&mut early).await.unwrap();
        accept(Socket::from(far).with_prefix(Bytes::copy_from_slice(&early)), server).await.unwrap()
    };
    tokio::join!(async { connect(Socket::from(near), client).await.unwrap() }, accepted)
}

/// Carries bytes on in pieces of `piece` bytes; the bits of byte `damaged` are turned.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, piece: usize, damaged: usize) {
    let (mut at, mut bytes) = (0, vec![0; piece]);
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        if (at..at + n).contains(&damaged) {
            bytes[damaged - at] ^= 0xff;
        }
        at += n;
        if to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
    // The other side may have gone.
    let _gone = to.shutdown().await;
}

/// A conversation of a few messages each way through somebody in the middle. Whether it went well.
async fn talk(new: bool, piece: usize, damaged: (usize, usize)) -> bool {
    static MESSAGE: [u8; 20_000] = [7; 20_000];
    // A length that was tampered with makes an end wait for what never comes.
    let whole = damaged == (usize::MAX, usize::MAX);
    let limit = std::time::Duration::from_millis(if whole { 20_000 } else { 300 });
    let (client, server) = tls_configs(new);
    let ((near, middle), (onwards, far)) = (pair().await, pair().await);
    let ((from_near, to_near), (from_far, to_far)) = (middle.into_split(), onwards.into_split());
    let asks = async move {
        let mut io = connect(Socket::from(near), client).await?;
        for _ in 0..2 {
            io.write_all(&MESSAGE).await?;
            io.flush().await?;
            io.read_exact(&mut [0; 3]).await?;
        }
        io.shutdown().await
    };
    let answers = async move {
        let mut io = accept(Socket::from(far), server).await?;
        let mut got = vec![0; MESSAGE.len()];
        for _ in 0..2 {
            io.read_exact(&mut got).await?;
            if got != MESSAGE {
                return Err(std::io::Error::other("other bytes than were sent"));
            }
            let answer = [IoSlice::new(b"y"), IoSlice::new(b""), IoSlice::new(b"es")];
            assert_eq!(io.write_vectored(&answer).await?, 3, "what is small shares a record");
            io.flush().await?;
        }
        // Its end is told apart from a cut.
        if io.read(&mut got).await? == 0 {
            io.shutdown().await
        } else {
            Err(std::io::Error::other("more than was sent"))
        }
    };
    let carried =
        async { tokio::join!(carry(from_near, to_far, piece, damaged.0), carry(from_far, to_near, piece, damaged.1)) };
    let all = async { tokio::join!(asks, answers, carried) };
    let Ok((asked, answered, _)) = tokio::time::timeout(limit, all).await else { return false };
    asked.is_ok() && answered.is_ok()
}

#[test]
fn an_early_answer_over_tls_is_read_although_nothing_can_be_sent_any_more() {
    run(async {
        let (mut client, mut server) = tls_pair().await;
        let pause = |millis| tokio::time::sleep(std::time::Duration::from_millis(millis));
        // More than the sockets hold: some of it stays encoded.
        let sending = client.write_all(&[0; 16 << 20]);
        assert!(tokio::time::timeout(std::time::Duration::from_millis(200), sending).await.is_err());
        server.write_all(b"no more").await.unwrap();
        server.flush().await.unwrap();
        pause(50).await;
        // With so much unread this is a reset.
        drop(server);
        pause(50).await;
        let mut answer = [0; 7];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"no more");
        assert!(client.read_u8().await.is_err() && client.write_all(b"x").await.is_err());
    });
}

#[test]
fn tls_takes_bytes_as_they_come() {
    run(async {
        for new in [true, false] {
            for piece in [1, 7, 1000, 100_000] {
                assert!(talk(new, piece, (usize::MAX, usize::MAX)).await, "TLS 1.3: {new}, {piece} bytes at a time");
            }
        }
    });
}

#[test]
fn tls_that_was_tampered_with_ends_in_an_error() {
    run(async {
        for new in [true, false] {
            for at in (0..2000).step_by(97) {
                assert!(!talk(new, 4096, (at, usize::MAX)).await, "TLS 1.3: {new}, byte {at} of the client");
            }
            for at in (0..600).step_by(61) {
                assert!(!talk(new, 4096, (usize::MAX, at)).await, "TLS 1.3: {new}, byte {at} of the server");
            }
        }
    });
}

#[test]
fn readiness_below_tls_counts_what_is_decrypted() {
    run(async {
        let (mut client, mut server) = tls_pair().await;
        assert!(client.is_tls() && server.tls_session().is_some());
        // Session tickets are no sign of life.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        assert!(client.is_quiet() && server.is_quiet());
        client.write_all(b"abc").await.unwrap();
        client.flush().await.unwrap();
        std::future::poll_fn(|cx| server.poll_readable(cx)).await.unwrap();
        assert_eq!(server.read_u8().await.unwrap(), b'a');
        // Two bytes are left above the socket.
        std::future::poll_fn(|cx| server.poll_readable(cx)).await.unwrap();
        let mut rest = [0; 2];
        server.read_exact(&mut rest).await.unwrap();
        assert_eq!(&rest, b"bc");
        assert!(server.is_quiet());
        client.shutdown().await.unwrap();
        std::future::poll_fn(|cx| server.poll_readable(cx)).await.unwrap();
        assert!(!server.is_quiet());
    });
}
