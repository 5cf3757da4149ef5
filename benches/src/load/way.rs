//! A proxy, or two, between the load and the origin, as each product is configured for it.

use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use sidemesh_tests::process::Process;
use sidemesh_tests::{ports, proxy, wait};

use super::{LOAD_CORE, PROXY_CORE, Scenario, pinned};
use crate::figures::tls::Pki;
use crate::peers::Peer;

/// A way from the load to the origin.
pub enum Way {
    Bootstrap(Peer),
    Nginx(PathBuf),
    Haproxy(PathBuf),
}

/// Where in a scenario a proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Alone,
    /// Of a pair: before the load, and before the origin.
    Outbound,
    Inbound,
}

impl Way {
    pub fn name(&self) -> &str {
        match self {
            Way::Bootstrap(peer) => peer.name,
            Way::Nginx(_) => "nginx",
            Way::Haproxy(_) => "HAProxy",
        }
    }

    /// nginx 1.22 has no HTTP/2 towards the origin.
    pub fn takes(&self, scenario: Scenario) -> bool {
        !matches!((self, scenario), (Way::Nginx(_), Scenario::Http2 | Scenario::Pair))
    }

    /// Puts it between `entry` and `origin`.
    pub fn start(
        &self,
        dir: &Path,
        scenario: Scenario,
        pki: &Pki,
        entry: SocketAddr,
        origin: SocketAddr,
    ) -> Vec<Process> {
        if scenario != Scenario::Pair {
            return vec![self.start_one(dir, (scenario, Role::Alone), pki, entry, origin)];
        }
        let middle = ports::free();
        let inbound = self.start_one(dir, (scenario, Role::Inbound), pki, middle, origin);
        vec![self.start_one(dir, (scenario, Role::Outbound), pki, entry, middle), inbound]
    }

    fn start_one(
        &self,
        dir: &Path,
        (scenario, role): (Scenario, Role),
        pki: &Pki,
        entry: SocketAddr,
        to: SocketAddr,
    ) -> Process {
        let name = format!("{}-{role:?}", self.name());
        let write = |text: String| -> PathBuf {
            let path = dir.join(format!("{name}.conf"));
            std::fs::write(&path, text).expect("a configuration file");
            path
        };
        let command = match self {
            Way::Bootstrap(peer) => peer.command(&write(bootstrap(scenario, role, pki, entry, to).to_string())),
            Way::Nginx(program) => {
                let mut command = Command::new(program);
                command.arg("-c").arg(write(nginx(scenario, dir, entry, to)));
                command
            }
            Way::Haproxy(program) => {
                let mut command = Command::new(program);
                command.arg("-db").arg("-f").arg(write(haproxy(scenario, role, &pki.files(dir), entry, to)));
                command
            }
        };
        let process = Process::start(&name, pinned(PROXY_CORE, &command), dir).with_children();
        wait::until_true("the proxy listens", || TcpStream::connect(entry).is_ok());
        process
    }
}

fn bootstrap(scenario: Scenario, role: Role, pki: &Pki, entry: SocketAddr, to: SocketAddr) -> Value {
    let mut cluster = match (scenario, role) {
        (Scenario::Http2, _) | (_, Role::Outbound) => proxy::http2_cluster("origin", to),
        _ => proxy::cluster("origin", &[to]),
    };
    if role == Role::Outbound {
        cluster["transport_socket"] = pki.upstream();
    }
    let mut listener = match scenario {
        Scenario::Tcp => proxy::tcp_listener("entry", entry, "origin"),
        _ => proxy::http_listener("entry", entry, &proxy::all_to("origin"), &json!({})),
    };
    if role == Role::Inbound {
        listener["filter_chains"][0]["transport_socket"] = pki.downstream();
    }
    proxy::fixed(&[listener], &[unlimited(cluster)])
}

/// The default limits of circuit breakers would decide what is measured.
fn unlimited(mut cluster: Value) -> Value {
    let much = 100_000;
    cluster["circuit_breakers"] =
        json!({"thresholds": [{"max_connections": much, "max_pending_requests": much, "max_requests": much}]});
    cluster
}

fn nginx(scenario: Scenario, dir: &Path, entry: SocketAddr, to: SocketAddr) -> String {
    let (module, body) = match scenario {
        Scenario::Tcp => (
            // Debian's is a module of its own.
            "include /etc/nginx/modules-enabled/*.conf;",
            format!("stream {{ server {{ listen {entry}; proxy_pass {to}; }} }}"),
        ),
        _ => (
            "",
            format!(
                "http {{ access_log off; keepalive_requests 1000000000;
                 upstream o {{ server {to}; keepalive 256; keepalive_requests 1000000000; }}
                 server {{ listen {entry}; location / {{ proxy_http_version 1.1; proxy_set_header Connection ''; proxy_pass http://o; }} }} }}"
            ),
        ),
    };
    format!(
        "{module} worker_processes 1; daemon off; pid {0}/pid; error_log {0}/err; events {{ worker_connections 4096; }} {body}",
        dir.display()
    )
}

/// `files`: the certificate with its key, and the CA.
fn haproxy(scenario: Scenario, role: Role, files: &(PathBuf, PathBuf), entry: SocketAddr, to: SocketAddr) -> String {
    let (own, ca) = (files.0.display(), files.1.display());
    let http2 = if scenario == Scenario::Http2 { " proto h2" } else { "" };
    let bind = match role {
        Role::Inbound => format!(" ssl crt {own} ca-file {ca} verify required alpn h2,http/1.1"),
        _ => http2.to_owned(),
    };
    let server = match role {
        Role::Outbound => format!(" ssl crt {own} ca-file {ca} verify required sni str(localhost) alpn h2"),
        _ => http2.to_owned(),
    };
    let mode = if scenario == Scenario::Tcp { "tcp\n  option splice-auto" } else { "http\n  http-reuse always" };
    format!(
        "global\n  nbthread 1\n  maxconn 4000\n  tune.h2.max-concurrent-streams 1000\ndefaults\n  mode {mode}\n  \
         timeout connect 5s\n  timeout client 60s\n  timeout server 60s\nfrontend f\n  bind {entry}{bind}\n  default_backend b\n\
         backend b\n  server o {to}{server}\n"
    )
}

/// What answers: an nginx; for TCP whatever reads.
pub fn start_origin(program: &Path, dir: &Path, scenario: Scenario, at: SocketAddr) -> Result<Process, String> {
    let command = match scenario {
        Scenario::Tcp => {
            let mut command = Command::new(std::env::current_exe().map_err(|e| e.to_string())?);
            command.args(["sink", &at.to_string()]);
            command
        }
        _ => {
            let http2 = if scenario == Scenario::Http2 { " http2" } else { "" };
            let text = format!(
                "worker_processes 1; daemon off; pid {0}/origin.pid; error_log {0}/origin.err; events {{ worker_connections 4096; }}
                 http {{ access_log off; keepalive_requests 1000000000; http2_max_concurrent_streams 1000;
                 server {{ listen {at}{http2}; location / {{ return 200 '{1}'; }} }} }}",
                dir.display(),
                "x".repeat(1024)
            );
            let path = dir.join("origin.conf");
            std::fs::write(&path, text).map_err(|e| e.to_string())?;
            let mut command = Command::new(program);
            command.arg("-c").arg(path);
            command
        }
    };
    let process = Process::start("origin", pinned(LOAD_CORE, &command), dir).with_children();
    wait::until_true("the origin listens", || TcpStream::connect(at).is_ok());
    Ok(process)
}
