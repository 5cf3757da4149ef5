//! Whose process is at the other end of a loopback connection: the kernel's table of sockets says so (proc(5),
//! `/proc/net/tcp`). Sockets of other network namespaces are not in it: then nobody is known.

use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::MetadataExt;

/// `st` of an established connection. In other states the kernel no longer says whose the socket was.
const ESTABLISHED: &str = "01";

/// The user who owns the client's end of a connection from `client` to `server`, both on this machine.
pub fn of(client: SocketAddr, server: SocketAddr) -> Option<u32> {
    let tables = [("/proc/net/tcp", Form::V4), ("/proc/net/tcp6", Form::V6)];
    tables.into_iter().find_map(|(path, form)| {
        let (client, server) = (form.address(client)?, form.address(server)?);
        find(&std::fs::read_to_string(path).ok()?, &client, &server)
    })
}

/// The user that this process runs as.
pub fn own() -> Option<u32> {
    std::fs::metadata("/proc/self").ok().map(|m| m.uid())
}

fn find(table: &str, local: &str, remote: &str) -> Option<u32> {
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let found = fields.next() == Some(local) && fields.next() == Some(remote) && fields.next() == Some(ESTABLISHED);
        // Queues, timer, retransmissions, then the user.
        if found { fields.nth(3)?.parse().ok() } else { None }
    })
}

/// How a table writes addresses: words in the machine's byte order, in hexadecimal digits.
#[derive(Clone, Copy)]
enum Form {
    V4,
    V6,
}

impl Form {
    fn address(self, address: SocketAddr) -> Option<String> {
        let hex = |bytes: &[u8]| -> String {
            let words = bytes.chunks_exact(4).map(|w| u32::from_ne_bytes([w[0], w[1], w[2], w[3]]));
            words.map(|w| format!("{w:08X}")).collect()
        };
        let ip = match (self, address.ip().to_canonical()) {
            (Form::V4, IpAddr::V4(ip)) => hex(&ip.octets()),
            (Form::V4, IpAddr::V6(_)) => return None,
            (Form::V6, IpAddr::V4(ip)) => hex(&ip.to_ipv6_mapped().octets()),
            (Form::V6, IpAddr::V6(ip)) => hex(&ip.octets()),
        };
        Some(format!("{ip}:{:04X}", address.port()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_other_end_of_a_connection_of_our_own_is_ours() {
        for loopback in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(loopback) else { continue };
            let client = std::net::TcpStream::connect(listener.local_addr().expect("address")).expect("connected");
            let (server, peer) = listener.accept().expect("accepted");
            assert_eq!(of(peer, server.local_addr().expect("address")), own(), "{loopback}");
            drop((client, server));
        }
        let (nobody, server) = (SocketAddr::from(([127, 0, 0, 1], 1)), SocketAddr::from(([127, 0, 0, 1], 2)));
        assert_eq!(of(nobody, server), None);
    }

    #[test]
    fn only_an_established_socket_has_an_owner() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
                     0: 0100007F:1F90 0100007F:2328 01 00000000:00000000 00:00000000 00000000  1000        0 1 1\n   \
                     1: 0100007F:1F91 0100007F:2328 06 00000000:00000000 00:00000000 00000000     0        0 0 1\n";
        assert_eq!(find(table, "0100007F:1F90", "0100007F:2328"), Some(1000));
        assert_eq!(find(table, "0100007F:1F91", "0100007F:2328"), None);
    }
}
