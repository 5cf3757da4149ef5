//! `core.v3.SocketOption`: options by the numbers of Linux, of which those are taken that this proxy can set.

use bytes::Bytes;
use sidemesh_proto::envoy::config::core::v3 as pb;

use crate::rejection::Rejection;
use crate::wire;

/// One option of a socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    pub kind: Kind,
    pub value: Value,
    pub state: State,
    /// Sockets of the other address family are left alone.
    pub family: Option<Family>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Number(u32),
    Bytes(Bytes),
}

/// When it is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Prebind,
    Bound,
    Listening,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    ReuseAddress,
    SendBuffer,
    ReceiveBuffer,
    KeepAlive,
    OutOfBandInline,
    Priority,
    Linger,
    ReusePort,
    BindToDevice,
    Mark,
    BusyPoll,
    IncomingCpu,
    TypeOfService,
    TimeToLive,
    FreebindV4,
    TransparentV4,
    BindAddressNoPort,
    HopsV6,
    OnlyV6,
    TrafficClassV6,
    TransparentV6,
    FreebindV6,
    NoDelay,
    MaxSegment,
    Cork,
    KeepIdle,
    KeepInterval,
    KeepCount,
    QuickAck,
    Congestion,
    UserTimeout,
}

/// Level and number (Linux), the name in C, and what it is.
const KNOWN: [(i64, i64, &str, Kind); 31] = [
    (1, 2, "SO_REUSEADDR", Kind::ReuseAddress),
    (1, 7, "SO_SNDBUF", Kind::SendBuffer),
    (1, 8, "SO_RCVBUF", Kind::ReceiveBuffer),
    (1, 9, "SO_KEEPALIVE", Kind::KeepAlive),
    (1, 10, "SO_OOBINLINE", Kind::OutOfBandInline),
    (1, 12, "SO_PRIORITY", Kind::Priority),
    (1, 13, "SO_LINGER", Kind::Linger),
    (1, 15, "SO_REUSEPORT", Kind::ReusePort),
    (1, 25, "SO_BINDTODEVICE", Kind::BindToDevice),
    (1, 36, "SO_MARK", Kind::Mark),
    (1, 46, "SO_BUSY_POLL", Kind::BusyPoll),
    (1, 49, "SO_INCOMING_CPU", Kind::IncomingCpu),
    (0, 1, "IP_TOS", Kind::TypeOfService),
    (0, 2, "IP_TTL", Kind::TimeToLive),
    (0, 15, "IP_FREEBIND", Kind::FreebindV4),
    (0, 19, "IP_TRANSPARENT", Kind::TransparentV4),
    (0, 24, "IP_BIND_ADDRESS_NO_PORT", Kind::BindAddressNoPort),
    (41, 16, "IPV6_UNICAST_HOPS", Kind::HopsV6),
    (41, 26, "IPV6_V6ONLY", Kind::OnlyV6),
    (41, 67, "IPV6_TCLASS", Kind::TrafficClassV6),
    (41, 75, "IPV6_TRANSPARENT", Kind::TransparentV6),
    (41, 78, "IPV6_FREEBIND", Kind::FreebindV6),
    (6, 1, "TCP_NODELAY", Kind::NoDelay),
    (6, 2, "TCP_MAXSEG", Kind::MaxSegment),
    (6, 3, "TCP_CORK", Kind::Cork),
    (6, 4, "TCP_KEEPIDLE", Kind::KeepIdle),
    (6, 5, "TCP_KEEPINTVL", Kind::KeepInterval),
    (6, 6, "TCP_KEEPCNT", Kind::KeepCount),
    (6, 12, "TCP_QUICKACK", Kind::QuickAck),
    (6, 13, "TCP_CONGESTION", Kind::Congestion),
    (6, 18, "TCP_USER_TIMEOUT", Kind::UserTimeout),
];

impl Kind {
    /// As in C.
    pub fn name(self) -> &'static str {
        KNOWN.iter().find(|(_, _, _, kind)| *kind == self).map_or("", |(_, _, name, _)| name)
    }

    fn takes_bytes(self) -> bool {
        matches!(self, Kind::BindToDevice | Kind::Congestion | Kind::Linger)
    }
}

/// The options of a list that are for TCP sockets.
pub fn parse_all(options: &[pb::SocketOption]) -> Result<Vec<SocketOption>, Rejection> {
    let all = wire::each(options, "socket_options", parse)?;
    Ok(all.into_iter().flatten().collect())
}

/// `None`: it is for datagrams.
fn parse(option: &pb::SocketOption) -> Result<Option<SocketOption>, Rejection> {
    if let Some(kind) = &option.r#type
        && kind.stream.is_none()
        && kind.datagram.is_some()
    {
        return Ok(None);
    }
    let found = KNOWN.iter().find(|(level, number, _, _)| (*level, *number) == (option.level, option.name));
    let Some((_, _, name, kind)) = found else {
        let names: Vec<&str> = KNOWN.iter().map(|(_, _, name, _)| *name).collect();
        let reason =
            format!("option {} of level {} cannot be set; these can: {}", option.name, option.level, names.join(", "));
        return Err(Rejection::invalid("name", reason));
    };
    let value = match &option.value {
        Some(pb::socket_option::Value::IntValue(n)) if !kind.takes_bytes() => match u32::try_from(*n) {
            Ok(n) => Value::Number(n),
            Err(_) => return Err(Rejection::invalid("int_value", format!("{n} is out of range for {name}"))),
        },
        Some(pb::socket_option::Value::BufValue(bytes)) if kind.takes_bytes() => {
            if *kind == Kind::Linger && bytes.len() != 8 {
                return Err(Rejection::invalid("buf_value", "SO_LINGER takes a `struct linger` of 8 bytes"));
            }
            Value::Bytes(bytes.clone().into())
        }
        _ => {
            let field = if kind.takes_bytes() { "buf_value" } else { "int_value" };
            return Err(Rejection::invalid(field, format!("{name} takes it")));
        }
    };
    use pb::socket_option::{SocketIpVersion, SocketState};
    let state = match wire::enumeration::<SocketState>(option.state, "state")? {
        SocketState::StatePrebind => State::Prebind,
        SocketState::StateBound => State::Bound,
        SocketState::StateListening => State::Listening,
    };
    let family = match wire::enumeration::<SocketIpVersion>(option.ip_version, "ip_version")? {
        SocketIpVersion::Unspecified => None,
        SocketIpVersion::Ipv4 => Some(Family::V4),
        SocketIpVersion::Ipv6 => Some(Family::V6),
    };
    Ok(Some(SocketOption { kind: *kind, value, state, family }))
}
