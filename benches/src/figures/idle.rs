//! Resident memory at rest, and what idle connections add: each has carried one request.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};
use serde_json::json;
use sidemesh_tests::origin::Origin;
use sidemesh_tests::{ports, proxy};

use super::tls::Pki;
use crate::peers::Peer;

/// After which buffers and parked connections have been given back.
const REST: Duration = Duration::from_secs(4);

/// Memory in KiB.
#[derive(Debug)]
pub struct Outcome {
    pub idle: u64,
    pub per_connection: f64,
    pub per_tls_connection: f64,
}

pub fn run(peer: &Peer, connections: u32) -> Result<Outcome, String> {
    let (idle, per_connection) = held(peer, connections, None)?;
    let (_, per_tls_connection) = held(peer, connections, Some(&Pki::new()))?;
    Ok(Outcome { idle, per_connection, per_tls_connection })
}

/// Memory without connections, and what each adds.
fn held(peer: &Peer, connections: u32, pki: Option<&Pki>) -> Result<(u64, f64), String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (origin, entry) = (Origin::saying("ok"), ports::free());
    let mut listener = proxy::http_listener("entry", entry, &proxy::all_to("origin"), &json!({}));
    if let Some(pki) = pki {
        listener["filter_chains"][0]["transport_socket"] = pki.downstream();
    }
    let bootstrap = proxy::fixed(&[listener], &[proxy::cluster("origin", &[origin.address])]);
    let running = peer.start(dir.path(), &bootstrap);
    std::thread::sleep(REST);
    let idle = running.resident_kib();
    let client = pki.map(|pki| pki.client(false));
    let mut kept = Vec::new();
    for _ in 0..connections {
        kept.push(once(entry, client.as_ref()).map_err(|e| format!("{}: {e}", peer.name))?);
    }
    std::thread::sleep(REST);
    let full = running.resident_kib();
    Ok((idle, full.saturating_sub(idle) as f64 / f64::from(connections)))
}

/// One request; the connection is kept.
fn once(entry: SocketAddr, tls: Option<&Arc<rustls::ClientConfig>>) -> std::io::Result<Box<dyn Read>> {
    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n";
    let stream = TcpStream::connect(entry)?;
    match tls {
        None => answered(stream, HEAD),
        Some(config) => {
            let session = ClientConnection::new(config.clone(), super::tls::server_name());
            answered(StreamOwned::new(session.map_err(std::io::Error::other)?, stream), HEAD)
        }
    }
}

/// Sends `head` and waits for the answer, which is small enough to come at once.
fn answered(mut stream: impl Read + Write + 'static, head: &[u8]) -> std::io::Result<Box<dyn Read>> {
    stream.write_all(head)?;
    match stream.read(&mut [0; 4096])? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(Box::new(stream)),
    }
}
