//! Listening sockets, on the control thread: bound when a listener is accepted (so that a failure can be told to who sent
//! it), listening when it is warm, one per worker and address (`SO_REUSEPORT`), kept over changes of the listener.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;

use sidemesh_config::resource::listener::{Listener, TrafficDirection, bind_addresses};
use sidemesh_config::resource::socket_option::{SocketOption, State};
use sidemesh_config::value::{Address, Name};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::io::option;

/// Why a listener cannot be bound: address and cure included, for the NACK.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("address: not supported: `{0}`: listeners bind to IP sockets only")]
    NotIp(Address),
    #[error("address: {address} is taken by listener `{owner}`; give one of them another address")]
    Taken { address: SocketAddr, owner: Name },
    #[error("address: cannot bind {address}: {error}{}", cure(.error))]
    Bind { address: SocketAddr, error: io::Error },
}

fn cure(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there: stop it or choose another port",
        io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE or a lower net.ipv4.ip_unprivileged_port_start"
        }
        io::ErrorKind::AddrNotAvailable => "; the address is not one of this machine's (set freebind to allow it)",
        _ => "",
    }
}

/// What the sockets of an address were made with: a listener that differs gets new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Options {
    own: Vec<SocketOption>,
    transparent: bool,
    freebind: bool,
    reuse_port: bool,
    only_v6: bool,
}

struct Bound {
    owner: Name,
    inbound: bool,
    wanted: SocketAddr,
    options: Options,
    sockets: Vec<Socket>,
    listening: bool,
}

/// All sockets of the process's listeners.
pub struct Sockets {
    workers: usize,
    bound: Vec<Bound>,
    /// Addresses this process has used: sockets of a removed listener may linger in a worker for a moment.
    used: BTreeSet<SocketAddr>,
}

impl Sockets {
    pub fn new(workers: usize) -> Self {
        Sockets { workers, bound: Vec::new(), used: BTreeSet::new() }
    }

    /// Binds what `listener` wants and this process does not hold yet.
    pub fn reserve(&mut self, listener: &Listener) -> Result<(), BindError> {
        for address in std::iter::once(&listener.address).chain(&listener.additional_addresses) {
            if !matches!(address, Address::Socket(_)) {
                return Err(BindError::NotIp(address.clone()));
            }
        }
        if !listener.bind_to_port {
            return Ok(());
        }
        let (options, inbound) = (options(listener), listener.direction == TrafficDirection::Inbound);
        let mut fresh = Vec::new();
        for wanted in bind_addresses(listener) {
            let held = self.bound.iter().find(|b| b.wanted == wanted && wanted.port() != 0);
            match held {
                Some(b) if b.owner != listener.name => {
                    return Err(BindError::Taken { address: wanted, owner: b.owner.clone() });
                }
                Some(b) if b.options == options => {}
                _ if self.holds_ephemeral(listener, wanted) => {}
                _ => {
                    let sockets =
                        self.bind(wanted, &options).map_err(|error| BindError::Bind { address: wanted, error })?;
                    fresh.push(Bound {
                        owner: listener.name.clone(),
                        inbound,
                        wanted,
                        options: options.clone(),
                        sockets,
                        listening: false,
                    });
                }
            }
        }
        // Only now, so that a failure leaves nothing behind.
        self.used.extend(fresh.iter().map(|b| b.wanted));
        self.bound.extend(fresh);
        // An update may change nothing else.
        self.bound.iter_mut().filter(|b| b.owner == listener.name).for_each(|b| b.inbound = inbound);
        Ok(())
    }

    fn holds_ephemeral(&self, listener: &Listener, wanted: SocketAddr) -> bool {
        wanted.port() == 0 && self.bound.iter().any(|b| b.owner == listener.name && b.wanted == wanted)
    }

    /// The sockets of an active listener, by worker, listening from now on.
    pub fn open(&mut self, listener: &Listener) -> io::Result<Vec<Vec<std::net::TcpListener>>> {
        let mut by_worker: Vec<Vec<std::net::TcpListener>> = (0..self.workers).map(|_| Vec::new()).collect();
        let options = options(listener);
        let backlog = i32::try_from(listener.tcp_backlog).unwrap_or(i32::MAX);
        for wanted in bind_addresses(listener).into_iter().filter(|_| listener.bind_to_port) {
            let found =
                self.bound.iter_mut().find(|b| b.owner == listener.name && b.wanted == wanted && b.options == options);
            let Some(bound) = found else { continue };
            if !bound.listening {
                for socket in &bound.sockets {
                    socket.listen(backlog)?;
                    set(socket, wanted, &bound.options.own, State::Listening)?;
                }
                bound.listening = true;
            }
            // Without SO_REUSEPORT all workers accept on the one socket.
            for (sockets, socket) in by_worker.iter_mut().zip(bound.sockets.iter().cycle()) {
                sockets.push(socket.try_clone()?.into());
            }
        }
        Ok(by_worker)
    }

    /// Closes the sockets of listeners that are no longer there, or that moved.
    pub fn retain<'a>(&mut self, listeners: impl Iterator<Item = &'a Listener> + Clone) {
        self.bound.retain(|bound| {
            listeners.clone().any(|l| {
                l.name == bound.owner && options(l) == bound.options && bind_addresses(l).contains(&bound.wanted)
            })
        });
    }

    /// Closes all, or those of inbound listeners alone.
    pub fn clear(&mut self, inbound_only: bool) {
        self.bound.retain(|bound| inbound_only && !bound.inbound);
    }

    /// One socket per worker; a port of 0 is chosen once.
    fn bind(&self, wanted: SocketAddr, options: &Options) -> io::Result<Vec<Socket>> {
        if wanted.port() != 0 && !self.used.contains(&wanted) {
            // Without SO_REUSEPORT, so that another process that has it set does not share our port unnoticed.
            drop(bind_one(wanted, &Options { reuse_port: false, ..options.clone() })?);
        }
        let mut address = wanted;
        let count = if options.reuse_port { self.workers } else { 1 };
        let mut sockets = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = bind_one(address, options)?;
            if address.port() == 0
                && let Some(actual) = socket.local_addr()?.as_socket()
            {
                address = actual;
            }
            sockets.push(socket);
        }
        Ok(sockets)
    }
}

fn options(listener: &Listener) -> Options {
    Options {
        own: listener.socket_options.clone(),
        transparent: listener.transparent,
        freebind: listener.freebind,
        reuse_port: listener.reuse_port,
        only_v6: !listener.ipv4_compat,
    }
}

fn bind_one(address: SocketAddr, options: &Options) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(options.only_v6)?;
    }
    if options.freebind {
        if address.is_ipv6() {
            socket.set_freebind_v6(true)?
        } else {
            socket.set_freebind_v4(true)?
        };
    }
    if options.transparent && address.is_ipv4() {
        socket.set_ip_transparent_v4(true)?;
    }
    set(&socket, address, &options.own, State::Prebind)?;
    socket.bind(&address.into())?;
    set(&socket, address, &options.own, State::Bound)?;
    Ok(socket)
}

fn set(socket: &Socket, address: SocketAddr, options: &[SocketOption], state: State) -> io::Result<()> {
    option::set(SockRef::from(socket), address.is_ipv4(), options, state)
}
