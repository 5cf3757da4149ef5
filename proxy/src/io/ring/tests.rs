//! A worker's event loop with a ring, and real TCP connections whose other end is a plain thread.
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Barrier};
use std::task::Poll;
use std::thread::JoinHandle;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::kernel::PIECE_BYTES;
use super::{Ring, drive};
use crate::io::{Io, Socket};

/// Runs `test` on a thread with a ring.
fn on_ring<F: Future<Output = ()> + 'static>(test: impl FnOnce() -> F + Send + 'static) {
    let worker = std::thread::spawn(move || {
        if let Err(error) = Ring::install() {
            assert!(std::env::var_os("SIDEMESH_REQUIRE_ALL").is_none(), "io_uring: {error}");
            return eprintln!(
                "not run: this kernel lets the process use no io_uring ({error}); needs Linux 6.1 and permission"
            );
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(drive(test())).unwrap();
    });
    worker.join().unwrap();
}

/// A connection whose one end is on the ring; `peer` has the other one, on its own thread.
async fn connection<T: Send + 'static>(peer: impl FnOnce(TcpStream) -> T + Send + 'static) -> (Io, JoinHandle<T>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let peer = std::thread::spawn(move || peer(listener.accept().unwrap().0));
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    (Socket::adopt(stream, true).unwrap().into(), peer)
}

fn read_all(mut peer: TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    peer.read_to_end(&mut all).unwrap();
    all
}

/// Waits for a thread without stopping this one.
async fn joined<T: Send + 'static>(thread: JoinHandle<T>) -> T {
    tokio::task::spawn_blocking(move || thread.join().unwrap()).await.unwrap()
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| ((i * 31) >> 3) as u8).collect()
}

#[test]
fn requests_and_responses_go_back_and_forth() {
    on_ring(|| async {
        let (mut io, peer) = connection(|mut peer| {
            let mut buf = [0; 64];
            loop {
                match peer.read(&mut buf).unwrap() {
                    0 => return,
                    n => peer.write_all(&buf[..n]).unwrap(),
                }
            }
        })
        .await;
        for i in 0..200u32 {
            // Several writes of one turn leave as one.
            io.write_all(b"request ").await.unwrap();
            io.write_u32(i).await.unwrap();
            io.flush().await.unwrap();
            let mut answer = [0; 12];
            io.read_exact(&mut answer).await.unwrap();
            assert_eq!((&answer[..8], &answer[8..]), (&b"request "[..], &i.to_be_bytes()[..]));
        }
        drop(io);
        joined(peer).await;
    });
}

#[test]
fn messages_of_all_sizes_arrive_in_order_though_the_reader_rests() {
    // Small ones keep an operation with the kernel, whole pieces end it, and a rest of the reader calls it back.
    let sizes = [1, 40, 700, 3, 90_000, 12, PIECE_BYTES, 5, 5, 5, 300_000, 1];
    let len = sizes.iter().sum::<usize>() * 20;
    on_ring(move || async move {
        let (mut io, peer) = connection(move |mut peer| {
            peer.set_nodelay(true).unwrap();
            let bytes = pattern(len);
            let mut rest = &bytes[..];
            for size in sizes.iter().cycle().take(sizes.len() * 20) {
                let (message, after) = rest.split_at(*size);
                peer.write_all(message).unwrap();
                rest = after;
            }
            // Nothing that is still to be read may be lost with the connection.
            peer.shutdown(Shutdown::Write).unwrap();
            read_all(peer)
        })
        .await;
        let (mut all, mut buf) = (Vec::new(), vec![0; 50_000]);
        for turn in 1.. {
            match io.read(&mut buf).await.unwrap() {
                0 => break,
                n => all.extend_from_slice(&buf[..n]),
            }
            if turn % 16 == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }
        assert!(all == pattern(len), "{} of {len} bytes, or others", all.len());
        io.write_all(b"all").await.unwrap();
        drop(io);
        assert_eq!(joined(peer).await, b"all");
    });
}

#[test]
fn large_transfers_arrive_whole_in_both_directions_though_the_peer_is_slow() {
    const LEN: usize = 9 * 1024 * 1024 + 17;
    on_ring(|| async {
        let (io, peer) = connection(|peer| {
            let mut sender = peer.try_clone().unwrap();
            let sending = std::thread::spawn(move || {
                sender.write_all(&pattern(LEN)).unwrap();
                sender.shutdown(Shutdown::Write).unwrap();
            });
            // Later, when the sockets between are full.
            std::thread::sleep(std::time::Duration::from_millis(150));
            let mut all = Vec::new();
            (&peer).read_to_end(&mut all).unwrap();
            sending.join().unwrap();
            all == pattern(LEN)
        })
        .await;
        let (mut reader, mut writer) = tokio::io::split(io);
        let write = async {
            let bytes = pattern(LEN);
            // Sizes below and above what is copied, and a vectored one.
            let (small, rest) = bytes.split_at(1000);
            let (middle, rest) = rest.split_at(100_000);
            writer.write_all(small).await.unwrap();
            writer.write_all(middle).await.unwrap();
            let n = writer
                .write_vectored(&[std::io::IoSlice::new(&rest[..10]), std::io::IoSlice::new(&rest[10..])])
                .await
                .unwrap();
            writer.write_all(&rest[n..]).await.unwrap();
            writer.shutdown().await.unwrap();
        };
        let mut all = Vec::new();
        let (read, ()) = tokio::join!(reader.read_to_end(&mut all), write);
        assert_eq!((read.unwrap(), all == pattern(LEN)), (LEN, true));
        assert!(joined(peer).await, "the peer got other bytes");
    });
}

