//! Flat cost: a request through the whole proxy costs the same with 10,000 routes, clusters and endpoints as with 10.
//!
//! The proxy runs under callgrind, which counts nothing until it is asked; then so many requests go through, and what the worker's
//! thread ran for them is read. Every request takes the last of the routes and is balanced over all endpoints of the cluster in the
//! middle, on a new upstream connection: with more endpoints than requests nothing else would be alike.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sidemesh_tests::process::Process;
use sidemesh_tests::{http, ports, proxy};
use socket2::{Domain, Socket, Type};

use crate::figures::resources;
use crate::micro::counted;
use crate::peers::Peer;

const FEW: u32 = 10;
const MANY: u32 = 10_000;
/// How much more a request may cost with many.
const MOST: f64 = 1.1;
const WARM_UP: u32 = 50;
const REQUESTS: u32 = 300;
/// A start under valgrind, uninstrumented.
const START_WITHIN: Duration = Duration::from_secs(180);

/// Compares the two; an error when the cost is not flat.
pub fn run(peer: &Peer) -> Result<(), String> {
    if !counted::is_there() {
        return counted::not_run("flat cost");
    }
    let (few, many) = (instructions(peer, FEW)?, instructions(peer, MANY)?);
    let ratio = many as f64 / few as f64;
    println!(
        "instructions per request: {few} with {FEW} routes, clusters and endpoints, {many} with {MANY}: x {ratio:.3}"
    );
    match ratio <= MOST {
        true => Ok(()),
        false => Err(format!(
            "a request costs {ratio:.2} times as much with {MANY} as with {FEW}; at most {MOST} is allowed"
        )),
    }
}

fn instructions(peer: &Peer, size: u32) -> Result<u64, String> {
    let dir = tempfile::tempdir().map_err(|e| e.to_string())?;
    let (entry, admin, origin) = (ports::free(), ports::free(), origin()?);
    let listener = proxy::http_listener("entry", entry, &resources::routes(size), &json!({}));
    let clusters: Vec<Value> = (0..size).map(|i| cluster(i, size, origin)).collect();
    let mut bootstrap = proxy::fixed(&[listener], &clusters);
    bootstrap["admin"]["address"] = proxy::address(admin);
    let path = dir.path().join("flat.json");
    std::fs::write(&path, bootstrap.to_string()).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"]);
    command.arg(format!("--callgrind-out-file={}", dir.path().join("out").display()));
    command.arg(peer.program()).arg("-c").arg(&path).args(["--workers", "1", "-l", "error", "--io", "epoll"]);
    let mut process = Process::start("flat", command, dir.path());
    let deadline = Instant::now() + START_WITHIN;
    while !http::get(admin, "/ready").is_ok_and(|answer| answer.status == 200) {
        process.assert_running();
        if Instant::now() > deadline {
            return Err(format!("the proxy is not ready after {START_WITHIN:?}:\n{}", process.log()));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let control = |flag: &str| control(&process, flag);
    control("-ion")?;
    ask(entry, size, WARM_UP)?;
    control("-z")?;
    ask(entry, size, REQUESTS)?;
    control("-d")?;
    let all = worker(dir.path())?;
    process.kill();
    Ok(all / u64::from(REQUESTS))
}

fn control(process: &Process, flag: &str) -> Result<(), String> {
    let output = match flag {
        "-ion" => Command::new("callgrind_control").args(["-i", "on", &process.id().to_string()]).output(),
        flag => Command::new("callgrind_control").args([flag, &process.id().to_string()]).output(),
    };
    let output = output.map_err(|e| format!("callgrind_control: {e}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() && text.contains("OK.") {
        Ok(())
    } else {
        Err(format!("callgrind_control {flag}: {text}"))
    }
}

/// Sends requests one after the other on one connection.
fn ask(entry: SocketAddr, size: u32, count: u32) -> Result<(), String> {
    let last = resources::name(size - 1);
    let head = format!("GET /{last}/item HTTP/1.1\r\nhost: bench\r\n\r\n");
    let mut connection = http::Connection::open(entry).map_err(|e| format!("{entry}: {e}"))?;
    for _ in 0..count {
        connection.send(&head).map_err(|e| e.to_string())?;
        let answer = connection.receive().map_err(|e| e.to_string())?;
        if answer.status != 200 {
            return Err(format!("{} {}", answer.status, answer.text()));
        }
    }
    Ok(())
}

/// What the worker's thread ran: the most of any but the first, which is the control thread.
fn worker(dir: &Path) -> Result<u64, String> {
    let entries = std::fs::read_dir(dir).map_err(|e| e.to_string())?;
    let mut most = 0;
    for path in entries.filter_map(|e| Some(e.ok()?.path())) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
        if !name.starts_with("out.") || name.ends_with("-01") {
            continue;
        }
        let text = std::fs::read_to_string(&path).map_err(|e| e.to_string())?;
        let total = |line: &str| line.strip_prefix("totals:")?.trim().parse::<u64>().ok();
        most = most.max(text.lines().filter_map(total).sum());
    }
    if most == 0 { Err("callgrind has written no counts".to_owned()) } else { Ok(most) }
}

/// The last cluster has `size` endpoints, all of them the origin; the others have one.
fn cluster(i: u32, size: u32, origin: u16) -> Value {
    let count = if i + 1 == size { size } else { 1 };
    let hosts: Vec<_> = resources::addresses(0, count).map(|a| SocketAddr::new(a.ip(), origin)).collect();
    let mut cluster = proxy::cluster(&resources::name(i), &hosts);
    cluster["lb_policy"] = json!("LEAST_REQUEST");
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    let once = json!({"common_http_protocol_options": {"max_requests_per_connection": 1},
        "explicit_http_config": {"http_protocol_options": {}}});
    cluster["typed_extension_protocol_options"] = json!({options: proxy::typed(options, once)});
    cluster
}

/// An origin at every address of the loopback interface; gives its port.
fn origin() -> Result<u16, String> {
    let port = ports::free().port();
    let listen = || -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        // No other interface reaches it.
        socket.bind_device(Some(b"lo"))?;
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())?;
        socket.listen(128)?;
        Ok(socket)
    };
    let listener: std::net::TcpListener = listen().map_err(|e| format!("origin: {e}"))?.into();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while matches!(stream.read(&mut buffer), Ok(1..)) {
                    let _gone = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
                }
            });
        }
    });
    Ok(port)
}
