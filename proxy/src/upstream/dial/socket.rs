//! A connected socket with the options of its cluster.

use std::io;

use sidemesh_config::resource::cluster::{BindConfig, TcpKeepalive};
use sidemesh_config::value::Address;
use socket2::SockRef;
use tokio::net::{TcpSocket, UnixStream};

use crate::io::Socket;

/// `messages`: what the connection is for, a stream of bytes otherwise.
pub async fn connect(
    address: &Address,
    bind: Option<&BindConfig>,
    keepalive: Option<&TcpKeepalive>,
    messages: bool,
) -> io::Result<Socket> {
    let address = match address {
        Address::Socket(address) => *address,
        Address::Pipe(path) => return UnixStream::connect(path).await.map(Socket::from),
        Address::Dns { .. } => {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the host's name has not been resolved"));
        }
    };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        keep_alive(&socket, keepalive)?;
    }
    if let Some(bind) = bind.filter(|b| b.source.is_ipv4() == address.is_ipv4()) {
        let raw = SockRef::from(&socket);
        if bind.freebind {
            if address.is_ipv4() { raw.set_freebind_v4(true)? } else { raw.set_freebind_v6(true)? }
        }
        socket.bind(bind.source)?;
    }
    let stream = socket.connect(address).await?;
    if messages { Socket::for_messages(stream) } else { Ok(stream.into()) }
}

fn keep_alive(socket: &TcpSocket, config: &TcpKeepalive) -> io::Result<()> {
    let mut options = socket2::TcpKeepalive::new();
    if let Some(time) = config.time {
        options = options.with_time(time);
    }
    if let Some(interval) = config.interval {
        options = options.with_interval(interval);
    }
    if let Some(probes) = config.probes {
        options = options.with_retries(probes);
    }
    SockRef::from(socket).set_tcp_keepalive(&options)
}