#[test]
fn what_was_written_before_the_end_still_arrives() {
    on_ring(|| async {
        let (mut io, peer) = connection(read_all).await;
        io.write_all(b"last words").await.unwrap();
        drop(io);
        assert_eq!(joined(peer).await, b"last words");
    });
}

#[test]
fn what_a_full_socket_could_not_take_arrives_after_the_close() {
    on_ring(|| async {
        for chunk in [700, 3_000, 70_000] {
            let (mut io, peer) = connection(|peer| {
                // Longer than the writer waits for room.
                std::thread::sleep(std::time::Duration::from_millis(400));
                read_all(peer)
            })
            .await;
            let (bytes, mut accepted) = (pattern(16 * 1024 * 1024), 0);
            let room = std::time::Duration::from_millis(50);
            while let Ok(written) = tokio::time::timeout(room, io.write(&bytes[accepted..accepted + chunk])).await {
                accepted += written.unwrap();
            }
            drop(io);
            let got = joined(peer).await;
            assert!(got == bytes[..accepted], "in writes of {chunk}: {} of {accepted} bytes arrived", got.len());
        }
    });
}

#[test]
fn a_reset_throws_away_what_the_peer_has_not_taken() {
    on_ring(|| async {
        let (mut io, peer) = connection(|mut peer| {
            std::thread::sleep(std::time::Duration::from_millis(200));
            peer.read_to_end(&mut Vec::new()).map_err(|error| error.kind())
        })
        .await;
        let bytes = pattern(3_000);
        while tokio::time::timeout(std::time::Duration::from_millis(50), io.write_all(&bytes)).await.is_ok() {}
        io.reset_on_close();
        drop(io);
        assert_eq!(joined(peer).await, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn a_socket_is_closed_though_a_read_waits_in_the_kernel() {
    on_ring(|| async {
        let (mut io, peer) = connection(|mut peer| peer.read(&mut [0; 8]).unwrap()).await;
        assert!(io.is_quiet(), "the receive is with the kernel now");
        tokio::task::yield_now().await;
        drop(io);
        assert_eq!(joined(peer).await, 0);
    });
}

#[test]
fn half_a_connection_may_end_before_the_other() {
    on_ring(|| async {
        let (mut io, peer) = connection(|mut peer| {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).unwrap();
            peer.write_all(b"then the answer").unwrap();
            all
        })
        .await;
        io.write_all(b"all of the question").await.unwrap();
        io.shutdown().await.unwrap();
        let mut answer = String::new();
        io.read_to_string(&mut answer).await.unwrap();
        assert_eq!(answer, "then the answer");
        assert_eq!(joined(peer).await, b"all of the question");
    });
}

#[test]
fn a_reset_is_told_apart_from_an_end() {
    on_ring(|| async {
        let (mut io, peer) =
            connection(|peer| socket2::SockRef::from(&peer).set_linger(Some(std::time::Duration::ZERO)).unwrap()).await;
        joined(peer).await;
        assert_eq!(io.read_u8().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        let (io, peer) = connection(|mut peer| peer.read(&mut [0; 8]).map_err(|error| error.kind())).await;
        io.reset_on_close();
        drop(io);
        assert_eq!(joined(peer).await, Err(ErrorKind::ConnectionReset));
    });
}

#[test]
fn writing_to_a_peer_that_is_gone_fails() {
    on_ring(|| async {
        let (mut io, peer) = connection(drop).await;
        joined(peer).await;
        let error = async {
            loop {
                io.write_all(b"is anybody there").await?;
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        };
        let error: Result<std::convert::Infallible, std::io::Error> =
            tokio::time::timeout(std::time::Duration::from_secs(5), error).await.expect("in time");
        assert!(matches!(error.unwrap_err().kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset));
    });
}

#[test]
fn more_connections_than_the_queue_and_the_pieces_hold_wait_and_read_at_once() {
    const CONNECTIONS: usize = 300;
    let len = |i: usize| if i.is_multiple_of(3) { PIECE_BYTES + 100 } else { 10 };
    on_ring(move || async move {
        let start = Arc::new(Barrier::new(CONNECTIONS + 1));
        let (mut connections, mut peers) = (Vec::new(), Vec::new());
        for i in 0..CONNECTIONS {
            let start = start.clone();
            let (io, peer) = connection(move |mut peer| {
                start.wait();
                peer.write_all(&pattern(len(i))).unwrap();
            })
            .await;
            connections.push(io);
            peers.push(peer);
        }
        std::future::poll_fn(|cx| {
            assert!(connections.iter_mut().all(|io| io.poll_readable(cx).is_pending()));
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
        start.wait();
        for peer in peers {
            joined(peer).await;
        }
        // All of them have something now, and nobody has read.
        for (i, mut io) in connections.into_iter().enumerate() {
            let mut all = Vec::new();
            io.read_to_end(&mut all).await.unwrap();
            assert!(all == pattern(len(i)), "connection {i}: {} bytes", all.len());
        }
    });
}
