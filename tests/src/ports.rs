//! Free ports on loopback.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Mutex;

/// Below the range from which the kernel takes the ports of outgoing connections, so that none is lost to a client.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

/// An address on 127.0.0.1 that nothing listens on, and that no other test of this run gets.
pub fn free() -> SocketAddr {
    static NEXT: Mutex<Option<u16>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // Two test runs at once start at different places.
    let mut port = next.unwrap_or_else(|| FIRST + (std::process::id() % 600) as u16 * 20);
    for _ in FIRST..LAST {
        port = if port + 1 >= LAST { FIRST } else { port + 1 };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            *next = Some(port);
            return SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        }
    }
    panic!("no free port between {FIRST} and {LAST}");
}
