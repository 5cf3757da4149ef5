use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

struct Bench {
    client: DuplexStream,
    host: DuplexStream,
    task: tokio::task::JoinHandle<(End, u64, u64)>,
}

/// A pair in its own task between a client and a host.
fn bench(idle: Option<Duration>) -> Bench {
    let (client, downstream) = duplex(1024);
    let (host, upstream) = duplex(1024);
    let task = tokio::task::spawn_local(async move {
        let (buffers, pipes, timers, clock) = (Buffers::default(), Pipes::default(), Timers::new(), Clock::new());
        let (mut downstream, mut upstream) = (Io::from(downstream), Io::from(upstream));
        let copied = Copied::default();
        let tools = Tools { buffers: &buffers, pipes: &pipes, timers: &timers, clock: &clock };
        let end = pair(&mut downstream, &mut upstream, idle, tools, &copied).await;
        (end, copied.up.get(), copied.down.get())
    });
    Bench { client, host, task }
}

async fn local<F: Future<Output = ()>>(test: F) {
    tokio::task::LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_both_ways_and_a_half_close_leaves_the_other_way_open() {
    local(async {
        let mut b = bench(None);
        b.client.write_all(b"hello").await.unwrap();
        b.client.shutdown().await.unwrap();
        let mut got = Vec::new();
        b.host.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"hello");
        b.host.write_all(b"bye after the half close").await.unwrap();
        drop(b.host);
        let mut back = Vec::new();
        b.client.read_to_end(&mut back).await.unwrap();
        assert_eq!(back, b"bye after the half close");
        assert_eq!(b.task.await.unwrap(), (End::Complete, 5, 24));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_pair_ends_and_a_busy_one_does_not() {
    local(async {
        let mut b = bench(Some(Duration::from_secs(10)));
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(6)).await;
            b.client.write_all(b"x").await.unwrap();
            assert_eq!(b.host.read_u8().await.unwrap(), b'x');
        }
        assert!(!b.task.is_finished());
        tokio::time::sleep(Duration::from_secs(11)).await;
        assert_eq!(b.task.await.unwrap().0, End::Idle);
    })
    .await;
}

/// A listener on loopback, what connects to it, and what it accepts.
async fn sockets() -> (TcpStream, TcpStream) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn long_streams_of_plain_sockets_arrive_whole_in_both_directions() {
    const LEN: usize = 12 * 1024 * 1024 + 5;
    let sent: Vec<u8> = (0..LEN).map(|i| ((i * 131) >> 5) as u8).collect();
    local(async {
        let (client, downstream) = sockets().await;
        let (upstream, host) = sockets().await;
        let copying = tokio::task::spawn_local(async move {
            let (buffers, pipes, timers, clock) = (Buffers::default(), Pipes::default(), Timers::new(), Clock::new());
            let (mut downstream, mut upstream) = (Io::from(downstream), Io::from(upstream));
            let copied = Copied::default();
            let tools = Tools { buffers: &buffers, pipes: &pipes, timers: &timers, clock: &clock };
            let end = pair(&mut downstream, &mut upstream, Some(Duration::from_secs(20)), tools, &copied).await;
            let kept = pipes.take().unwrap();
            (end, copied.up.get(), copied.down.get(), kept.is_empty())
        });
        // Each end sends all of it, reads slowly at first, and ends its half when it has sent.
        let end = async |socket: TcpStream, pause: u64| {
            let (mut reader, mut writer) = socket.into_split();
            let write = async {
                writer.write_all(&sent[..100]).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
                writer.write_all(&sent[100..]).await.unwrap();
                writer.shutdown().await.unwrap();
            };
            let read = async {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                let mut got = Vec::new();
                reader.read_to_end(&mut got).await.unwrap();
                got == sent
            };
            tokio::join!(write, read).1
        };
        let (up, down) = tokio::join!(end(client, 100), end(host, 40));
        assert!(up && down, "the bytes differ");
        assert_eq!(copying.await.unwrap(), (End::Complete, LEN as u64, LEN as u64, true));
    })
    .await;
}

#[tokio::test]
async fn a_side_that_breaks_in_the_middle_of_a_stream_is_told_apart() {
    local(async {
        let (mut client, downstream) = sockets().await;
        let (upstream, host) = sockets().await;
        let copying = tokio::task::spawn_local(async move {
            let (buffers, pipes, timers, clock) = (Buffers::default(), Pipes::default(), Timers::new(), Clock::new());
            let (mut downstream, mut upstream) = (Io::from(downstream), Io::from(upstream));
            let tools = Tools { buffers: &buffers, pipes: &pipes, timers: &timers, clock: &clock };
            pair(&mut downstream, &mut upstream, None, tools, &Copied::default()).await
        });
        let mut host = Io::from(host);
        let sending = tokio::task::spawn_local(async move { while client.write_all(&[7; 100_000]).await.is_ok() {} });
        let mut got = vec![0; 2_000_000];
        host.read_exact(&mut got).await.unwrap();
        host.reset_on_close();
        drop(host);
        assert_eq!(copying.await.unwrap(), End::UpstreamReset);
        sending.await.unwrap();
    })
    .await;
}
