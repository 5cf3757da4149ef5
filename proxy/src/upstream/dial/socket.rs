//! A connected socket with the options of its cluster.

use std::io;
use std::net::SocketAddr;

use sidemesh_config::resource::cluster::{BindConfig, TcpKeepalive};
use sidemesh_config::resource::socket_option::State;
use sidemesh_config::value::Address;
use socket2::SockRef;
use tokio::net::{TcpSocket, UnixStream};

use super::failed;
use crate::io::{Socket, option};
use crate::upstream::error::{AttemptError, system_words};

/// `messages`: what the connection is for, a stream of bytes otherwise.
pub async fn connect(
    address: &Address,
    binds: [Option<&BindConfig>; 2],
    keepalive: Option<&TcpKeepalive>,
    messages: bool,
) -> Result<Socket, AttemptError> {
    match address {
        Address::Socket(to) => {
            let socket = prepare(*to, keepalive).map_err(failed)?;
            if binds.iter().any(Option::is_some) {
                bind(&socket, *to, binds).map_err(|error| AttemptError::Bind(system_words(&error)))?;
            }
            let connected = socket.connect(*to).await.and_then(|stream| Socket::adopt(stream, messages));
            connected.map_err(|error| match is_immediate(&error) {
                true => immediate(&error, address),
                false => failed(error),
            })
        }
        Address::Pipe(path) => {
            UnixStream::connect(path).await.map(Socket::from).map_err(|error| immediate(&error, address))
        }
        Address::Dns { .. } => {
            Err(failed(io::Error::new(io::ErrorKind::NotFound, "the host's name has not been resolved")))
        }
    }
}

/// No packet has left this machine.
fn is_immediate(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::PermissionDenied)
}

fn immediate(error: &io::Error, address: &Address) -> AttemptError {
    AttemptError::Connect(format!("immediate connect error: {}|remote address:{address}", system_words(error)).into())
}

fn prepare(to: SocketAddr, keepalive: Option<&TcpKeepalive>) -> io::Result<TcpSocket> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    if let Some(keepalive) = keepalive {
        keep_alive(&socket, keepalive)?;
    }
    Ok(socket)
}

/// Options and source address: what the first says of either counts.
fn bind(socket: &TcpSocket, to: SocketAddr, binds: [Option<&BindConfig>; 2]) -> io::Result<()> {
    let given = || binds.into_iter().flatten();
    let options = given().map(|b| &b.options[..]).find(|o| !o.is_empty()).unwrap_or_default();
    let set = |state| option::set(SockRef::from(socket), to.is_ipv4(), options, state);
    set(State::Prebind)?;
    if let Some(bind) = given().find(|b| b.source.is_some()) {
        take_source(socket, to, bind)?;
    }
    set(State::Bound)
}

/// Binds to the source address of the destination's family, if there is one.
fn take_source(socket: &TcpSocket, to: SocketAddr, bind: &BindConfig) -> io::Result<()> {
    let mut sources = bind.source.into_iter().chain(bind.extra);
    let Some(source) = sources.find(|source| source.is_ipv4() == to.is_ipv4()) else { return Ok(()) };
    if bind.freebind {
        let raw = SockRef::from(socket);
        if to.is_ipv4() { raw.set_freebind_v4(true)? } else { raw.set_freebind_v6(true)? }
    }
    socket.bind(source)
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
