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
    // What was in use since the last time is kept, what was not is freed.
    buffers.trim();
    let some: Vec<_> = (0..10).map(|_| buffers.take()).collect();
    some.into_iter().for_each(|buffer| buffers.give(buffer));
    buffers.trim();
    assert_eq!(buffers.len(), 10);
    buffers.trim();
    assert!(buffers.is_empty());
}

/// A connection through TLS, over sockets that had early bytes.
async fn tls_pair() -> (Io, Io) {
    use std::sync::Arc;
    let key = rcgen::generate_simple_self_signed(vec!["h.test".to_owned()]).unwrap();
    let der = rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(key.cert.der().clone()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![key.cert.der().clone()], der)
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = pair().await;
    let mut far = far;
    let mut early = [0; 5];
    let accept = async {
        far.read_exact(&mut early).await.unwrap();
        let socket = super::Socket::from(far).with_prefix(Bytes::copy_from_slice(&early));
        Io::from(tokio_rustls::TlsAcceptor::from(Arc::new(server)).accept(socket).await.unwrap())
    };
    let connect = async {
        let name = rustls::pki_types::ServerName::try_from("h.test").unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
        Io::from(connector.connect(name, super::Socket::from(near)).await.unwrap())
    };
    tokio::join!(connect, accept)
}

#[test]
fn readiness_below_tls_counts_what_is_decrypted() {
    run(async {
        let (mut client, mut server) = tls_pair().await;
        assert!(client.is_tls() && server.server_session().is_some());
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
