//! Socket options as the configuration gives them (`core.v3.SocketOption`).

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use sidemesh_config::resource::socket_option::{Family, Kind, SocketOption, State, Value};
use socket2::SockRef;

/// Sets the options whose time is `state` on a TCP socket (`v4`: of that family).
///
/// # Errors
/// The kernel's, with the option's name.
pub fn set(socket: SockRef<'_>, v4: bool, options: &[SocketOption], state: State) -> io::Result<()> {
    let ours = |o: &&SocketOption| o.state == state && o.family.is_none_or(|f| (f == Family::V4) == v4);
    for option in options.iter().filter(ours) {
        let done = match &option.value {
            Value::Number(n) => set_number(&socket, option.kind, *n),
            Value::Bytes(bytes) => set_bytes(&socket, option.kind, bytes),
        };
        done.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", option.kind.name())))?;
    }
    Ok(())
}

fn set_number(socket: &SockRef<'_>, kind: Kind, n: u32) -> io::Result<()> {
    let (on, fd) = (n != 0, socket.as_fd());
    match kind {
        Kind::ReuseAddress => socket.set_reuse_address(on),
        Kind::SendBuffer => socket.set_send_buffer_size(n as usize),
        Kind::ReceiveBuffer => socket.set_recv_buffer_size(n as usize),
        Kind::KeepAlive => socket.set_keepalive(on),
        Kind::OutOfBandInline => socket.set_out_of_band_inline(on),
        Kind::Priority => socket.set_priority(n),
        Kind::ReusePort => socket.set_reuse_port(on),
        Kind::Mark => socket.set_mark(n),
        Kind::BusyPoll => socket.set_busy_poll(n),
        Kind::IncomingCpu => socket.set_cpu_affinity(n as usize),
        Kind::TypeOfService => socket.set_tos_v4(n),
        Kind::TimeToLive => socket.set_ttl_v4(n),
        Kind::FreebindV4 => socket.set_freebind_v4(on),
        Kind::TransparentV4 => socket.set_ip_transparent_v4(on),
        Kind::BindAddressNoPort => Ok(setsockopt(&fd, sockopt::IpBindAddressNoPort, &on)?),
        Kind::HopsV6 => socket.set_unicast_hops_v6(n),
        Kind::OnlyV6 => socket.set_only_v6(on),
        Kind::TrafficClassV6 => socket.set_tclass_v6(n),
        Kind::TransparentV6 => socket.set_ip_transparent_v6(on),
        Kind::FreebindV6 => socket.set_freebind_v6(on),
        Kind::NoDelay => socket.set_tcp_nodelay(on),
        Kind::MaxSegment => socket.set_tcp_mss(n),
        Kind::Cork => socket.set_tcp_cork(on),
        Kind::KeepIdle => Ok(setsockopt(&fd, sockopt::TcpKeepIdle, &n)?),
        Kind::KeepInterval => Ok(setsockopt(&fd, sockopt::TcpKeepInterval, &n)?),
        Kind::KeepCount => Ok(setsockopt(&fd, sockopt::TcpKeepCount, &n)?),
        Kind::QuickAck => socket.set_tcp_quickack(on),
        Kind::UserTimeout => socket.set_tcp_user_timeout(Some(Duration::from_millis(n.into()))),
        // Their values are bytes: the configuration is checked.
        Kind::Linger | Kind::BindToDevice | Kind::Congestion => Ok(()),
    }
}

fn set_bytes(socket: &SockRef<'_>, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let text = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    match (kind, bytes) {
        (Kind::BindToDevice, _) => socket.bind_device(Some(text)),
        (Kind::Congestion, _) => socket.set_tcp_congestion(text),
        // `struct linger`: whether, and for how many seconds.
        (Kind::Linger, [a, b, c, d, e, f, g, h]) => {
            let on = i32::from_ne_bytes([*a, *b, *c, *d]) != 0;
            let seconds = i32::from_ne_bytes([*e, *f, *g, *h]);
            socket.set_linger(on.then(|| Duration::from_secs(u64::from(seconds.max(0).unsigned_abs()))))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(kind: Kind, value: Value) -> SocketOption {
        SocketOption { kind, value, state: State::Prebind, family: None }
    }

    #[test]
    fn options_reach_the_kernel() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let options = [
            option(Kind::KeepAlive, Value::Number(1)),
            option(Kind::KeepIdle, Value::Number(77)),
            option(Kind::UserTimeout, Value::Number(1500)),
            option(Kind::Linger, Value::Bytes([1i32.to_ne_bytes(), 3i32.to_ne_bytes()].concat().into())),
            SocketOption { state: State::Bound, ..option(Kind::NoDelay, Value::Number(1)) },
            SocketOption { family: Some(Family::V6), ..option(Kind::TimeToLive, Value::Number(9)) },
        ];
        set(SockRef::from(&socket), true, &options, State::Prebind).unwrap();
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(77));
        assert_eq!(socket.tcp_user_timeout().unwrap(), Some(Duration::from_millis(1500)));
        assert_eq!(socket.linger().unwrap(), Some(Duration::from_secs(3)));
        assert!(!socket.tcp_nodelay().unwrap());
        assert_ne!(socket.ttl_v4().unwrap(), 9);
    }

    #[test]
    fn what_the_kernel_refuses_is_named() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let options = [option(Kind::Congestion, Value::Bytes(b"none such".as_slice().into()))];
        let error = set(SockRef::from(&socket), true, &options, State::Prebind).unwrap_err();
        assert!(error.to_string().starts_with("TCP_CONGESTION: "), "{error}");
    }
}
