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
        let (buffers, timers, clock) = (Buffers::default(), Timers::new(), Clock::new());
        let (mut downstream, mut upstream) = (Io::from(downstream), Io::from(upstream));
        let copied = Copied::default();
        let tools = Tools { buffers: &buffers, timers: &timers, clock: &clock };
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
